"""Command lines `encoders` and `models`: what there is."""

from __future__ import annotations

import dataclasses
import inspect

from models import recommenders
from pipelines.console import print_json, table


def run_encoders(json: bool) -> None:
    """Command line `encoders`."""
    from extract.encoders.inputs import PixelInput
    from extract.encoders.registry import ENCODERS

    rows = []
    for spec in ENCODERS.values():
        frames = str(spec.frames) if spec.frames else "-"
        size = f"{spec.inputs.size} px" if isinstance(spec.inputs, PixelInput) else f"{spec.inputs.max_tokens} tokens"
        weights = spec.weights
        source = [weights.place, _pinned(weights.revision), weights.licence] if weights else ["random only", "-", "-"]
        millions = f"{spec.parameters / 1e6:.1f}" if spec.parameters else "-"
        rows.append([spec.name, spec.modality, str(spec.width), millions, frames, size, " ".join(spec.blocks), *source])
    header = ["encoder", "modality", "width", "M parameters", "frames", "input"]
    header += ["blocks", "weights", "revision", "licence"]
    if json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        table("encoders", header, rows)


def _pinned(revision: str) -> str:
    return "main (not pinned)" if revision == "main" else revision


def run_models(json: bool) -> None:
    """Command line `models`."""
    rows = []
    for name, model in recommenders().items():
        settings = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(model.config_class))
        takes = ", ".join(model.takes) if model.uses_items else "-"
        what = (inspect.getdoc(model) or "").split("\n")[0]
        searched = "yes" if model.inner_product else "no"
        rows.append([name, what, model.paper, takes, model.trains_on, searched, settings])
    header = ["model", "what", "paper", "items.kind", "trains on", "searchable", "settings"]
    if json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        note = "searchable: the score is an inner product, so that an index can be built; settings: see --json"
        table("models", header[:-1], [row[:-1] for row in rows], note=note)
