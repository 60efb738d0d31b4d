"""Limits of decoding: time is the processor's, memory is never an early end, and what passes is tried again."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.jobs.farm import Order, extract_locally
from extract.media import sandbox
from extract.media.catalog import build_catalog
from extract.media.limits import Limits
from extract.media.sandbox import close_idle, passes, read_media
from features.errors import MediaError
from tests.support.media import pictures, write_clip
from tests.support.toy_media import options

SLOW = """
import time
from extract.media import decode_worker, decoders
from extract.media.frames import Decoder
true = decoders.DECODERS["auto"]

def slow(path, policy):
    end = {clock}() + {seconds}
    while path.name == "1.mp4" and {clock}() < end:
        {step}
    yield from true.clip(path, policy)

decoders.DECODERS["auto"] = Decoder("auto", slow)
decode_worker.main()
"""
SLEEPING = SLOW.format(clock="time.monotonic", seconds=1.5, step="time.sleep(0.05)")
SPINNING = SLOW.format(clock="time.process_time", seconds=60, step="pass")
LATE = r"^1\.mp4: decoding took longer than 0\.3 s of processor time \(--decode-seconds\)$"


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let workers that start from here on run another program."""
    close_idle()
    yield monkeypatch
    monkeypatch.undo()
    close_idle()


def test_what_is_written_while_a_file_is_read_does_not_end_its_worker(
    tmp_path: Path, decoder: pytest.MonkeyPatch
) -> None:
    """The kernel may signal a request after its bytes were read. Now and then it did."""
    clip = write_clip(tmp_path / "1.mp4", pictures(12))
    decoder.setattr(sandbox, "PROGRAM", SLEEPING)
    ask = sandbox._Worker.ask

    def twice(worker: Any, request: dict[str, Any], name: str) -> Iterator[Any]:
        again = json.dumps(request).encode() + b"\n"
        later = threading.Timer(0.7, lambda: worker._in.write(again))  # the worker serves the first one for 1.5 s
        later.start()
        yield from ask(worker, request, name)
        later.join()

    decoder.setattr(sandbox._Worker, "ask", twice)
    assert read_media(clip, Limits(time_s=1), policies=["middle:3"]).total == 12


def test_waiting_is_no_failure_and_spinning_is(tmp_path: Path, decoder: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "1.mp4", pictures(12))
    decoder.setattr(sandbox, "PROGRAM", SLEEPING)
    assert read_media(clip, Limits(time_s=1), policies=["middle:3"]).total == 12  # waits half as long again
    close_idle()
    decoder.setattr(sandbox, "PROGRAM", SPINNING)
    began = time.monotonic()
    with pytest.raises(MediaError, match=LATE):
        read_media(clip, Limits(time_s=0.3), policies=["middle:3"])
    assert time.monotonic() - began < 2.9  # not the clock's limit, even beside others


def test_waiting_for_ever_ends_by_the_clock(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match=r"longer than 1 s by the clock, 10 times --decode-seconds$") as caught:
        read_media(tmp_path / "pipe.mp4", Limits(time_s=0.1), policies=["middle:3"])
    assert passes(str(caught.value))


def test_what_the_parent_does_with_frames_takes_no_time_of_the_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "1.mp4", pictures(12, size=(480, 640)))
    seen = 0
    for part in sandbox.stream_media(clip, Limits(time_s=0.2), policies=["uniform:12"]):
        time.sleep(0.2)  # 12 frames: longer than the clock's limit of 2 s
        seen += isinstance(part, np.ndarray)
    assert seen == 12


