"""Media of a dataset as the input of an encoder that trains whole (`items.kind: e2e`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from features.errors import ConfigError
from features.provenance import canonical_json
from pipelines.data.dataset import Dataset
from pipelines.data.split import Split

if TYPE_CHECKING:
    from extract.encoder import Encoder, Tokenizer, Tokens
    from pipelines.towers import Media, MediaSource


class TitleTokens:
    """Titles as tokens, made when they are asked for: no slower than reading them, and no copy of them."""

    def __init__(self, titles: Mapping[str, str], ids: Sequence[str], tokenizer: Tokenizer) -> None:
        """Take the titles of `ids`, in dense order; ConfigError where some have none."""
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
        """Return a hash of the titles and of how they are cut."""
        return hashlib.sha256(canonical_json([self._tokenizer.name, *self._titles]).encode()).hexdigest()

    def read(self, items: Tensor) -> Tokens:
        """Return the tokens of items (n,) int64, on their device."""
        tokens = self._tokenizer.tokenise([self._titles[item] for item in items.tolist()])
        return type(tokens)(tokens.ids.to(items.device), tokens.mask.to(items.device))


def media_of(dataset: Dataset, split: Split) -> Media:
    """Return what gives an encoder its media; ConfigError for videos and covers, which have no store of frames yet."""

    def source(encoder: Encoder) -> MediaSource:
        if encoder.tokenizer is None:
            raise ConfigError(
                f"items.kind is 'e2e' and encoder {encoder.spec.name!r} reads {encoder.spec.modality}s, of which no "
                "decoded frames are kept yet; use kind 'top' over `extract --top-blocks`"
            )
        return TitleTokens(dataset.titles, split.items.ids, encoder.tokenizer)

    return source
