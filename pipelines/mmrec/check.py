"""Checks everything that MMRec assumes about a dataset folder and does not check itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

CACHES = "*_adj_*.pt"  # item graphs that MMRec saves beside the features, and reuses even if those change
FEATURE_KEYS = ("vision_feature_file", "text_feature_file")
KEYS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "inter_file_name", *FEATURE_KEYS, "field_separator")
LABEL = "x_label"  # fixed in MMRec's overall configuration
MAPPINGS = {"u_id_mapping.csv": ("user_id", "userID"), "i_id_mapping.csv": ("asin", "itemID")}


def check_mmrec_folder(folder: Path, config: Path | None = None) -> list[str]:
    """Return what is wrong with a dataset folder of MMRec, one line each; empty when nothing is.

    Args:
        folder: the folder data/NAME.
        config: its NAME.yaml; if None, it is looked for in configs/dataset/ and src/configs/dataset/ beside `data`.
    """
    root = folder.resolve().parent.parent
    places = [root / "configs", root / "src" / "configs"]
    tried = [config] if config else [place / "dataset" / f"{folder.name}.yaml" for place in places]
    settings, problems = _settings(tried)
    if problems:
        return problems
    table, problems = _table(folder, settings)
    if table is None:
        return problems
    problems += _interactions(table)
    users, items = (int(table[name].to_numpy().max()) + 1 for name in ("user", "item"))
    return [*problems, *_features(folder, settings, items), *_mappings(folder, {"userID": users, "itemID": items})]


def _settings(tried: list[Path]) -> tuple[Mapping[str, Any], list[str]]:
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        return {}, [f"{tried[0]} does not exist; MMRec skips it without a word"]
    try:
        settings = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        return {}, [f"{path} is no YAML: {' '.join(str(error).split())[:200]}"]
    if not isinstance(settings, dict):
        return {}, [f"{path} holds no keys"]
    # os.path.join on a missing name fails in MMRec even where the feature file is optional
    problems = [f"{path}: key {key} is missing" for key in KEYS if not isinstance(settings.get(key), str)]
    if not problems and len(settings["field_separator"]) != 1:
        problems.append(f'{path}: field_separator is {settings["field_separator"]!r}; quote a tab as "\\t"')
    if settings.get("filter_out_cod_start_users") is not True:
        problems.append(f"{path}: filter_out_cod_start_users is not True")
    return settings, problems


def _table(folder: Path, settings: Mapping[str, Any]) -> tuple[pl.DataFrame | None, list[str]]:
    """Return columns user, item, label as integers, or None with the reason."""
    path = folder / settings["inter_file_name"]
    try:
        raw = pl.read_csv(path, separator=settings["field_separator"], infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        return None, [f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"]
    names = {settings["USER_ID_FIELD"]: "user", settings["ITEM_ID_FIELD"]: "item", LABEL: "label"}
    absent = [name for name in names if name not in raw.columns]
    if absent:
        return None, [f"{path.name} has no column {', '.join(absent)}; it has {', '.join(raw.columns)}"]
    table = raw.select(pl.col(name).cast(pl.Int64, strict=False).alias(short) for name, short in names.items())
    broken = [name for name, short in names.items() if table[short].null_count()]
    if broken or table.is_empty():
        return None, [f"{path.name}: {', '.join(broken) or 'no rows'}: every field must be an integer"]
    return table, []


def _interactions(table: pl.DataFrame) -> list[str]:
    problems = []
    for name in ("user", "item"):
        ids = table[name].unique().sort().to_numpy()
        if ids[0] != 0 or ids[-1] != len(ids) - 1:
            problems.append(f"{name} ids are not 0 to {len(ids) - 1}: {len(ids)} of them, from {ids[0]} to {ids[-1]}")
    odd = table.filter(~pl.col("label").is_in([0, 1, 2]))
    if len(odd):
        problems.append(f"{len(odd)} rows have x_label {odd['label'][0]}; MMRec drops all but 0, 1 and 2")
    empty = [name for n, name in enumerate(("train", "valid", "test")) if table.filter(pl.col("label") == n).is_empty()]
    if empty:
        problems.append(f"no rows for {', '.join(empty)}")
    train = table.filter(pl.col("label") == 0).select("user").unique()
    cold = table.filter(pl.col("label") != 0).join(train, on="user", how="anti")["user"].unique().sort()
    if len(cold):
        problems.append(f"{len(cold)} users have valid or test rows but none to train on, first user {cold[0]}")
    return problems


def _features(folder: Path, settings: Mapping[str, Any], items: int) -> Iterator[str]:
    paths = [folder / settings[key] for key in FEATURE_KEYS]
    present = [path for path in paths if path.is_file()]
    if not present:
        yield f"neither {paths[0].name} nor {paths[1].name} is there; MMRec stops without any"
    for path in present:
        yield from _matrix(path, items)
        for cache in sorted(folder.glob(CACHES)):
            if cache.stat().st_mtime_ns < path.stat().st_mtime_ns:
                yield f"{cache.name} is older than {path.name}: delete it, MMRec would use a graph of other features"


def _matrix(path: Path, items: int) -> Iterator[str]:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        yield f"{path.name} cannot be read without pickle: {error}"
        return
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        yield f"{path.name} is {matrix.dtype} of shape {matrix.shape}, not float32 of shape (items, width)"
        return
    if len(matrix) != items:
        yield f"{path.name} has {len(matrix)} rows for {items} items; row r is item r, MMRec does not count them"
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        yield f"{path.name}: {len(bad)} rows hold NaN or infinity, first itemID {bad[0]}"
    zero = np.flatnonzero(~matrix.any(axis=1))
    if len(zero):
        yield f"{path.name}: {len(zero)} rows are all zero, first itemID {zero[0]}; NaN in MMRec's item graphs"


def _mappings(folder: Path, counts: Mapping[str, int]) -> Iterator[str]:
    for name, (raw, dense) in MAPPINGS.items():
        try:
            table = pl.read_csv(folder / name, separator="\t", infer_schema=False)
            numbers = table[dense].cast(pl.Int64).sort().to_list()
            unique = table[raw].n_unique() == len(table)
        except (OSError, pl.exceptions.PolarsError) as error:
            yield f"{name} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"
            continue
        if numbers != list(range(counts[dense])):
            yield f"{name}: {dense} does not run from 0 to {counts[dense] - 1}, each once"
        if not unique:
            yield f"{name}: two rows have the same {raw}"
