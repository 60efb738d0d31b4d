"""How far the benchmark's faults (docs/microlens-recipe.md) move vectors: cosines on a folder of clips.

    python benchmarks/faults.py --clips DIR [--encoders videomae-base,slowfast-r50,resnet50] [--weights random]

Printed per encoder and fault: the mean cosine between a clip's vectors with and without the fault, and the mean cosine
between different clips' vectors with it. Cover encoders read the clips' middle frames.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.encoders.faults import FAULTS, with_faults
from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import get_encoder
from extract.encoders.spec import EncoderSpec
from extract.media.decoders import read_auto
from extract.media.frames import FramePolicy

TOGETHER = {"five-frames": ("five-frames", "dropped-frame"), "dropped-frame": ("five-frames", "dropped-frame")}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What each fault of the benchmark's code does to vectors.")
    parser.add_argument("--clips", type=Path, required=True, help="folder of videos")
    parser.add_argument("--encoders", default="videomae-base,slowfast-r50,resnet50")
    parser.add_argument("--weights", default="random")
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.clips.iterdir() if path.suffix in (".mp4", ".mkv", ".webm"))
    bright = [float((read_auto(clip, FramePolicy("microlens", 5)).frames >= 128).mean()) for clip in clips]
    sys.stdout.write(f"{len(clips)} clips; share of bytes that wrap: {sum(bright) / len(bright):.2f}\n\n")
    sys.stdout.write("| encoder | fault | cosine to clean | cosine between clips |\n| --- | --- | ---: | ---: |\n")
    for name in arguments.encoders.split(","):
        spec = get_encoder(name)
        clean = vectors(spec, clips, arguments.weights)
        sys.stdout.write(f"| {name} | none | 1 | {between(clean):.3f} |\n")
        concerned = [fault for fault, entry in FAULTS.items() if entry.concerns(spec)]
        for fault in [*concerned, "microlens"]:
            if "videomae" in name and fault == "dropped-frame":
                continue  # shown with the five frames it needs
            names = TOGETHER.get(fault, (fault,)) if "videomae" in name else (fault,)
            faulty = vectors(with_faults(spec, names), clips, arguments.weights)
            same = faulty.shape == clean.shape
            cosine = f"{float(functional.cosine_similarity(clean, faulty).mean()):.3f}" if same else "other width"
            sys.stdout.write(f"| {name} | {' + '.join(names)} | {cosine} | {between(faulty):.3f} |\n")
            sys.stdout.flush()


def vectors(spec: EncoderSpec, clips: list[Path], weights: str) -> Tensor:
    """Return (clips, F)."""
    encoder = spec.backend(spec, weights, 0)
    assert isinstance(spec.inputs, PixelInput)
    made = []
    for clip in clips:
        frames = read_auto(clip, spec.frames or FramePolicy("middle", 1)).frames
        made.append(preprocess(frames if spec.frames else frames[0], spec.inputs))
    with torch.inference_mode():
        found: Tensor = encoder(torch.stack(made))
    return found


def between(vectors: Tensor) -> float:
    """Return the mean cosine of different rows."""
    unit = functional.normalize(vectors, dim=1)
    count = len(unit)
    return float((unit @ unit.T).sum() - count) / (count * (count - 1))


if __name__ == "__main__":
    main()
