"""The page of `report`: whole, escaped, under its size, the same for the same inputs, and honest about what is gone."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import run_pipeline
from features.errors import ConfigError
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.reporting.gathered import gather
from pipelines.reporting.page import Choice, Written, write_report
from tests.support.report_runs import HOSTILE, HOSTILE_NAME, HOSTILE_USER, hostile_runs
from tests.support.shared import made_once
from tests.support.small import plain_recipe, write

VOID = {"meta", "input", "br", "img", "link", "hr"}
FILES = ("runs", "data", "f.h5", "g.h5")
Capture = pytest.CaptureFixture[str]


class Parsed(HTMLParser):
    """Elements, attributes and text of a page; refuses elements that are closed in another order than opened."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def ids(self) -> list[str]:
        return [value for _, found in self.tags if (value := found.get("id"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "report-runs", hostile_runs)


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder that a test may change; the runs remember the old place, which is hidden from them."""
    for name in FILES:
        source = made / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    for path in tmp_path.rglob("*"):
        if path.name in ("config.yaml", "record.json"):
            path.write_text(path.read_text(encoding="utf-8").replace(str(made), str(tmp_path)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(folder: Path, *names: str, out: str = "page.html", **choice: object) -> tuple[Written, str]:
    found = gather([folder / "runs" / name for name in names or ("id", "v", "v-seed1")], title="a <title>")
    options = {"people": 40, "items": 30, "features": (folder / "g.h5",), "device": "cpu", **choice}
    written = write_report(folder / out, found, Choice(**options))
    return written, (folder / out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(made: Path) -> tuple[Written, str]:
    return report(made)


def test_every_section_and_every_number_is_there(whole: tuple[Written, str], made: Path) -> None:
    written, page = whole
    parsed = Parsed(page)
    for section in ("results", "charts", "offers", "people", "items", "features", "runs"):
        assert section in parsed.ids()
    assert (written.people, written.items, written.features) == (40, 30, 2)
    metrics = json.loads((made / "runs" / "id" / "metrics.json").read_text())["test"]
    assert f"{metrics['all']['HR@10']:.4f}" in parsed.texts
    for group in metrics["groups"]["popularity"] + metrics["groups"]["history"]:
        assert group["group"] in parsed.texts
    record = json.loads((made / "runs" / "v" / "record.json").read_text())
    text = " ".join(parsed.texts)
    assert record["dataset"]["fingerprint"] in text
    assert record["features"][0]["vectors_sha256"][:16] in text
    assert f"on {record['device']}" in text
    assert "encoder_seed" in text  # of the recipe, with its defaults
    assert "1 missing: " in text
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 2 + 1 + 2 + 1 + 1 + 2
    assert len(set(parsed.ids())) == len(parsed.ids())


def test_what_a_person_is_offered_is_what_the_test_ranked(whole: tuple[Written, str], made: Path) -> None:
    """The place beside a row, from the run's ranks, and the mark 'hit' in its list, made now, agree for everyone."""
    people = re.findall(r'<details class="person".*?</details>', whole[1], re.DOTALL)
    assert len(people) == 40
    hits = 0
    for person in people:
        columns = re.findall(r"<section aria-label=.*?</section>", person, re.DOTALL)
        assert len(columns) == 2
        for column in columns:
            place = float(re.findall(r"target: place (\d+)", column)[0])
            tiles = re.findall(r"<li>(.*?)</li>", column, re.DOTALL)
            marked = [number for number, tile in enumerate(tiles, 1) if 'class="mark hit"' in tile]
            assert len(tiles) == 10
            assert marked == ([place] if place <= 10 else [])
            hits += len(marked)
    assert hits > 10


def test_nothing_outside_is_asked_for(whole: tuple[Written, str]) -> None:
    page = whole[1]
    for tag, found in Parsed(page).tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            value = found.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    styles = "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL))
    assert set(re.findall(r"url\((.{5})", styles)) == {"data:"}
    assert set(re.findall(r"url\((.)", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))) == {"#"}
    assert "@import" not in styles
    assert "http" not in page.replace("https://example.org/x.js", "").replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_titles_ids_and_names_from_outside_stay_text(whole: tuple[Written, str]) -> None:
    parsed = Parsed(whole[1])
    shown = [title.replace("\x07", "\ufffd").replace("\x1b", "\ufffd") for title in HOSTILE]
    for text in (*shown, HOSTILE_USER, HOSTILE_NAME, "a <title>"):
        assert text in parsed.texts, text
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not [name for _, found in parsed.tags for name in found if name.startswith("on")]
    drawn = "".join(re.findall(r"<svg.*?</svg>", whole[1], re.DOTALL))
    assert "v &lt;b&gt;$x$ &amp; 'co' \U0001f3ac" in drawn  # the legend
    assert "<b>" not in drawn


def test_the_same_inputs_give_the_same_bytes(made: Path, whole: tuple[Written, str]) -> None:
    assert report(made, out="again.html")[1] == whole[1]
    assert report(made, out="other.html", seed=1)[1] != whole[1]


def test_pictures_are_covers_or_frames_and_what_is_without_is_counted(whole: tuple[Written, str]) -> None:
    written, page = whole
    assert written.pictures == 18  # items 1 to 19, less the broken cover of item 3
    assert page.count("data:image/webp;base64,") == 18
    assert [line for line in written.missing if line.startswith("picture")] == [
        "pictures: 11 of 30 items have neither cover nor video",
        *[line for line in written.missing if line.startswith("picture: 003.jpg: ")],
    ]
    assert 'aria-label="picture of item 001"' in page


def test_pictures_beyond_the_size_are_left_out_and_counted(made: Path, whole: tuple[Written, str]) -> None:
    plain = re.sub(r"\.p\d+\{.*?\}\n", "", whole[1])
    most = (len(plain.encode()) + len(whole[1].encode())) / 2e6  # half of the pictures' bytes
    written, page = report(made, out="small.html", max_mb=most)
    assert 0 < written.pictures < 18
    assert written.pictures + written.pictures_left_out == 18
    assert written.bytes == len(page.encode()) <= most * 1e6
    assert f"{written.pictures_left_out} pictures are left out" in page
    with pytest.raises(ConfigError, match=r"--max-mb is 0\.01, but the page without pictures takes .* MB; allow more"):
        report(made, out="none.html", max_mb=0.01)
    assert not (made / "none.html").exists()


def test_one_run_alone_has_no_tests_and_all_else(made: Path) -> None:
    written, page = report(made, "id", out="one.html", features=())
    parsed = Parsed(page)
    assert "Differences" not in parsed.texts
    assert {"results", "people", "charts", "runs"} <= set(parsed.ids())
    assert "items" not in parsed.ids()
    assert written.features == 0


def test_without_people_and_items_the_rest_is_there(made: Path) -> None:
    written, page = report(made, out="few.html", people=0, items=0)
    assert not {"people", "items"} & set(Parsed(page).ids())
    assert (written.people, written.items, written.pictures) == (0, 0, 0)
    assert "offers" in Parsed(page).ids()


def test_a_run_without_its_data_is_reported(copy: Path) -> None:
    shutil.rmtree(copy / "data")
    written, page = report(copy)
    assert any(line.startswith("people and what they are offered: ") for line in written.missing)
    assert any(line.startswith("pictures: ") for line in written.missing)
    assert {"results", "charts", "items", "features", "runs"} <= set(Parsed(page).ids())
    assert HOSTILE[0] in Parsed(page).texts  # titles that the run keeps


def test_a_run_without_its_features_is_reported_from_the_vectors_that_it_keeps(copy: Path) -> None:
    before = people_of(report(copy, items=0, features=())[1])
    (copy / "f.h5").unlink()
    written, page = report(copy, items=0, features=())
    (gone,) = [line for line in written.missing if "feature file of" in line]
    assert "no feature file matches" in gone
    assert people_of(page) == before
    (copy / "runs" / "v" / "vectors.json").unlink()
    written, page = report(copy, items=0, features=())
    (left_out,) = [line for line in written.missing if "its lists are left out" in line]
    assert left_out.startswith(HOSTILE_NAME)
    assert page.count("This run cannot tell any more") == 40
    assert page.count("target: place") == 80


def people_of(page: str) -> str:
    (found,) = re.findall(r'<section id="people".*?<section id=', page, re.DOTALL)
    return found


def test_a_run_without_media_is_reported(copy: Path) -> None:
    shutil.rmtree(copy / "data" / "covers")
    shutil.rmtree(copy / "data" / "videos")
    written, _ = report(copy)
    assert written.pictures == 0
    assert "pictures: 30 of 30 items have neither cover nor video" in written.missing


def test_lists_that_a_run_kept_serve_where_it_cannot_be_opened(copy: Path) -> None:
    kept = {"evaluate": {"lists": True}, "train": {"epochs": 1}, "name": "kept", "items": {"kind": "v", "dim": 8}}
    kept["features"] = [{"path": "f.h5", "absent": "mean"}]
    write(copy / "kept.yaml", dump_yaml(plain_recipe(copy / "data", kept)))
    assert run_pipeline.main(["train", "kept.yaml", "--out", "runs/kept", "--device", "cpu"]) == 0
    before = people_of(report(copy, "kept", items=0)[1])
    (copy / "f.h5").unlink()
    (copy / "runs" / "kept" / "vectors.json").unlink()
    written, page = report(copy, "kept", items=0)
    assert any("its lists are those kept in the run" in line for line in written.missing)
    assert people_of(page) == before


def test_changed_data_are_not_passed_off_as_the_test(copy: Path) -> None:
    table = copy / "data" / "interactions.tsv"
    table.write_text(table.read_text(encoding="utf-8") + "u00\t007\t99\n", encoding="utf-8")
    written, page = report(copy)
    assert any("changed since" in line for line in written.missing)
    assert "people" not in Parsed(page).ids()


def test_a_damaged_log_or_feature_file_costs_its_part_alone(copy: Path) -> None:
    (copy / "runs" / "id" / "log.jsonl").write_text("{", encoding="utf-8")
    (copy / "g.h5").write_bytes(b"no file")
    (copy / "runs" / "v" / "ranks.npy").unlink()
    written, page = report(copy)
    told = "\n".join(written.missing)
    for part in ("curves of small: ", "feature file: ", "intervals and tests: ", "places of the targets: "):
        assert part in told, part
    assert written.features == 1
    assert "people" in Parsed(page).ids()


def test_without_matplotlib_and_pillow_the_numbers_stay(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("matplotlib", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    written, page = report(copy)
    assert "<svg" not in page
    assert any(line.startswith("charts: they need matplotlib; pip install") for line in written.missing)
    assert any(line.startswith("pictures: they need Pillow; pip install") for line in written.missing)
    assert "Spread of the offers" in Parsed(page).texts


# ---- the command line


def test_a_recipe_with_an_axis_is_reported_by_its_finished_runs(copy: Path, capsys: Capture) -> None:
    write(copy / "r.yaml", dump_yaml(plain_recipe(copy / "data", {"train": {"epochs": 1}})))
    axis = ["--axis", "items.dim=4,8"]
    assert run_pipeline.main(["report", "r.yaml", *axis]) == 2
    assert "none of 2 recipes has a finished run in runs" in capsys.readouterr().err
    assert run_pipeline.main(["compare", "r.yaml", *axis, "--seeds", "2", "--device", "cpu"]) == 0
    shutil.rmtree(copy / "runs" / "small[dim=8]-seed0")
    capsys.readouterr()
    assert run_pipeline.main(["report", "r.yaml", *axis, "--out", "axis.html", "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [line for line in told["missing"] if line.startswith("row ")] == [
        "row small[dim=8]: runs/small[dim=8]-seed0 is no finished run"
    ]
    assert "2 seed(s)" in (copy / "axis.html").read_text(encoding="utf-8")
    assert told["bytes"] == (copy / "axis.html").stat().st_size
    changed = ["--set", "train.lr=0.5"]
    assert run_pipeline.main(["report", "r.yaml", *axis, *changed, "--json", "--device", "cpu"]) == 0
    (line, _) = [line for line in json.loads(capsys.readouterr().out)["missing"] if line.startswith("row ")]
    assert line.startswith("row small[dim=4]: its recipe; runs/small[dim=4]-seed0 has other settings (train.lr")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data"], "data is no finished run"),
        (["runs/id", "f.h5"], "report run folders or recipes, not both"),
        (["runs/id", "--set", "a=1"], "--set and --axis are for recipes"),
        (["runs/id", "--baseline", "x"], "--baseline 'x' is no row of the table"),
        (["runs/id", "--people", "-1"], "--people is -1; give 0 to show none, or more"),
        (["runs/id", "--max-mb", "0"], "--max-mb is 0.0; "),
        (["runs/id", "--features", "no.h5"], "--features no.h5 is no file"),
        (["runs/id", "--out", "data"], "--out data is a folder; name the file to write"),
    ],
)
def test_bad_input_is_one_line(copy: Path, capsys: Capture, words: list[str], said: str) -> None:
    assert run_pipeline.main(["report", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (copy / "report.html").exists()
