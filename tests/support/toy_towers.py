"""A toy encoder that trains inside a recommender, and what tests ask of such a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models import build_recommender, recommenders
from models.items.build import ItemsConfig, build_items
from models.items.towers import Tower, TowerItems
from models.shared.recommender import Recommender
from pipelines.runs.inputs import training_facts
from pipelines.training.fit import Progress, fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import ITEMS, InMemory, batch_for, checkerboard, cluster_features

SPLIT = checkerboard()
FRAMES, WIDTH, BLOCKS = 4, 12, 3
CONFIG = TrainConfig(epochs=5, batch_size=16, lr=3e-3)


class Counted(InMemory):
    """A source that remembers what was asked for."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__(inputs)
        self.asked: list[list[int]] = []

    def read(self, items: Tensor) -> Tensor:
        self.asked.append(items.tolist())
        return super().read(items)


class Transformer(nn.Module):
    """A toy encoder: (n, 4, 12) frames to (n, 12) vectors, in steps as `split_encoder` cuts one."""

    def __init__(self, dropout: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stem = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout))
            layers = [
                nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout, batch_first=True, norm_first=True)
                for _ in range(BLOCKS)
            ]
            end = nn.Sequential(nn.Flatten(1), nn.Linear(FRAMES * WIDTH, WIDTH))
        self.steps = nn.Sequential(stem, *layers, end)

    def forward(self, frames: Tensor) -> Tensor:
        vectors: Tensor = self.steps(frames)
        return vectors

    def split(self, count: int) -> tuple[nn.Module, nn.Module]:
        return self.steps[: 1 + BLOCKS - count], self.steps[1 + BLOCKS - count :]


def frames() -> Tensor:
    """Return inputs (I, 4, 12) that show an item's cluster."""
    noise = torch.randn(ITEMS, FRAMES, WIDTH, generator=torch.Generator().manual_seed(1))
    return (cluster_features()["video"][:, None] + 4 * noise) / 40


def e2e(count: int, inputs: Tensor | None = None, **options: Any) -> Tower:
    """Return the whole toy encoder over frames, all but its last blocks frozen."""
    whole = Transformer(**options)
    _, top = whole.split(count)
    return Tower(Counted(frames() if inputs is None else inputs), whole, (top,), tuple(top[:-1]))


def top(count: int, cached: int | None = None, **options: Any) -> Tower:
    """Return the last blocks of the toy encoder over activations cut below the last `cached` blocks."""
    prefix, module = Transformer(**options).split(cached or count)
    _, trained = Transformer(**options).split(count)
    with torch.no_grad():
        activations = prefix.eval()(frames())
    trained = module[len(module) - len(trained) :]
    return Tower(Counted(activations), module, (trained,), tuple(trained[:-1]))


def model(tower: Tower, name: str = "sasrec", seed: int = 0, **options: Any) -> Recommender:
    generator = torch.Generator().manual_seed(seed)
    config = ItemsConfig(**{"kind": "top", "dim": 16, "encoder": "toy", **options})
    items = build_items(config, ITEMS, {}, generator, towers={"toy": tower})
    return build_recommender(name, recommenders()[name].config_class(), items, training_facts(SPLIT), generator)


def steps(made: Recommender, count: int = 20) -> list[float]:
    """Train for some epochs, of a step or more, and return their losses."""
    losses = []

    def note(at: Progress) -> None:
        if at.record is not None:
            losses.append(at.record.loss)

    config = TrainConfig(epochs=count, batch_size=64, lr=3e-3, eval_every=count)
    fit(made, SPLIT, config, seed=0, run=None, mask="hide", progress=note)
    assert len(losses) == count
    return losses


def trained_weights(made: Recommender) -> list[Tensor]:
    return [parameter.detach() for parameter in made.parameters() if parameter.requires_grad]


def alike(one: Recommender, two: Recommender, rtol: float = 1e-5) -> None:
    for first, second in zip(trained_weights(one), trained_weights(two), strict=True):
        torch.testing.assert_close(first, second, rtol=rtol, atol=rtol * float(first.abs().max()))


def source_of(made: Recommender) -> Counted:
    assert isinstance(made.items, TowerItems)
    assert isinstance(made.items.source, Counted)
    return made.items.source


def normed(**options: Any) -> Recommender:
    """Return a model whose encoder has BatchNorm and dropout below its last block."""
    whole = Transformer(dropout=0.5)
    whole.steps.insert(1, nn.BatchNorm1d(FRAMES))
    return model(Tower(InMemory(frames()), whole, (whole.steps[-2:],)), kind="e2e", **options)


def gradients(made: Recommender, seed: int = 3) -> list[Tensor]:
    made.zero_grad()
    torch.manual_seed(seed)
    made(batch_for(made, SPLIT)).loss.backward()
    found = [parameter.grad for parameter in made.parameters() if parameter.requires_grad]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(
        torch.allclose(one, two, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
        for one, two in zip(first, second, strict=True)
    )
