"""A synthetic corpus in memory: a split of drawn interactions, files of noise, and models over them without recipes.

It stands in for what `load_data`, `load_recipe` and `build_model` make: those read tables and YAML with libraries that
a machine with a card may lack. Everything from the split and the settings on is the product's own code.

Letters: U users, I items, E interactions, F feature width, S tokens, R rows of a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_stages.sizes import Sizes
from benchmarks.noise import write_pixels
from extract.encoders.encoder import Encoder
from extract.encoders.registry import get_encoder
from features.provenance import Provenance
from features.store import FeatureFile, FeatureRows, State, write_features
from models import build_recommender, recommenders
from models.items import towers as towers_module
from models.items.build import build_items
from models.items.towers import Source, Tower
from models.shared.recommender import Recommender, TrainingFacts
from models.shared.representation import ItemsConfig
from pipelines.data.split import EvalPart, Sequences, Split, histories, windows
from pipelines.data.vocabulary import Vocabulary
from pipelines.recipe.feature_config import FeatureConfig
from pipelines.towers.activations import MappedActivations
from pipelines.towers.media import media_of
from pipelines.towers.open_towers import load_encoder, open_towers

SHORTEST, LENGTH = 5, 10  # interactions of a user at least; items of a history at most
NAME = "drawn"
BLOCK = 16  # different rows of noise in a file of activations; the rest repeats them
SAMPLED = 4  # items that set the scale of an encoder's vectors: they are encoded on the CPU while a card waits


def drawn_split(users: int, items: int, interactions: int, seed: int = 0) -> Split:
    """Return a leave-one-out split of drawn interactions; popularity falls about as in MicroLens.

    Every user has at least 5 interactions, and every item occurs.
    """
    rng = np.random.default_rng(seed)
    counts = SHORTEST + rng.multinomial(interactions - SHORTEST * users, np.full(users, 1 / users))
    weights = (1.0 + rng.permutation(items)) ** -0.7
    flat = rng.choice(items, interactions, p=weights / weights.sum())
    flat[rng.permutation(interactions)[:items]] = np.arange(items)
    sequences = Sequences(flat, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    ends = sequences.offsets[1:]
    everyone = np.arange(users)

    def part(at: Any) -> EvalPart:
        return EvalPart(everyone, *(found := histories(sequences, everyone, at, LENGTH))[:2], flat[at], *found[2:])

    kept = np.arange(interactions) < np.repeat(ends - 2, counts)
    edges = np.stack([np.repeat(everyone, counts)[kept], flat[kept]])
    who, what = (Vocabulary(tuple(_ids(count)), kind) for count, kind in ((users, "user"), (items, "item")))
    train_counts = np.bincount(edges[1], minlength=items)
    train = windows(sequences, ends - 2, LENGTH)
    return Split(NAME, who, what, train, part(ends - 2), part(ends - 1), train_counts, edges, f"{NAME}-{seed}", 0)


def some_users(part: EvalPart, count: int) -> EvalPart:
    """Return the first users of a part that has one target per user."""
    bounds = part.seen_offsets[: count + 1]
    rows = (part.users[:count], part.items[:count], part.mask[:count], part.targets[:count])
    return EvalPart(*rows, part.seen[: int(bounds[-1])], bounds)


def build(
    name: str, settings: Any, items: ItemsConfig, split: Split, *,
    vectors: Mapping[str, Tensor] | None = None, towers: Mapping[str, Tower] | None = None,
) -> Recommender:  # fmt: skip
    """Build a recommender as `pipelines.runs.inputs.build_model` does, from what is in memory."""
    generator = torch.Generator().manual_seed(0)
    facts = TrainingFacts(
        len(split.users), len(split.items), torch.from_numpy(split.train_counts), torch.from_numpy(split.train_edges)
    )
    with patch.object(towers_module, "SAMPLE", SAMPLED):  # for this model alone
        made = build_items(items, len(split.items), vectors or {}, generator, {}, towers or {}, {})
    return build_recommender(name, settings, made, facts, generator)


def default_settings(name: str) -> Any:
    """Return a recommender's own settings."""
    return recommenders()[name].config_class()


@dataclass(frozen=True)
class Repeated:
    """A source whose R rows stand for all items: item i reads row i modulo R."""

    source: Any
    rows: int

    def read(self, items: Tensor) -> Any:
        """Return the inputs of the rows; as many reads, copies and conversions as if there were a row per item."""
        return self.source.read(items % self.rows)

    def expect(self, items: Tensor) -> None:
        """Let the source look ahead."""
        if hasattr(self.source, "expect"):
            self.source.expect(items % self.rows)


