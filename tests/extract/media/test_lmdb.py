"""Covers and frames out of LMDB: the benchmark's layouts give the very pixels, strangers' pickles run nothing."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract, extract_all
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, build_catalog
from extract.media.frames import parse_frame_policy
from extract.media.limits import Limits
from extract.media.lmdb_media import cover_of
from extract.media.sandbox import close_idle, read_media
from features.errors import ConfigError, MediaError
from features.store import FeatureFile
from run_pipeline import main
from tests.support.media import jpeg, pictures, write_lmdb

lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
SCRIPT = ModuleType("write_lmdb")  # stands for the benchmark's script; a reader does not have it


def carrier(name: str, **attributes: Any) -> bytes:
    """Return the pickle of an object of the script's class `name`."""
    kind = type(name, (), {"__module__": SCRIPT.__name__})
    setattr(SCRIPT, name, kind)
    made = kind()
    vars(made).update(attributes)
    sys.modules[SCRIPT.__name__] = SCRIPT
    try:
        return pickle.dumps(made)
    finally:
        del sys.modules[SCRIPT.__name__]


def normalised(pixels: np.ndarray[Any, Any]) -> bytes:
    """Return (F, H, W, 3) uint8 as the benchmark's scripts store it: float32 (F, 3, H, W) in [-1, 1]."""
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return ((values - 0.5) / 0.5).numpy().astype(np.float32).tobytes()


def frames(kind: int, count: int = 5) -> np.ndarray[Any, Any]:
    return pictures(count, size=(224, 224), kind=kind)


def read(path: Path, key: str, *policies: str) -> np.ndarray[Any, Any]:
    catalog = build_catalog("toy", [key], covers=path)
    origin = catalog.items[0].cover
    assert origin is not None
    return read_media(origin, Limits(), policies=policies).pixels


def options(out: Path, **more: Any) -> ExtractOptions:
    return ExtractOptions(out, weights="random", dtype="float32", max_failed=0.9, **more)


def test_the_benchmarks_layouts_give_the_very_pixels(tmp_path: Path) -> None:
    small = pictures(1, size=(40, 60), kind=3)[0]
    path = write_lmdb(
        tmp_path / "media_lmdb",
        {
            "1": carrier("LMDB_Image", image=normalised(frames(1, 1))),
            "2": carrier("LMDB_VIDEO", video=normalised(frames(2))),
            "i3": carrier("LMDB_Image", channels=3, size=small.shape[:2], image=small.tobytes(), id="i3"),
            "4": jpeg(4),
        },
    )
    assert np.array_equal(read(path, "1"), frames(1, 1)[0])
    assert np.array_equal(read(path, "2", "middle:5"), frames(2))
    assert np.array_equal(read(path, "2", "middle:3"), frames(2)[1:4])
    assert np.array_equal(read(path, "i3"), small)
    assert np.array_equal(read(path, "4"), np.array(Image.open(io.BytesIO(jpeg(4)))))


def test_a_pickle_cannot_change_what_later_entries_meet() -> None:
    # sets __setstate__ of the class that stands for LMDB_Image, and then makes an object of it
    evil = b"\x80\x03cm\nLMDB_Image\nN}X\x0c\x00\x00\x00__setstate__K\x01s\x86b)\x81."
    with pytest.raises(MediaError):
        cover_of(evil, "evil")
    good = carrier("LMDB_Image", image=normalised(frames(1, 1)))
    assert np.array_equal(cover_of(good, "good"), frames(1, 1)[0])


def test_a_single_file_and_a_read_only_one(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "covers.lmdb", {"1": jpeg(1)}, subdir=False)
    path.chmod(0o444)
    (tmp_path / "covers.lmdb-lock").unlink()
    assert read(path, "1").shape == (64, 96, 3)
    assert not (tmp_path / "covers.lmdb-lock").exists()


