"""Crash-safe extraction: small immutable shards in a work folder, each with a record of its sha256, then one merge.

A shard counts only if its record exists and its bytes match the record. Both are written by temporary file, fsync and
rename. After any kill -9 the next run keeps what counts, cuts the rest into the same shards and ends with the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from features.atomic import write_atomic
from features.errors import StoreError
from features.merge import merge
from features.precision import CosineError, summary
from features.provenance import Provenance, canonical_json, file_sha256
from features.shards.marks import KnownDigests, same_source, without_time
from features.shards.records import recorded, rows_of, shard_sha256
from features.store import FeatureFile, FeatureRows, State, check_ids, remove_leftovers, write_features


@dataclass(frozen=True)
class Wanted:
    """The rows a finished feature file must hold, in order.

    Raises:
        StoreError: an id occurs twice or cannot be stored, or there is not one stamp per id.
    """

    ids: Sequence[str]
    """Item ids."""
    stamps: Sequence[str]
    """What the catalog knows of each source without opening it; "" if it is missing."""
    digests: KnownDigests | None = None
    """Reads sources whose stamp has changed, to see whether their bytes have changed; None assumes that they have."""

    def __post_init__(self) -> None:
        """Check here, before hours of extraction."""
        check_ids(self.ids)
        if len(self.stamps) != len(self.ids):
            raise StoreError(f"{len(self.ids)} ids are wanted but {len(self.stamps)} stamps given; give one per id")


class FeatureJob:
    """One feature file in the making: `target`, and a work folder beside it that holds its shards.

    Args:
        target: the feature file that `finish` writes. Its name should carry the fingerprint.
        provenance: recipe, dataset and versions; parts of another recipe or dataset are refused.
        wanted: the rows to end up with.
        retry_failed: make rows again that failed in the finished file. Otherwise they stand until the stamp of their
            source changes.
        read_only: leave records of damaged shards where they are, because the job is only looked at.

    Attributes:
        failed_of_others: how many of the rows that `rows_of_others` counts have failed.
        others: ids of existing rows that are not wanted now; `finish` drops them.
    """

    def __init__(
        self,
        target: Path,
        provenance: Provenance,
        wanted: Wanted,
        *,
        retry_failed: bool = False,
        read_only: bool = False,
    ) -> None:
        self.target = target
        self.folder = target.with_name(f"{target.stem}.shards")
        self.provenance = provenance
        self.wanted = wanted
        self._retry_failed = retry_failed
        self._read_only = read_only
        self._found = self._on_disk()  # read first, so that `overtaken` sees whatever changes from now on
        self._made = FeatureFile(target, dataset=provenance.dataset) if target.exists() else None
        self._current: dict[str, FeatureFile] = {}
        self._counted: set[str] = set()  # records whose rows are counted already
        self._seen: dict[str, str] = {}  # records found at the start: name -> sha256 of the shard
        self._others_rows = 0
        self.failed_of_others = 0
        stamps = dict(zip(wanted.ids, wanted.stamps, strict=True))
        others: dict[str, None] = {}
        self._good: set[str] = set()  # ids with a good row in a shard, which wins: shards are in no order of time
        doubtful: dict[str, list[tuple[FeatureFile, str]]] = {}
        for part in [self._made, *self._shards()] if self._made else self._shards():
            self._check_recipe(part)
            others |= dict.fromkeys(item for item in part.columns.ids if item not in stamps)
            for item, digest in self._take(part, stamps, retry_failed=retry_failed):
                doubtful.setdefault(item, []).append((part, digest))
        self._keep_same_bytes(doubtful)
        self.others = list(others)

    def _take(self, part: FeatureFile, stamps: Mapping[str, str], *, retry_failed: bool) -> Iterator[tuple[str, str]]:
        """Take the rows whose sources have not changed; yield (id, digest) of those that differ only in their date."""
        for item, stamp, state, digest in rows_of(part):
            now = stamps.get(item)
            if now is None:
                continue
            if not same_source(stamp, now):
                if state == State.DONE and digest and without_time(stamp) == without_time(now):  # else its size differs
                    yield item, digest
                continue
            failed = state == State.FAILED or (state == State.MISSING and stamp != "")  # listed, then not found
            if failed and ((retry_failed and part is self._made) or item in self._good):
                continue
            self._current[item] = part
            if part is not self._made and not failed:
                self._good.add(item)

    def _keep_same_bytes(self, doubtful: Mapping[str, Sequence[tuple[FeatureFile, str]]]) -> None:
        """Keep rows whose source has another stamp but the same bytes, as in a copied dataset."""
        rows = [n for n, item in enumerate(self.wanted.ids) if item in doubtful and item not in self._current]
        if self.wanted.digests is None or not rows:
            return
        ids = [self.wanted.ids[row] for row in rows]
        now = self.wanted.digests.of(rows, ids, [self.wanted.stamps[row] for row in rows])
        for item, digest in zip(ids, now, strict=True):
            same = [part for part, made_from in doubtful[item] if made_from == digest]
            if digest and same:
                self._current[item] = same[-1]

    def _shards(self) -> list[FeatureFile]:
        """Return the shards that count; remove the records of the others, so that their rows are made again."""
        shards = []
        for record in sorted(self.folder.glob("*.json")):
            shard = record.with_suffix(".h5")
            if shard_sha256(shard) == recorded(record).get("sha256", ""):
                shards.append(FeatureFile(shard, dataset=self.provenance.dataset))
                self._counted.add(record.name)
                self._seen[record.name] = str(recorded(record).get("sha256", ""))
            elif not self._read_only:
                record.unlink(missing_ok=True)  # another worker may have removed it
        return shards

    def _check_recipe(self, part: FeatureFile) -> None:
        if part.provenance.fingerprint != self.provenance.fingerprint:
            what = part.path if part is self._made else self.folder
            raise StoreError(
                f"{what} was made by recipe {part.provenance.fingerprint[:12]}, this job is recipe "
                f"{self.provenance.fingerprint[:12]}; choose another file name, or delete it to start over"
            )

    def _on_disk(self) -> tuple[object, ...]:
        """Return a value that changes when the finished file or the set of records changes."""
        status = self.target.stat() if self.target.exists() else None
        made = (status.st_ino, status.st_mtime_ns, status.st_size) if status else None
        return made, *sorted(record.name for record in self.folder.glob("*.json"))

    @property
    def overtaken(self) -> bool:
        """Return whether another process has written or removed files of this job since it was opened."""
        return self._found != self._on_disk()

    def reopened(self, *, retry_failed: bool | None = None) -> Self:
        """Return a new job on the same file, with what is on disk now."""
        retry = self._retry_failed if retry_failed is None else retry_failed
        again = type(self)(self.target, self.provenance, self.wanted, retry_failed=retry)
        self.rows_of_others()  # counts what others have made since it was last asked
        again.failed_of_others = self.failed_of_others
        return again

    @property
    def pending(self) -> list[int]:
        """Return the positions in `wanted` that have no row of this recipe and source yet."""
        return [row for row, item in enumerate(self.wanted.ids) if item not in self._current]

    @property
    def needed(self) -> list[int]:
        """Return the positions in `wanted` that the finished file lacks, whether or not shards hold them.

        They stay the same until `finish`, so all workers cut the same shards from them.
        """
        return [
            row
            for row, item in enumerate(self.wanted.ids)
            if self._made is None or self._current.get(item) is not self._made
        ]

    def made_elsewhere(self, rows: Sequence[int]) -> bool:
        """Return whether another worker has made the shard of these rows since this job was opened; take it if so."""
        shard = self._shard_path([self.wanted.ids[row] for row in rows], [self.wanted.stamps[row] for row in rows])
        record = shard.with_suffix(".json")
        if not record.is_file() or recorded(record).get("sha256", "") == self._seen.get(record.name):
            return False  # not made, or known since the start: then it was made from older sources
        part = FeatureFile(shard, dataset=self.provenance.dataset)
        self._check_recipe(part)
        self._current |= dict.fromkeys(part.columns.ids, part)
        return True

    def rows_of_others(self) -> int:
        """Return how many rows other workers have made since this job was opened; only new records are read."""
        for record in self.folder.glob("*.json"):
            if record.name not in self._counted:
                self._counted.add(record.name)
                told = recorded(record)
                self._others_rows += int(told.get("rows", 0))
                self.failed_of_others += int(told.get("failed", 0))
        return self._others_rows

    def forget_finished(self, again: Callable[[str], bool]) -> None:
        """Make rows of the finished file pending again that have no vector for a reason that `again` accepts."""
        for item, _, reason in self.rejected():
            if self._current[item] is self._made and again(reason):
                del self._current[item]

    def forget_failed(self) -> None:
        """Drop the FAILED rows of shards, so that they are made again; the other rows become one shard.

        Call it when a run starts, before its workers do.
        """
        parts = {item: part for item, part in self._current.items() if part is not self._made}
        states = {
            item: state
            for part in {id(part): part for part in parts.values()}.values()
            for item, state in zip(part.columns.ids, part.columns.states.tolist(), strict=True)
            if parts.get(item) is part
        }
        kept = {item: part for item, part in parts.items() if states[item] != State.FAILED}
        if len(kept) == len(parts):
            return
        old = list(self.folder.glob("*.json"))
        self._current = {item: part for item, part in self._current.items() if part is self._made}
        if kept:
            stamps = dict(zip(self.wanted.ids, self.wanted.stamps, strict=True))
            shard = self._shard_path(list(kept), [stamps[item] for item in kept])
            merge(shard, kept, self.provenance, stamps=stamps)
            self._record(shard, len(kept))
            self._current |= dict.fromkeys(kept, FeatureFile(shard))
            old = [record for record in old if record != shard.with_suffix(".json")]
        for record in old:
            record.unlink(missing_ok=True)
            record.with_suffix(".h5").unlink(missing_ok=True)

    @property
    def unchanged(self) -> bool:
        """Return whether the target already holds exactly the wanted rows, in order."""
        return (
            self._made is not None
            and not self.folder.exists()
            and not self.pending
            and self._made.columns.ids == tuple(self.wanted.ids)
        )

    def write(self, rows: FeatureRows, *, dtype: str | None = None, seconds: Mapping[str, float] | None = None) -> None:
        """Store one shard and its record; its name is a hash of its rows, so a shard made again replaces itself.

        With `dtype` (float16, float32 or int8) the rows are float32 and are rounded here; see `write_features`.
        `seconds` is the time that making them took, by stage.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        shard = self._shard_path(rows.ids, rows.stamps)
        write_features(shard, rows, self.provenance, dtype=dtype, seconds=seconds)
        self._record(shard, len(rows.ids), int((np.asarray(rows.states) == State.FAILED).sum()))
        self._current |= dict.fromkeys(rows.ids, FeatureFile(shard))

    def _record(self, shard: Path, rows: int, failed: int = 0) -> None:
        record = {"sha256": file_sha256(shard), "rows": rows, "failed": failed}
        write_atomic(shard.with_suffix(".json"), json.dumps(record))
        self._counted.add(shard.with_suffix(".json").name)

    def _shard_path(self, ids: Sequence[str], stamps: Sequence[str]) -> Path:
        marks = [without_time(stamp) for stamp in stamps]  # the name is the same for workers with copies of the media
        name = hashlib.sha256(canonical_json([list(ids), marks]).encode()).hexdigest()[:16]
        return self.folder / f"{name}.h5"

    @property
    def cosine_error(self) -> CosineError | None:
        """Return what rounding cost the wanted rows that exist, as `FeatureFile.cosine_error` does."""
        parts: dict[int, tuple[FeatureFile, list[str]]] = {}
        for item in self.wanted.ids:
            if item in self._current:
                parts.setdefault(id(self._current[item]), (self._current[item], []))[1].append(item)
        errors = [
            file.columns.errors[file.rows(ids)] for file, ids in parts.values() if file.columns.errors is not None
        ]
        return summary(np.concatenate(errors)) if errors else None

    def rejected(self) -> list[tuple[str, str, str]]:
        """Return (item id, state, reason) of every wanted row that is known and not done, in wanted order."""
        bad: dict[str, tuple[str, str]] = {}
        for part in {id(part): part for part in self._current.values()}.values():
            columns = part.columns
            for item, state, reason in zip(columns.ids, columns.states.tolist(), columns.reasons, strict=True):
                if state != State.DONE and self._current.get(item) is part:
                    bad[item] = (State(state).name.lower(), reason)
        return [(item, *bad[item]) for item in self.wanted.ids if item in bad]

    def finish(self) -> FeatureFile:
        """Merge everything into `target` (written whole or not at all), drop the work folder, return the file.

        Raises:
            StoreError: rows are still pending, a shard is damaged, or the disk is full; the shards are kept.
        """
        if self.pending:
            raise StoreError(f"{len(self.pending)} rows of {self.target} are not made yet; run `extract` again")
        stamps = dict(zip(self.wanted.ids, self.wanted.stamps, strict=True))
        merge(self.target, {item: self._current[item] for item in self.wanted.ids}, self.provenance, stamps=stamps)
        self._made = FeatureFile(self.target)
        self._current = dict.fromkeys(self.wanted.ids, self._made)
        for record in self.folder.glob("*.json"):  # records first, so that a crash leaves none without its shard
            record.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_leftovers(self.target)
        return self._made
