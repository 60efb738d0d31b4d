"""The faults of the benchmark's released code in its use of frames and encoders, each a named switch.

MicroLens (arXiv 2309.15379) published features and end-to-end results. Its released code differs from correct use of
the encoders in the ways listed here. The recipe `clean` has none of these faults, `microlens` has all that concern an
encoder. An encoder with faults is an entry of its own, with its own recipe, fingerprint and file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from extract.encoders.inputs import PixelInput, WrappedInput
from extract.encoders.spec import EncoderSpec
from extract.media.frames import FramePolicy
from features.errors import ConfigError, nearest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIDE = 224  # px; the benchmark feeds all encoders from one database of frames
CLASSES = 400  # in Kinetics-400
UNRUNNABLE = {
    "mvit": "its MViT towers have 1000 classes where the next layer takes 400, and its checkpoints match no key",
}


@dataclass(frozen=True)
class Fault:
    """One departure from correct use."""

    what: str
    """What the released code does, in one line."""
    instead: str
    """What the recipe `clean` does instead."""
    concerns: Callable[[EncoderSpec], bool]
    """Function that tells whether the fault concerns an encoder."""
    apply: Callable[[EncoderSpec], EncoderSpec] = lambda spec: spec
    """Function that returns the entry with the fault, except for `faults`. Backends do what an entry cannot express."""


def _video(spec: EncoderSpec) -> bool:
    return spec.modality == "video"


def _classifies(spec: EncoderSpec) -> bool:
    return spec.family in ("pytorchvideo-net", "slowfast")


def _videomae(spec: EncoderSpec) -> bool:
    return spec.family == "videomae"


def _normalises_batches(spec: EncoderSpec) -> bool:
    return spec.family in ("pytorchvideo-net", "slowfast", "r3d", "resnet")


def _squashed(spec: EncoderSpec) -> EncoderSpec:
    assert isinstance(spec.inputs, PixelInput)
    side = SIDE if spec.weights is not None else spec.inputs.size  # tiny encoders keep their size
    return replace(spec, inputs=replace(spec.inputs, size=side, resize=side, mode="stretch"))


def _wrapped(spec: EncoderSpec) -> EncoderSpec:
    assert isinstance(spec.inputs, PixelInput)
    inputs = spec.inputs
    mean, std = IMAGENET
    wrapped = WrappedInput(inputs.size, inputs.resize, mean, std, inputs.mode, inputs.interpolation)
    return replace(spec, inputs=wrapped)


def _halved(spec: EncoderSpec) -> EncoderSpec:
    assert isinstance(spec.inputs, PixelInput)
    return replace(spec, inputs=replace(spec.inputs, mean=HALF[0], std=HALF[1]))


FAULTS: dict[str, Fault] = {
    "five-frames": Fault(
        "5 neighbouring frames, two places before the middle ones it asks for: a - 4 .. a for a = frames // 2",
        "as many frames as the encoder was trained with, over the whole clip",
        _video,
        lambda spec: replace(spec, frames=FramePolicy("microlens", 5)),
    ),
    "squash": Fault(
        "frames and covers pressed into 224 x 224, whatever their shape and the encoder's size",
        "shape kept, centre crop of the encoder's own size",
        lambda spec: isinstance(spec.inputs, PixelInput) and spec.inputs.mode != "stretch",
        _squashed,
    ),
    "wrap": Fault(
        "normalised twice: (x / 255 - 0.5) / 0.5 is taken for pixels, so x becomes (2x + 1) mod 256; then ImageNet's "
        "mean and deviation for every encoder",
        "normalised once, by the encoder's own mean and deviation",
        _video,
        _wrapped,
    ),
    "half-norm": Fault(
        "covers normalised by mean 0.5 and deviation 0.5 for every encoder",
        "the encoder's own mean and deviation",
        lambda spec: spec.modality == "cover" and isinstance(spec.inputs, PixelInput) and spec.inputs.mean != HALF[0],
        _halved,
    ),
    "class-scores": Fault(
        "400 class scores of Kinetics as features",
        "what the classifier sees: the pooled map",
        _classifies,
        lambda spec: replace(spec, width=int(spec.arch.get("model_num_class", CLASSES)), pooling="class scores"),
    ),
    "dropped-frame": Fault(
        "VideoMAE joins frames in pairs and drops the fifth without a word",
        "an odd number of frames is refused",
        _videomae,
    ),
    "no-last-norm": Fault(
        "VideoMAE without its final LayerNorm, because a fresh config says so",
        "the checkpoint's own config, which has it",
        _videomae,
    ),
    "batch-norm": Fault(
        "BatchNorm normalises by the batch at hand, so that a vector depends on its company",
        "eval mode: the checkpoint's statistics",
        _normalises_batches,
    ),
    "random-mask": Fault(
        "ViT-MAE sees a random quarter of the patches (mask_ratio 0.75 stays on)",
        "all patches",
        lambda spec: spec.arch.get("model") == "ViTMAE",
        lambda spec: replace(spec, arch={**spec.arch, "mask_ratio": 0.75}),
    ),
}


def with_faults(spec: EncoderSpec, names: Sequence[str]) -> EncoderSpec:
    """Return an entry with faults. 'microlens' stands for all that concern it; none concern titles.

    Raises:
        ConfigError: the fault is unknown, it does not concern the encoder, or the released code cannot run the encoder
            at all.
    """
    for name in names:
        if name != "microlens" and name not in FAULTS:
            raise ConfigError(f"fault {name!r} is unknown; {nearest(name, (*FAULTS, 'microlens'))}")
    reason = next((why for part, why in UNRUNNABLE.items() if part in spec.name), None)
    if names and reason is not None:
        raise ConfigError(f"{spec.name!r} does not run in the benchmark's released code: {reason}; use --recipe clean")
    concerned = [name for name, fault in FAULTS.items() if fault.concerns(spec)]
    for name in names:
        if name not in ("microlens", *concerned):
            able = f"those that do: {', '.join(concerned) or 'none'}"
            if spec.modality == "title":
                able = "titles are the same in both recipes"
            raise ConfigError(f"fault {name!r} does not concern {spec.name!r}; {able}")
    for name in concerned:  # in the order of FAULTS: 'wrap' uses the squashed size
        if name in names or "microlens" in names:
            spec = replace(FAULTS[name].apply(spec), faults=(*spec.faults, name))
    return spec
