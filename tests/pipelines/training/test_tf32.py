"""TF32 is what the recipe says while training, off while ranking, and untouched afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from features.errors import ConfigError
from models.shared.recommender import TrainOutput
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import build, checkerboard

SPLIT = checkerboard()


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_training_allows_what_is_asked_and_ranking_nothing(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = build("sasrec", "id"), allowed()
    seen: dict[str, set[tuple[bool, bool]]] = {"train": set(), "rank": set()}
    forward, vectors = model.forward, model.item_vectors

    def trains(batch: object) -> TrainOutput:
        seen["train"].add(allowed())
        return forward(batch)  # type: ignore[arg-type]

    def ranks() -> torch.Tensor:
        seen["rank"].add(allowed())
        return vectors()

    monkeypatch.setattr(model, "forward", trains)
    monkeypatch.setattr(model, "item_vectors", ranks)
    fit(model, SPLIT, TrainConfig(epochs=1, tf32=tf32), seed=0, run=None, mask="hide")
    assert seen == {"train": {(tf32, tf32)}, "rank": {(False, False)}}
    assert allowed() == before


@pytest.mark.parametrize("tf32", [False, True])
def test_a_run_does_not_go_on_with_other_products(tf32: bool, tmp_path: Path) -> None:
    def go_on(allowed: bool) -> None:
        config = TrainConfig(epochs=1, tf32=allowed)
        fit(build("sasrec", "id"), SPLIT, config, seed=0, run=tmp_path, mask="hide", resume=True)

    go_on(tf32)
    go_on(tf32)
    with pytest.raises(ConfigError, match=r"train\.tf32 was"):
        go_on(not tf32)
