"""The contract that fixes which pixels an encoder sees: a pixel file fits encoders with the same one and no others."""

from __future__ import annotations

from typing import Any

from extract.encoders.inputs import PixelInput
from extract.encoders.spec import EncoderSpec
from extract.media.pixel_media import contract_in
from features.errors import ConfigError
from features.store import FeatureFile


def contract_of(spec: EncoderSpec) -> dict[str, Any]:
    """Return the settings that fix the pixels an encoder sees, as plain data; ConfigError for title encoders."""
    inputs = spec.inputs
    if not isinstance(inputs, PixelInput):
        raise ConfigError(
            f"encoder {spec.name!r} reads titles, which have no pixels; leave it out of --pixels: kind 'e2e' reads "
            "titles as they are"
        )
    return {
        "media": spec.modality,
        "size": inputs.size,
        "mode": inputs.mode,
        "resize": inputs.resize if inputs.mode == "crop" else None,
        "interpolation": inputs.interpolation,
        "frames": str(spec.frames) if spec.frames else None,
    }


def refuse_other_contract(file: FeatureFile, spec: EncoderSpec) -> None:
    """Raise ConfigError unless a file's pixels are those that an encoder takes; it names the values that differ."""
    held, wanted = contract_in(file) or {}, contract_of(spec)
    other = [name for name, value in wanted.items() if held.get(name) != value]
    if other:
        both = "; ".join(f"{name} {held.get(name)}, not {wanted[name]}" for name in other)
        frames = f" --frames {spec.frames}" if "frames" in other else ""
        raise ConfigError(
            f"{file.path} holds pixels that encoder {spec.name!r} does not take ({both}); make a file for it with "
            f"`extract --pixels --encoders {spec.name}{frames}`"
        )
