"""`--dry-run` of `extract` and `compare`: it says what then happens, and writes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from extract.encoders.registry import get_encoder
from extract.jobs.extractor import extract_all
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, build_catalog
from features.errors import ConfigError, MediaError
from pipelines.feature_files.forecast import Forecast, forecast
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.media import pictures, write_clip, write_cover
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors

ITEMS = 4


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for place in ("videos", "covers"):
        (tmp_path / "media" / place).mkdir(parents=True)
    for number in range(ITEMS):
        write_clip(tmp_path / "media" / "videos" / f"{number}.mp4", pictures(12, kind=number))
        write_cover(tmp_path / "media" / "covers" / f"{number}.jpg", kind=number)
    return tmp_path / "media"


def catalog(media: Path) -> Catalog:
    titles = {str(number): f"clip {number}" for number in range(ITEMS)}
    return build_catalog("toy", list(titles), videos=media / "videos", covers=media / "covers", titles=titles)


def look(media: Path, names: str, options: ExtractOptions) -> list[Forecast]:
    before = contents(options.out)
    made = forecast(catalog(media), [get_encoder(name) for name in names.split(",")], options)
    assert contents(options.out) == before
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vectors": ("videomae-tiny,resnet-tiny,minilm-tiny", {}),
    "other frames": ("videomae-tiny", {"frames": "uniform:4"}),
    "the benchmark's faults": ("videomae-tiny", {"faults": ("microlens",)}),
    "int8": ("resnet-tiny", {"dtype": "int8"}),
    "activations": ("resnet-tiny,minilm-tiny", {"top_blocks": 1}),
    "layers": ("videomae-tiny", {"layers": "all"}),
    "some layers": ("minilm-tiny", {"layers": (1,)}),
    "pixels": ("resnet-tiny,videomae-tiny", {"pixels": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_announced_and_then_found(media: Path, kind: str) -> None:
    from extract.media.frames import parse_frame_policy

    names, chosen = KINDS[kind]
    if "frames" in chosen:
        chosen = chosen | {"frames": parse_frame_policy(chosen["frames"])}
    options = ExtractOptions(media.parent / "out", weights="random", **chosen)
    before = look(media, names, options)
    assert [(one.state, one.new, one.to_make, one.file) for one in before] == [("absent", ITEMS, ITEMS, None)] * len(
        before
    )
    reports = extract_all(catalog(media), [get_encoder(name) for name in names.split(",")], options)
    after = look(media, names, options)
    assert [one.encoder for one in after] == [report.encoder for report in reports]
    assert [one.file for one in after] == [str(report.path) for report in reports]
    assert {(one.state, one.kept, one.to_make, one.bytes_needed) for one in after} == {("complete", ITEMS, 0, 0)}
    for one, report in zip(before, reports, strict=True):
        assert 2 * report.path.stat().st_size > one.bytes_needed > 0 or "top" in report.path.name
    other = replace(options, seed=1) if not options.pixels else replace(options, decoder="pyav")
    assert {one.state for one in look(media, names, other) if one.modality == "video" or not options.pixels} <= {
        "absent"
    }


def test_new_changed_missing_and_failed_rows_are_told_apart(media: Path, tmp_path: Path) -> None:
    (media / "covers" / "1.jpg").write_bytes(b"no picture")
    (media / "covers" / "2.jpg").unlink()
    options = ExtractOptions(tmp_path / "out", weights="random", max_failed=0.6)
    spec = get_encoder("resnet-tiny")
    extract_all(catalog(media), [spec], options)
    write_cover(media / "covers" / "0.jpg", kind=7)
    write_cover(media / "covers" / "2.jpg", kind=2)
    write_cover(media / "covers" / "9.jpg", kind=9)
    grown = build_catalog("toy", [*map(str, range(ITEMS)), "9"], covers=media / "covers")
    (now,) = forecast(grown, [spec], options)
    assert (now.state, now.items, now.kept, now.new, now.changed) == ("stale", 5, 2, 1, 1)
    assert (now.retried, now.failed, now.missing) == (1, 1, 0)  # 2 has a cover now, 1 failed and stands
    (again,) = forecast(grown, [spec], replace(options, retry_failed=True))
    assert (again.kept, again.retried, again.failed) == (1, 2, 0)
    (report,) = extract_all(grown, [spec], options)
    assert report.new_rows == now.to_make


def test_an_unfinished_run_is_told_and_its_shards_stay(media: Path, tmp_path: Path) -> None:
    (media / "covers" / "1.jpg").write_bytes(b"no picture")
    options = ExtractOptions(tmp_path / "out", weights="random", max_failed=0, shard_size=1)
    with pytest.raises(MediaError):
        extract_all(catalog(media), [get_encoder("resnet-tiny")], options)
    (now,) = look(media, "resnet-tiny", options)
    assert (now.state, now.kept, now.to_make, now.failed) == ("unfinished", ITEMS, 0, 1)
    (retried,) = look(media, "resnet-tiny", replace(options, retry_failed=True))
    assert (retried.kept, retried.retried, retried.failed) == (ITEMS - 1, 1, 0)
    shard = next((tmp_path / "out").rglob("*.shards/*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1])
    (damaged,) = look(media, "resnet-tiny", options)
    assert damaged.to_make == 1


def test_weights_of_other_origin_are_another_file(media: Path, tmp_path: Path) -> None:
    options = ExtractOptions(tmp_path / "out", weights="random")
    extract_all(catalog(media), [get_encoder("minilm-tiny")], options)
    (here,) = look(media, "minilm-tiny", replace(options, weights=str(media)))
    assert here.state == "absent"
    with pytest.raises(ConfigError, match="neither 'pretrained' nor 'random' nor an existing"):
        look(media, "minilm-tiny", replace(options, weights="nowhere"))


def test_the_commands_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_dataset(Path("data"))
    write(Path("id.yaml"), dump_yaml(plain_recipe(Path("data"), {"train": {"epochs": 1}}) | {"name": "id"}))
    changes = {"items": {"kind": "v", "dim": 8}, "features": [{"path": "f.h5"}]}
    write(Path("v.yaml"), dump_yaml(plain_recipe(Path("data"), changes) | {"name": "v"}))

    def compare(*more: str) -> dict[str, Any]:
        before = contents(tmp_path)
        line = ["compare", "id.yaml", "v.yaml", "--seeds", "2", "--device", "cpu", "--dry-run", "--json", *more]
        assert run_pipeline.main(line) == 0
        assert contents(tmp_path) == before
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    found = compare()
    assert [run["state"] for run in found["runs"]] == ["new"] * 4
    assert found["missing"] == ["no feature file matches f.h5; make it with `extract`, or check features.path"]
    write_vectors(Path("f.h5"), "data", item_ids())
    assert run_pipeline.main(["train", "id.yaml", "--out", "runs/id-seed0", "--device", "cpu"]) == 0
    capsys.readouterr()
    found = compare()
    assert [run["state"] for run in found["runs"]] == ["finished", "new", "new", "new"]
    assert not found["missing"]
    assert [run["state"] for run in compare("--set", "train.epochs=9")["runs"]] == ["longer", "new", "new", "new"]
    other = compare("--set", "train.lr=0.5")
    assert other["runs"][0]["why"] == "train.lr was 0.001, now 0.5"
    assert other["missing"] == ["runs/id-seed0 holds a run with other settings (train.lr was 0.001, now 0.5)"]
    start = compare("--set", "train.start_from=base-seed{seed}", "data.folder=nowhere")["missing"]
    assert start[0] == "dataset folder nowhere does not exist"
    assert f"{os.path.join('runs', 'base-seed0')}, which recipe 'id' starts from, is no finished run" in start  # noqa: PTH118
    assert run_pipeline.main(["compare", "id.yaml", "--dry-run"]) == 0
    assert "0 of 1 runs would be trained; nothing is written" in capsys.readouterr().out
    assert run_pipeline.main(["compare", "runs/id-seed0", "--dry-run"]) == 2
    extract = "extract --data data --encoders minilm-tiny --weights random --out out --dry-run"
    assert run_pipeline.main(extract.split()) == 0
    printed = capsys.readouterr().out
    assert "30 rows would be made; nothing is written" in printed
    assert not Path("out").exists()
    assert run_pipeline.main([*extract.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoders"][0]["missing"] == 1