@pytest.mark.parametrize("finished", [True, False])
def test_rows_whose_time_was_up_are_tried_again(tmp_path: Path, decoder: pytest.MonkeyPatch, finished: bool) -> None:
    """Without --retry-failed, from a finished file and from a run that was broken off; others that failed are not."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clip(videos / "1.mp4", pictures(12))
    (videos / "2.mp4").write_text("no video")
    catalog, spec = build_catalog("d", None, videos=videos), ENCODERS["videomae-tiny"]
    run = options(tmp_path / "out", max_failed=1 if finished else 0, decode=Limits(time_s=0.3))
    decoder.setattr(sandbox, "PROGRAM", SPINNING)
    if finished:
        first = extract(catalog, spec, run)
        assert [(item, state) for item, state, _ in first.bad] == [("1", "failed"), ("2", "failed")]
    else:
        with pytest.raises(MediaError, match="2 of 2 items have no vector"):
            extract(catalog, spec, run)
    close_idle()
    decoder.undo()
    second = extract(catalog, spec, options(tmp_path / "out", max_failed=1))
    assert [item for item, _, _ in second.bad] == ["2"]
    assert second.new_rows == (1 if finished else 2)
    assert extract(catalog, spec, options(tmp_path / "out", max_failed=1)).unchanged


@pytest.mark.usefixtures("forked_workers")
def test_workers_of_a_farm_try_them_again(tmp_path: Path, decoder: pytest.MonkeyPatch) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clip(videos / "1.mp4", pictures(12))
    catalog, spec = build_catalog("d", None, videos=videos), ENCODERS["videomae-tiny"]
    decoder.setattr(sandbox, "PROGRAM", SPINNING)
    first = extract(catalog, spec, options(tmp_path / "out", max_failed=1, decode=Limits(time_s=0.3)))
    assert first.counts["failed"] == 1
    close_idle()
    decoder.undo()
    order = Order(catalog, ("videomae-tiny",), options(tmp_path / "out", max_failed=1))
    report = extract_locally(order, 1)[0]
    assert report.counts == {"done": 1, "missing": 0, "failed": 0}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("a.mp4: decoding took longer than 60 s of processor time (--decode-seconds)", True),
        ("a.mp4: decoding took longer than 600 s by the clock, 10 times --decode-seconds", True),
        ("a.mp4: decoding took longer than 60 s (--decode-seconds)", True),  # of files made before
        ("7: video gone since it was listed", True),
        ("a.mp4: the decoder crashed (SIGIO), perhaps because it needs over 4096 MB (--decode-mb)", True),  # likewise
        ("a.mp4: the decoder crashed (SIGSEGV), perhaps because it needs over 4096 MB (--decode-mb)", False),
        ("a.mp4: it needs more than 64 MB to decode (--decode-mb)", False),
        ("a.mp4: truncated or damaged after frame 3 of 9; fetch it again", False),
        ("decoding took longer than.mp4: it holds no video stream", False),
    ],
)
def test_which_failures_pass(reason: str, expected: bool) -> None:
    assert passes(reason) == expected


# ---- memory


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 77 MB whose pictures are not packed: what a listing must not keep."""
    import av

    path = tmp_path_factory.mktemp("raw") / "raw.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
        for number in range(168):
            pixels = np.full((480, 640, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_listing_keeps_no_contents(raw: Path, decoder: str) -> None:
    """The file is larger than the limit by far."""
    media = read_media(raw, Limits(memory_mb=64), policies=["middle:4"], decoder=decoder)
    assert media.total == 168
    assert np.abs(media.pixels[:, 0, 0, 0].astype(int) - [82, 83, 84, 85]).max() <= 1


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("large")
    frames = pictures(8, size=(720, 1280))
    return {
        name: write_clip(folder / name, frames, codec=codec, keyframes=4)
        for name, codec in {"a.mp4": "libx264", "a.webm": "libvpx-vp9", "a.mkv": "rawvideo", "a.avi": "mpeg4"}.items()
    }


# 'auto' uses both decoders; each of them alone, on two containers.
ALONE = [("decord", "a.mp4"), ("decord", "a.webm"), ("pyav", "a.mkv"), ("pyav", "a.avi")]


@pytest.mark.parametrize(
    ("decoder", "name"), [*(("auto", name) for name in ("a.mp4", "a.webm", "a.mkv", "a.avi")), *ALONE]
)
def test_too_little_memory_is_never_an_end(clips: dict[str, Path], decoder: str, name: str) -> None:
    """Under any limit there are the same frames, or a failure that says memory."""

    def read(memory_mb: int) -> str:
        try:
            media = read_media(clips[name], Limits(memory_mb=memory_mb), policies=["uniform:5"], decoder=decoder)
        except MediaError as error:
            return str(error)
        return f"{media.total} {hash(media.pixels.tobytes())}"

    whole = read(4096)
    found = {memory_mb: read(memory_mb) for memory_mb in (1, 4, 9, 18, 35)}
    if not whole[0].isdigit():
        assert decoder == "decord"  # which cannot open it, whatever the memory
    for memory_mb, said in found.items():
        assert said == whole or "MB" in said, memory_mb
    assert f"{name}: it needs more than 1 MB to decode (--decode-mb)" in found.values()


@pytest.mark.parametrize("name", ["many.mp4", "many.avi"])
def test_memory_holds_one_frame_however_many_are_asked_for(tmp_path: Path, name: str) -> None:
    """100 frames, painted, would be 276 MB, and as they are decoded 138."""
    clip = write_clip(tmp_path / name, pictures(100, size=(720, 1280)), codec="mpeg4", b_frames=0)
    count = 0
    for part in sandbox.stream_media(clip, Limits(memory_mb=64), policies=["uniform:100"], decoder="pyav"):
        count += isinstance(part, np.ndarray)
    assert count == 100
