"""Verb `encoders`: the encoders there are."""

from __future__ import annotations

from dataclasses import dataclass

from freezeframe import imports
from pipelines.commands.options import argument, json_option


@dataclass(frozen=True)
class Encoders:
    """What `encoders` is asked for."""

    name: str | None = argument(nargs="?", metavar="NAME")
    """Encoder to show in full (without it: all of them, in short)."""
    json: bool = json_option()


REQUEST = Encoders


def run(request: Encoders) -> None:
    """Print a table of all encoders, or all about one."""
    with imports():
        from extract.encoders.inputs import PixelInput
        from extract.encoders.registry import ENCODERS, get_encoder
        from pipelines.console import print_json, table

    rows = []
    for spec in ENCODERS.values() if request.name is None else [get_encoder(request.name)]:
        frames = str(spec.frames) if spec.frames else "-"
        size = f"{spec.inputs.size} px" if isinstance(spec.inputs, PixelInput) else f"{spec.inputs.max_tokens} tokens"
        weights = spec.weights
        source = [weights.place, _pinned(weights.revision), weights.licence] if weights else ["random only", "-", "-"]
        millions = f"{spec.parameters / 1e6:.1f}" if spec.parameters else "-"
        rows.append([spec.name, spec.modality, str(spec.width), millions, frames, size, " ".join(spec.blocks), *source])
    header = ["encoder", "modality", "width", "M parameters", "frames", "input"]
    header += ["blocks", "weights", "revision", "licence"]
    if request.json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    elif request.name is not None:
        table("", ["what", "value"], list(zip(header, rows[0], strict=True)))
    else:
        table("encoders", header, rows, full="encoders NAME")


def _pinned(revision: str) -> str:
    return "main (not pinned)" if revision == "main" else revision
