"""The split against a slow reference, user by user, and against the known numbers of Amazon Scientific."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.errors import ConfigError
from models import build_recommender, recommenders
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import COLUMNS, Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.load import make_split
from pipelines.data.split import EvalPart, Split
from pipelines.data.vocabulary import Vocabulary
from pipelines.ranking.full_ranking import Mask, evaluate
from pipelines.runs.inputs import training_facts

Histories = dict[str, list[str]]
NAMES = [f"{n:02}" for n in range(12)]
histories = st.dictionaries(
    st.text("abc0", min_size=1, max_size=3), st.lists(st.sampled_from(NAMES), min_size=1, max_size=14), max_size=8
).filter(lambda users: any(len(items) >= 3 for items in users.values()))
configs = st.builds(
    DataConfig,
    folder=st.just("folder"),
    keep_last=st.none() | st.integers(3, 9),
    max_length=st.integers(1, 5),
    candidates=st.sampled_from(["interactions", "kept", "catalog"]),
)


def dataset_of(users: Histories, titles: Sequence[str] = ()) -> Dataset:
    rows = [(user, item, time) for user in sorted(users) for time, item in enumerate(users[user])]
    table = pl.DataFrame(rows, schema=dict(zip(COLUMNS, (pl.String, pl.String, pl.Int64), strict=True)), orient="row")
    return Dataset("d", "made up", table, dict.fromkeys(titles, "x"), None, None)


def kept_of(users: Histories, config: DataConfig) -> Histories:
    keep = config.keep_last or 10**6
    return {user: users[user][-keep:] for user in sorted(users) if len(users[user]) >= config.min_interactions}


def row(split: Split, items: NDArray[Any], mask: NDArray[Any], number: int) -> list[str]:
    """Return the raw ids of one padded row, after checking that padding is on the left and 0."""
    real = mask[number]
    assert real.tolist() == sorted(real.tolist())
    assert not items[number][~real].any()
    return [split.items.ids[item] for item in items[number][real]]


@settings(max_examples=60, deadline=None)
@given(users=histories, config=configs)
def test_windows_make_every_position_but_the_first_a_target_once(users: Histories, config: DataConfig) -> None:
    split = make_split(dataset_of(users), config)
    targets: dict[str, list[str]] = {user: [] for user in split.users.ids}
    for number in reversed(range(len(split.train.users))):  # windows of a user come newest first
        window = row(split, split.train.items, split.train.mask, number)
        assert 2 <= len(window) <= config.max_length + 1
        targets[split.users.ids[split.train.users[number]]] += window[1:]
    assert targets == {user: items[:-2][1:] for user, items in kept_of(users, config).items()}


@settings(max_examples=60, deadline=None)
@given(users=histories, config=configs)
def test_validation_and_test_parts(users: Histories, config: DataConfig) -> None:
    split = make_split(dataset_of(users), config)
    for part, place in ((split.valid, -2), (split.test, -1)):
        assert part.users.tolist() == list(range(len(split.users)))
        for number, items in enumerate(kept_of(users, config).values()):
            before = items[:place]
            assert split.items.ids[part.targets[number]] == items[place]
            assert row(split, part.items, part.mask, number) == before[-config.max_length :]
            assert seen_of(split, part, number) == before
        assert part.items.shape == part.mask.shape == (len(split.users), config.max_length)
        assert len(part.seen_offsets) == len(split.users) + 1


def seen_of(split: Split, part: EvalPart, number: int) -> list[str]:
    return [split.items.ids[item] for item in part.seen[part.seen_offsets[number] : part.seen_offsets[number + 1]]]


@settings(max_examples=60, deadline=None)
@given(users=histories, config=configs)
def test_counts_and_edges_are_the_training_part(users: Histories, config: DataConfig) -> None:
    split = make_split(dataset_of(users), config)
    expected = [(user, item) for user, items in kept_of(users, config).items() for item in items[:-2]]
    pairs = [(split.users.ids[user], split.items.ids[item]) for user, item in split.train_edges.T]
    assert pairs == expected
    counts = Counter(item for _, item in expected)
    assert split.train_counts.tolist() == [counts[item] for item in split.items.ids]


@settings(max_examples=40, deadline=None)
@given(users=histories, config=configs, titles=st.lists(st.text("0xy", min_size=1, max_size=2)))
def test_vocabularies(users: Histories, config: DataConfig, titles: list[str]) -> None:
    split = make_split(dataset_of(users, titles), config, catalog_ids=["media"])
    kept = kept_of(users, config)
    every = {item for items in users.values() for item in items}
    candidates = {
        "interactions": every,
        "kept": {item for items in kept.values() for item in items},
        "catalog": every | set(titles) | {"media"},
    }[config.candidates]
    assert split.items.ids == tuple(sorted(candidates))
    assert split.users.ids == tuple(kept)
    assert split.dropped_users == len(users) - len(kept)


@settings(max_examples=40, deadline=None)
@given(users=histories, config=configs, data=st.data())
def test_the_fingerprint_tells_whether_the_data_are_equal(users: Histories, config: DataConfig, data: Any) -> None:
    first = make_split(dataset_of(users), config)
    again = make_split(dataset_of(dict(reversed(users.items()))), config)
    assert first.fingerprint == again.fingerprint
    user = data.draw(st.sampled_from(first.users.ids))
    place = data.draw(st.integers(1, min(len(users[user]), config.keep_last or 99)))
    users[user][-place] = "new"
    assert make_split(dataset_of(users), config).fingerprint != first.fingerprint


@pytest.mark.parametrize("changed", [{"max_length": 3}, {"keep_last": 4}, {"candidates": "catalog"}])
def test_the_fingerprint_depends_on_the_config(changed: dict[str, Any]) -> None:
    data = dataset_of({"a": list("123456"), "b": list("345612")}, titles=["7"])
    plain = make_split(data, DataConfig("folder"))
    assert make_split(data, DataConfig("folder", **changed)).fingerprint != plain.fingerprint
    assert make_split(data, DataConfig("elsewhere")).fingerprint == plain.fingerprint


def test_the_same_items_among_other_users_are_other_data() -> None:
    config = DataConfig("folder")
    first = make_split(dataset_of({"a": list("123"), "b": list("45678")}), config)
    second = make_split(dataset_of({"a": list("1234"), "b": list("5678")}), config)
    assert first.fingerprint != second.fingerprint


def test_users_with_few_interactions() -> None:
    users = {"a": list("12345"), "b": list("1234"), "c": list("12")}
    split = make_split(dataset_of(users), DataConfig("folder", min_interactions=5))
    assert (split.users.ids, split.dropped_users) == (("a",), 2)
    with pytest.raises(ConfigError, match=r"1 of 3 users have fewer than data\.min_inter.*=3 .*first 'c' with 2"):
        make_split(dataset_of(users), DataConfig("folder", short_users="error"))
    with pytest.raises(ConfigError, match=r"each of 3 users has fewer than data\.min_interactions=6 .*most: 5"):
        make_split(dataset_of(users), DataConfig("folder", min_interactions=6))


def test_no_interactions_at_all() -> None:
    with pytest.raises(ConfigError, match=r"folder holds no interactions \(made up\); training needs"):
        make_split(dataset_of({}), DataConfig("folder"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_interactions": 2}, "data.min_interactions is 2; leave-one-out needs at least 3"),
        ({"max_length": 0}, "data.max_length is 0; a model needs at least 1"),
        ({"keep_last": 2}, "data.keep_last is 2; keep at least 3"),
    ],
)
def test_lengths_that_leave_nothing_are_refused(setting: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig("folder", **setting)  # type: ignore[arg-type]


# Vocabulary.


@given(ids=st.lists(st.text(max_size=4), unique=True, min_size=1), others=st.lists(st.text(max_size=4)))
def test_a_vocabulary_is_a_bijection(ids: list[str], others: list[str]) -> None:
    vocabulary = Vocabulary(tuple(ids), "item")
    assert [vocabulary.index(item) for item in ids] == list(range(len(ids))) == list(range(len(vocabulary)))
    assert vocabulary.known(others + ids) == [ids.index(item) for item in others + ids if item in ids]


def test_a_vocabulary_refuses_repeated_and_unknown_ids() -> None:
    with pytest.raises(ConfigError, match="item id '00017' occurs twice; ids must be unique"):
        Vocabulary(("1", "00017", "00017"), "item")
    vocabulary = Vocabulary(("u100", "u200"), "user")
    with pytest.raises(ConfigError, match=r"unknown user 'u201' among 2; did you mean 'u200'\? ids look like 'u100'"):
        vocabulary.index("u201")


# Real data.


@pytest.fixture(scope="module")
def real(scientific: Path) -> Split:
    return make_split(read_dataset(scientific), DataConfig(str(scientific), keep_last=None))


def test_amazon_scientific(real: Split) -> None:
    cold = [int((real.train_counts[part.targets] == 0).sum()) for part in (real.valid, real.test)]
    assert (len(real.users), len(real.items), real.dropped_users) == (12_076, 20_825, 0)
    assert cold == [2_129, 2_382]
    assert int((real.train_counts > 0).sum()) == 16_912
    assert real.train_edges.shape == (2, 85_211 - 2 * 12_076)
    assert int((real.train.mask[:, 1:] & real.train.mask[:, :-1]).sum()) == 48_983  # RecBole: one row per prefix
    repeated = [target in seen_part(real, row) for row, target in enumerate(real.test.targets)]
    assert sum(repeated) == 621


def seen_part(split: Split, row: int) -> NDArray[np.int64]:
    return split.test.seen[split.test.seen_offsets[row] : split.test.seen_offsets[row + 1]]


# HR@10, NDCG@10, HR@20, NDCG@20 of popularity. Ties count half here and by order there: hence the tolerance.
FLOORS = {
    "keep": (0.03793, 0.02567, 0.05192, 0.02919),
    "hide": (0.03842, 0.02799, 0.05242, 0.03150),
    "strict": (0.01515, 0.00944, 0.02716, 0.01243),
}


@pytest.mark.parametrize("mask", ["keep", "hide", "strict"])
def test_popularity_on_amazon_scientific(real: Split, mask: Mask) -> None:
    facts = training_facts(real)
    config = recommenders()["popularity"].config_class()
    model = build_recommender("popularity", config, None, facts, torch.Generator())
    found = evaluate(model, real.test, real.train_counts, mask=mask, batch_size=512).metrics
    assert tuple(found[name] for name in ("HR@10", "NDCG@10", "HR@20", "NDCG@20")) == pytest.approx(
        FLOORS[mask], abs=1e-3
    )


# Warm-k subsets.


def filtered(users: Histories, config: DataConfig) -> tuple[Histories, set[str]]:
    """Return users and items of a warm-k subset, by plain counting."""
    while True:
        counts = Counter(item for items in users.values() for item in items)
        often = {item for item, count in counts.items() if count >= config.min_item_interactions}
        fewer = {user: [item for item in items if item in often] for user, items in users.items()}
        fewer = {user: items for user, items in fewer.items() if len(items) >= config.min_interactions}
        if config.item_filter == "once" or fewer == users:
            return fewer, often
        users = fewer


@settings(max_examples=80, deadline=None)
@given(
    users=histories, k=st.integers(1, 5), way=st.sampled_from(["once", "iterate"]), keep=st.none() | st.integers(3, 6)
)
def test_warm_subsets_equal_plain_counting(users: Histories, k: int, way: Any, keep: int | None) -> None:
    config = DataConfig("folder", keep_last=keep, min_item_interactions=k, item_filter=way)
    wanted, often = filtered(users, config)
    if not wanted:
        with pytest.raises(ConfigError, match=r"data\.min_(item_)?interactions"):
            make_split(dataset_of(users), config)
        return
    split = make_split(dataset_of(users), config)
    assert split.users.ids == tuple(sorted(wanted))
    if way == "iterate":
        often = {item for items in wanted.values() for item in items}
    assert split.items.ids == tuple(sorted(often))
    assert split.dropped_users == len(users) - len(wanted)
    assert split.dropped_items == len({item for items in users.values() for item in items}) - len(often)
    targets = [split.items.ids[item] for item in split.test.targets]
    assert targets == [items[-1] for _, items in sorted(wanted.items())]
    assert split.sizes()["interactions"] == sum(len(items[-(keep or 99) :]) for items in wanted.values())


def test_the_fingerprint_tells_warm_subsets_apart() -> None:
    users = {f"u{n}": ["a", "b", "c", "d"] for n in range(4)} | {"v": ["a", "b", "c", "e"]}
    plain, none, warm, more = (
        make_split(dataset_of(users), DataConfig("folder", **options)).fingerprint
        for options in ({}, {"min_item_interactions": 0}, {"min_item_interactions": 1}, {"min_item_interactions": 2})
    )
    assert plain == none
    assert len({plain, warm, more}) == 3


def test_warm_subsets_that_cannot_be() -> None:
    users = {"u": ["a", "b", "c"], "v": ["a", "b", "d"]}
    with pytest.raises(
        ConfigError, match=r"no item is left with data\.min_item_interactions=3 interactions \(most: 2\); lower"
    ):
        make_split(dataset_of(users), DataConfig("folder", min_item_interactions=3))
    with pytest.raises(ConfigError, match=r"each of 2 users has fewer than data\.min_interactions=3"):
        make_split(dataset_of(users), DataConfig("folder", min_item_interactions=2))
    with pytest.raises(ConfigError, match=r"candidates is 'catalog', but items without interactions have fewer than"):
        DataConfig("folder", min_item_interactions=2, candidates="catalog")
    with pytest.raises(ConfigError, match=r"min_item_interactions is -1"):
        DataConfig("folder", min_item_interactions=-1)
