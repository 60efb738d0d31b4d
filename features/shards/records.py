"""Read the work folder of a job: records of shards, and the rows of a part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features.provenance import file_sha256
from features.store import FeatureFile


def rows_of(part: FeatureFile) -> Iterator[tuple[str, str, int, str]]:
    """Yield (item id, stamp, state, digest) of a file's rows."""
    columns = part.columns
    return zip(columns.ids, columns.stamps, columns.states.tolist(), columns.digests, strict=True)


def shard_sha256(shard: Path) -> str | None:
    """Return the sha256 of a shard's bytes; None if it does not exist (any more)."""
    try:
        return file_sha256(shard)
    except FileNotFoundError:
        return None


def recorded(record: Path) -> dict[str, Any]:
    """Return a shard's record; {} if it is damaged or gone."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
