"""Bad media in extraction: each costs its row and says why, too many stop the run, repaired ones are picked up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extract.encoders.registry import ENCODERS
from extract.encoders.spec import EncoderSpec
from extract.jobs import extractor
from extract.jobs.extractor import extract
from extract.jobs.sharding import claims_of, run_shards
from extract.media.catalog import Catalog, build_catalog
from features.errors import ConfigError, MediaError
from features.store import FeatureFile
from tests.support.media import cut, pictures, write_clip, write_cover, write_sound
from tests.support.toy_media import catalog, media, options, vectors

__all__ = ["catalog", "media"]  # fixtures


def spoiled(folder: Path) -> Catalog:
    """Four good videos and one of each kind of trouble."""
    for number in range(4):
        write_clip(folder / f"good{number}.mp4", pictures(12, kind=number))
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video " * 100)
    whole = write_clip(folder / "whole.mov", pictures(40), options={"movflags": "faststart"})
    cut(whole, folder / "truncated.mp4", 0.6)
    whole.unlink()
    write_sound(folder / "sound.mp4")
    ids = [*(f"good{number}" for number in range(4)), "zero", "text", "truncated", "sound", "absent"]
    return build_catalog("bad/set", ids, videos=folder)


def test_bad_videos_cost_their_row_and_say_why(tmp_path: Path) -> None:
    catalog = spoiled(tmp_path)
    spec = ENCODERS["videomae-tiny"]
    report = extract(catalog, spec, options(tmp_path / "out", max_failed=0.6))
    assert report.counts == {"done": 4, "missing": 1, "failed": 4}
    reasons = {item: (state, reason) for item, state, reason in report.bad}
    assert reasons["absent"] == ("missing", "no video")
    assert {item: state for item, (state, _) in reasons.items() if item != "absent"} == dict.fromkeys(
        ["zero", "text", "truncated", "sound"], "failed"
    )
    assert "empty" in reasons["zero"][1]
    assert "Invalid data" in reasons["text"][1]
    assert "truncated" in reasons["truncated"][1]
    assert "no video stream" in reasons["sound"][1]
    assert not any("\n" in reason for _, reason in reasons.values())
    file = FeatureFile(report.path)
    good = [f"good{number}" for number in range(4)]
    alone = extract(Catalog("bad/set", catalog.items[:4]), spec, options(tmp_path / "alone"))
    assert np.array_equal(file.read(good), vectors(alone, good))
    assert report.path.name.startswith("bad-set.")
    # The same again, under the strict default: nothing is to do, so nothing fails.
    again = extract(catalog, spec, options(tmp_path / "out"))
    assert again.unchanged
    assert again.bad == report.bad
    assert again.counts == report.counts


def test_too_many_bad_rows_stop_the_run_and_keep_the_work(tmp_path: Path) -> None:
    catalog = spoiled(tmp_path)
    spec = ENCODERS["videomae-tiny"]
    with pytest.raises(MediaError, match=r"5 of 9 items have no vector \(1 missing, 4 failed\)") as caught:
        extract(catalog, spec, options(tmp_path / "out"))
    assert "--max-failed 0.05 allows" in str(caught.value)
    assert "zero: zero.mp4: the file is empty" in str(caught.value)
    assert "--max-failed 0.556" in str(caught.value)
    assert not list((tmp_path / "out").glob("*.h5"))
    report = extract(catalog, spec, options(tmp_path / "out", max_failed=0.556))
    assert report.new_rows == 0
    assert not report.unchanged
    assert report.counts["done"] == 4


def test_repaired_videos_are_picked_up(tmp_path: Path) -> None:
    catalog = spoiled(tmp_path)
    spec = ENCODERS["videomae-tiny"]
    extract(catalog, spec, options(tmp_path / "out", max_failed=1))
    write_clip(tmp_path / "zero.mp4", pictures(12, kind=5))
    write_clip(tmp_path / "absent.mp4", pictures(12, kind=3))
    ids = [item.id for item in catalog.items]
    report = extract(build_catalog("bad/set", ids, videos=tmp_path), spec, options(tmp_path / "out", max_failed=0.5))
    assert report.new_rows == 2
    assert report.counts == {"done": 6, "missing": 0, "failed": 3}


def test_failed_rows_are_tried_again_only_when_asked(tmp_path: Path) -> None:
    catalog = spoiled(tmp_path)
    spec = ENCODERS["videomae-tiny"]
    extract(catalog, spec, options(tmp_path / "out", max_failed=1))
    report = extract(catalog, spec, options(tmp_path / "out", max_failed=1, retry_failed=True))
    assert report.new_rows == 4
    assert report.counts == {"done": 4, "missing": 1, "failed": 4}


def test_bad_covers_and_titles(tmp_path: Path) -> None:
    for number in range(3):
        write_cover(tmp_path / f"{number}.png", kind=number)
    cut(write_cover(tmp_path / "big.jpg", size=(400, 400)), tmp_path / "3.jpg", 0.5)
    (tmp_path / "4.png").write_bytes(b"\x89PNG but no more")
    write_cover(tmp_path / "5.png", size=(8, 400))
    titles = {"0": "cat", "1": "  \n\t", "2": "", "3": "dog", "4": "\ud800 broken"}
    catalog = build_catalog("d", [*"0123456"], covers=tmp_path, titles=titles)
    covers = extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path / "out", max_failed=1))
    states = {item: state for item, state, _ in covers.bad}
    assert states == {"3": "failed", "4": "failed", "5": "failed", "6": "missing"}
    assert "over 20 times" in {item: reason for item, _, reason in covers.bad}["5"]
    texts = extract(catalog, ENCODERS["clip-tiny-text"], options(tmp_path / "out", max_failed=1))
    states = {item: state for item, state, _ in texts.bad}
    assert states == {"1": "missing", "2": "missing", "4": "failed", "5": "missing", "6": "missing"}


def test_a_file_that_vanishes_has_failed(tmp_path: Path) -> None:
    for number in range(2):
        write_cover(tmp_path / f"{number}.png", kind=number)
    catalog = build_catalog("d", None, covers=tmp_path)
    (tmp_path / "1.png").unlink()
    report = extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path / "out", max_failed=1))
    assert report.bad == [("1", "failed", "1: cover gone since it was listed")]


def test_files_that_are_back_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a mount drops for a while."""
    covers, away = tmp_path / "covers", tmp_path / "away"
    covers.mkdir()
    for number in range(3):
        write_cover(covers / f"{number}.png", kind=number)
    catalog, spec = build_catalog("d", None, covers=covers), ENCODERS["resnet-tiny"]
    original = extractor.prepare_all

    def drop(*given: Any, **named: Any) -> Any:
        works = original(*given, **named)
        covers.rename(away)
        return works

    monkeypatch.setattr(extractor, "prepare_all", drop)
    with pytest.raises(MediaError, match="3 of 3 items have no vector"):
        extract(catalog, spec, options(tmp_path / "out"))
    monkeypatch.undo()
    away.rename(covers)
    report = extract(catalog, spec, options(tmp_path / "out"))
    assert report.bad == []


