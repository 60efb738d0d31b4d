"""Export a split and its features to MMRec (docs/mmrec.md).

MMRec checks almost nothing of what it loads. Row r of a feature matrix IS item r, and a mistake shows as a shape error
in training or not at all. The export therefore ends with `check_mmrec_folder`, which works on any MMRec folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.atomic import whole_folder, write_atomic
from features.errors import ConfigError, StoreError
from features.paths import refused_by_windows
from features.store import FeatureFile, State
from pipelines.data.joining import refuse_foreign, refuse_occupied
from pipelines.data.split import Split
from pipelines.mmrec.check import CACHES, check_mmrec_folder

__all__ = ["MMRecReport", "check_mmrec_folder", "export_mmrec"]

RECORD = "freezeframe.json"
FILLED = "filled_items.tsv"
FILLED_COLUMNS = {"slot": pl.String, "item": pl.String, "why": pl.String}
SLOTS = {"image": "image_feat.npy", "text": "text_feat.npy"}
CONFIG = """\
# {name}: written by freezeframe from dataset {dataset}.
# Copy this file to MMRec's src/configs/dataset/ and the folder data/{name}/ to its data/.
# Visual slot: {image}
# Text slot:   {text}
# MMRec has these two slots only; what stands in them is what to report.
# After every new export delete {caches} in MMRec's data/{name}/: MMRec would go on using graphs of the old features.
USER_ID_FIELD: userID
ITEM_ID_FIELD: itemID
TIME_FIELD: timestamp   # the position in the user's sequence; MMRec does not read it
filter_out_cod_start_users: True
inter_file_name: "{name}.inter"
vision_feature_file: "image_feat.npy"
text_feature_file: "text_feat.npy"
user_graph_dict_file: "user_graph_dict.npy"   # not part of the export; only DualGNN and DRAGON open it
field_separator: "\\t"
"""


@dataclass(frozen=True)
class MMRecReport:
    """What an export wrote."""

    folder: Path
    """The folder data/NAME."""
    config: Path
    """The file configs/dataset/NAME.yaml."""
    users: int
    """Number of users U, renumbered 0..U-1."""
    items: int
    """Number of items I, renumbered 0..I-1."""
    rows: tuple[int, int, int]
    """Numbers of train, valid and test interactions."""
    slots: Mapping[str, str]
    """What each slot holds, in words; the keys are 'image' and 'text'."""
    filled: tuple[tuple[str, str, str], ...]
    """Items that got the mean vector, as (slot, item id, why)."""
    left_out_items: int
    """Number of items without any interaction: MMRec cannot rank them."""
    repeated_pairs: int
    """Number of training rows whose user and item occurred before; MMRec counts them again."""
    hidden_targets: int
    """Number of valid and test rows whose item the user has in training: MMRec hides it and so never finds it."""


def export_mmrec(
    out: Path,
    name: str,
    split: Split,
    *,
    image: FeatureFile | None = None,
    text: FeatureFile | None = None,
    timestamps: bool = True,
    overwrite: bool = False,
) -> MMRecReport:
    """Write `out/data/NAME/` and `out/configs/dataset/NAME.yaml`, each whole or not at all, and check them.

    Args:
        out: the folder to write into.
        name: the dataset's NAME in MMRec.
        split: train, valid and test interactions; items that occur in none are left out.
        image: features (I, F) for MMRec's visual slot, such as covers or videos.
        text: features for its text slot: titles, or audio, which has no slot of its own.
        timestamps: write the column `timestamp`, the position in the user's sequence (MMRec does not read it).
        overwrite: replace the folder whatever it holds, MMRec's caches included. Otherwise it is replaced only if it
            holds an export of the same dataset and nothing else.

    Raises:
        ConfigError: no features, a bad name, or a split that MMRec cannot hold.
        StoreError: features of other items, cached activations, no vectors at all, or an occupied folder.
    """
    files = {slot: file for slot, file in (("image", image), ("text", text)) if file is not None}
    _check_arguments(name, split, files)
    folder, config = out / "data" / name, out / "configs" / "dataset" / f"{name}.yaml"
    _check_target(folder, split.dataset, overwrite)
    table, users, items = _interactions(split)
    item_ids = [split.items.ids[item] for item in items.tolist()]
    vectors = {slot: _vectors(slot, file, item_ids) for slot, file in files.items()}
    report = MMRecReport(
        folder=folder,
        config=config,
        users=len(users),
        items=len(items),
        rows=_parts(table),
        slots={slot: _in_words(files[slot]) if slot in files else "empty" for slot in SLOTS},
        filled=tuple(row for _, rows in vectors.values() for row in rows),
        left_out_items=len(split.items) - len(items),
        repeated_pairs=_repeated_pairs(table),
        hidden_targets=_hidden_targets(table),
    )
    with whole_folder(folder) as fresh:
        (table if timestamps else table.drop("timestamp")).write_csv(fresh / f"{name}.inter", separator="\t")
        _write_mapping(
            fresh / "u_id_mapping.csv", "user_id", [split.users.ids[user] for user in users.tolist()], "userID"
        )
        _write_mapping(fresh / "i_id_mapping.csv", "asin", item_ids, "itemID")
        pl.DataFrame(report.filled, schema=FILLED_COLUMNS, orient="row").write_csv(fresh / FILLED, separator="\t")
        for slot, (matrix, _) in vectors.items():
            np.save(fresh / SLOTS[slot], matrix, allow_pickle=False)
        record = json.dumps(_record(report, split, files), indent=1)
        (fresh / RECORD).write_text(record, encoding="utf-8", newline="")
        _publish_config(
            fresh,
            report,
            CONFIG.format(name=name, dataset=" ".join(split.dataset.split()), caches=CACHES, **report.slots),
        )
    return report


def _publish_config(fresh: Path, report: MMRecReport, settings: str) -> None:
    """Check the new folder with its settings before anything is in place; then put the settings in place."""
    draft = fresh / report.config.name
    draft.write_text(settings, encoding="utf-8", newline="")
    problems = check_mmrec_folder(fresh, draft)
    if problems:
        raise ConfigError(f"this split and these features cannot go to MMRec: {'; '.join(problems)}")
    draft.unlink()
    report.config.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(report.config, settings)


def _check_arguments(name: str, split: Split, files: Mapping[str, FeatureFile]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"MMRec dataset name {name!r} becomes a folder; use letters, digits, '_', '-' and '.'")
    if sys.platform == "win32" and refused_by_windows(name):
        raise ConfigError(f"MMRec dataset name {name!r} becomes a folder, which Windows refuses; choose another")
    if not files:
        raise ConfigError("give features for the image slot, the text slot or both: MMRec stops without any")
    for slot, file in files.items():
        refuse_foreign(file, split.items.ids, split.dataset)
        if len(file.shape) != 2:
            raise StoreError(
                f"{file.path} holds activations or pixels {file.shape}; the {slot} slot takes one vector per item"
            )


def _check_target(folder: Path, dataset: str, overwrite: bool) -> None:
    if overwrite or not folder.exists():
        return
    refuse_occupied(folder / RECORD, dataset)
    own = {RECORD, FILLED, *SLOTS.values(), "u_id_mapping.csv", "i_id_mapping.csv", f"{folder.name}.inter"}
    others = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if others:
        raise StoreError(
            f"{folder} also holds {', '.join(others[:5])}, made from the earlier export; MMRec would mix it with the "
            "new features: move or delete it, or `--overwrite` to replace the whole folder"
        )


def _interactions(split: Split) -> tuple[pl.DataFrame, NDArray[np.int64], NDArray[np.int64]]:
    """Return a table with MMRec's columns, and the old indices of users and items by new id."""
    parts = [split.train_edges, split.valid.pairs, split.test.pairs]
    label = np.repeat([0, 1, 2], [part.shape[1] for part in parts])
    users, user = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    items, item = np.unique(np.concatenate([part[1] for part in parts]), return_inverse=True)
    order = np.lexsort((label, user))  # stable: training rows of a user stay in order
    user, item, label = user[order], item[order], label[order]
    position = np.arange(len(user)) - np.searchsorted(user, user)
    columns = {"userID": user, "itemID": item, "rating": np.ones(len(user)), "timestamp": position, "x_label": label}
    return pl.DataFrame(columns), users, items


