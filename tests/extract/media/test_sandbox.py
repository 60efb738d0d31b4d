"""Opening files in worker processes: what hangs, crashes or eats memory costs its row, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media import sandbox
from extract.media.catalog import build_catalog
from extract.media.covers.image import read_cover
from extract.media.decoders import read_auto
from extract.media.frames import FrameUnion, frame_indices, parse_frame_policy
from extract.media.limits import Limits
from extract.media.sandbox import read_media
from features.errors import ConfigError, MediaError
from features.store import FeatureFile
from tests.support.media import CLIPS, pictures, write_clip, write_cover, write_sound

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", pictures(30))


def workers_of(process: int) -> list[int]:
    """Return the decode workers among a process' children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"decode_worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone since it was listed
            continue
    return found


def test_a_worker_gives_what_the_decoder_gives(clip: Path) -> None:
    texts = ["middle:5", "uniform:8"]
    union = FrameUnion(tuple(parse_frame_policy(text) for text in texts))
    media = read_media(clip, Limits(), policies=texts)
    direct = read_auto(clip, union)
    assert np.array_equal(media.pixels, direct.frames)
    assert media.total == direct.total == 30
    for policy in union.policies:
        places = np.searchsorted(frame_indices(union, 30), frame_indices(policy, 30))
        assert np.array_equal(media.pixels[places], read_auto(clip, policy).frames)
    cover = write_cover(clip.with_name("c.jpg"))
    assert np.array_equal(read_media(cover, Limits()).pixels, read_cover(cover))


def test_relative_paths_are_those_of_the_caller(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_media(clip, Limits(), policies=["middle:1"])  # a worker exists from here on
    monkeypatch.chdir(clip.parent)
    assert read_media(Path("clip.mp4"), Limits(), policies=["middle:1"]).total == 30


def test_a_file_that_hangs_is_given_up_in_time(clip: Path) -> None:
    pipe = clip.with_name("pipe.mp4")
    os.mkfifo(pipe)  # opening it waits for a writer that never comes
    began = time.monotonic()
    said = r"^pipe\.mp4: decoding took longer than 1 s by the clock, 10 times --decode-seconds$"
    with pytest.raises(MediaError, match=said):
        read_media(pipe, Limits(time_s=0.1), policies=["middle:5"])
    assert time.monotonic() - began < 5
    assert read_media(clip, Limits(), policies=["middle:5"]).total == 30


def test_a_decoder_that_dies_is_replaced(clip: Path) -> None:
    pipe = clip.with_name("pipe.mp4")
    os.mkfifo(pipe)
    sandbox.close_idle()

    def shoot() -> None:
        for _ in range(100):
            time.sleep(0.1)
            for pid in workers_of(os.getpid()):
                os.kill(pid, signal.SIGSEGV)
                return

    shooter = threading.Thread(target=shoot)
    shooter.start()
    with pytest.raises(MediaError, match=r"^pipe\.mp4: the decoder crashed \(SIGSEGV\), perhaps because it needs over"):
        read_media(pipe, Limits(time_s=60), policies=["middle:5"])
    shooter.join()
    assert read_media(clip, Limits(), policies=["middle:5"]).total == 30


def test_memory_is_limited(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8000, 8000)).save(tmp_path / "big.png")
    with pytest.raises(MediaError, match=r"^big\.png: it needs more than 100 MB to decode \(--decode-mb\)$"):
        read_media(tmp_path / "big.png", Limits(memory_mb=100))
    assert read_media(tmp_path / "big.png", Limits(memory_mb=2000)).pixels.shape == (8000, 8000, 3)
    wide = write_clip(tmp_path / "wide.mp4", np.zeros((4, 1080, 1920, 3), dtype=np.uint8))
    with pytest.raises(MediaError, match=r"^wide\.mp4: it needs more than 64 MB to decode"):
        read_media(wide, Limits(memory_mb=64), policies=["uniform:4"])
    assert read_media(wide, Limits(), policies=["uniform:4"]).pixels.shape == (4, 1080, 1920, 3)


