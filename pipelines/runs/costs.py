"""What a run cost: seconds, memory, bytes on the disk, items encoded. record.json holds it under `costs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from features.store import FeatureFile
from models import recommenders
from models.items.towers import Tower, towers_of
from models.shared.representation import CONTENT
from pipelines.recipe.file_origin import content_of
from pipelines.recipe.recipe import Recipe
from pipelines.runs.frozen_vectors import content_for
from pipelines.training.fit import FitResult


def files_read(recipe: Recipe, files: Sequence[FeatureFile], towers: Mapping[str, Tower]) -> list[FeatureFile]:
    """Return the feature files that a run reads: those of its recipe that its kind of items uses.

    Args:
        recipe: the run's recipe.
        files: the files that were opened for it.
        towers: its encoders that train; those that read titles read no file.
    """
    if not recommenders()[recipe.model.name].uses_items:
        return []
    if recipe.items.kind in CONTENT:
        return [file for file in files if content_of(file) == content_for(recipe.items)]
    sources = [getattr(tower.source, "file", None) for tower in towers.values()]
    return [source for source in sources if isinstance(source, FeatureFile)]


def run_costs(
    fitted: FitResult, model: nn.Module, read: Sequence[FeatureFile], memory: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a run's ledger as plain data.

    - 'train_s' and 'valid_s' are sums over all epochs, '..._per_epoch' their means.
    - Where an encoder trains, 'read_s_per_epoch' is the training time spent on reading its inputs, and
      'forward_s_per_epoch' that spent on its forward passes (on a GPU: on launching them). The rest of the training
      time is everything else, such as its backward pass.
    - 'encoded_per_epoch' and 'encoded_per_validation' count the items that went through the encoder.
    - 'stored' lists for each feature file what it holds, its bytes, and the seconds it took to make. 'extraction_s'
      adds these seconds up; it is None if a file does not know its own.
    """
    epochs = fitted.history
    count = max(1, len(epochs))
    train_s, valid_s = sum(epoch.train_s for epoch in epochs), sum(epoch.valid_s for epoch in epochs)
    ledger: dict[str, Any] = {
        "epochs": len(epochs),
        "train_s": train_s,
        "valid_s": valid_s or fitted.seconds - train_s,  # models that do not train have no epochs
        "train_s_per_epoch": train_s / count,
        "valid_s_per_epoch": valid_s / count,
    }
    if towers_of(model):
        validated = max(1, sum(epoch.valid is not None for epoch in epochs))
        ledger |= {
            "read_s_per_epoch": sum(epoch.read_s for epoch in epochs) / count,
            "forward_s_per_epoch": sum(epoch.forward_s for epoch in epochs) / count,
            "encoded_per_epoch": sum(epoch.encoded for epoch in epochs) / count,
            "encoded_per_validation": sum(epoch.encoded_valid for epoch in epochs) / validated,
        }
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ledger | {"parameters_trained": trained} | dict(memory) | _stored(read)


def _stored(read: Sequence[FeatureFile]) -> dict[str, Any]:
    stored = [
        {
            "file": str(file.path),
            "holds": content_of(file),
            "bytes": file.path.stat().st_size,
            **{f"{stage}_s": file.seconds.get(stage) for stage in ("decode", "encode")},
        }
        for file in read
    ]
    known = all(file.seconds for file in read)
    return {
        "stored": stored,
        "stored_bytes": sum(entry["bytes"] for entry in stored),
        "extraction_s": sum(sum(file.seconds.values()) for file in read) if known else None,
    }
