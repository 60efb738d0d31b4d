"""Video decoders behind one interface: frame-exact, upright, one thread each.

decord and PyAV give the same bytes on ordinary files (measured on H.264, HEVC and VP9: no pixel differs). On other
files decord fails or is wrong. It cannot open AV1, counts frames that an edit list hides, and turns mirrored pictures
the wrong way. It silently gives wrong frames in fragmented MP4, around key frames that are shown after frames which
follow them in the file ("open GOP": x265's default), and where pictures are refreshed bit by bit. So `auto` lists the
packets of a file first, reads ordinary files with decord and all others with PyAV.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from extract.media.decoding.errors import one_line
from extract.media.decoding.libraries import stream_decord, stream_known, stream_torchcodec, torchcodec_reader
from extract.media.decoding.packets import PacketList, list_packets
from extract.media.decoding.pyav import stream_pyav, stream_surveyed
from extract.media.decoding.sparse import survey
from extract.media.frames import Begin, Clip, Decoder, FramePolicy, FrameUnion
from features.errors import ConfigError, MediaError, nearest

# Add 1 whenever a file may give other frames than before: the number is part of the recipe, so of the fingerprint.
# 2: mirrored pictures are upright. H.264 that is refreshed bit by bit, files with two videos, and edit lists that end
#    early are exact. An early end for lack of memory and a list of other files are failures.
DECODING = 2

__all__ = [
    "DECODERS",
    "DECODING",
    "PacketList",
    "get_decoder",
    "list_packets",
    "one_line",
    "read_auto",
    "read_decord",
    "read_pyav",
    "read_torchcodec",
]


def _stream_auto(path: Path, policy: FramePolicy | FrameUnion) -> Clip:
    found = survey(path, policy)
    if isinstance(found, PacketList) and found.ordinary:
        try:
            yield from _of_total(stream_known(path, policy), found.total)
            return
        except (MediaError, ImportError):  # ImportError: decord has no wheels for some machines
            pass
    yield from stream_surveyed(path, policy, found)


def _of_total(clip: Clip, total: int) -> Clip:
    """Yield a clip, checking that it has as many frames as its packets say; MediaError otherwise."""
    for part in clip:
        if isinstance(part, Begin) and part.total != total:
            raise MediaError(f"it has {part.total} frames, but its packets say {total}")
        yield part


# decord where it is exact; PyAV for files that are not ordinary and where decord fails.
read_auto = Decoder("auto", _stream_auto)
# decord (0.6) alone: fast and exact on ordinary files; no AV1, and wrong where edit lists hide frames.
read_decord = Decoder("decord", stream_decord)
# PyAV alone: everything its FFmpeg knows, AV1 included.
read_pyav = Decoder("pyav", stream_pyav)
# torchcodec (0.17) in exact mode; it needs FFmpeg's libraries. Even this mode gives frames up to ten places off in
# fragmented MP4, AVI, FLV and MPEG-TS, and counts only what is left of a truncated file. The approximate mode is off
# wherever frame rates vary.
read_torchcodec = Decoder("torchcodec", stream_torchcodec)

DECODERS: dict[str, Decoder] = {
    decoder.name: decoder for decoder in (read_auto, read_decord, read_pyav, read_torchcodec)
}


def get_decoder(name: str) -> Decoder:
    """Return the decoder with this name; ConfigError if it is unknown or cannot start here."""
    if name not in DECODERS:
        raise ConfigError(f"decoder {name!r} is unknown; {nearest(name, DECODERS)}")
    if name == "torchcodec":
        torchcodec_reader()
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise ConfigError(
            "decoder 'decord' is not installed (it has no wheels for macOS and arm64); use --decoder auto"
        )
    return DECODERS[name]
