"""Checks what RecBole takes for granted about a dataset folder and its settings, and what it drops without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.recbole.atomic_files import HISTORY, ITEM, PARTS, SEQUENCES, TYPES, USER, VECTOR, read_atomic_file, safe

Table = tuple[list[str], list[list[str]]]
FINITE = float("inf")


def check_recbole_folder(folder: Path, name: str) -> list[str]:
    """Return what is wrong with an exported folder, one line each; empty when nothing is.

    Args:
        folder: the folder with the atomic files and the settings.
        name: the dataset's name in RecBole, with which its files begin.
    """
    found: list[str] = []
    settings = sorted(folder.glob("*.yaml"))
    if not settings:
        return [f"{folder} holds no settings (*.yaml)"]
    for path in settings:
        try:
            options = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except (YAMLError, UnicodeDecodeError) as error:
            found.append(f"{path.name} is no YAML: {' '.join(str(error).split())[:200]}")
            continue
        found += [f"{path.name}: {problem}" for problem in _by_settings(folder, name, options)]
    return list(dict.fromkeys(found))


def _by_settings(folder: Path, name: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the files that one file of settings makes RecBole read."""
    parts = options.get("benchmark_filename")
    names = [f"{name}.{part}.inter" for part in parts] if parts else [f"{name}.inter"]
    tables: dict[str, Table] = {}
    misshapen: list[str] = []
    for file in [*names, f"{name}.item", *(f"{name}.{suffix}" for suffix in options.get("additional_feat_suffix", []))]:
        try:
            tables[file] = read_atomic_file(folder / file)
        except (OSError, ValueError) as error:
            yield f"{file} cannot be read: {error}"
            return
        misshapen += _shape(file, tables[file])
    if misshapen:
        yield from misshapen
        return
    items = {row[0] for row in tables[f"{name}.item"][1]}
    for file in names:
        yield from _interactions(file, tables[file], items, options)
    if parts and tuple(parts) == PARTS and all(USER in tables[file][0] for file in names):
        yield from _known_users(names, tables)
    for file in tables.keys() - {*names, f"{name}.item"}:
        yield from _vectors(file, tables[file], items)


def _shape(file: str, table: Table) -> Iterator[str]:
    header, rows = table
    odd = [field for field in header if field.count(":") != 1 or field.partition(":")[2] not in TYPES]
    if odd:
        yield f"{file}: column {odd[0]!r} is not of the form name:type with a type of {', '.join(TYPES)}"
    wide = next((line for line, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if wide is not None:
        yield f"{file}: line {wide} has {len(rows[wide - 2])} cells for {len(header)} columns"
    if not rows:
        yield f"{file} has no rows"
    quoted = next((line for line, row in enumerate(rows, start=2) if any(cell.startswith('"') for cell in row)), None)
    if quoted is not None:
        yield f"{file}: a cell of line {quoted} begins with a quote, which RecBole reads on to the next quote"


def _interactions(file: str, table: Table, items: set[str], options: Mapping[str, Any]) -> Iterator[str]:
    header, rows = table
    lacking = [field for field in (USER, ITEM) if field not in header]
    if lacking:
        yield f"{file} has no column {lacking[0]}"
        return
    places = [header.index(field) for field in (USER, ITEM)]
    odd = next((row[place] for row in rows for place in places if not safe(row[place])), None)
    if odd is not None:
        yield f"{file}: id {odd!r} is a missing value or several words to RecBole"
    strange = next((row[places[1]] for row in rows if row[places[1]] not in items), None)
    if strange is not None:
        yield f"{file}: item {strange!r} is not in the .item file, by which RecBole drops its rows"
    if HISTORY in header:
        histories = [row[header.index(HISTORY)].split(" ") for row in rows]
        longest = options.get("MAX_ITEM_LIST_LENGTH", 0)
        if any(not history[0] or len(history) > longest for history in histories):
            yield f"{file}: a history is empty, or longer than MAX_ITEM_LIST_LENGTH, {longest}"
        if any(item not in items for history in histories for item in history):
            yield f"{file}: a history holds an item that is not in the .item file"


def _known_users(names: list[str], tables: Mapping[str, Table]) -> Iterator[str]:
    users = [{row[tables[file][0].index(USER)] for row in tables[file][1]} for file in names]
    new = sorted((users[1] | users[2]) - users[0])
    if new:
        yield f"{len(new)} users of validation or test have no training row, first {new[0]!r}"


def _vectors(file: str, table: Table, items: set[str]) -> Iterator[str]:
    header, rows = table
    if len(header) != 2 or not header[1].startswith(VECTOR) or not header[1].endswith(":float_seq"):
        yield f"{file} has columns {', '.join(header)}, not an id and a float_seq"
        return
    widths = {row[1].count(" ") + 1 for row in rows}
    if len(widths) > 1:
        yield f"{file}: vectors are {min(widths)} to {max(widths)} wide"
    if any(not abs(float(value)) < FINITE for row in rows for value in row[1].split(" ")):
        yield f"{file} holds NaN or infinity"
    ids = [row[0] for row in rows]
    if len(set(ids)) < len(ids) or not set(ids) <= items:
        yield f"{file}: an id stands twice, or is not in the .item file"


def sequence_names() -> list[str]:
    """Return the values of RecBole's `benchmark_filename` for rows with their histories."""
    return [part + SEQUENCES for part in PARTS]
