"""What long and large clips cost in processor seconds and memory, compared with one seek per frame.

    python benchmarks/long_clips.py CLIP ... [--frames uniform:16] [--encoder videomae-base]

Measured for each clip:

- reading its frames with each decoder in this process;
- a plain script that seeks before each frame (correct only if all packets carry regular times and the number of frames
  is known beforehand);
- the peak memory of this process and of its decoding worker while `extract` makes the encoder's view.

These commands make clips like those behind the figures in benchmarks/results:

    ffmpeg -f lavfi -i testsrc2=s=160x120:r=25:d=7200 -c:v libx264 -preset ultrafast -g 250 -keyint_min 250 \\
        -sc_threshold 0 -pix_fmt yuv420p two-hours.mp4
    ffmpeg -f lavfi -i testsrc2=s=3840x2160:r=60:d=20 -c:v libx264 -preset ultrafast -pix_fmt yuv420p 4k.mp4
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.media.decoders import get_decoder
from extract.media.frames import FramePolicy, parse_frame_policy, wanted_frames


def main() -> None:
    """Measure and print; memory is measured in a fresh process per clip."""
    parser = argparse.ArgumentParser(description="Seconds and memory of reading long and large clips.")
    parser.add_argument("clips", type=Path, nargs="+", help="video files")
    parser.add_argument("--frames", default="uniform:16", help="frame policy")
    parser.add_argument(
        "--encoder", default="videomae-base", help="the encoder whose view is made when memory is measured"
    )
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        _memory(arguments.clips[0], arguments.frames, arguments.encoder)
        return
    policy = parse_frame_policy(arguments.frames)
    for clip in arguments.clips:
        sys.stdout.write(f"{clip.name}, {policy}\n")
        for name in ("auto", "pyav", "decord"):
            _timed(f"  {name}", lambda name=name, clip=clip: _read(name, clip, policy))
        _timed("  one seek per frame", lambda clip=clip: _seeks(clip, policy))
        again = [
            sys.executable,
            __file__,
            str(clip),
            "--frames",
            str(policy),
            "--encoder",
            arguments.encoder,
            "--memory",
        ]
        sys.stdout.write(subprocess.run(again, check=True, capture_output=True, text=True).stdout)


def _timed(name: str, work: Callable[[], None]) -> None:
    work()  # the first time loads libraries, and the file into the page cache
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    sys.stdout.write(f"{name:20} {time.process_time() - cpu:7.2f} CPU s {time.perf_counter() - wall:7.2f} s\n")


def _read(name: str, clip: Path, policy: FramePolicy) -> None:
    for _ in get_decoder(name).stream(clip, policy):
        pass


def _seeks(clip: Path, policy: FramePolicy) -> None:
    import av

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.average_rate is not None
        assert stream.time_base is not None
        for number in wanted_frames(policy, stream.frames).tolist():
            wanted = round(number / stream.average_rate / stream.time_base)
            container.seek(wanted, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= wanted:
                    frame.to_ndarray(format="rgb24")
                    break


def _memory(clip: Path, frames: str, encoder: str) -> None:
    from dataclasses import replace

    from extract.encoders.preprocess import view_of
    from extract.encoders.registry import get_encoder
    from extract.jobs.options import ExtractOptions
    from extract.jobs.reading import Request, read
    from extract.media import sandbox
    from extract.media.catalog import Item

    spec = replace(get_encoder(encoder), frames=parse_frame_policy(frames))
    view = view_of(spec, cropped=False)
    assert view is not None
    before = _highest("self")
    found = read(Request(Item("clip", clip, None, None), "video", (view,)), ExtractOptions(Path("unused")))
    assert not found.reason, found.reason
    worker = _highest(str(sandbox._idle[0]._process.pid))
    own = _highest("self")
    sys.stdout.write(
        f"  memory: {own:.0f} MB, {before:.0f} before; worker {worker:.0f} MB; together {own + worker:.0f} MB\n"
    )


def _highest(process: str) -> float:
    """Return a process's peak memory in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


if __name__ == "__main__":
    main()
