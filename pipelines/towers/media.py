"""A dataset's media as the input of an encoder that trains end to end (`items.kind: e2e`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Tokenizer, Tokens
from extract.encoders.spec import EncoderSpec
from features.errors import ConfigError
from features.provenance import canonical_json
from features.store import FeatureFile
from models.shared.host_copy import host_copy, sent
from pipelines.data.joining import refuse_foreign
from pipelines.data.split import Split
from pipelines.recipe.feature_config import FeatureConfig
from pipelines.towers.look_ahead import LookAhead
from pipelines.towers.open_towers import Media, MediaSource

if TYPE_CHECKING:  # it needs polars
    from pipelines.data.dataset import Dataset


class TitleTokens:
    """Titles, tokenised when they are asked for: no slower than reading stored tokens, and no copy to keep."""

    def __init__(self, titles: Mapping[str, str], ids: Sequence[str], tokenizer: Tokenizer) -> None:
        """Take the titles of `ids`, in dense order; ConfigError if one has no title."""
        without = [item for item in ids if not titles.get(item, "").strip()]
        if without:
            raise ConfigError(
                f"{len(without)} of {len(ids)} items have no title, first {without[0]!r}, and kind 'e2e' encodes every "
                "item; give them titles, or use kind 'top' with `absent: zero` or `mean`"
            )
        self._titles = [titles[item] for item in ids]
        self._tokenizer = tokenizer

    @property
    def fingerprint(self) -> str:
        """Return a hash of the titles and of the tokenizer's name."""
        return hashlib.sha256(canonical_json([self._tokenizer.name, *self._titles]).encode()).hexdigest()

    def read(self, items: Tensor) -> Tokens:
        """Return the tokens of items (n,) int64, on their device."""
        tokens = self._tokenizer.tokenise([self._titles[item] for item in host_copy(items).tolist()])
        return type(tokens)(sent(tokens.ids, items.device), sent(tokens.mask, items.device))


class StoredPixels:
    """Videos or covers from a file of `extract --pixels`, read by memory map and normalised on the encoder's device.

    Letters: n items asked for, T frames, H W pixels.
    """

    def __init__(self, file: FeatureFile, ids: Sequence[str], spec: EncoderSpec, *, blank: bool = False) -> None:
        """Find the rows of `ids`, in dense order.

        Args:
            file: a feature file of pixels.
            ids: item ids, each once.
            spec: the entry that the encoder was loaded from.
            blank: whether an item without pixels gets an input of zeros (the mean colour) instead of being refused.

        Raises:
            ConfigError: the pixels were made for another input contract.
            StoreError: items without pixels, unless `blank`; a damaged file.
        """
        from extract.encoders.inputs import PixelInput
        from extract.encoders.pixel_contract import refuse_other_contract

        refuse_other_contract(file, spec)
        assert isinstance(spec.inputs, PixelInput)
        self.file = file
        self._inputs, self._cover = spec.inputs, spec.frames is None
        self._rows = file.locate(ids, "zero" if blank else "error")
        self._mapped = file.mapped()
        self._ahead = LookAhead(file.path, self._mapped)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the recipe of the pixels and of the pixels themselves."""
        made = [self.file.provenance.fingerprint, self.file.vectors_sha256]
        return hashlib.sha256(canonical_json(made).encode()).hexdigest()

    def expect(self, items: Tensor) -> None:
        """Read items (n,) int64 ahead."""
        self._ahead.expect(self._rows[items.numpy()])

    def read(self, items: Tensor) -> Tensor:
        """Return (n, T, 3, H, W) float32 of items (n,) int64, covers (n, 3, H, W), on their device."""
        from extract.encoders.preprocess import normalise

        rows = self._rows[host_copy(items).numpy()]
        pixels = sent(torch.from_numpy(self._stored(rows)), items.device)
        values = normalise(pixels, self._inputs)
        if (rows < 0).any():
            values.index_fill_(0, sent(torch.from_numpy(np.flatnonzero(rows < 0)), items.device), 0)
        return values

    def _stored(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy rows in file order, so that the system reads ahead."""
        pixels = np.zeros((len(rows), *self.file.shape[1:]), np.uint8)
        for place in np.argsort(rows, kind="stable").tolist():
            if rows[place] >= 0:
                pixels[place] = self._mapped[rows[place]]
        return pixels[:, 0] if self._cover else pixels


def media_of(dataset: Dataset, split: Split, features: Sequence[FeatureConfig] = ()) -> Media:
    """Return what opens an encoder's media: the dataset's titles, or pixels in the recipe's feature files."""

    def source(encoder: Encoder) -> MediaSource:
        if encoder.tokenizer is not None:
            return TitleTokens(dataset.titles, split.items.ids, encoder.tokenizer)
        file, feature = _pixels_for(encoder.spec, split, features)
        return StoredPixels(file, split.items.ids, encoder.spec, blank=feature.absent != "error")

    return source


def _pixels_for(
    spec: EncoderSpec, split: Split, features: Sequence[FeatureConfig]
) -> tuple[FeatureFile, FeatureConfig]:
    """Return the one file of pixels that an encoder takes.

    Where none fits, return the first file of the same media: `StoredPixels` refuses it and says what differs.

    Raises:
        ConfigError: several files fit, or none holds pixels of the encoder's media.
    """
    from extract.encoders.pixel_contract import contract_of
    from extract.media.pixel_media import contract_in

    wanted = contract_of(spec)
    files = [(FeatureFile(feature.resolve()), feature) for feature in features]
    held = [(contract_in(file), file, feature) for file, feature in files]
    near = [(file, feature) for contract, file, feature in held if contract and contract["media"] == spec.modality]
    found = [(file, feature) for contract, file, feature in held if contract == wanted]
    if len(found) > 1:
        names = ", ".join(file.path.name for file, _ in found)
        raise ConfigError(
            f"{len(found)} feature files hold the pixels that {spec.name!r} takes ({names}); name one under features"
        )
    if not near:
        raise ConfigError(
            f"items.kind is 'e2e' and encoder {spec.name!r} reads {spec.modality}s, but none of the {len(files)} "
            f"feature files holds their pixels; make one with `extract --pixels --encoders {spec.name}` and name it "
            "under features, or use kind 'top' over `extract --top-blocks`"
        )
    refuse_foreign((found or near)[0][0], split.items.ids, split.dataset)
    return (found or near)[0]
