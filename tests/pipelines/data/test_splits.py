"""Splits by time, ratio, column and folds of users: by their rules row by row, and without a look ahead."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import run_pipeline
from features.errors import ConfigError
from models import recommenders
from models.shared.recommender import UserItems
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.load import load_data, make_split
from pipelines.data.side_features import LEVELS, popularity_levels
from pipelines.data.split import EvalPart, Split
from pipelines.data.tables import Columns
from pipelines.ranking.full_ranking import evaluate
from pipelines.ranking.user_groups import group_metrics, history_groups, popularity_groups
from pipelines.recipe.data_settings import data_settings
from pipelines.recipe.recipe import build_recipe, load_recipe, recipe_to_dict
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.retrieval.retrieve import recommend
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import build_model, training_facts
from pipelines.runs.run import open_run
from tests.pipelines.ranking.test_evaluate import Fixed
from tests.support.small import plain_recipe, small_dataset, write, write_interactions

Row = tuple[str, str, int, int]  # user, item, time, part
Pairs = list[tuple[str, str]]
row = st.tuples(
    st.sampled_from("abcde"), st.sampled_from([f"{n:02}" for n in range(9)]), st.integers(0, 12), st.integers(0, 2)
)
tables = st.lists(row, min_size=6, max_size=50)
WHOLE: dict[str, Any] = {"deadline": None, "max_examples": 25}


def dataset_of(rows: Sequence[Row], *, parts: bool = False, **facts: Any) -> Dataset:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "part": pl.Int8}
    table = pl.DataFrame(rows, schema=schema, orient="row").sort("user", "timestamp", maintain_order=True)
    return Dataset("d", "made up", table if parts else table.drop("part"), {}, None, None, **facts)


def config_of(split: str, **options: Any) -> DataConfig:
    return DataConfig("folder", split=split, max_length=3, **options)


def split_or_skip(dataset: Dataset, config: DataConfig) -> Split:
    """Return the split; examples that leave a part empty are passed over."""
    try:
        return make_split(dataset, config)
    except ConfigError:
        assume(False)
        raise


def edges(split: Split) -> Pairs:
    return [(split.users.ids[user], split.items.ids[item]) for user, item in split.train_edges.T]


def of_part(split: Split, part: EvalPart) -> dict[str, tuple[list[str], list[str], list[str]]]:
    """Return user -> history, everything seen, targets; all as raw ids."""
    ids, found = split.items.ids, {}
    for number, user in enumerate(part.users):
        bounds, seen = part.bounds[number : number + 2], part.seen_offsets[number : number + 2]
        found[split.users.ids[user]] = (
            [ids[item] for item in part.items[number][part.mask[number]]],
            [ids[item] for item in part.seen[slice(*seen)]],
            [ids[item] for item in part.targets[slice(*bounds)]],
        )
    return found


def windows_of(split: Split) -> list[tuple[str, list[str]]]:
    """Return what a model trains on: each window's user and items, as raw ids."""
    train = split.train
    return [
        (split.users.ids[user], [split.items.ids[item] for item in items[mask]])
        for user, items, mask in zip(train.users, train.items, train.mask, strict=True)
    ]


def check_parts(split: Split, train: dict[str, list[str]], valid: Any, test: Any) -> None:
    """Compare a split with lists made by plain Python: user -> training items, user -> (history, targets)."""
    train = {user: items for user, items in train.items() if items}
    assert edges(split) == [(user, item) for user, items in sorted(train.items()) for item in items]
    targets = Counter(item for _, items in windows_of(split) for item in items[1:])
    assert targets == Counter(item for items in train.values() for item in items[1:])
    for part, wanted in ((split.valid, valid), (split.test, test)):
        found = of_part(split, part)
        expected = {
            user: (had, list(dict.fromkeys(sought))) for user, (had, sought) in wanted.items() if had and sought
        }
        assert {user: (seen, sought) for user, (_, seen, sought) in found.items()} == expected
        assert all(history == seen[-3:] for history, seen, _ in found.values())
    learnt_from_training_alone(split)


