from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.shared import losses
from models.shared.losses import batch_items, full_softmax, in_batch_softmax, log_popularity, own_items
from models.shared.recommender import TrainBatch, TrainingFacts, UserItems
from tests.support.checkerboard import build, checkerboard, train_batch

WIDTH, ITEM_COUNT = 4, 9


def window_batch() -> TrainBatch:
    """Three users; user 7 fills two windows; item 3 recurs within a window, between windows and between users."""
    items = torch.tensor([[0, 1, 3, 3], [3, 5, 2, 8], [0, 0, 6, 3], [2, 8, 8, 4]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    return TrainBatch(torch.tensor([7, 2, 7, 5]), items, mask)


def slot_level_loss(states: Tensor, table: Tensor, batch: TrainBatch, shares: list[float]) -> Tensor:
    """The released benchmark loss slot by slot: every real slot of the batch is a candidate of every query."""
    rows, width = batch.items.shape
    slots = [(r, s) for r in range(rows) for s in range(width) if batch.mask[r, s]]
    terms = []
    for row in range(rows):
        own = {int(batch.items[r, s]) for r, s in slots if batch.users[r] == batch.users[row]}
        for position in range(width - 1):
            if not batch.mask[row, position]:
                continue
            query, label = states[row, position], int(batch.items[row, position + 1])
            negatives = [item for item in (int(batch.items[r, s]) for r, s in slots) if item not in own]
            logits = torch.stack([query @ table[item] - math.log(shares[item]) for item in [label, *negatives]])
            terms.append(torch.logsumexp(logits, 0) - logits[0])
    return torch.stack(terms).mean()


def met_in(batch: TrainBatch) -> UserItems:
    """What the users have met, if these windows are all there is."""
    users = batch.users.repeat_interleave(batch.mask.sum(1))
    edges = torch.stack([users, batch.items[batch.mask]])
    n_items = int(edges[1].max()) + 1
    return UserItems(TrainingFacts(8, n_items, torch.bincount(edges[1]), edges))


def our_loss(states: Tensor, table: Tensor, batch: TrainBatch, log_shares: Tensor) -> Tensor:
    distinct = batch_items(batch.items, batch.mask)
    real = batch.mask[:, :-1]
    excluded = own_items(batch.users.repeat_interleave(real.sum(1)), met_in(batch), distinct).mask()
    return in_batch_softmax(
        states[real],
        table[distinct.items],
        distinct.slots[:, 1:][real],
        distinct.counts.float().log(),
        log_shares[distinct.items],
        excluded,
    )


def numbers(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(4, 3, WIDTH, generator=generator).requires_grad_()
    return states, torch.randn(ITEM_COUNT, WIDTH, generator=generator).requires_grad_()


@pytest.mark.parametrize("safe", [losses.SAFE_LOGIT, 0.0])  # without and with the largest logit subtracted
@pytest.mark.parametrize("chunk", [losses.CHUNK_CPU, 15, 1])
@pytest.mark.parametrize("correction", [True, False])
def test_loss_and_gradients_equal_the_slot_level_definition(
    correction: bool, chunk: int, safe: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_CPU", chunk)
    monkeypatch.setattr(losses, "SAFE_LOGIT", safe)
    batch, counts = window_batch(), torch.tensor([1, 4, 2, 9, 3, 1, 5, 6, 2])
    log_shares = log_popularity(counts) if correction else torch.zeros(ITEM_COUNT)
    states, table = numbers()
    expected = slot_level_loss(states, table, batch, log_shares.double().exp().tolist())
    expected_grads = torch.autograd.grad(expected, (states, table))
    found = our_loss(states, table, batch, log_shares)
    grads = torch.autograd.grad(3 * found, (states, table))  # an incoming gradient other than 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, 3 * expected_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("correction", [True, False])
def test_a_recommender_trains_on_the_slot_level_definition(correction: bool) -> None:
    split = checkerboard()
    split = replace(split, train_counts=np.arange(len(split.train_counts)) ** 2)
    model = build("sasrec", "id+v", split=split, dropout=0.0, correction=correction)
    everything = train_batch(split)
    batch = TrainBatch(everything.users[:6] // 2, everything.items[:6] // 3 * 3, everything.mask[:6])
    model.objective.met = met_in(batch)
    table = model.items.table()
    states = model.encode(table[batch.items[:, :-1]] * batch.mask[:, :-1, None], batch.mask[:, :-1])
    counts = split.train_counts.clip(1) if correction else np.ones(len(table))
    expected = slot_level_loss(states, table, batch, (counts / split.train_counts.sum()).tolist())
    found = model(batch)
    torch.testing.assert_close(found.loss, expected, rtol=1e-4, atol=1e-5)
    assert found.positions == int(batch.mask[:, :-1].sum())


def test_correction_changes_the_loss() -> None:
    states, table = numbers()
    shares = log_popularity(torch.tensor([1, 4, 2, 9, 3, 1, 5, 6, 2]))
    assert (
        abs(our_loss(states, table, window_batch(), shares) - our_loss(states, table, window_batch(), 0 * shares))
        > 0.01
    )


@pytest.mark.parametrize("chunk", [losses.CHUNK_CPU, 2 * ITEM_COUNT])
def test_full_softmax_is_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_CPU", chunk)
    states, table = numbers()
    queries, labels = states.reshape(-1, WIDTH), torch.arange(12) % ITEM_COUNT
    expected = torch.nn.functional.cross_entropy(queries @ table.T, labels)
    expected_grads = torch.autograd.grad(expected, (states, table))
    found = full_softmax(states.reshape(-1, WIDTH), table, labels)
    torch.testing.assert_close(found, expected)
    for grad, wanted in zip(torch.autograd.grad(found, (states, table)), expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)


def test_large_scores_neither_overflow_nor_lose_the_loss() -> None:
    states, table = numbers()
    found = full_softmax(1000 * states.reshape(-1, WIDTH), table, torch.zeros(12, dtype=torch.int64))
    expected = torch.nn.functional.cross_entropy(1000 * states.reshape(-1, WIDTH) @ table.T, torch.zeros(12).long())
    torch.testing.assert_close(found, expected)
    assert found > 100


def test_a_batch_of_one_user_has_no_negatives_and_no_nan() -> None:
    batch = TrainBatch(torch.tensor([1]), torch.tensor([[4, 2, 4, 4]]), torch.ones(1, 4, dtype=torch.bool))
    states, table = numbers()
    loss = our_loss(states[:1], table, batch, torch.zeros(ITEM_COUNT))
    loss.backward()
    assert abs(loss) < 1e-6
    assert table.grad is not None
    torch.testing.assert_close(table.grad, torch.zeros_like(table), rtol=0, atol=1e-6)


def test_no_queries_give_zero() -> None:
    loss = full_softmax(
        torch.zeros(0, WIDTH, requires_grad=True), torch.zeros(ITEM_COUNT, WIDTH), torch.zeros(0, dtype=torch.int64)
    )
    loss.backward()
    assert loss == 0


def test_log_popularity_is_of_shares_and_finite_for_cold_items() -> None:
    found = log_popularity(torch.tensor([6, 0, 2]))
    torch.testing.assert_close(found, torch.tensor([6 / 8, 1 / 8, 2 / 8]).log())
    assert torch.isfinite(log_popularity(torch.zeros(3, dtype=torch.int64))).all()


def test_batch_items_leave_padding_out() -> None:
    batch = window_batch()
    distinct = batch_items(batch.items, batch.mask)
    assert distinct.items.tolist() == [1, 2, 3, 4, 5, 6, 8]
    assert distinct.counts.tolist() == [1, 2, 4, 1, 1, 1, 3]
    assert torch.equal(distinct.items[distinct.slots][batch.mask], batch.items[batch.mask])


def test_own_items_join_the_windows_of_a_user() -> None:
    batch = window_batch()
    distinct = batch_items(batch.items, batch.mask)
    own = own_items(batch.users, met_in(batch), distinct).mask()
    assert own[0].nonzero().flatten().tolist() == [0, 2, 5]  # items 1, 3, 6
    assert torch.equal(own[0], own[2])
    part = batch_items(batch.items[:1], batch.mask[:1])  # 1 and 3: what the user met in the other window is not here
    assert own_items(batch.users[:2], met_in(batch), part).mask().tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(("loss", "correction"), [("in-batch", True), ("in-batch", False), ("full", True)])
def test_mixed_precision_gives_nearly_the_same_loss(loss: str, correction: bool) -> None:
    model = build("sasrec", "id", loss=loss, correction=correction, dropout=0.0)
    batch = train_batch(checkerboard())
    plain = model(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch).loss
    assert mixed.dtype == torch.float32
    mixed.backward()
    assert abs(mixed - plain) < 0.02 * plain
