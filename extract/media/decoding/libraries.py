"""Reads clips with decord and torchcodec, which do not use PyAV's FFmpeg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extract.media.decoding.container import opened, safe_name
from extract.media.decoding.errors import media_errors, one_line
from extract.media.decoding.packets import list_packets
from extract.media.decoding.pyav import stream_listed
from extract.media.frames import Begin, Clip, FramePolicy, FrameUnion, wanted_frames
from features.errors import ConfigError, MediaError


def stream_decord(path: Path, policy: FramePolicy | FrameUnion) -> Clip:
    """Yield a clip's frames as decord (0.6) decodes them."""
    with media_errors(path.name), opened(path):  # decord would open a list of other files; PyAV refuses it
        pass
    yield from stream_known(path, policy)


def stream_known(path: Path, policy: FramePolicy | FrameUnion) -> Clip:
    """Yield a clip's frames as decord decodes them; PyAV must have opened the file before."""
    import decord

    with media_errors(path.name), safe_name(path) as name:
        try:
            reader = decord.VideoReader(name, ctx=decord.cpu(0), num_threads=1)
            numbers = wanted_frames(policy, len(reader))
            yield Begin(len(reader), len(numbers))
            for number in numbers.tolist():
                frame = reader[number].asnumpy()
                if frame.ndim != 3 or frame.shape[-1] != 3:  # it gives 6 channels for a picture 16 pixels wide
                    raise MediaError(f"{path.name}: decord gave a frame of shape {frame.shape}, not (H, W, 3)")
                yield frame
        except RuntimeError as error:  # all errors of decord are of this class
            raise MediaError(f"{path.name}: {one_line(error).replace(name, path.name)}") from error


def torchcodec_reader() -> Any:
    """Return torchcodec's reader class; ConfigError if the package or FFmpeg's libraries are missing."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"decoder 'torchcodec' cannot start ({one_line(error)[:80]}); install the package torchcodec and FFmpeg's "
            "shared libraries (4 to 8), or use --decoder auto"
        ) from error
    return VideoDecoder


def stream_torchcodec(path: Path, policy: FramePolicy | FrameUnion) -> Clip:
    """Yield a clip's frames as torchcodec (0.17) decodes them in exact mode; PyAV reads files it would misread."""
    video_decoder = torchcodec_reader()
    packets = list_packets(path)
    if not (packets.indexed and packets.plain):
        yield from stream_listed(path, policy, packets)
        return
    with media_errors(path.name), safe_name(path) as name:
        reader = video_decoder(
            name, stream_index=packets.stream, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC"
        )
        numbers = wanted_frames(policy, len(reader))
        yield Begin(len(reader), len(numbers))
        for number in numbers.tolist():
            yield reader.get_frame_at(number).data.numpy()
