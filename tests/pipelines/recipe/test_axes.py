"""One recipe through several values of its keys, what the rows cost, and the picture of it."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from features.errors import ConfigError
from models.shared.representation import ItemsConfig, Kind
from pipelines.commands.results import compare as verb
from pipelines.comparing.compare import finished_rows
from pipelines.comparing.cost_table import cost_summary, cost_table, costs, frozen_row
from pipelines.comparing.plot import MARKS, check_plot, short_names, write_plot
from pipelines.comparing.result_table import Comparison, Row
from pipelines.comparing.table_files import write_csv
from pipelines.recipe.axes import READ_BY
from pipelines.recipe.plan import plan
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors
from tests.support.tower_runs import TITLES, write_activations

KINDS = ["items.kind=v,dnn,top,e2e", "items.layers=1,2", "items.top_blocks=1,all"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over a tiny dataset with titles, vectors and activations."""
    folder = tmp_path_factory.mktemp("axes")
    data = small_dataset(folder / "small")
    write(data / "items.csv", "item,title\n" + "".join(f"{i:03},{title}\n" for i, title in enumerate(TITLES)))
    vectors = write_vectors(folder / "vectors.h5", "small", item_ids())
    cut = write_activations(folder / "cut.h5", "bert-tiny", 2)
    changes = {
        "name": "titles",
        "items": {"kind": "v", "dim": 8, "encoder": "bert-tiny", "weights": "random"},
        "features": [{"path": str(vectors)}, {"path": str(cut)}],
        "train": {"epochs": 1, "batch_size": 64},
        "paper": {"source": "made up, table 1", "metrics": {"HR@10": 0.05}},
    }
    return write(folder / "titles.yaml", dump_yaml(plain_recipe(data, changes)))