def test_files_that_are_back_are_tried_again_in_a_finished_file(tmp_path: Path) -> None:
    """Those that cannot be read are not: they stand until they change, or --retry-failed."""
    for number in range(3):
        write_cover(tmp_path / f"{number}.png", kind=number)
    (tmp_path / "2.png").write_bytes(b"no picture")
    catalog, spec = build_catalog("d", None, covers=tmp_path), ENCODERS["resnet-tiny"]
    works = extractor.prepare_all(catalog, [spec], options(tmp_path / "out", max_failed=1))
    (tmp_path / "1.png").rename(tmp_path / "away")
    run_shards(catalog, works, claims_of(works))
    extractor.finish(works)
    (tmp_path / "away").rename(tmp_path / "1.png")
    report = extract(catalog, spec, options(tmp_path / "out", max_failed=1))
    assert [item for item, _, _ in report.bad] == ["2"]
    assert report.new_rows == 1


def test_catalogs_without_the_modality_are_refused_up_front(tmp_path: Path) -> None:
    catalog = build_catalog("d", ["a", "b"], titles={"a": " "})
    for name, kind in [("bert-tiny", "title"), ("videomae-tiny", "video"), ("resnet-tiny", "cover")]:
        with pytest.raises(ConfigError, match=rf"'d' has no {kind} for any of its 2 items"):
            extract(catalog, ENCODERS[name], options(tmp_path))
    assert not list(tmp_path.iterdir())


def test_vectors_beyond_float16_fail_and_fit_float32(tmp_path: Path, catalog: Catalog) -> None:
    spec = ENCODERS["bert-tiny"]

    def loud(entry: EncoderSpec, weights: str, seed: int) -> Any:
        encoder = spec.backend(entry, weights, seed)
        quiet = encoder._features

        def features(model: Any, tokens: Any) -> torch.Tensor:  # long titles grow beyond 65504
            return quiet(model, tokens) * torch.where(tokens.mask.sum(1) > 5, 1e6, 1.0)[:, None]

        encoder._features = features
        return encoder

    loud_spec = replace(spec, backend=loud)
    report = extract(catalog, loud_spec, options(tmp_path, max_failed=1))
    assert [(item, state) for item, state, _ in report.bad] == [("3", "failed")]
    assert "float16; try --dtype float32" in report.bad[0][2]
    assert extract(catalog, loud_spec, options(tmp_path, dtype="float32")).counts["done"] == 7
