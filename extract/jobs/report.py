"""What an extraction reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from extract.media.folder_listing import Ignored
from extract.media.modality import Modality
from features.precision import CosineError


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did."""

    path: Path
    """The feature file."""
    encoder: str
    """Name of the encoder."""
    modality: Modality
    """What the encoder reads."""
    fingerprint: str
    """Fingerprint of the recipe, 64 hex characters."""
    counts: dict[str, int]
    """Rows in the file by state: 'done', 'missing', 'failed'."""
    new_rows: int
    """Rows made by this run."""
    unchanged: bool
    """Whether the file was complete already."""
    bad: list[tuple[str, str, str]]
    """(item id, 'missing' or 'failed', reason) of every row without a vector."""
    cosine_error: CosineError | None
    """What rounding to the type on disk cost, over the rows that have a figure for it."""
    seconds: dict[str, float]
    """Wall clock of this run, by stage: 'decode' is the wait for decoded and resized media, which encoders of one
    modality share; 'encode'; 'write'."""
    warning: str
    """What a user must be told about the weights, or ''."""
    ignored: Ignored = field(default_factory=Ignored)
    """Files in the folder of this modality that belong to no item."""
