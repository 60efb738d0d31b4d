"""Negatives: never the user's own, drawn with the probability that is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.shared.losses import binary_cross_entropy, bpr, full_softmax, sampled_softmax
from models.shared.objective import DRAWN, LossConfig, Objective
from models.shared.recommender import TrainingFacts, UserItems
from models.shared.sampling import POWER, NegativeSampler, Sampling

HOWS: list[Sampling] = ["uniform", "popularity"]


def facts_of(histories: list[list[int]], n_items: int) -> TrainingFacts:
    edges = [(user, item) for user, history in enumerate(histories) for item in history]
    table = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    return TrainingFacts(len(histories), n_items, torch.bincount(table[1], minlength=n_items), table)


corpora = st.integers(2, 9).flatmap(
    lambda n_items: st.tuples(
        st.lists(st.lists(st.integers(0, n_items - 1), max_size=2 * n_items), min_size=1, max_size=6).filter(
            lambda histories: all(len(set(history)) < n_items for history in histories)
        ),
        st.just(n_items),
    )
)


@settings(deadline=None)
@given(corpora, st.sampled_from(HOWS), st.integers(0, 2**31))
def test_no_negative_was_ever_met(corpus: tuple[list[list[int]], int], how: Sampling, seed: int) -> None:
    histories, n_items = corpus
    sampler = NegativeSampler(facts_of(histories, n_items), how)
    torch.manual_seed(seed)
    users = torch.arange(len(histories)).repeat(3)
    drawn = sampler(users, 20)
    assert drawn.shape == (len(users), 20)
    for user, row in zip(users.tolist(), drawn.tolist(), strict=True):
        assert not set(row) & set(histories[user])
        assert set(row) <= set(range(n_items))


@pytest.mark.parametrize("how", HOWS)
def test_draws_have_the_probability_that_is_said(how: Sampling) -> None:
    histories = [[1, 4, 4], [0, 0, 0, 0, 0, 2], []]
    facts = facts_of(histories, 6)
    sampler = NegativeSampler(facts, how)
    torch.manual_seed(0)
    weights = np.ones(6) if how == "uniform" else np.maximum(facts.item_counts.numpy(), 1) ** POWER
    for user, history in enumerate(histories):
        drawn = sampler(torch.full((50,), user), 4000).flatten().numpy()
        wanted = np.where(np.isin(np.arange(6), history), 0, weights)
        np.testing.assert_allclose(np.bincount(drawn, minlength=6) / len(drawn), wanted / wanted.sum(), atol=0.005)
        left = torch.from_numpy(np.flatnonzero(wanted))
        said = sampler.log_probability(torch.full_like(left, user), left).exp().numpy()
        np.testing.assert_allclose(said / said.sum(), (wanted / wanted.sum())[left.numpy()], rtol=1e-5)


@pytest.mark.parametrize("how", HOWS)
def test_without_cold_ones_only_items_of_the_training_part_are_drawn(how: Sampling) -> None:
    facts = facts_of([[1, 4, 4], [6, 6, 6, 2], []], 8)
    sampler = NegativeSampler(facts, how, cold=False)
    torch.manual_seed(0)
    for user, left in enumerate(([2, 6], [1, 4], [1, 2, 4, 6])):
        drawn = sampler(torch.full((50,), user), 2000).flatten()
        weights = np.ones(len(left)) if how == "uniform" else facts.item_counts[left].numpy() ** POWER
        shares = np.bincount(drawn.numpy(), minlength=8)[left] / drawn.numel()
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.01)  # they sum to 1: nothing else is drawn
        said = sampler.log_probability(torch.full((len(left),), user), torch.tensor(left)).exp().numpy()
        np.testing.assert_allclose(said / said.sum(), weights / weights.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="user number 0 has met all 3 items in training"):
        NegativeSampler(facts_of([[1, 2, 4], [1]], 9), how, cold=False)


def test_a_user_who_has_met_everything_is_named() -> None:
    with pytest.raises(ValueError, match="user number 1 has met all 3 items in training"):
        NegativeSampler(facts_of([[0], [0, 1, 2]], 3))
    with pytest.raises(ValueError, match="sampling is 'hard'"):
        NegativeSampler(facts_of([[0]], 3), "hard")  # type: ignore[arg-type]


@settings(deadline=None)
@given(corpora)
def test_what_users_have_met_is_found(corpus: tuple[list[list[int]], int]) -> None:
    histories, n_items = corpus
    users = torch.arange(len(histories)).flip(0).repeat(2)
    rows, items = UserItems(facts_of(histories, n_items)).of(users)
    found = [sorted(items[rows == row].tolist()) for row in range(len(users))]
    assert found == [sorted(set(histories[user])) for user in users.tolist()]


def test_losses_are_their_equations() -> None:
    positive = torch.tensor([0.3, -2.0], dtype=torch.float64)
    negative = torch.tensor([[0.1, 1.0], [-4.0, 3.0]], dtype=torch.float64)
    sigmoid = torch.sigmoid
    torch.testing.assert_close(bpr(positive, negative), -sigmoid(positive[:, None] - negative).log().mean())
    expected = -(sigmoid(positive).log() + (1 - sigmoid(negative)).log().sum(1)).mean()
    torch.testing.assert_close(binary_cross_entropy(positive, negative), expected)
    far = torch.tensor([-1e4]), torch.tensor([[1e4]])
    assert torch.isfinite(bpr(*far))
    assert torch.isfinite(binary_cross_entropy(*far))


@pytest.mark.parametrize("how", HOWS)
def test_sampled_softmax_tends_to_the_full_one(how: Sampling) -> None:
    """With many draws it is the softmax over the label and all items the user has not met."""
    torch.manual_seed(0)
    facts = facts_of([[3], [7]], 40)
    users, labels = torch.tensor([0, 1]), torch.tensor([3, 7])
    queries, table = torch.randn(2, 8), torch.randn(40, 8)
    sampler = NegativeSampler(facts, how)
    drawn = sampler(users, 200_000)
    found = sampled_softmax(
        (queries * table[labels]).sum(1),
        torch.einsum("qd,qnd->qn", queries, table[drawn]),
        sampler.log_probability(users[:, None].expand_as(drawn), drawn),
    )
    torch.testing.assert_close(found, full_softmax(queries, table, labels), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("loss", DRAWN)
@pytest.mark.parametrize("how", HOWS)
def test_an_objective_draws_for_the_right_user(loss: str, how: Sampling) -> None:
    histories = [[0, 1, 2], [3, 4, 5]]
    objective = Objective(LossConfig(loss=loss, negatives=7, sampling=how), facts_of(histories, 8))  # type: ignore[arg-type]
    users = torch.tensor([0, 1, 1])
    items = torch.tensor([[0, 1, 2], [9, 3, 4]])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    needed = objective.candidates(items, mask, users)
    assert needed.negatives is not None
    for user, row in zip(users.tolist(), needed.items[needed.negatives].tolist(), strict=True):
        assert not set(row) & set(histories[user])
    assert torch.equal(needed.items[needed.slots[mask]], items[mask])
    vectors = torch.randn(len(needed.items), 4, requires_grad=True)
    labels = needed.slots[:, 1:][mask[:, :-1]]
    objective(torch.randn(3, 4), vectors, labels, needed).backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"sampling": "x"}, "sampling is 'x'"),
        ({"negatives": 0}, "negatives is 0"),
    ],
)
def test_impossible_losses_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)  # type: ignore[arg-type]