def test_bookkeeping_is_no_item_and_other_ids_are_not_found(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "c_lmdb", {"2": jpeg(2), "10": jpeg(1)})
    assert [item.id for item in build_catalog("toy", None, covers=path).items] == ["2", "10"]
    assert build_catalog("toy", ["3"], covers=path).count_missing()["cover"] == 1


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Covers and videos, good and bad, with the reason each bad one must give."""
    folder = tmp_path_factory.mktemp("lmdb")
    hostile = b"\x80\x04cos\nsystem\n(S'touch " + str(folder / "ran").encode() + b"'\ntR."
    covers = {str(n): carrier("LMDB_Image", image=normalised(frames(n, 1))) for n in range(3)}
    covers |= {"evil": hostile, "cut": covers["1"][:500], "noise": b"no image", "empty": b""}
    covers["list"] = pickle.dumps([1, 2])
    covers["other"] = carrier("LMDB_VIDEO", video=b"abc")
    covers["odd"] = carrier("LMDB_Image", image=b"abc")
    covers["raw"] = carrier("LMDB_Image", channels=3, size=(5, 5), image=b"abc")
    covers["imagenet"] = carrier("LMDB_Image", image=(np.ones((3, 8, 8), np.float32) * 2.64).tobytes())
    covers["not finite"] = carrier("LMDB_Image", image=np.full((3, 8, 8), np.nan, np.float32).tobytes())
    write_lmdb(folder / "covers", covers)
    videos = {str(n): carrier("LMDB_VIDEO", video=normalised(frames(n))) for n in range(3)}
    videos["short"] = carrier("LMDB_VIDEO", video=normalised(frames(1, 3)))
    write_lmdb(folder / "videos", videos)
    return folder


REASONS = {
    "evil": "the pickle asks for os.system",
    "cut": "not a readable pickle",
    "noise": "it is not a picture that can be read",
    "empty": "the file is empty (0 bytes)",
    "list": "the pickle holds a list",
    "other": "has no attribute `image` of bytes; it has video",
    "odd": "`image` has 3 bytes",
    "raw": r"size (5, 5) and channels 3",
    "imagenet": "not 8-bit pixels",
    "not finite": "not 8-bit pixels",
}


def test_a_bad_entry_costs_its_row_and_nothing_a_pickle_asks_for_runs(media: Path, tmp_path: Path) -> None:
    catalog = build_catalog("toy", None, covers=media / "covers")
    report = extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path))
    assert report.counts == {"done": 3, "missing": 0, "failed": len(REASONS)}
    for item, state, reason in report.bad:
        assert state == "failed"
        assert REASONS[item] in reason
        assert f"{item} in covers: " in reason
    assert not (media / "ran").exists()


def test_the_hostile_pickle_would_run_elsewhere(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hostile = b"\x80\x04cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    with pytest.raises(MediaError, match=r"os\.system"):
        cover_of(hostile, "x")
    assert not mark.exists()
    pickle.loads(hostile)  # noqa: S301 (that is the point)
    assert mark.exists()


def both(media: Path) -> Catalog:
    return build_catalog("toy", ["0", "1", "2", "short"], videos=media / "videos", covers=media / "covers")


def test_stored_frames_give_the_vectors_of_those_pixels_and_another_recipe(media: Path, tmp_path: Path) -> None:
    spec = ENCODERS["resnet-tiny"]
    from_lmdb = extract(both(media), spec, options(tmp_path))
    (tmp_path / "covers").mkdir()
    for number in range(3):
        Image.fromarray(frames(number, 1)[0]).save(tmp_path / "covers" / f"{number}.png")
    plain = extract(build_catalog("toy", ["0", "1", "2", "short"], covers=tmp_path / "covers"), spec, options(tmp_path))
    ids = ["0", "1", "2"]
    assert np.array_equal(FeatureFile(from_lmdb.path).read(ids), FeatureFile(plain.path).read(ids))
    assert from_lmdb.fingerprint != plain.fingerprint
    assert FeatureFile(from_lmdb.path).provenance.recipe["stored"] == "lmdb"


def test_frames_that_are_not_stored_are_never_made_up(media: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"asks for frames '.*' of a whole clip.*--frames middle:5"):
        extract(both(media), ENCODERS["slowfast-tiny"], options(tmp_path))
    five = options(tmp_path, frames=parse_frame_policy("middle:5"))
    report = extract(both(media), ENCODERS["r3d-tiny"], five)
    assert report.counts == {"done": 3, "missing": 0, "failed": 1}
    assert report.bad[0][2] == "short in videos: it holds 3 frames, but 5 are asked for; use --frames middle:3"


def test_an_entry_that_changed_is_made_again(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "c_lmdb", {"1": jpeg(1), "2": jpeg(2)})
    spec = ENCODERS["resnet-tiny"]
    first = extract(build_catalog("toy", None, covers=path), spec, options(tmp_path / "out"))
    assert extract(build_catalog("toy", None, covers=path), spec, options(tmp_path / "out")).unchanged
    close_idle()  # a worker keeps what it has opened
    shutil.rmtree(path)
    write_lmdb(path, {"1": jpeg(1), "2": jpeg(2) + b"more"})
    again = extract(build_catalog("toy", None, covers=path), spec, options(tmp_path / "out"))
    assert (first.new_rows, again.new_rows) == (2, 1)


def test_an_entry_that_changed_at_one_size_is_made_again(tmp_path: Path) -> None:
    """Raw pixels of one shape are of one size, whatever they show."""
    one, other = sorted((jpeg(2), jpeg(3)), key=len)
    path = write_lmdb(tmp_path / "c_lmdb", {"1": jpeg(1), "2": one.ljust(len(other), b"x")})
    spec = ENCODERS["resnet-tiny"]
    extract(build_catalog("toy", None, covers=path), spec, options(tmp_path / "out"))
    close_idle()
    shutil.rmtree(path)
    write_lmdb(path, {"1": jpeg(1), "2": other})
    again = extract(build_catalog("toy", None, covers=path), spec, options(tmp_path / "out"))
    assert again.new_rows == 1


def test_a_large_environment_does_not_count_as_memory(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "c_lmdb", {"1": jpeg(1)} | {f"fill{n}": os.urandom(2**20) for n in range(200)})
    close_idle()  # so that one worker maps it, and reads files afterwards
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "1.jpg").write_bytes(jpeg(1))
    for folder in (path, tmp_path / "plain", path):
        origin = build_catalog("toy", ["1"], covers=folder).items[0].cover
        assert origin is not None
        assert read_media(origin, Limits(memory_mb=128)).pixels.shape == (64, 96, 3)


def test_the_command_line_takes_them_in_place_of_the_dataset_folders(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.csv").write_text("item,title\n0,a\n1,b\n2,c\n")
    line = ["extract", "--data", str(tmp_path), "--encoders", "resnet-tiny", "--weights", "random"]
    line += ["--out", str(tmp_path / "out"), "--max-failed", "0.9", "--covers", str(media / "covers")]
    assert main(line) == 0
    assert "evil: evil in covers: the pickle asks for os.system" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_lmdb_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"LMDB of covers .* cannot be read \(.*\); check the path, or copy"):
        build_catalog("toy", None, covers=tmp_path)
    path = write_lmdb(tmp_path / "c_lmdb", {})
    environment = lmdb.open(str(path))
    with environment.begin(write=True) as transaction:
        transaction.put(b"\xff\xfe", b"")
    environment.close()
    with pytest.raises(ConfigError, match=r"has key b'\\xff\\xfe'; item ids must be UTF-8"):
        build_catalog("toy", None, covers=path)


def test_two_encoders_share_one_reading(media: Path, tmp_path: Path) -> None:
    specs = [ENCODERS["resnet-tiny"], ENCODERS["clip-tiny-image"]]
    together = extract_all(both(media), specs, options(tmp_path / "a"))
    for spec, report in zip(specs, together, strict=True):
        alone = extract(both(media), spec, options(tmp_path / "b"))
        assert FeatureFile(alone.path).vectors_sha256 == FeatureFile(report.path).vectors_sha256
