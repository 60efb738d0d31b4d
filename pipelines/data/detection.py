"""Detect the layout of a dataset folder and read it."""

from __future__ import annotations

from pathlib import Path

from features.errors import ConfigError
from features.paths import no_folder
from pipelines.data.dataset import Dataset, Reader
from pipelines.data.readers.huggingface import HUGGING_FACE
from pipelines.data.readers.iisan import IISAN
from pipelines.data.readers.microlens import MICROLENS
from pipelines.data.readers.mmrec import MMREC
from pipelines.data.readers.plain import MEDIA, PLAIN, table_of
from pipelines.data.readers.recbole import RECBOLE
from pipelines.data.tables import TABLES, Columns

READERS: tuple[Reader, ...] = (MICROLENS, IISAN, MMREC, RECBOLE, HUGGING_FACE, PLAIN)


def read_dataset(folder: Path, columns: Columns | None = None) -> Dataset:
    """Read a dataset folder.

    Args:
        folder: the dataset folder.
        columns: the meaning of table columns whose names do not say it.

    Raises:
        ConfigError: no layout fits, or more than one, or a file in it is at fault.
    """
    if not folder.is_dir():
        raise ConfigError(f"dataset folder {folder} {no_folder(folder, 'check --data (or data.folder in the recipe)')}")
    found = [(reader, what) for reader in READERS if (what := reader.detect(folder))]
    # every layout may hold videos/ and covers/, so they decide only where nothing else does
    if not found and (what := MEDIA.detect(folder)):
        found = [(MEDIA, what)]
    if not found:
        raise ConfigError(
            f"{folder} is not a dataset folder: it has neither MicroLens '*_pairs.tsv|csv', nor '*_users.tsv' with "
            "'*_items.tsv', nor MMRec's 'NAME.inter' with x_label, nor RecBole's 'NAME.inter' with user_id:token, nor "
            f"Hugging Face's 'train-*.parquet', nor 'interactions' as {', '.join(TABLES)}, nor videos/ or covers/; see "
            "docs/datasets.md"
        )
    if HUGGING_FACE in (reader for reader, _ in found) and table_of(folder, "interactions") is None:
        found = [(reader, what) for reader, what in found if reader is not PLAIN]  # its table `items` is read along
    if len(found) > 1:
        readings = " or ".join(f"{reader.name} ({what})" for reader, what in found)
        raise ConfigError(f"{folder} can be read as {readings}; move one of them elsewhere")
    return found[0][0].read(folder, columns or Columns())
