"""Feature files and extraction jobs in miniature, for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.provenance import Provenance
from features.shards.job import FeatureJob, Wanted
from features.store import FeatureFile, FeatureRows, State, write_features

RECIPE = Provenance("micro", {"encoder": "tiny", "frames": 4}, weights_sha256="ab" * 32, command="extract")

item_ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
id_lists = st.lists(item_ids, min_size=1, max_size=12, unique=True)


def make_rows(ids: Sequence[str], vectors: NDArray[Any], states: Sequence[int] = ()) -> FeatureRows:
    column = np.array(states or [State.DONE] * len(ids), dtype=np.uint8)
    reasons = ["" if state == State.DONE else f"because of {n}" for n, state in enumerate(column)]
    stamps = [f"stamp {n}" for n in range(len(ids))]
    return FeatureRows(ids, vectors, column, reasons, stamps, [f"{n:032x}" for n in range(len(ids))])


def write(
    path: Path, ids: Sequence[str], vectors: NDArray[Any], states: Sequence[int] = (), dtype: str | None = None
) -> FeatureFile:
    write_features(path, make_rows(ids, vectors, states), RECIPE, dtype=dtype)
    return FeatureFile(path)


# Jobs.

JOB = Provenance("micro", {"encoder": "tiny"})
MISSING, FAILING = "item 3", "item 7"


def wanted(numbers: Iterable[int], stamps: Mapping[int, str] | None = None) -> Wanted:
    numbers = list(numbers)
    plain = {n: "" if f"item {n}" == MISSING else "v1" for n in numbers} | dict(stamps or {})
    return Wanted([f"item {n}" for n in numbers], [plain[n] for n in numbers])


def cut(job: FeatureJob, size: int) -> list[list[int]]:
    """What is pending, in lists of at most `size` positions."""
    return [job.pending[start : start + size] for start in range(0, len(job.pending), size)]


def encode(job: FeatureJob, positions: Sequence[int], *, mended: bool = False) -> FeatureRows:
    """A stand-in for an encoder: the vector depends on the id and the stamp alone."""
    ids = [job.wanted.ids[row] for row in positions]
    stamps = [job.wanted.stamps[row] for row in positions]
    states, vectors = [], np.full((len(ids), 3), np.nan, np.float16)
    for row, (item, stamp) in enumerate(zip(ids, stamps, strict=True)):
        failed = item == FAILING and not mended
        states.append(State.MISSING if not stamp else State.FAILED if failed else State.DONE)
        if states[-1] == State.DONE:
            vectors[row] = [int(item.split()[1]), int(stamp[1:]), 1]
    reasons = ["" if state == State.DONE else state.name for state in states]
    return FeatureRows(ids, vectors, np.array(states, np.uint8), reasons, stamps, [""] * len(ids))


def run(job: FeatureJob, size: int = 4, *, mended: bool = False) -> tuple[FeatureFile, list[str]]:
    """Make what is pending and finish; also return the ids that had to be made."""
    made = [job.wanted.ids[row] for row in job.pending]
    for positions in cut(job, size):
        job.write(encode(job, positions, mended=mended))
    return job.finish(), made


def contents(file: FeatureFile) -> tuple[object, ...]:
    columns = file.columns
    return file.vectors_sha256, columns.ids, columns.states.tolist(), columns.reasons, columns.stamps, columns.digests


def interrupted(target: Path, shards: int = 3) -> FeatureJob:
    """A job of 20 rows, stopped after some shards of 4."""
    job = FeatureJob(target, JOB, wanted(range(20)))
    for positions in cut(job, 4)[:shards]:
        job.write(encode(job, positions))
    return FeatureJob(target, JOB, wanted(range(20)))
