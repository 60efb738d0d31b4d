"""MicroLens folders as distributed (arXiv 2309.15379): `*_pairs.tsv|csv`, titles, `*_covers/`, `*_videos/`."""

from __future__ import annotations

import re
from pathlib import Path

from features.errors import ConfigError
from pipelines.data.dataset import (
    Dataset,
    Reader,
    interactions_from_sequences,
    interactions_from_table,
    subfolder,
    unique_titles,
)
from pipelines.data.tables import NO_TIME, Columns, read_lines, refuse_names

TITLES = ("*_title_en.csv", "*_titles.csv", "*_title.csv")


def _pairs(folder: Path) -> Path | None:
    """Return the pairs file; the .tsv is preferred, because the benchmark's code trains on its order."""
    for pattern in ("*_pairs.tsv", "*_pairs.csv"):
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            raise ConfigError(f"{folder} holds {files[0].name} and {files[1].name}; keep one dataset per folder")
        if files:
            return files[0]
    return None


def _detect(folder: Path) -> str | None:
    pairs = _pairs(folder)
    return pairs.name if pairs else None


def read_titles(path: Path) -> dict[str, str]:
    """Read lines `item,title`, with or without a header.

    Only the first comma separates, because titles hold stray quotes and commas.

    Raises:
        ConfigError: the file has no titles, or an item is empty or repeated.
    """
    rows: list[tuple[int, str, str]] = []
    for number, line in enumerate(read_lines(path), start=1):
        item, comma, title = line.partition(",")
        if not comma or (not rows and item.strip().lower() in {"item", "itemid", "video"}):
            continue
        quoted = re.fullmatch(r'"(.*)"', title.strip())
        rows.append((number, item.strip(), quoted[1].replace('""', '"') if quoted else title.strip()))
    if not rows:
        raise ConfigError(f"{path} holds no titles; each line is: item,title")
    return unique_titles(rows, path)


def hashtags(title: str) -> tuple[str, ...]:
    """Return the distinct tags of a title, which MicroLens writes as `#word`.

    >>> hashtags("Dancing cat #funny #cat#cute")
    ('funny', 'cat', 'cute')
    """
    return tuple(dict.fromkeys(re.findall(r"#([^\s#]+)", title)))


def _read(folder: Path, names: Columns) -> Dataset:
    pairs = _pairs(folder)
    if pairs is None:
        raise ConfigError(f"{folder} holds no *_pairs.tsv or *_pairs.csv")
    name = pairs.stem.removesuffix("_pairs")
    if pairs.suffix == ".tsv":
        refuse_names(names, pairs, "a file of sequences")
        interactions = interactions_from_sequences(pairs)
    else:
        interactions, _ = interactions_from_table(pairs, names)
    table = next((path for pattern in TITLES for path in sorted(folder.glob(pattern))), None)
    refuse_names(Columns(title=names.title), table or pairs, "MicroLens's list of titles")
    titles = read_titles(table) if table else {}
    return Dataset(
        name=name,
        layout=f"MicroLens folder: {pairs.name}, titles {table.name if table else 'none'}",
        interactions=interactions,
        titles=titles,
        videos=subfolder(folder, f"{name}_videos", "videos"),
        covers=subfolder(folder, f"{name}_covers", "covers"),
        tags={item: found for item, title in titles.items() if (found := hashtags(title))},
        timed=pairs.suffix == ".csv" and names.time != NO_TIME,
    )


MICROLENS = Reader("MicroLens", _detect, _read)
