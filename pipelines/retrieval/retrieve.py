"""Top-k retrieval with FAISS: items for a user from a trained run, similar items from a feature file.

The search is exact: for 20,000 to 1,000,000 items a flat inner-product index is fast enough and agrees with evaluation.

A run's index is kept in its folder. Row n of `index.faiss` is the item in line n of `items.txt` (from 0; its format is
described in pipelines/runs/kept/kept_data.py). `index.json` holds the sha256 of the vectors and of `items.txt`; where
either has changed, both files are written again.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from features.atomic import fsync_file, put_in_place, write_atomic
from features.errors import ConfigError, StoreError, nearest
from features.provenance import file_sha256
from features.store import FeatureFile, State
from models.shared.recommender import UserBatch
from pipelines.console import note, print_json, say, table
from pipelines.data.split import Sequences, histories
from pipelines.retrieval.exact_index import USES_FAISS, ExactIndex, scale_to_length_1
from pipelines.retrieval.histories import Histories, histories_of
from pipelines.retrieval.searchable import check_top, searchable_vectors
from pipelines.runs.kept.kept_data import ITEM_ROWS, id_lines
from pipelines.runs.run import Run

if USES_FAISS:
    import faiss

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """One retrieved item: raw id, score (larger is better), title ('' where there is none)."""

    item: str
    score: float
    title: str = ""


def build_index(vectors: Floats) -> Any:
    """Return an exact inner-product index over (I, D) float32 vectors; row = item."""
    if not USES_FAISS:
        return ExactIndex(vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


def search(index: Any, queries: Floats, hidden: Sequence[Sequence[int]], top: int) -> list[list[tuple[int, float]]]:
    """Return for each (D,) query its best `top` rows that are not hidden, as (row, score), best first.

    The index is asked for `top` rows plus as many as are hidden from any query, so hidden rows never shorten a list.
    """
    depth = min(top + max((len(set(rows)) for rows in hidden), default=0), index.ntotal)
    scores, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), depth)
    results = []
    for line, banned in enumerate(hidden):
        excluded = set(banned)
        pairs = zip(rows[line].tolist(), scores[line].tolist(), strict=True)
        results.append([(row, score) for row, score in pairs if row not in excluded][:top])
    return results


def recommend(run: Run, user: str, top: int) -> list[Hit]:
    """Return the best items for a user, given the user's whole history in the dataset; seen items are hidden."""
    split = run.data.split
    check_top(top)
    number = number_of(run, user)
    index = _run_index(run)
    found = _history(run, user)
    if run.model.reads_history and not len(found.read.flat):
        raise ConfigError(f"the model knows none of the items that user {user!r} has had; train again with them")
    items, mask, _, _ = histories(found.read, np.zeros(1, np.int64), found.read.offsets[1:], run.recipe.data.max_length)
    place = next(chain(run.model.parameters(), run.model.buffers())).device
    batch = UserBatch(
        torch.tensor([number]).to(place), torch.from_numpy(items).to(place), torch.from_numpy(mask).to(place)
    )
    with torch.inference_mode():
        query = run.model.user_vectors(batch).cpu().numpy()
    hits = search(index, query, [found.had.flat.tolist()], top)[0]
    titles = run.data.dataset.titles
    return [Hit(split.items.ids[row], score, titles.get(split.items.ids[row], "")) for row, score in hits]


def number_of(run: Run, user: str) -> int:
    """Return a user's number; 0 for a user it was not trained on, if the model looks at histories alone.

    Raises:
        ConfigError: there is no such user, or the model cannot know this one.
    """
    users, rows = run.data.split.users, run.data.dataset.interactions.filter(pl.col("user") == user)
    if users.known([user]):
        return users.index(user)
    if rows.is_empty():
        return users.index(user)  # refuses it with the nearest id
    name = run.recipe.model.name
    if not run.model.reads_history:
        least = run.recipe.data.min_interactions
        raise ConfigError(
            f"user {user!r} has {len(rows)} interactions but was not trained on (data.min_interactions={least}, or new "
            f"since), and {name} knows users by number alone; train again, or use a model that reads histories"
        )
    note(f"user {user!r} was not trained on; {name} ranks by the history alone")
    return 0


def _history(run: Run, user: str) -> Histories:
    """Return the history of one user, which may be empty."""
    found = histories_of(run, run.data.dataset.interactions.filter(pl.col("user") == user))
    nothing = Sequences(np.zeros(0, np.int64), np.zeros(2, np.int64))
    return found if found.users else Histories([user], np.zeros(1, np.int64), nothing, nothing)


def _run_index(run: Run) -> Any:
    """Return the index in a run's folder; build it on first use, and again where its vectors or ids have changed."""
    path = run.folder / "index.faiss"
    vectors, ids = searchable_vectors(run.model), id_lines(run.data.split.items.ids)
    if not USES_FAISS:
        return build_index(vectors)
    made_from = {
        "vectors_sha256": hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest(),
        "items_sha256": hashlib.sha256(ids.encode()).hexdigest(),
    }
    if path.is_file():
        if _made_from(path) == made_from:
            return _read_index(path, vectors.shape)
        note(f"{path} does not fit the run's present weights and item ids; it is built again")
    index = build_index(vectors)
    _keep(index, ids, path, made_from)
    return index


