"""Drafted sizes: any counts and any names give a recipe that loads; the rules at their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.tables import Columns
from pipelines.drafting import settings
from pipelines.drafting.draft import Draft
from pipelines.drafting.facts import Facts
from pipelines.drafting.found_features import Found, Search
from pipelines.drafting.recipe_text import recipe_text
from pipelines.recipe.file_origin import Origin
from pipelines.recipe.recipe import Recipe, build_recipe
from pipelines.recipe.yaml_text import parse_yaml

COUNTS: dict[str, Any] = {
    "users": 600,
    "short_users": 0,
    "fewest": 5,
    "items": 500,
    "unseen_items": 0,
    "rare_items": 0,
    "further_items": 0,
    "rows": 6_000,
    "windows": 600,
    "targets": 600,
    "cold_targets": 0,
    "repeats": 0,
    "duplicates": 0,
}
HUGE = {"users": 34_500_000, "items": 1_140_000, "rows": 1_000_000_000, "windows": 90_000_000, "targets": 34_500_000}


def facts(**changes: Any) -> Facts:
    return Facts(**(COUNTS | changes))


def found(path: str = "data/features/a.h5", modality: str = "video", lacking: int = 0) -> Found:
    return Found(Path(path), Origin("videomae-base", "vectors", "hub"), modality, 768, lacking)


def drafted(
    told: Facts, *, name: str = "mydata", folder: str = "mydata", files: tuple[Found, ...] = (), **changes: Any
) -> Recipe:
    length = settings.history_length(np.full(10, 12), given_split=told.given_split)
    search = Search(files, (), (), ())
    data = DataConfig(folder, keep_last=None, max_length=int(length.value), **changes)
    text = recipe_text(Draft(name, data, length, told, search))
    raw = parse_yaml(text, "drafted")
    assert "paper" not in raw
    return build_recipe(raw)


few = hypothesis_settings(max_examples=40, deadline=None)


@few
@given(
    st.fixed_dictionaries({name: st.integers(int(name == "items"), 10**10) for name in COUNTS}),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(["video", "cover", "title"]), st.integers(0, 3)), max_size=3),
)
def test_any_counts_give_a_recipe_that_loads(
    counts: dict[str, int], given_split: bool, ordered: bool, files: list[tuple[str, int]]
) -> None:
    told = Facts(**counts, given_split=given_split, ordered=ordered)
    recipe = drafted(told, files=tuple(found(modality=modality, lacking=lacking) for modality, lacking in files))
    assert (recipe.items.kind != "id") == bool(files)
    assert recipe.data.keep_last is None or given_split
    assert recipe.train.batch_size >= 16
    assert recipe.items.dim % 2 == 0  # SASRec has two heads


@few
@given(st.text(min_size=1), st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1))
def test_any_name_is_kept(name: str, folder: str) -> None:
    recipe = drafted(facts(), name=name, folder=folder, columns=Columns(user=folder, item=2))
    assert recipe.data.folder == recipe.data.columns.user == folder
    assert Path(recipe.name).name == recipe.name


@pytest.mark.parametrize(
    "word", ["null", "true", "no", "17", "1e-3", "~", "- a", "a: b", "a #b", "\u2028", "\x7f", "é"]
)
def test_words_that_yaml_takes_for_something_else_stay_text(word: str) -> None:
    assert drafted(facts(), folder=word, files=(found(path=word),)).features[0].path == word


def test_a_name_that_yaml_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds bytes that are not UTF-8, which a recipe cannot name; rename it"):
        drafted(facts(), folder="caf\udce9")


def test_sizes_grow_with_the_data() -> None:
    tiny = drafted(facts(users=5, items=9, rows=15, windows=5))
    assert (tiny.items.dim, tiny.train.batch_size, tiny.train.epochs, tiny.train.patience) == (32, 16, 200, 20)
    assert (tiny.evaluate.at, tiny.train.monitor) == ((5, 10), "NDCG@10")
    large = drafted(facts(**HUGE))
    assert (large.items.dim, large.train.batch_size, large.train.epochs, large.train.patience) == (128, 1024, 20, 5)
    assert (large.evaluate.at, large.train.monitor, large.train.optimizer) == ((10, 20), "NDCG@10", "lazy")
    assert (tiny.model.settings.loss, large.model.settings.loss) == ("full", "in-batch")


@pytest.mark.parametrize(
    ("changes", "kind", "loss"),
    [
        ({}, "id+v", "full"),
        ({"rows": 2_000}, "v", "full"),  # four training interactions per item
        ({"cold_targets": 120, "unseen_items": 80}, "v", "in-batch"),  # a fifth of the targets
        ({"cold_targets": 119, "unseen_items": 80}, "id+v", "full"),
    ],
)
def test_content_takes_the_place_of_ids_where_these_know_little(changes: Any, kind: str, loss: str) -> None:
    recipe = drafted(facts(**changes), files=(found(),))
    assert (recipe.items.kind, recipe.model.settings.loss) == (kind, loss)


@pytest.mark.parametrize(
    ("lengths", "given_split", "expected"),
    [
        ([3] * 10, False, 2),
        ([3] * 9 + [90], False, 2),
        ([10] * 10, False, 9),
        ([10] * 10, True, 10),
        ([51] * 10, False, 50),
        ([52] * 10, False, 50),
        ([1] * 10, True, 2),
    ],
)
def test_histories_hold_what_nine_of_ten_users_have(lengths: list[int], given_split: bool, expected: int) -> None:
    assert settings.history_length(np.array(lengths), given_split=given_split).value == str(expected)