def learnt_from_training_alone(split: Split) -> None:
    """Check everything that is computed from a split for training: counts, graphs, negatives, levels, groups."""
    pairs, facts = edges(split), training_facts(split)
    counts = Counter(item for _, item in pairs)
    assert split.train_counts.tolist() == facts.item_counts.tolist() == [counts[item] for item in split.items.ids]
    assert facts.edges.numpy().tolist() == split.train_edges.tolist()
    rows, items = UserItems(facts).of(torch.arange(len(split.users)))
    met = {(split.users.ids[user], split.items.ids[item]) for user, item in zip(rows, items, strict=True)}
    assert met == set(pairs)
    levels = popularity_levels(split).codes.tolist()
    order = sorted(range(len(levels)), key=lambda item: -counts[split.items.ids[item]])
    assert [levels[item] for item in order] == [place * LEVELS // len(order) for place in range(len(order))]
    vectors = [
        torch.randn(len(ids), 4, generator=torch.Generator().manual_seed(0)) for ids in (split.users, split.items)
    ]
    result = evaluate(Fixed(*vectors), split.test, split.train_counts, mask="hide", at=(2,), never_met_at=2)
    cold = [any(counts[item] == 0 for item in sought) for _, _, sought in of_part(split, split.test).values()]
    assert (result.n_cold, result.n_warm) == (sum(cold), len(cold) - sum(cold))
    if result.never_met:
        assert result.never_met.candidates == sum(counts[item] == 0 for item in split.items.ids) / len(split.items)
    for groups in (popularity_groups(split.test, split.train_counts), history_groups(split.test)):
        assert sum(group["users"] for group in group_metrics(result.ranked, groups, ("HR",), (2,))) == len(cold)


def by_user(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for one in sorted(rows, key=lambda one: (one[0], one[2])):
        found.setdefault(one[0], []).append(one)
    return found


# The global time split.


@settings(**WHOLE)
@given(rows=tables, cuts=st.lists(st.integers(1, 12), min_size=2, max_size=2, unique=True), least=st.integers(1, 3))
def test_by_time(rows: list[Row], cuts: list[int], least: int) -> None:
    first, second = sorted(cuts)
    config = config_of("time", valid_from=first, test_from=second, min_interactions=least)
    split = split_or_skip(dataset_of(rows), config)
    known = {user: own for user, own in by_user(rows).items() if sum(time < first for *_, time, _ in own) >= least}

    def items(own: list[Row], start: int, end: int) -> list[str]:
        return [item for _, item, time, _ in own if start <= time < end]

    check_parts(
        split,
        {user: items(own, 0, first) for user, own in known.items()},
        {user: (items(own, 0, first), items(own, first, second)) for user, own in known.items()},
        {user: (items(own, 0, second), items(own, second, 99)) for user, own in known.items()},
    )
    assert split.users.ids == tuple(sorted(known))
    assert split.dropped_users == len({user for user, *_ in rows}) - len(known)
    assert split.items.ids == tuple(sorted({item for _, item, *_ in rows}))
    assert f"{sum(time in (first, second) for *_, time, _ in rows)} rows at these very times" in split.told


@settings(**WHOLE)
@given(
    rows=tables,
    others=tables,
    cut=st.integers(3, 9),
    options=st.fixed_dictionaries(
        {"repeats": st.sampled_from(["keep", "first", "last"]), "min_item_interactions": st.integers(0, 2)}
    ),
)
def test_nothing_after_the_cut_changes_what_trains(
    rows: list[Row], others: list[Row], cut: int, options: dict[str, Any]
) -> None:
    config = config_of("time", valid_from=cut, test_from=cut + 1, min_interactions=1, **options)
    before = [one for one in rows if one[2] < cut]
    futures = [[(user, item, cut + time % 3, part) for user, item, time, part in more] for more in (rows, others)]
    splits = [split_or_skip(dataset_of(before + future), config) for future in futures]
    assert edges(splits[0]) == edges(splits[1])
    assert windows_of(splits[0]) == windows_of(splits[1])
    assert splits[0].users.ids == splits[1].users.ids


@settings(**WHOLE)
@given(rows=tables, valid=st.sampled_from([0.1, 0.2, 0.4]), test=st.sampled_from([0.1, 0.25, 0.5]))
def test_time_by_shares_does_not_go_by_the_order_of_the_file(rows: list[Row], valid: float, test: float) -> None:
    config = config_of("time", valid_share=valid, test_share=test, min_interactions=1)
    split = split_or_skip(dataset_of(rows), config)
    times = sorted(time for *_, time, _ in rows)
    cuts = [times[int(len(times) * (1 - share) + 1e-9)] for share in (valid + test, test)]
    given_cuts = config_of("time", valid_from=cuts[0], test_from=cuts[1], min_interactions=1)
    for other in (make_split(dataset_of(rows), given_cuts), make_split(dataset_of(rows[::-1]), config)):
        assert Counter(edges(other)) == Counter(edges(split))
        for mine, its in ((split.valid, other.valid), (split.test, other.test)):
            assert Counter(map(tuple, its.pairs.T.tolist())) == Counter(map(tuple, mine.pairs.T.tolist()))


def test_a_tie_at_a_cut_is_reported_and_counts_as_later() -> None:
    rows = [("a", f"{n:02}", time, 0) for n, time in enumerate([0, 1, 2, 3, 4, 5, 6, 6, 6, 6])]
    split = make_split(dataset_of(rows), config_of("time", valid_from=5, test_from=6))
    assert of_part(split, split.test)["a"][2] == ["06", "07", "08", "09"]
    with pytest.raises(
        ConfigError, match=r"validation part of folder is empty: .* from 0 to 6, and the cuts stand at 6 and"
    ):
        make_split(dataset_of(rows), config_of("time", valid_share=0.2, test_share=0.1))
    spread = [("a", f"{n:02}", time, 0) for n, time in enumerate([0, 1, 2, 3, 4, 4, 6, 7, 7, 9])]
    split = make_split(dataset_of(spread), config_of("time", valid_share=0.3, test_share=0.2))
    assert of_part(split, split.valid)["a"][1:] == (["00", "01", "02", "03"], ["04", "05", "06"])
    assert "(shares 0.3 and 0.2; 2 rows tied with a cut count as later)" in split.told


def test_users_and_items_first_met_after_the_cut_are_counted() -> None:
    rows = [("a", "00", 0, 0), ("a", "01", 1, 0), ("a", "02", 5, 0), ("a", "03", 8, 0), ("b", "00", 6, 0)]
    split = make_split(dataset_of(rows), config_of("time", valid_from=5, test_from=7, min_interactions=2))
    assert split.told == (
        "global time split: validation from 5, test from 7 (as given; 1 rows at these very times count as later), 2 "
        "training, 1 validation and 1 test rows; left out: 1 users first met after the first cut, with 1 rows, and 0 "
        "with fewer than 2 rows before it; 2 items first met after it are ranked and sought, too"
    )
    assert (split.dropped_users, split.sizes()["interactions"]) == (1, 4)


def test_rare_items_and_repeats_before_a_cut() -> None:
    items = ["00", "01", "00", "02", "00", "01", "00", "03"]  # the cuts stand before the fifth and the seventh
    rows = [(user, item, time, 0) for user in "ab" for time, item in enumerate(items)]
    cut = {"valid_from": 4, "test_from": 6}
    kept = make_split(dataset_of(rows), config_of("time", min_item_interactions=3, min_interactions=1, **cut))
    assert (kept.items.ids, kept.dropped_items, set(edges(kept))) == (("00",), 3, {("a", "00"), ("b", "00")})
    assert kept.sizes()["interactions"] == 8
    first = make_split(dataset_of(rows), config_of("time", repeats="last", **cut))
    assert edges(first)[:3] == [("a", "01"), ("a", "00"), ("a", "02")]  # the last before the cut, whatever comes later


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_dates_cut_times_of_any_unit(unit: int) -> None:
    day = 86_400 * unit
    start = 1_672_531_200 * unit  # 2023-01-01
    rows = [("a", f"{n:02}", start + n * day, 0) for n in range(9)]
    split = make_split(dataset_of(rows), config_of("time", valid_from="2023-01-05", test_from="2023-01-08T00:00:00Z"))
    assert edges(split) == [("a", f"{n:02}") for n in range(4)]
    assert of_part(split, split.test)["a"][2] == ["07", "08"]
    assert "validation from 2023-01-05 00:00:00, test from 2023-01-08 00:00:00" in split.told


# The ratio split.


@settings(**WHOLE)
@given(rows=tables, valid=st.sampled_from([0.1, 0.3]), test=st.sampled_from([0.1, 0.5, 0.65]))
def test_by_ratio(rows: list[Row], valid: float, test: float) -> None:
    split = split_or_skip(dataset_of(rows), config_of("ratio", valid_share=valid, test_share=test))
    train: dict[str, list[str]] = {}
    parts: list[dict[str, Any]] = [{}, {}]
    for user, own in by_user(rows).items():
        if len(own) < 3:
            continue
        tests, valids = int(len(own) * test + 1e-9), int(len(own) * valid + 1e-9)
        tests = tests or int(len(own) - valids > 1)
        valids = valids or int(len(own) - tests > 1)
        items = [item for _, item, *_ in own]
        end = len(items) - tests
        train[user] = items[: end - valids]
        parts[0][user], parts[1][user] = (train[user], items[end - valids : end]), (items[:end], items[end:])
    check_parts(split, train, *parts)
    assert all(train.values())


@settings(**WHOLE)
@given(rows=tables, seed=st.integers(0, 3))
def test_by_ratio_at_random(rows: list[Row], seed: int) -> None:
    config = config_of("ratio", order="random", split_seed=seed, valid_share=0.2, test_share=0.3)
    ordered = config_of("ratio", valid_share=0.2, test_share=0.3)
    split, newest = (split_or_skip(dataset_of(rows), one) for one in (config, ordered))
    assert split.fingerprint == make_split(dataset_of(rows), config).fingerprint
    assert Counter(user for user, _ in edges(split)) == Counter(user for user, _ in edges(newest))
    whole = {user: [item for _, item, *_ in own] for user, own in by_user(rows).items()}
    learnt = {user: Counter(item for owner, item in edges(split) if owner == user) for user in whole}
    test, valid = of_part(split, split.test), of_part(split, split.valid)
    for user, (_, seen, sought) in test.items():
        assert Counter(seen) + Counter(sought) <= Counter(whole[user])
        assert Counter(valid[user][1]) == learnt[user]
        assert Counter(valid[user][1]) + Counter(valid[user][2]) <= Counter(seen)
        places = iter(whole[user])
        assert all(item in places for item in seen)  # in time order
    learnt_from_training_alone(split)


def test_random_rows_are_drawn_by_the_seed() -> None:
    rows = [("a", f"{n:02}", n, 0) for n in range(9)] + [("b", f"{n:02}", n, 0) for n in range(9)]
    made = [make_split(dataset_of(rows), config_of("ratio", order="random", split_seed=seed)) for seed in range(4)]
    assert len({one.fingerprint for one in made}) > 1
    assert "at random (seed 3)" in made[3].told


def test_ties_at_the_border_of_a_ratio_are_counted() -> None:
    rows = [("a", "00", 0, 0), ("a", "01", 1, 0), ("a", "02", 1, 0), *(("b", f"{n:02}", n, 0) for n in range(3))]
    assert "1 users' parts divided within rows of equal time" in make_split(dataset_of(rows), config_of("ratio")).told


# A column of the table.


@settings(**WHOLE)
@given(rows=tables)
def test_by_column(rows: list[Row]) -> None:
    split = split_or_skip(dataset_of(rows, parts=True), config_of("column"))
    users = {user: own for user, own in by_user(rows).items() if any(part == 0 for *_, part in own)}

    def items(own: list[Row], *parts: int) -> list[str]:
        return [item for _, item, _, part in own if part in parts]

    check_parts(
        split,
        {user: items(own, 0) for user, own in users.items()},
        {user: (items(own, 0), items(own, 1)) for user, own in users.items()},
        {user: (items(own, 0, 1), items(own, 2)) for user, own in users.items()},
    )
    ahead = [
        user
        for user, own in users.items()
        if any(late[3] == 0 and late[2] > early[2] for late in own for early in own if early[3])
    ]
    told = f"; {len(ahead)} users have training rows that are newer than a target"
    assert (told in split.told) == bool(ahead)


def test_a_split_column_is_found_by_its_name_or_named(tmp_path: Path) -> None:
    words = ["Train", "training", "0", "VAL", "dev", "test"]
    lines = [f"u\t{n}\t{n}\t{word}\n" for n, word in enumerate(words)]
    write(tmp_path / "interactions.tsv", "user\titem\ttimestamp\tsubset\n" + "".join(lines))
    found = load_data(DataConfig(str(tmp_path), split="column"))
    assert edges(found.split) == [("u", "0"), ("u", "1"), ("u", "2")]
    assert of_part(found.split, found.split.test)["u"][1:] == (["0", "1", "2", "3", "4"], ["5"])
    assert found.dataset.layout.endswith("(split = subset)")
    assert not read_dataset(tmp_path).given_split  # a column counts only where it is asked for
    assert load_data(data_settings(tmp_path, ["columns.split=subset"], Columns())).split.protocol == "column"
    write(tmp_path / "interactions.tsv", "user\titem\ttimestamp\tsubset\nu\t1\t1\tholdout\nu\t2\t2\t\n")
    with pytest.raises(
        ConfigError, match=r"'subset' holds 2 cells that name no part of a split, first 'holdout'; known: tr"
    ):
        load_data(DataConfig(str(tmp_path), split="column"))
    write_interactions(tmp_path, [("u", "1", 1)])
    with pytest.raises(ConfigError, match=r"has no column 'split'; .*--columns split=NAME"):
        load_data(DataConfig(str(tmp_path), split="column"))


# Folds of users.


@settings(**WHOLE)
@given(rows=tables, folds=st.integers(3, 5), seed=st.integers(0, 3), share=st.none() | st.sampled_from([0.3, 0.9]))
def test_by_folds_of_users(rows: list[Row], folds: int, seed: int, share: float | None) -> None:
    dataset, tested = dataset_of(rows), []
    whole = {user: [item for _, item, *_ in own] for user, own in by_user(rows).items() if len(own) >= 2}
    for fold in range(folds):
        config = config_of("user-folds", folds=folds, fold=fold, split_seed=seed, test_share=share, min_interactions=2)
        split = split_or_skip(dataset, config)
        test, valid = (of_part(split, part) for part in (split.test, split.valid))
        assert not set(test) & set(valid)

        def cut(user: str) -> tuple[list[str], list[str]]:
            size = len(whole[user])
            count = 1 if share is None else min(max(int(size * share + 1e-9), 1), size - 1)
            return whole[user][: size - count], whole[user][size - count :]

        train = {user: items for user, items in whole.items() if user not in test and user not in valid}
        check_parts(split, train, {user: cut(user) for user in valid}, {user: cut(user) for user in test})
        tested += list(test)
    assert sorted(tested) == sorted(whole)  # each user tests once


@pytest.mark.parametrize("name", sorted(name for name, model in recommenders().items() if model.reads_history))
def test_a_held_out_user_is_known_by_the_history_alone(name: str, tmp_path: Path) -> None:
    """The number of a user changes no score of a model that takes folds of users."""
    data = {"folder": str(small_dataset(tmp_path)), "split": "user-folds"}
    sections: dict[str, Any] = {"data": data, "model": {"name": name}, "train": {"epochs": 1, "batch_size": 16}}
    if not recommenders()[name].uses_items:
        sections["items"] = {}
    recipe = build_recipe({"name": "held-out", "items": {"kind": "id", "dim": 8}, **sections})
    split = load_data(recipe.data).split
    model = build_model(recipe, split, [], {}).eval()
    part = split.test
    shuffled = EvalPart(part.users[::-1].copy(), part.items, part.mask, part.targets, part.seen, part.seen_offsets)
    straight = EvalPart(part.users, part.items, part.mask, part.targets, part.seen, part.seen_offsets)
    found = [evaluate(model, one, split.train_counts, mask="keep").ranks for one in (straight, shuffled)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", sorted(name for name, model in recommenders().items() if not model.reads_history))
def test_models_with_a_vector_per_user_refuse_folds_of_users(name: str, tmp_path: Path) -> None:
    data = {"folder": "d", "split": "user-folds"}
    with pytest.raises(ConfigError, match=rf"'user-folds', but {name} learns a vector for each user .*: .*sasrec"):
        build_recipe(
            {"name": "x", "data": data, "model": {"name": name}, "items": {"kind": recommenders()[name].takes[0]}}
        )


# Runs, and what is refused.


@pytest.mark.parametrize(
    "options",
    [
        {"split": "time", "valid_share": 0.2, "test_share": 0.2},
        {"split": "ratio"},
        {"split": "ratio", "order": "random", "split_seed": 1},
        {"split": "user-folds", "test_share": 0.2},
        {"split": "column", "columns": {"split": "part"}},
    ],
    ids=["time", "ratio", "random", "user-folds", "column"],
)
def test_a_run_is_opened_again_with_its_split(options: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    folder = small_dataset(tmp_path / "small")
    lines = (folder / "interactions.tsv").read_text().splitlines()
    words = ["part", *(["train", "valid", "test"][n % 5 % 3] for n in range(len(lines) - 1))]
    text = "".join(f"{line}\t{word}\n" for line, word in zip(lines, words, strict=True))
    write(folder / "interactions.tsv", text)
    plain = plain_recipe(folder) | {"data": {"folder": str(folder), **options}}
    write(tmp_path / "r.yaml", dump_yaml(plain))
    assert (
        run_pipeline.main(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    )
    made = build_recipe(plain)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["split"] == options["split"]
    assert metrics["split_told"] in " ".join(capsys.readouterr().out.split())
    assert run_recipe(made, tmp_path / "run") == metrics
    run = open_run(tmp_path / "run")
    part = run.data.split.test
    again = evaluate(run.model, part, run.data.split.train_counts, mask="hide")
    assert again.metrics == metrics["test"]["all"]
    user = run.data.split.users.ids[part.users[0]]
    assert recommend(run, user, 3)
    with (folder / "interactions.tsv").open("a") as table:
        table.write("u00\t001\t5\ttrain\n")
    later = open_run(tmp_path / "run", new_interactions=True)
    assert (later.data.split.protocol, later.data.split.told) == (options["split"], metrics["split_told"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "ratio", "folds": 5}, r"data\.folds is 5, but data\.split is 'ratio'; it is for 'user-folds'"),
        ({"test_share": 0.1}, r"data\.test_share is 0\.1, but data\.split is 'auto'; it is for 'time' and 'ratio' and"),
        ({"split": "time", "test_share": 1.5}, r"data\.test_share is 1\.5; it must be above 0 and below 1"),
        ({"split": "ratio", "test_share": 0.6, "valid_share": 0.4}, r"leave nothing to train on; lower one"),
        ({"split": "time", "test_from": 5}, r"data\.test_from is 5, but data\.valid_from is missing; give both"),
        ({"split": "time", "test_from": 5, "valid_from": 3, "test_share": 0.1}, r"give one pair"),
        ({"split": "ratio", "split_seed": 1}, r"data\.split_seed is 1, but nothing is drawn; set data\.order=random"),
        ({"split": "user-folds", "folds": 2}, r"data\.folds is 2; at least 3 are needed"),
        ({"split": "user-folds", "fold": 5}, r"data\.fold is 5; with data\.folds=5 it must be from 0 to 4"),
        ({"split": "user-folds", "split_seed": -1}, r"data\.split_seed is -1; it must be from 0"),
        ({"split": "ratio", "min_interactions": 2}, r"data\.min_interactions is 2; ratio needs at least 3"),
        ({"split": "user-folds", "min_interactions": 1}, r"min_interactions is 1; user-folds needs at least 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig("folder", **options)


@pytest.mark.parametrize(
    ("options", "facts", "message"),
    [
        (
            {"split": "time"},
            {"timed": False},
            r"folder has no times that compare between users \(made up\); data\.split=",
        ),
        ({"split": "ratio"}, {"ordered": False}, r"has no timestamps .* set data\.order=random"),
        ({"split": "user-folds"}, {"ordered": False}, r"has no timestamps .* set data\.split=given"),
        ({"split": "user-folds", "folds": 9}, {}, r"data\.folds is 9, but there are 2 users; lower it"),
        ({"split": "column"}, {}, r"data\.split is 'column', but folder \(made up\) has no such column; name it with"),
        (
            {"split": "time", "valid_from": 3, "test_from": 3},
            {},
            r"valid_from is 3, which is not before .*test_from, 3",
        ),
        ({"split": "time", "valid_from": 3, "test_from": 99}, {}, r"test part of folder is empty: .* at 3 and 99"),
        (
            {"split": "time", "valid_from": "2023-01-01", "test_from": "2024-01-01"},
            {},
            r"valid_from is '2023-01-01', but the times of the interactions are numbers such as 0, which are no dates",
        ),
    ],
)
def test_datasets_that_do_not_fit_are_refused(options: Any, facts: Any, message: str) -> None:
    rows = [(user, f"{n:02}", n, 0) for user in "ab" for n in range(6)]
    with pytest.raises(ConfigError, match=message) as error:
        make_split(dataset_of(rows, **facts), DataConfig("folder", **options))
    assert "\n" not in str(error.value)


def test_a_date_in_a_recipe_needs_no_quotes(tmp_path: Path) -> None:
    text = "name: x\ndata: {folder: d, split: time, valid_from: 2023-01-01, test_from: 2023-02-01T12:00:00Z}\n"
    write(tmp_path / "r.yaml", text + "model: {name: popularity}\n")
    made = load_recipe(tmp_path / "r.yaml", ["data.valid_from=2022-12-31"])
    assert (made.data.valid_from, made.data.test_from) == ("2022-12-31", "2023-02-01T12:00:00+00:00")
    assert build_recipe(recipe_to_dict(made)) == made


def test_the_report_tells_the_split(tmp_path: Path, capsys: Any) -> None:
    folder = str(small_dataset(tmp_path / "small"))
    assert run_pipeline.main(["data", folder, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["split"]
    assert (plain["protocol"], plain["test"]["targets"], plain["users"]) == ("leave-one-out", 40, 40)
    words = ["data.split=time", "data.valid_from=8", "test_from=12"]
    assert run_pipeline.main(["data", folder, "--json", "--set", *words]) == 0
    split = json.loads(capsys.readouterr().out)["split"]
    assert split["told"].startswith("global time split: validation from 8, test from 12 (as given; ")
    assert run_pipeline.main(["data", folder, "--set", *words]) == 0
    assert "global time split" in capsys.readouterr().out
    assert run_pipeline.main(["data", folder, "--set", "splt=time"]) == 2
    assert "unknown key 'data.splt'; did you mean 'split'" in capsys.readouterr().err
