"""A source never makes a decoder open another file or address, whatever its bytes or its name say."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from extract.media.decoders import DECODERS, read_auto, read_decord, read_pyav
from extract.media.decoding.container import CONTAINERS, opened
from extract.media.frames import Decoder, FramePolicy
from extract.media.limits import Limits
from extract.media.sandbox import read_media
from features.errors import MediaError
from tests.support.media import pictures, write_clip, write_cover
from tests.support.video_files import every_frame, with_data_elsewhere

POLICY = FramePolicy("middle", 3)
READERS = [read_auto, read_pyav, read_decord]
each = pytest.mark.parametrize("read", READERS, ids=lambda read: read.name)

LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile whole.mp4\n",
    "ffconcat, absolute": "ffconcat version 1.0\nfile {folder}/whole.mp4\n",
    "ffconcat behind a mark": "\ufeffffconcat version 1.0\nfile whole.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nwhole.ts\n#EXT-X-ENDLIST\n",
    "HLS, master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nwhole.ts\n",
    "HLS, address": "#EXTM3U\r\n#EXT-X-TARGETDURATION:1\r\n#EXTINF:1,\r\nhttp://127.0.0.1:9/a.ts\r\n#EXT-X-ENDLIST\r\n",
    "DASH": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>whole.mp4</BaseURL></MPD>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "PLS": "[playlist]\nFile1=whole.mp4\nNumberOfEntries=1\n",
    "ASX": '<asx version="3.0"><entry><ref href="whole.mp4"/></entry></asx>',
    "ASF reference": "[Reference]\nRef1=whole.mp4\n",
    "VobSub": "# VobSub index file, v7\nsize: 720x576\n",
    "a name": "subfile,,start,0,end,0,,:whole.mp4\n",
}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_clip(tmp_path / "whole.ts", pictures(30))
    return write_clip(tmp_path / "whole.mp4", pictures(30))


@each
@pytest.mark.parametrize("kind", list(LISTS))
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_lists_of_other_files_are_refused(tmp_path: Path, whole: Path, kind: str, suffix: str, read: Decoder) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[kind].format(folder=tmp_path))
    with pytest.raises(MediaError, match=rf"^list\{suffix}: ") as caught:
        read(path, POLICY)
    if kind != "a name":
        assert "that may name other files, not a video; give the video itself" in str(caught.value)


@each
def test_pictures_elsewhere_are_not_read(tmp_path: Path, whole: Path, read: Decoder) -> None:
    """An MP4 whose own data are another clip's, and whose index says that its pictures are in `whole.mp4`."""
    path = with_data_elsewhere(whole, tmp_path / "thief.mp4", whole)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 2000] = bytes(2000)  # its own pictures are gone
    path.write_bytes(content)
    with av.open(str(path), container_options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30  # the trap is one
    with pytest.raises(MediaError, match=r"^thief\.mp4: "):
        read(path, POLICY)


@each
@pytest.mark.parametrize(
    "name", ["concat:whole.mp4", "a%03d.mp4", "http:x.mp4", "subfile,,start,0,end,9,,:x.mp4", "file:whole.mp4", "*.mp4"]
)
def test_names_are_nothing_but_names(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Decoder
) -> None:
    """A clip of any name is read, and no other one: neither by its whole path nor by its name alone."""
    own = write_clip(tmp_path / "own.mp4", pictures(20, kind=3))
    for number in range(3):
        write_clip(tmp_path / f"a{number:03}.mp4", pictures(9, kind=number))
    shutil.move(own, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    expected = every_frame(Path(f"./{name}").absolute())[[9, 10, 11]] if "%" not in name else None
    for path in (tmp_path / name, Path(name)):
        got = read(path, POLICY)
        assert got.total == 20
        assert expected is None or np.array_equal(got.frames, expected)


def test_a_picture_whose_name_is_a_pattern_is_one_picture(tmp_path: Path) -> None:
    for number in range(3):
        write_cover(tmp_path / f"p{number:03}.jpg", kind=number)
    write_cover(tmp_path / "q.jpg", kind=4).rename(tmp_path / "p%03d.jpg")
    assert read_auto(tmp_path / "p%03d.jpg", POLICY).total == 1


def test_workers_refuse_them_too(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "concat.mp4").write_text(LISTS["ffconcat"])
    for decoder in ("auto", "decord", "pyav"):
        with pytest.raises(MediaError, match=r"^concat\.mp4: it is a text file \(ffconcat\) that may name other files"):
            read_media(tmp_path / "concat.mp4", Limits(), policies=["middle:3"], decoder=decoder)


def test_no_container_that_opens_others_is_allowed() -> None:
    allowed = set(CONTAINERS.split(","))
    assert not allowed & {
        "concat",
        "hls",
        "dash",
        "imf",
        "sdp",
        "rtsp",
        "rtp",
        "image2",
        "vobsub",
        "webm_dash_manifest",
    }
    assert len(allowed) == len(CONTAINERS.split(","))


def test_what_is_left_to_ffmpeg_is_refused_as_well(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the list not known by its first words, FFmpeg would still not open it."""
    from extract.media.decoding import container

    monkeypatch.setattr(container, "LISTS", {})
    (tmp_path / "concat.mp4").write_text(LISTS["ffconcat, absolute"].format(folder=tmp_path))
    with (
        pytest.raises(MediaError, match="its container is not a known video format"),
        opened(tmp_path / "concat.mp4"),
    ):
        pass


def test_reasons_name_no_folder(tmp_path: Path) -> None:
    """They differ by machine otherwise, and tell where things are."""
    (tmp_path / "junk.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 40)
    for decoder in DECODERS.values():
        if decoder.name != "torchcodec":
            with pytest.raises(MediaError, match=r"^junk\.mkv: ") as caught:
                decoder(tmp_path / "junk.mkv", POLICY)
            assert "/" not in str(caught.value).replace("w/o", "")