def _parts(table: pl.DataFrame) -> tuple[int, int, int]:
    counts = np.bincount(table["x_label"].to_numpy(), minlength=3).tolist()
    return counts[0], counts[1], counts[2]


def _repeated_pairs(table: pl.DataFrame) -> int:
    train = table.filter(pl.col("x_label") == 0).select("userID", "itemID")
    return len(train) - train.n_unique()


def _hidden_targets(table: pl.DataFrame) -> int:
    train = table.filter(pl.col("x_label") == 0)
    return len(table.filter(pl.col("x_label") != 0).join(train, on=["userID", "itemID"], how="semi"))


def _vectors(slot: str, file: FeatureFile, ids: list[str]) -> tuple[NDArray[np.float32], list[tuple[str, str, str]]]:
    """Return vectors (I, F) and what was filled: all-zero rows, NaN in MMRec's item graphs, get the others' mean."""
    vectors = file.read(ids, absent="mean" if not file.done(ids).any() else "zero")
    blank = ~vectors.any(axis=1)
    if blank.all():
        raise StoreError(f"{file.path}: all {len(ids)} vectors are zero; extract them again")
    rows = file.rows(ids)
    filled = []
    for position in np.flatnonzero(blank).tolist():
        state = State(file.columns.states[rows[position]]).name.lower() if rows[position] >= 0 else "not in the file"
        filled.append((slot, ids[position], "all zero" if state == "done" else state))
    vectors[blank] = vectors[~blank].mean(axis=0, dtype=np.float64)
    return vectors, filled


def _in_words(file: FeatureFile) -> str:
    recipe = file.provenance.recipe
    told = " ".join(str(recipe[key]) for key in ("modality", "encoder", "name") if isinstance(recipe.get(key), str))
    return " ".join(f"{told} ({file.path.name}, fingerprint {file.provenance.fingerprint[:16]})".split())


def _write_mapping(path: Path, raw: str, ids: list[str], dense: str) -> None:
    pl.DataFrame({raw: ids, dense: np.arange(len(ids))}).write_csv(path, separator="\t")


def _record(report: MMRecReport, split: Split, files: Mapping[str, FeatureFile]) -> dict[str, Any]:
    made = {slot: json.loads(file.provenance.to_json()) for slot, file in files.items()}
    told = {name: value for name, value in asdict(report).items() if name not in ("folder", "config", "filled")}
    return {"dataset": split.dataset, "split": split.fingerprint, "features": made, **told}