@pytest.fixture(scope="module")
def compared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders and tables of a recipe along two axes."""
    out = tmp_path_factory.mktemp("compared")
    axes = ["items.kind=v,top,e2e", "items.top_blocks=1,2"]
    files = {form: out / f"table.{form}" for form in ("csv", "markdown", "latex")}
    verb.run(verb.Compare((source,), axes=tuple(axes), seeds=2, out=out / "runs", device="cpu", **files))
    return out


def names(source: Path, *axes: str, overrides: tuple[str, ...] = ()) -> list[str]:
    return [recipe.name for recipe in plan([source], overrides, axes).recipes]


def test_rows_are_named_after_what_their_kind_reads(source: Path) -> None:
    assert names(source, *KINDS) == [
        "titles[kind=v]",
        "titles[kind=dnn,layers=1]",
        "titles[kind=dnn,layers=2]",
        *(f"titles[kind={kind},T={count}]" for kind in ("top", "e2e") for count in (1, "all")),
    ]
    assert names(source, "train.lr=1e-4,0.001") == ["titles[lr=0.0001]", "titles[lr=0.001]"]
    assert names(source, "items.weights=random,some/where/weights", overrides=("items.kind=e2e",)) == [
        "titles[weights=random]",
        "titles[weights=weights]",
    ]
    made = plan([source], ["items.dim=4"], KINDS).recipes[-2]
    assert (made.items.kind, made.items.top_blocks, made.items.dim) == ("e2e", 1, 4)


def test_every_setting_of_items_says_who_reads_it() -> None:
    read_by_all = {"kind", "dim", "fuse", "side", "init_std"}
    assert {entry.name for entry in fields(ItemsConfig)} == read_by_all | set(READ_BY)
    assert {kind for kinds in READ_BY.values() for kind in kinds} <= set(get_args(Kind))


def test_every_kind_has_a_mark_of_its_own() -> None:
    assert len(set(MARKS.values())) == len(MARKS)
    assert set(MARKS) == {*get_args(Kind), "-"}


def test_a_published_number_stays_with_the_recipe_as_it_stands(source: Path) -> None:
    made = {recipe.name: recipe.paper for recipe in plan([source], [], ["items.kind=id,v"]).recipes}
    assert made["titles[kind=id]"] is None
    assert made["titles[kind=v]"] is not None


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            ["items.inter=true,false"],
            r"--axis items\.inter: .* only items of kind adapter use it; .* or add items\.kind=adapter",
        ),
        (["items.layers=1,2"], r"--axis items\.layers: .* items\.kind 'v', but only items of kind dnn use it"),
        (["items.kind"], r"--axis 'items\.kind' is not of the form key\.path=value,value"),
        (["items.kind=v", "items.kind=id"], r"--axis names 'items\.kind' twice"),
        (["items.kind=v,tap"], r"items\.kind is 'tap'"),
        (["items.lairs=1"], r"unknown key 'items\.lairs'; did you mean 'layers'"),
    ],
)
def test_axes_that_cannot_be_meant(source: Path, axes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan([source], [], axes)


def test_axes_are_not_for_groups_nor_runs(source: Path, compared: Path, tmp_path: Path) -> None:
    group = {"title": "one row", "source": "nowhere", "recipes": [str(source)]}
    path = write(tmp_path / "group.yaml", dump_yaml(group))
    with pytest.raises(ConfigError, match=r"--axis is for recipes, but .*group\.yaml is a group of recipes; name its"):
        plan([path], [], ["items.kind=id,v"])
    with pytest.raises(ConfigError, match=r"stays as it is; --set, --axis and --seeds are for recipes"):
        verb.run(verb.Compare((compared / "runs" / "titles[kind=v]-seed0",), axes=("items.kind=id,v",), out=tmp_path))


def test_activations_that_are_too_shallow_are_told_before_anything_is_trained(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"top_blocks is all, but .*cut\.h5 is cut below the last 2 of the 2 blocks of 'bert-tiny'"
    ):
        verb.run(verb.Compare((source,), axes=("items.kind=id,top", "items.top_blocks=1,all"), out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


# What rows cost.


def rows_of(compared: Path) -> list[Row]:
    return finished_rows(sorted((compared / "runs").iterdir()))


def test_every_row_says_what_it_cost(compared: Path) -> None:
    rows = sorted(rows_of(compared), key=lambda row: row.name)
    header, cells = cost_table(rows)
    assert header[:4] == ["recipe", "items", "T", "s/epoch"]
    told = {line[0]: dict(zip(header, line, strict=True)) for line in cells}
    assert set(told) == {
        "titles[kind=v]",
        *(f"titles[kind={kind},T={count}]" for kind in ("top", "e2e") for count in (1, 2)),
    }
    frozen, trained = told["titles[kind=v]"], told["titles[kind=top,T=2]"]
    assert (frozen["items"], frozen["T"], frozen["encoded/epoch"], frozen["x frozen"]) == ("v", "-", "-", "1.00")
    assert (trained["items"], trained["T"], trained["epochs"]) == ("top", "2", "1")
    assert int(trained["encoded/epoch"]) > 0
    assert "peak GPU MB" not in header, "nothing ran on a GPU"
    assert "extraction s" not in header or frozen["extraction s"] == "-", "these files do not know"
    assert "x frozen: times the s/epoch of titles[kind=v]" in cost_summary(rows)
    assert "measured on cpu x 1" in cost_summary(rows)


def test_costs_stand_in_every_file(compared: Path) -> None:
    with (compared / "table.csv").open(newline="", encoding="utf-8") as handle:
        lines = [line for line in csv.DictReader(handle) if line["group"] == "costs"]
    told = {(line["recipe"], line["metric"]): line for line in lines}
    line = told["titles[kind=top,T=1]", "train_s_per_epoch"]
    ledgers = [
        json.loads((compared / "runs" / f"titles[kind=top,T=1]-seed{seed}" / "record.json").read_text())["costs"]
        for seed in (0, 1)
    ]
    values = [ledger["train_s_per_epoch"] for ledger in ledgers]
    assert (line["seeds"], line["values"]) == ("2", " ".join(map(str, values)))
    assert float(line["mean"]) == statistics.fmean(values)
    frozen = float(told["titles[kind=v]", "train_s_per_epoch"]["mean"])
    assert float(told["titles[kind=top,T=1]", "times_frozen"]["mean"]) == pytest.approx(
        statistics.fmean(values) / frozen
    )
    markdown, latex = (compared / "table.markdown").read_text(), (compared / "table.latex").read_text()
    assert "| recipe | items | T | s/epoch |" in markdown
    assert "recipe & items & T & s/epoch" in latex
    assert markdown.count("x frozen: times") == latex.count("x frozen: times") == 1


def test_costs_are_asked_for_where_nothing_is_trained_but_rows(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for costs_too in (False, True):
        verb.run(verb.Compare((source,), out=tmp_path, device="cpu", costs=costs_too))
        assert ("s/epoch" in capsys.readouterr().out) == costs_too


def test_runs_older_than_the_ledger_have_no_costs(compared: Path, tmp_path: Path) -> None:
    (row,) = [row for row in rows_of(compared) if row.name == "titles[kind=v]"]
    folder = tmp_path / "old"
    folder.mkdir()
    record = json.loads((row.folders[0] / "record.json").read_text())
    del record["costs"]
    write(folder / "record.json", json.dumps(record))
    old = replace(row, folders=(folder,))
    assert costs([old]) == [{}]
    assert frozen_row([old]) is None
    assert cost_table([old]) == (["recipe", "items", "T"], [["titles[kind=v]", "v", "-"]])
    write_csv(tmp_path / "t.csv", Comparison([old], costs=True))
    assert "costs" not in (tmp_path / "t.csv").read_text()
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=r"no row has both HR@10 and its training cost"):
        write_plot(tmp_path / "p.svg", Comparison([old]))


# The picture.


def test_names_in_the_picture_are_short() -> None:
    assert short_names(["a-b[kind=v]", "a-b[kind=top,T=1]"]) == ["kind=v", "kind=top,T=1"]
    assert short_names(["a-sasrec-id", "a-sasrec-id+v"]) == ["id", "id+v"]
    assert short_names(["alone-here"]) == ["alone-here"]
    assert short_names(["a", "a-b"]) == ["a", "a-b"]


def test_a_picture_that_cannot_be_drawn_is_told_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ConfigError, match=r"--plot needs matplotlib, which is not installed; pip install -e '\.\[plot\]'"
    ):
        verb.run(verb.Compare((source,), out=tmp_path / "runs", plot=tmp_path / "p.png"))
    with pytest.raises(ConfigError, match=r"--plot .*p\.jpg ends in '\.jpg'; name a file that ends in \.svg or \.png"):
        check_plot(tmp_path / "p.jpg")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("form", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_has_a_point_and_a_name_per_row(compared: Path, tmp_path: Path, form: str, head: bytes) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    kept: list[Any] = []

    class Kept(figure.Figure):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            kept.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "Figure", Kept)
        write_plot(tmp_path / "new" / f"p.{form}", Comparison(rows_of(compared), title="five rows"))
    assert (tmp_path / "new" / f"p.{form}").read_bytes().startswith(head)
    (axes,) = kept[0].axes
    assert (axes.get_xscale(), axes.get_ylabel(), axes.get_title()) == ("log", "HR@10", "five rows")
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        ["kind=v", *(f"kind={kind},T={count}" for kind in ("top", "e2e") for count in (1, 2))]
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["e2e", "top", "v"]