def _made_from(path: Path) -> dict[str, str] | None:
    """Return what index.json says an index was made from; None where it says nothing, or items.txt has changed since.

    Raises:
        ConfigError: one of the two files may not be read.
    """
    facts, ids = path.with_suffix(".json"), path.with_name(ITEM_ROWS)
    try:
        told = json.loads(facts.read_text(encoding="utf-8"))
        return dict(told) if file_sha256(ids) == told["items_sha256"] else None
    except PermissionError as error:
        raise ConfigError(
            f"cannot read {error.filename or facts} (permission denied); check its permissions"
        ) from error
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _keep(index: Any, ids: str, path: Path, made_from: Mapping[str, str]) -> None:
    """Write an index and items.txt for the next time, whole or not at all; where that fails, say so and go on.

    index.json says what the index was made from. It is deleted before the index changes and written after it, so that
    it never stands beside another index, not even after a crash.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.with_suffix(".json").unlink(missing_ok=True)
        with temporary.open("wb") as handle:  # FAISS itself opens no path with letters outside Windows' code page
            faiss.write_index(index, faiss.PyCallbackIOWriter(handle.write))  # type: ignore[attr-defined]
        fsync_file(temporary)
        put_in_place(temporary, path)
        write_atomic(path.with_name(ITEM_ROWS), ids)
        write_atomic(path.with_suffix(".json"), json.dumps(made_from))
    except (OSError, RuntimeError, StoreError):  # faiss raises RuntimeError, write_atomic StoreError
        note(f"{path} cannot be written; the index is used from memory, and built again the next time")
    finally:
        with suppress(OSError):
            temporary.unlink()


def _read_index(path: Path, shape: tuple[int, ...]) -> Any:
    """Return the index of a file; ConfigError if it cannot be read or does not hold (I, D) vectors."""
    try:
        with path.open("rb") as handle:
            index = faiss.read_index(faiss.PyCallbackIOReader(handle.read))  # type: ignore[attr-defined]
    except PermissionError as error:
        raise ConfigError(f"cannot read {path} (permission denied); check its permissions") from error
    except RuntimeError as error:
        raise ConfigError(f"{path} is no FAISS index; delete it, and it is built again") from error
    if (index.ntotal, index.d) != shape:
        raise ConfigError(
            f"{path} has {index.ntotal} vectors of width {index.d}, but the run's model has {shape[0]} of width "
            f"{shape[1]}; delete it and index.json, and both are made again"
        )
    return index


def similar(file: FeatureFile, item: str, top: int) -> list[Hit]:
    """Return the items whose vectors have the highest cosine with that of `item`, without itself."""
    if len(file.shape) != 2:
        raise StoreError(
            f"{file.path} holds activations or pixels of shape {file.shape}; give a file of vectors (I, F)"
        )
    done = [i for i, state in zip(file.columns.ids, file.columns.states.tolist(), strict=True) if state == State.DONE]
    if item not in done:
        raise StoreError(f"{file.path} has no vector of item {item!r}{_why(file, item, done)}")
    check_top(top)
    vectors = file.read(done)
    faiss.normalize_L2(vectors) if USES_FAISS else scale_to_length_1(vectors)
    row = done.index(item)
    hits = search(build_index(vectors), vectors[row : row + 1], [[row]], top)[0]
    return [Hit(done[found], score) for found, score in hits]


def _why(file: FeatureFile, item: str, done: Sequence[str]) -> str:
    """Return the end of the error about an item without a vector: its state, or the nearest id."""
    row = int(file.rows([item])[0])
    if row >= 0:
        state = State(file.columns.states[row]).name.lower()
        return f" ({state}: {file.columns.reasons[row]}); ask for another, or extract it again"
    close = nearest(item, done[:2000]).split("Known:")[0]
    return f"; {close}ids look like {done[0]!r}" if done else "; it has no vectors at all"


def _why_none(run: Run, user: str) -> str:
    """Return why nothing is recommended."""
    had = run.data.dataset.interactions.filter(pl.col("user") == user)["item"].n_unique()
    return f"nothing to recommend: user {user!r} has had {had} items, all of the {len(run.data.split.items)} there are"


def show_recommended(run: Run, user: str, top: int, *, json: bool = False) -> None:
    """Print a user's newest items, and the best items that the user has not seen; as JSON the latter alone."""
    check_top(top, len(run.data.split.items))
    hits = recommend(run, user, top)
    if not hits:
        note(_why_none(run, user))
    if not json:
        titles, items = run.data.dataset.titles, run.data.split.items.ids
        for seen in _history(run, user).read.flat[-run.recipe.data.max_length :]:
            say(f"seen  {items[seen]}  {titles.get(items[seen], '')}")
    print_hits(f"recommended to user {user}", hits, json=json)


def show_similar(
    file: FeatureFile, item: str, top: int, *, titles: Mapping[str, str] | None = None, json: bool = False
) -> None:
    """Print the items whose vectors have the highest cosine with the item's, with their titles where they are given."""
    check_top(top, len(file.columns.ids))
    hits = [replace(hit, title=(titles or {}).get(hit.item, hit.title)) for hit in similar(file, item, top)]
    print_hits(f"similar to item {item}", hits, json=json)


def print_hits(title: str, hits: Sequence[Hit], *, json: bool) -> None:
    """Print items as a table, or as JSON."""
    if json:
        print_json([asdict(hit) for hit in hits])
        return
    rows = [[hit.item, f"{hit.score:.4f}", hit.title] for hit in hits]
    table(title, ["item", "score", "title"], rows)
