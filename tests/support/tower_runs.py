"""Runs that train an encoder: a dataset with titles, activations and media for it, what a run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from extract.encoders.cutting import split_encoder
from extract.encoders.encoder import Encoder
from features.provenance import Provenance
from features.store import FeatureRows, State, write_features
from pipelines.towers.media import TitleTokens
from pipelines.towers.open_towers import load_encoder
from tests.support.checkerboard import InMemory
from tests.support.encoding import batch
from tests.support.small import ITEMS, item_ids, small_dataset, write

TITLES = [f"a {number} word{'s' * (number % 3)} " * (1 + number % 4) for number in range(ITEMS)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = small_dataset(tmp_path / "small")
    write(folder / "items.csv", "item,title\n" + "".join(f"{i:03},{title}\n" for i, title in enumerate(TITLES)))
    return folder


class Clips(InMemory):
    """Preprocessed media in memory, as a store of decoded frames is to give them."""

    fingerprint = "in memory"


def media(encoder: Encoder) -> Clips | TitleTokens:
    """Return random pixels, or the titles, of all items."""
    if encoder.tokenizer is not None:
        return TitleTokens(dict(zip(item_ids(), TITLES, strict=True)), item_ids(), encoder.tokenizer)
    return Clips(batch(encoder, ITEMS))


def write_activations(
    path: Path, name: str, count: int, *, dtype: str = "float32", missing: int = 0, order: int = 1
) -> Path:
    """Write what `extract --top-blocks` does, the rows in another order than the dataset's."""
    encoder = load_encoder(name, "random", 0)
    tokens = None if encoder.tokenizer is None else 24
    prefix, _ = split_encoder(encoder, count, tokens=tokens)
    inputs = media(encoder).read(torch.arange(ITEMS))
    activations = prefix(inputs).numpy()
    ids = item_ids()[::order]
    states = np.full(ITEMS, State.DONE, np.uint8)
    states[:missing] = State.MISSING
    reasons = ["" if state == State.DONE else "gone" for state in states]
    rows = FeatureRows(ids, activations[::order].copy(), states, reasons, [""] * ITEMS, [""] * ITEMS)
    made = encoder.recipe() | {"top_blocks": count, "blocks": len(encoder.blocks()), "dtype": dtype}
    made |= {} if tokens is None else {"tokens": tokens}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_features(path, rows, Provenance("small", made, weights_sha256=encoder.weights_sha256), dtype=dtype)
    return path


def changes(kind: str, name: str, count: Any = 1, files: tuple[Path, ...] = (), **options: Any) -> dict[str, Any]:
    items = {"kind": kind, "dim": 8, "encoder": name, "weights": "random", "top_blocks": count, **options}
    train = {"epochs": 7, "batch_size": 16, "patience": 9}
    return {"items": items, "features": [{"path": str(file)} for file in files], "train": train}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def trained(folder: Path) -> dict[str, Tensor]:
    """Return the last weights of a run."""
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    return dict(content["model"])


def without_key_bias(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor without what softmax does not see: its gradient is rounding noise, which Adam makes steps of."""
    if name.endswith("key.bias"):
        return tensor[:0]
    return tensor.view(3, -1)[[0, 2]] if name.endswith("qkv.bias") else tensor
