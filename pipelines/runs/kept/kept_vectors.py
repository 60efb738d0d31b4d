"""The vectors that a finished run keeps, so that it can rank without what computed them.

- `item_vectors.npy`: (I, D) float32, row n = line n of items.txt. FAISS searches these.
- `user_vectors.npy`: (U, D) float32, row n = position n of users.json; only where a model knows users by number. One
  that reads histories computes a user's vector from the rows of `item_vectors.npy`.
- `vectors.json`: the mark and hash of these files, and of the checkpoint.pt that they were made from. It is deleted
  before one of them changes, and written after them.

A model whose score is no inner product keeps none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from extract.media.file_marks import file_digest, file_mark
from features.atomic import write_atomic
from features.errors import ConfigError, StoreError
from features.paths import write_advice
from models import build_recommender, recommenders
from models.shared.kept import KeptItems, KeptVectors
from models.shared.recommender import Recommender, TrainingFacts, UserBatch
from pipelines.recipe.recipe import Recipe
from pipelines.runs.run_files import read_object
from pipelines.training.checkpoint import CHECKPOINT, load_best

ITEM_VECTORS, USER_VECTORS, FACTS = "item_vectors.npy", "user_vectors.npy", "vectors.json"
USERS_AT_A_TIME = 4096
Floats = NDArray[np.float32]


def item_vectors(model: Recommender) -> Floats | None:
    """Return the (I, D) item vectors of a model, None for one without; all processes that train it must call this."""
    if not model.inner_product:
        return None
    with torch.inference_mode():
        vectors: Floats = model.item_vectors().float().cpu().numpy()
    return vectors


def keep_vectors(folder: Path, model: Recommender, items: Floats | None, n_users: int) -> None:
    """Write the vectors of a model with its trained weights.

    Args:
        folder: the run folder.
        model: the model, in eval mode.
        items: what `item_vectors` returned; None: nothing is written.
        n_users: number of users, U.

    Raises:
        StoreError: a file cannot be written.
    """
    forget_vectors(folder)
    if items is None:
        return
    with torch.inference_mode():
        _write(folder / ITEM_VECTORS, items.shape, iter([items]))
        if not model.reads_history:
            _write(folder / USER_VECTORS, (n_users, items.shape[1]), _of_users(model, n_users))
    names = [ITEM_VECTORS, *([] if model.reads_history else [USER_VECTORS]), CHECKPOINT]
    told = {name: {"mark": file_mark(folder / name), "digest": file_digest(folder / name)} for name in names}
    write_atomic(folder / FACTS, json.dumps(told, indent=2))


def _of_users(model: Recommender, n_users: int) -> Iterator[Floats]:
    """Yield the vectors of all users, some (n, D) at a time."""
    device = next(chain(model.parameters(), model.buffers())).device
    for numbers in torch.split(torch.arange(n_users), USERS_AT_A_TIME):
        users = numbers.to(device)
        nothing = users.new_zeros(len(users), 0)
        yield model.user_vectors(UserBatch(users, nothing, nothing.bool())).float().cpu().numpy()


def _write(path: Path, shape: tuple[int, ...], parts: Iterator[Floats]) -> None:
    """Write a float32 array of a shape from its parts; StoreError if the disk will not take it."""
    try:
        with path.open("wb") as handle:  # no memory map: a full disk would end the process without a word
            np.lib.format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for part in parts:
                handle.write(np.ascontiguousarray(part, dtype="<f4").data)
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror or error}); {write_advice(error)}") from error


def forget_vectors(folder: Path) -> None:
    """Make kept vectors count no more, before the weights they were made from change."""
    (folder / FACTS).unlink(missing_ok=True)


def kept_model(folder: Path, recipe: Recipe, facts: TrainingFacts) -> Recommender | None:
    """Return a run's model built from its kept vectors; None where it keeps none or they have changed.

    It ranks as the run's own model does. It needs no feature file, encoder or activation.

    Args:
        folder: the run folder.
        recipe: the run's recipe.
        facts: what the model may know of the training part.

    Raises:
        ConfigError: the checkpoint is damaged.
    """
    kind = recommenders()[recipe.model.name]
    if not kind.inner_product or not _unchanged(folder):
        return None
    items = torch.from_numpy(np.load(folder / ITEM_VECTORS))
    if not kind.reads_history:
        return KeptVectors(np.load(folder / USER_VECTORS, mmap_mode="r"), items, facts).eval()
    generator = torch.Generator().manual_seed(recipe.seed)
    model = build_recommender(recipe.model.name, recipe.model.settings, KeptItems(items), facts, generator)
    if any(parameter.requires_grad for parameter in model.parameters()):
        load_best(folder / CHECKPOINT, model, without="items.")
    return model.eval()


def _unchanged(folder: Path) -> bool:
    """Return whether the files named in vectors.json are still those; bytes decide where a date differs."""
    if not (folder / FACTS).is_file():
        return False
    try:
        told = read_object(folder / FACTS)
        files = {name: (facts["mark"], facts["digest"]) for name, facts in told.items()}
    except (ConfigError, TypeError, KeyError):
        return False
    return ITEM_VECTORS in files and all(
        file_mark(folder / name) == mark or file_digest(folder / name) == digest
        for name, (mark, digest) in files.items()
    )
