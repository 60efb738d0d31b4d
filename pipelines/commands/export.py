"""Verb `export`: datasets and features for other toolboxes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.commands.options import COLUMNS, Action, json_option, option


@dataclass(frozen=True)
class MMRec:
    """What `export mmrec` is asked for."""

    data: Path = option()
    """Dataset folder."""
    name: str = option()
    """Dataset name in MMRec."""
    out: Path = option()
    """Folder to write into."""
    columns: str | None = option(None, help=COLUMNS)
    image: Path | None = option(None)
    """Feature file for MMRec's visual slot (covers or videos)."""
    text: Path | None = option(None)
    """Feature file for MMRec's text slot."""
    overwrite: bool = option(False)
    """Replace an earlier export."""
    json: bool = json_option()


def mmrec(request: MMRec) -> None:
    """Split a dataset by the default settings, write MMRec's folder, and say what is in it."""
    from features.store import FeatureFile
    from pipelines.console import print_json, say, warn
    from pipelines.data.data_config import DataConfig
    from pipelines.data.detection import read_dataset
    from pipelines.data.load import make_split
    from pipelines.data.tables import parse_columns
    from pipelines.mmrec.check import CACHES
    from pipelines.mmrec.export import FILLED, export_mmrec

    dataset = read_dataset(request.data, parse_columns(request.columns))
    split = make_split(dataset, DataConfig(folder=str(request.data)))
    paths = {"image": request.image, "text": request.text}
    files = {slot: FeatureFile(path) for slot, path in paths.items() if path is not None}
    out, name, overwrite = request.out, request.name, request.overwrite
    report = export_mmrec(out, name, split, image=files.get("image"), text=files.get("text"), overwrite=overwrite)
    if request.json:
        print_json(asdict(report) | {"folder": str(report.folder), "config": str(report.config)})
        return
    say(f"{report.folder}: {report.users} users, {report.items} items, train / valid / test rows {report.rows}")
    say(f"{report.config}: copy to MMRec's src/configs/dataset/, the folder to its data/")
    for slot, what in report.slots.items():
        say(f"  {slot} slot: {what}")
    if report.filled:
        say(f"  {len(report.filled)} vectors are the mean of the others: {report.folder / FILLED}")
    if report.left_out_items:
        say(f"  {report.left_out_items} items occur in no interaction and are left out: MMRec cannot hold them")
    if report.hidden_targets:
        warn(f"{report.hidden_targets} targets also occur in their user's training part; MMRec never finds those")
    say(f"  in MMRec's data/{name} delete {CACHES} of earlier exports: it would use the graphs of old features")


@dataclass(frozen=True)
class RecBole:
    """What `export recbole` is asked for."""

    data: Path = option()
    """Dataset folder."""
    name: str = option()
    """Dataset name in RecBole."""
    out: Path = option()
    """Folder to write into: RecBole's data_path."""
    columns: str | None = option(None, help=COLUMNS)
    features: tuple[Path, ...] = option((), nargs="*")
    """Feature files of items, one vector each, for models that take RecBole's preload_weight."""
    overrides: tuple[str, ...] = option((), flag="--set", nargs="*", metavar="key=value")
    """Settings of a recipe's section `data`, such as data.split=time data.keep_last=null."""
    overwrite: bool = option(False)
    """Replace an earlier export."""
    json: bool = json_option()


def recbole(request: RecBole) -> None:
    """Split a dataset, write RecBole's atomic files and settings, and say what is in them."""
    from features.store import FeatureFile
    from pipelines.console import print_json, say
    from pipelines.data.detection import read_dataset
    from pipelines.data.load import columns_to_read, make_split
    from pipelines.data.tables import parse_columns
    from pipelines.recbole.export import export_recbole
    from pipelines.recipe.data_settings import data_settings

    config = data_settings(request.data, request.overrides, parse_columns(request.columns))
    dataset = read_dataset(request.data, columns_to_read(config))
    split = make_split(dataset, config)
    report = export_recbole(
        request.out,
        request.name,
        split,
        max_length=config.max_length,
        titles=dataset.titles,
        features=[FeatureFile(path) for path in request.features],
        overwrite=request.overwrite,
    )
    if request.json:
        print_json(asdict(report) | {"folder": str(report.folder), "split": split.told or split.protocol})
        return
    say(f"{report.folder}: {report.users} users, {report.items} items, train / valid / test rows {report.rows}")
    say(f"  split: {split.told or split.protocol}")
    for file in report.settings:
        kind = "sequential models" if file.endswith("-sequential.yaml") else "models of users and items"
        say(f"  {file}: settings for {kind}; data_path is {request.out}")
    for suffix, (told, absent) in report.vectors.items():
        say(f"  {request.name}.{suffix}: {told}" + (f"; {absent} items have none, zeros in RecBole" * (absent > 0)))
    if report.numbered:
        say("  ids are numbers: RecBole cannot hold all of them as they are; user_ids.tsv and item_ids.tsv tell which")


ACTIONS = {
    "mmrec": Action("a folder that MMRec trains on", MMRec, mmrec),
    "recbole": Action("a folder that RecBole trains on", RecBole, recbole),
}
