"""Clips per second of extraction: decoding alone, encoding alone, the pipeline, and a plain one-video-at-a-time script.

    python benchmarks/extract.py --clips DIR --encoder slowfast-r50 [--copies 6] [--workers 2] [--device cpu]

Everything runs in one process on the same files and the same random weights, in turn, `--rounds` times. Printed are the
medians, their spread (lowest to highest) and these ratios:

- pipeline / slower of decode and encode: 1 would be perfect overlap;
- pipeline / plain script: the gain from batching and decoding ahead;
- decode time for three encoders in one pass / for one.

`encode alone` means resizing, normalising and the forward pass, on frames in memory. The plain script opens a clip,
encodes it and goes on to the next, as extraction scripts do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import View, preprocess, view_of
from extract.encoders.registry import get_encoder
from extract.jobs.batches import Feeder
from extract.jobs.extractor import extract_all
from extract.jobs.options import ExtractOptions
from extract.jobs.reading import Source
from extract.media.catalog import Catalog, Item, build_catalog
from extract.media.decoders import get_decoder
from extract.media.frames import FramePolicy, parse_frame_policy
from extract.media.sandbox import Media, read_media
from features.errors import FreezeframeError


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        catalog = _catalog(arguments.clips, Path(folder) / "videos", arguments.copies)
        bench = Bench(catalog, arguments)
        stages: dict[str, Callable[[], float]] = {
            "decode alone": bench.decode,
            "encode alone": bench.encode,
            "pipeline": lambda: bench.pipeline(Path(folder) / "out"),
            "plain script": bench.plain,
            "decode for one": lambda: bench.decode(1),
            "decode for three": lambda: bench.decode(3),
        }
        seconds: dict[str, list[float]] = {name: [] for name in stages}
        for stage in stages.values():
            stage()  # warm: files in the page cache, workers started
        for _ in range(arguments.rounds):
            for name, stage in stages.items():
                seconds[name].append(stage())
    _print(seconds, len(catalog.items), arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Clips per second of each stage of extraction.")
    parser.add_argument("--clips", type=Path, required=True, help="folder of videos")
    parser.add_argument("--encoder", default="slowfast-r50", help="a video encoder")
    parser.add_argument("--frames", help="frame policy (without it the encoder's own)")
    parser.add_argument("--copies", type=int, default=4, help="how often each clip is used")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per stage")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0 leaves the choice to torch")
    parser.add_argument("--batch-size", type=int, default=8, help="clips per forward pass")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--precision", default="float32", help="float32, bf16 or fp16")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def _catalog(clips: Path, folder: Path, copies: int) -> Catalog:
    """Return a catalog in which every readable clip stands `copies` times, as links."""
    folder.mkdir(parents=True)
    read = get_decoder("auto")
    for path in sorted(clips.iterdir()):
        try:
            read(path, FramePolicy("middle", 1))
        except (FreezeframeError, OSError):
            continue
        for copy in range(copies):
            (folder / f"{path.stem}-{copy}{path.suffix}").symlink_to(path.resolve())
    return build_catalog("bench", None, videos=folder)


class Bench:
    """The stages, each a function that runs over all clips and returns seconds."""

    def __init__(self, catalog: Catalog, arguments: argparse.Namespace) -> None:
        self.catalog = catalog
        self.spec = get_encoder(arguments.encoder)
        if arguments.frames:
            self.spec = replace(self.spec, frames=parse_frame_policy(arguments.frames))
        self.options = ExtractOptions(
            Path("unused"),
            weights="random",
            frames=self.spec.frames,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            device=arguments.device,
            precision=arguments.precision,
            shard_size=10**6,
        )
        self.encoder: Encoder = self.spec.backend(self.spec, "random", 0).to(arguments.device)
        view = view_of(self.spec, cropped=False)
        assert view is not None
        self.view: View = view
        assert self.spec.frames is not None
        self.frames = [get_decoder("auto")(self._video(item), self.spec.frames).frames for item in catalog.items]

    @staticmethod
    def _video(item: Item) -> Path:
        assert isinstance(item.video, Path)
        return item.video

    def decode(self, policies: int = 1) -> float:
        """Read all clips through the workers and drop them.

        With more than one policy, further frames are read besides the encoder's, as for several encoders.
        """
        assert self.spec.frames is not None
        others = [FramePolicy("uniform", self.spec.frames.count // 2), FramePolicy("middle", 5)]
        asked = [str(policy) for policy in (self.spec.frames, *others)[:policies]]

        def read(item: Item) -> Media:
            return read_media(self._video(item), self.options.decode, policies=asked)

        start = time.perf_counter()
        with ThreadPoolExecutor(self.options.workers) as pool:
            for done in [pool.submit(read, item) for item in self.catalog.items]:
                done.result()
        return time.perf_counter() - start

    def encode(self) -> float:
        """Encode all clips from memory."""
        feeder = Feeder(self.encoder, self.options)
        start = time.perf_counter()
        for item, frames in zip(self.catalog.items, self.frames, strict=True):
            feeder.add(item.id, "", Source({self.view: self.view.made(frames, self.options.device)}))
        feeder.finish()
        return time.perf_counter() - start

    def pipeline(self, out: Path) -> float:
        """Run `extract` into an empty folder; building the encoder is not timed."""
        shutil.rmtree(out, ignore_errors=True)
        spec = replace(self.spec, backend=lambda *_: self.encoder)
        start = time.perf_counter()
        extract_all(self.catalog, [spec], replace(self.options, out=out))
        return time.perf_counter() - start

    def plain(self) -> float:
        """Do what a script does: one clip after the other, decode, then encode."""
        assert isinstance(self.spec.inputs, PixelInput)
        assert self.spec.frames is not None
        read = get_decoder("auto")
        start = time.perf_counter()
        with torch.inference_mode():
            for item in self.catalog.items:
                assert item.video is not None
                frames = read(item.video, self.spec.frames).frames
                clip = preprocess(frames, self.spec.inputs, self.options.device)
                self.encoder(clip[None]).cpu()
        return time.perf_counter() - start


def _print(seconds: dict[str, list[float]], clips: int, arguments: argparse.Namespace) -> None:
    rate = {name: clips / statistics.median(runs) for name, runs in seconds.items()}
    for name, runs in seconds.items():
        low, high = clips / max(runs), clips / min(runs)
        sys.stdout.write(f"{name:18} {rate[name]:8.2f} clips/s   ({low:.2f} to {high:.2f} in {len(runs)} rounds)\n")
    slower = min(rate["decode alone"], rate["encode alone"])
    ratios = {
        "pipeline / slower of decode and encode": rate["pipeline"] / slower,
        "pipeline / plain script": rate["pipeline"] / rate["plain script"],
        "decode time for three encoders / for one": rate["decode for one"] / rate["decode for three"],
    }
    for name, value in ratios.items():
        sys.stdout.write(f"{name}: {value:.2f}\n")
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.processor() or "cpu"
    setting = {name: str(value) for name, value in vars(arguments).items() if name not in ("json", "clips")}
    facts = {"clips": clips, "device": device, "cores": os.cpu_count(), "torch": torch.__version__, **setting}
    sys.stdout.write(f"{facts}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"facts": facts, "seconds": seconds, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