class FromDisk:
    """Activations that are read from the disk itself: the system's page cache is emptied before each batch.

    A map's pages leave the cache only when it is closed, so the file is opened anew for each batch.
    """

    def __init__(self, path: Path, ids: list[str]) -> None:
        self._path, self._ids = path, ids
        self._now: MappedActivations | None = None

    def expect(self, items: Tensor) -> None:
        """Empty the cache and let the product's look-ahead read the rows of the next batch."""
        self._open().expect(items)

    def read(self, items: Tensor) -> Tensor:
        """Return activations (n, S, F)."""
        found = (self._now or self._open()).read(items)
        self._now = None
        return found

    def _open(self) -> MappedActivations:
        self._now = None
        with self._path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._now = MappedActivations(FeatureFile(self._path), self._ids, resident_bytes=0)
        return self._now


class TowerFiles:
    """Files of noise that an encoder's towers read: pixels, and activations per cut."""

    def __init__(self, folder: Path, encoder: str, sizes: Sizes) -> None:
        self.spec, self._folder, self._sizes = get_encoder(encoder), folder, sizes
        self._made: dict[str, Path] = {}

    def pixels(self) -> Path:
        """Return a file of pixels."""
        return self._file("pixels", lambda path: write_pixels(path, self.spec, _ids(self._sizes.pictures)))

    def activations(self, cut: int) -> Path:
        """Return a file of float16 activations below the last `cut` blocks, without running the encoder."""
        return self._file(f"top{cut}", lambda path: self._write_activations(path, cut))

    def _file(self, name: str, write: Any) -> Path:
        if name not in self._made:
            path = self._folder / f"{self.spec.name}-{name}.h5"
            write(path)
            self._made[name] = path
        return self._made[name]

    def _write_activations(self, path: Path, cut: int) -> None:
        from extract.encoders.cutting import split_encoder

        encoder: Encoder = load_encoder(self.spec.name, "random", 0)
        shape = split_encoder(encoder, cut)[0].shape
        noise = np.random.default_rng(0).standard_normal((BLOCK, *shape), dtype=np.float32).astype(np.float16)
        values = noise[np.arange(self._sizes.activations) % BLOCK]
        ids, blank = _ids(len(values)), [""] * len(values)
        states = np.full(len(values), State.DONE, np.uint8)
        recipe = encoder.recipe() | {"top_blocks": cut, "blocks": len(encoder.blocks())}
        rows = FeatureRows(ids, values, states, blank, blank, blank)
        write_features(path, rows, Provenance(NAME, recipe, weights_sha256=encoder.weights_sha256))

    def tower(self, items: ItemsConfig, place: str = "host") -> Tower:
        """Return an encoder that trains, as `open_towers` loads it.

        Args:
            items: kind 'top' or 'e2e', encoder and blocks.
            place: where a 'top' finds its activations: 'card' as far as they fit (the product's own choice for files up
                to 2 GiB), 'host' in the system's page cache, or 'disk'.
        """
        assert isinstance(items.top_blocks, int) or items.kind == "e2e"
        top = items.kind == "top"
        path = self.activations(items.top_blocks) if top else self.pixels()  # type: ignore[arg-type]
        ids = _ids(self._sizes.activations if top else self._sizes.pictures)
        tower = tower_over(path, ids, items)
        source: Source = tower.source
        if top and place == "host":
            source = MappedActivations(FeatureFile(path), ids, resident_bytes=0)
        if top and place == "disk":
            source = FromDisk(path, ids)
        return replace(tower, source=Repeated(source, len(ids)))


def tower_over(path: Path, ids: list[str], items: ItemsConfig) -> Tower:
    """Return an encoder that trains over a file of pixels or activations of `ids`, as `open_towers` loads it."""
    features = (FeatureConfig(str(path)),)
    recipe = SimpleNamespace(items=items, features=features, model=SimpleNamespace(name="sasrec"), seed=0)
    split = SimpleNamespace(items=Vocabulary(tuple(ids), "item"), dataset=NAME)
    media = media_of(SimpleNamespace(titles={}), split, features)
    (tower,) = open_towers(recipe, split, [FeatureFile(path)], media).towers.values()
    return tower


def _ids(count: int) -> list[str]:
    return [str(number) for number in range(count)]