def test_broken_and_absent_files_say_so(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.mp4")
    with pytest.raises(MediaError, match=r"^sound\.mp4: it holds no video stream$"):
        read_media(tmp_path / "sound.mp4", Limits(), policies=["middle:5"])
    with pytest.raises(FileNotFoundError):
        read_media(tmp_path / "none.mp4", Limits(), policies=["middle:5"])
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(MediaError, match=r"^text\.jpg: it is not a picture that can be read"):
        read_media(tmp_path / "text.jpg", Limits())


def test_workers_are_reused_and_replaced(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close_idle()
    monkeypatch.setattr(sandbox, "FILES_PER_WORKER", 3)
    seen = []
    for _ in range(7):
        read_media(clip, Limits(), policies=["middle:1"])
        seen.append(tuple(workers_of(os.getpid())))
    assert [len(pids) for pids in seen] == [1, 1, 0, 1, 1, 0, 1]
    assert seen[0] == seen[1]
    assert len({*seen}) == 4


@pytest.mark.parametrize(("time_s", "memory_mb"), [(0, 4096), (-1, 4096), (10, 10)])
def test_impossible_limits_are_refused(tmp_path: Path, time_s: float, memory_mb: int) -> None:
    with pytest.raises(ConfigError, match=f"may cost {time_s:g} s and {memory_mb} MB"):
        ExtractOptions(tmp_path, decode=Limits(time_s, memory_mb))


@pytest.mark.slow
def test_a_hung_worker_outlives_its_dead_parent_by_seconds_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    code = (
        "from pathlib import Path; from extract.media.sandbox import Limits, read_media; "
        f"read_media(Path({str(tmp_path / 'pipe.mp4')!r}), Limits(time_s=2), policies=['middle:5'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (pids := workers_of(parent.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    parent.kill()
    parent.wait()
    assert len(pids) == 1
    while Path(f"/proc/{pids[0]}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{pids[0]}/stat").exists()


def resident_mb() -> float:
    """Return the resident memory of this process and its workers."""
    pages = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in [os.getpid(), *workers_of(os.getpid())]
    )
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_stays_level_over_a_thousand_decodes(clip: Path) -> None:
    """Growth is what stays: a worker is replaced after some hundred files."""
    for _ in range(100):
        read_media(clip, Limits(), policies=["uniform:8"])
    before = resident_mb()
    for _ in range(1000):
        read_media(clip, Limits(), policies=["uniform:8"])
    assert resident_mb() - before < 50


def odd_files(folder: Path) -> dict[str, str]:
    """Write 58 files of every kind of trouble; return name -> what must be said of it ('' where it must work)."""
    folder.mkdir()
    frames = pictures(24)
    good = write_clip(folder / "good.mp4", frames)
    fast = write_clip(folder / "fast.mp4", frames, options={"movflags": "faststart"})
    told = {"good": "", "fast": ""}
    content, front = good.read_bytes(), fast.read_bytes()
    for number, share in enumerate(np.linspace(0.02, 0.95, 16)):
        (folder / f"cut{number}.mp4").write_bytes(content[: int(share * len(content))])
        told[f"cut{number}"] = "Invalid data|no video|truncated"
        (folder / f"cutfast{number}.mp4").write_bytes(front[: int(share * len(front))])
        told[f"cutfast{number}"] = "truncated|Invalid data|no video|End of file"
    for name, size in {"one": 1, "k": 1024, "m": 2**20}.items():
        (folder / f"zeros-{name}.mp4").write_bytes(bytes(size))
        told[f"zeros-{name}"] = "Invalid data"
        (folder / f"noise-{name}.mp4").write_bytes(np.random.default_rng(size).bytes(size))
        told[f"noise-{name}"] = "Invalid data|no video|truncated"
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "page.mp4").write_text("<html>404 Not Found</html>" * 100)
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    (folder / "script.mp4").write_text("#!/bin/sh\nexit 0\n")
    write_sound(folder / "sound.mp4")
    told |= {"empty": "is empty", "page": "Invalid data", "list": ".", "script": "Invalid data", "sound": "no video"}
    write_cover(folder / "c.jpg").rename(folder / "picture.mp4")
    told["picture"] = ""
    good_kinds = {
        "hevc": {"codec": "libx265"},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "av1.mkv": {"codec": "libsvtav1"},
        "avi.avi": {"codec": "mpeg4"},
        "uneven": {"times": [number + 5 * (number // 5) for number in range(24)]},
    }
    for name, settings in good_kinds.items():
        write_clip(folder / (name if "." in name else f"{name}.mp4"), frames, **settings)  # type: ignore[arg-type]
        told[Path(name).stem] = ""
    for name, size in {"odd": (66, 98), "flat": (16, 256), "dot": (16, 16)}.items():
        write_clip(folder / f"{name}.mp4", pictures(24, size=size))
        told[name] = ""
    write_clip(folder / "single.mp4", pictures(1))
    told["single"] = ""
    return told


@pytest.mark.slow
def test_a_folder_of_odd_files_ends_with_a_true_word_on_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")  # the AV1 encoder talks
    told = odd_files(tmp_path / "videos")
    for path in CLIPS.glob("*.[mw]*") if CLIPS.is_dir() else ():
        if path.suffix != ".md":
            (tmp_path / "videos" / path.name).symlink_to(path)
            told[path.stem] = ""
    catalog = build_catalog("odd", None, videos=tmp_path / "videos")
    assert len(catalog.items) == len(told) >= 52
    run = ExtractOptions(tmp_path / "out", weights="random", max_failed=1, decode=Limits(time_s=20))
    report = extract(catalog, ENCODERS["videomae-tiny"], run)
    reasons = {item: reason for item, _, reason in report.bad}
    for name, expected in told.items():
        if expected:
            assert name in reasons, name
            assert re.search(expected, reasons[name]), f"{name}: {reasons[name]}"
        else:
            assert name not in reasons, f"{name}: {reasons.get(name)}"
    assert np.isfinite(FeatureFile(report.path).read([name for name, expected in told.items() if not expected])).all()
