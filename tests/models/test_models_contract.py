"""What every recommender with every item representation must do. New model files are examined by being there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from features.errors import ConfigError
from models import recommenders
from models.items.towers import TowerItems
from models.shared.objective import DRAWN
from models.shared.recommender import Recommender, TrainBatch, UserBatch
from models.shared.sequential import SequentialRecommender
from pipelines.ranking.full_ranking import evaluate
from pipelines.retrieval.searchable import searchable_vectors
from pipelines.training.fit import FitResult, fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import (
    CASES,
    CLUSTER_OF_ITEM,
    CLUSTER_OF_USER,
    IS_COLD,
    ITEMS,
    LENGTH,
    batch_for,
    build,
    checkerboard,
    left_pad,
)

SEQUENTIAL = [name for name, kind in recommenders().items() if issubclass(kind, SequentialRecommender)]
COUNTED = ("itemknn", "popularity")  # have no parameters
ALL = pytest.mark.parametrize(("name", "items"), CASES, ids=[f"{name}-{items}" for name, items in CASES])
TRAINED = [(name, items) for name, items in CASES if name not in COUNTED]
TRAINABLE = pytest.mark.parametrize(("name", "items"), TRAINED, ids=[f"{name}-{items}" for name, items in TRAINED])


def vectors_of(model: Recommender, batch: UserBatch) -> torch.Tensor:
    """Return what a user is ranked by: the vector, or the scores where the score is no inner product."""
    return model.user_vectors(batch) if model.inner_product else model.scores(batch)


def user_batch(histories: list[list[int]], length: int = LENGTH) -> UserBatch:
    items, mask = left_pad(histories, length)
    return UserBatch(torch.arange(len(histories)), torch.from_numpy(items), torch.from_numpy(mask))


def trained(name: str, items: str) -> tuple[Recommender, FitResult]:
    """Return a trained model and the way there.

    Items nobody has met are not drawn as negatives, which would push them down (tests/models/test_never_met.py).
    """
    drawn = getattr(recommenders()[name].config_class(), "loss", None) in DRAWN
    model = build(name, items, **({"cold_negatives": False} if drawn else {}))
    patience = 10 if name in ("grcn", "youtube") else 5  # these pause before they learn
    batch_size, lr = (32, 2e-2) if name in ("grcn", "lightgcn") else (16, 1e-2)  # of two whose steps take long
    config = TrainConfig(epochs=40, batch_size=batch_size, lr=lr, patience=patience)
    result = fit(model, checkerboard(), config, seed=0, run=None, mask="hide")
    return model.eval(), result


def test_models_without_parameters_are_named() -> None:
    for name, items in dict(reversed(CASES)).items():
        assert bool(list(build(name, items).parameters())) == (name not in COUNTED), name


def test_the_models_are_found() -> None:
    assert {"deepfm", "dssm", "itemknn", "nfm", "popularity", "sasrec"} <= set(recommenders())


@ALL
def test_shapes_and_types(name: str, items: str) -> None:
    model = build(name, items)
    output = model(batch_for(model, checkerboard()))
    batch = user_batch([[1], [2, 3, 4]])
    model.eval()
    scores = model.scores(batch)
    assert output.loss.shape == ()
    assert output.loss.dtype == scores.dtype == torch.float32
    assert output.positions > 0
    assert scores.shape == (2, ITEMS)
    if model.inner_product:
        users, table = model.user_vectors(batch), model.item_vectors()
        assert users.shape == (2, table.shape[1])
        assert users.dtype == table.dtype == torch.float32
        torch.testing.assert_close(scores, users @ table.T)
    else:
        for vectors in (lambda: model.user_vectors(batch), model.item_vectors, lambda: searchable_vectors(model)):
            with pytest.raises((ValueError, ConfigError), match="score is no inner product"):
                vectors()


@TRAINABLE
def test_every_parameter_gets_a_finite_gradient(name: str, items: str) -> None:
    model = build(name, items)
    model(batch_for(model, checkerboard())).loss.backward()
    for label, parameter in model.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().sum() > 0, label


def share_of_cold_items_placed(model: Recommender) -> float:
    """Return the share of users for whom all items of their cluster that nobody has met stand before other clusters."""
    part = checkerboard().test
    with torch.no_grad():
        batch = UserBatch(*(torch.from_numpy(array) for array in (part.users, part.items, part.mask)))
        scores = model.scores(batch).numpy()
    same = CLUSTER_OF_USER[:, None] == CLUSTER_OF_ITEM
    cold_here = np.where(same & IS_COLD, scores, np.inf).min(1)
    elsewhere = np.where(same, -np.inf, scores).max(1)
    return float((cold_here > elsewhere).mean())


@TRAINABLE
def test_loss_falls_withheld_items_rank_first_and_content_places_new_ones(name: str, items: str) -> None:
    split, (model, result) = checkerboard(), trained(name, items)
    ranked = evaluate(model, split.test, split.train_counts, mask="hide", at=(4,))
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    # Of a user's cluster only the target, one warm item and two cold items are left: with content all four may lead.
    assert ranked.metrics["HR@4"] > 0.95
    if items not in ("id", "none"):  # in this test, since processes that share the tests would each train the model
        assert share_of_cold_items_placed(model) > 0.95


@ALL
def test_same_seed_same_numbers(name: str, items: str) -> None:
    torch.manual_seed(1)
    first = build(name, items, seed=5)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second, other = build(name, items, seed=5), build(name, items, seed=6)
    assert torch.equal(torch.random.get_rng_state(), before), "building a model moved the global generator"
    for (label, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two), label
    if list(first.parameters()):
        pairs = zip(first.parameters(), other.parameters(), strict=True)
        assert any(not torch.equal(one, two) for one, two in pairs)


@ALL
def test_padding_and_company_do_not_change_a_user(name: str, items: str) -> None:
    model = build(name, items).eval()
    with torch.no_grad():
        alone = vectors_of(model, user_batch([[3, 7, 11]], length=3))
        padded = vectors_of(model, user_batch([[3, 7, 11]], length=LENGTH))
        together = vectors_of(model, user_batch([[3, 7, 11], [0, 1, 2, 4, 5, 6], [], [7]]))
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(together).all()
    if model.reads_history:
        with torch.no_grad():
            torch.testing.assert_close(vectors_of(model, user_batch([[]])), together[2:3], rtol=1e-5, atol=1e-6)


@ALL
def test_what_stands_in_padded_slots_does_not_matter(name: str, items: str) -> None:
    model = build(name, items).eval()
    clean = user_batch([[3, 7], [5]])
    dirty = UserBatch(clean.users, clean.items.masked_fill(~clean.mask, 9), clean.mask)
    with torch.no_grad():
        assert torch.equal(vectors_of(model, clean), vectors_of(model, dirty))
    windows = batch_for(model, checkerboard())
    if isinstance(windows, TrainBatch):
        smudged = dataclasses.replace(windows, items=windows.items.masked_fill(~windows.mask, 9))
        losses = []
        for batch in (windows, smudged):
            torch.manual_seed(0)  # of drawn negatives
            losses.append(model(batch).loss.detach())
        assert torch.equal(*losses)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_no_state_sees_a_later_item(name: str) -> None:
    model = build(name, "id").eval()
    assert isinstance(model, SequentialRecommender)
    vectors = torch.randn(2, LENGTH, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, :2] = False
    vectors[1, :2] = 0
    changed = vectors.clone()
    changed[:, 4:] *= -1  # not a shift: LayerNorm would take it out
    with torch.no_grad():
        before, after = model.encode(vectors, mask), model.encode(changed, mask)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@ALL
def test_state_round_trip(name: str, items: str) -> None:
    one, two = build(name, items, seed=1).eval(), build(name, items, seed=2).eval()
    two.load_state_dict(one.state_dict())
    batch = user_batch([[3, 7, 11]])
    with torch.no_grad():
        assert torch.equal(one.scores(batch), two.scores(batch))


@TRAINABLE
def test_a_checkpoint_holds_only_what_is_learned(name: str, items: str) -> None:
    model = build(name, items)
    learned = {label for label, _ in model.named_parameters()}
    for label, layer in model.named_modules():
        if isinstance(layer, torch.nn.BatchNorm1d):  # its running statistics are learned, too
            learned |= {f"{label}.{statistic}" for statistic, _ in layer.named_buffers()}
        if isinstance(layer, TowerItems):  # measured before training
            learned |= {f"{label}.shift", f"{label}.gain"}
    assert set(model.state_dict()) == learned


@ALL
def test_vectors_at_inference_draw_nothing(name: str, items: str) -> None:
    model = build(name, items).train()
    if model.inner_product:
        assert torch.equal(model.item_vectors(), model.item_vectors())
        assert model.training
        assert not model.item_vectors().requires_grad


@pytest.mark.parametrize("name", list(recommenders()))
def test_config_is_strict_plain_and_has_defaults(name: str) -> None:
    config = recommenders()[name].config_class()
    assert config.__pydantic_config__ == {"extra": "forbid"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.anything = 1


def test_popularity_counts_training_only() -> None:
    split = checkerboard()
    model = build("popularity", "none", split=split)
    scores = model.user_vectors(user_batch([[1], [2]])) @ model.item_vectors().T
    assert torch.equal(scores[0], torch.from_numpy(split.train_counts).float())
    assert torch.equal(scores[0], scores[1])
