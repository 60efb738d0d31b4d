"""The generated corpus: the same every time, with everything in it that was planted."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract.media.catalog import build_catalog
from features.errors import ConfigError
from features.store import FeatureFile, State
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.synthetic import NAME, Corpus, CorpusSize, make_corpus, render_clip
from pipelines.demo import run_demo

SMALL = CorpusSize(items=32, users=100)


@pytest.fixture(scope="module")
def dataset(corpus: Corpus) -> Dataset:
    return read_dataset(corpus.folder)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_demo_stopped_while_it_renders_leaves_no_half_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(folder: Path, **_: object) -> None:
        (folder / f"{NAME}_videos").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.demo.make_corpus", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "demo", seeds=1, items=64, users=100)
    assert not list((tmp_path / "demo").iterdir())


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    first = make_corpus(tmp_path / "a", seed=3, size=SMALL)
    again = make_corpus(tmp_path / "b", seed=3, size=SMALL)
    other = make_corpus(tmp_path / "c", seed=4, size=SMALL)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert replace(again, folder=first.folder) == first
    assert digests(tmp_path / "c") != digests(tmp_path / "a")
    assert other.taste != first.taste


def test_it_is_a_microlens_folder(corpus: Corpus, dataset: Dataset) -> None:
    assert dataset.layout == "MicroLens folder: synthetic-demo_pairs.csv, titles synthetic-demo_titles.csv"
    assert dataset.interactions["user"].n_unique() == 120
    assert set(dataset.interactions["item"]) <= set(corpus.taste)
    assert set(dataset.titles) == set(corpus.taste)
    lengths = Counter(dataset.interactions["user"].to_list()).values()
    assert 5 <= min(lengths) <= max(lengths) <= 20


def test_nobody_has_an_item_twice(dataset: Dataset) -> None:
    assert not dataset.interactions.select("user", "item").is_duplicated().any()


def test_fresh_items_are_last_interactions_only(corpus: Corpus, dataset: Dataset) -> None:
    sequences = dataset.interactions.group_by("user").agg("item")["item"].to_list()
    last = [sequence[-1] for sequence in sequences]
    assert not {item for sequence in sequences for item in sequence[:-1]} & corpus.fresh
    assert len(corpus.fresh) == round(64 * 0.15)
    assert 0.1 < sum(item in corpus.fresh for item in last) / len(last) < 0.5


def test_popularity_is_skewed(dataset: Dataset) -> None:
    counts = sorted(Counter(dataset.interactions["item"].to_list()).values(), reverse=True)
    assert sum(counts[:12]) > 0.4 * sum(counts)  # 12 of 64 items


def test_users_follow_one_taste(corpus: Corpus, dataset: Dataset) -> None:
    sequences = dataset.interactions.group_by("user").agg("item")["item"].to_list()
    shares = [Counter(corpus.taste[item] for item in s).most_common(1)[0][1] / len(s) for s in sequences]
    assert np.mean(shares) > 0.6


def test_pixels_show_the_taste() -> None:
    rng = np.random.default_rng(0)
    hues = [[render_clip(taste, rng).mean(axis=(0, 1, 2)) for _ in range(3)] for taste in (0, 3, 5)]
    centres = [np.mean(group, axis=0) for group in hues]
    within = max(
        float(np.abs(one - centre).max()) for group, centre in zip(hues, centres, strict=True) for one in group
    )
    between = min(float(np.abs(centres[a] - centres[b]).max()) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert between > 2 * within


def test_broken_items_are_broken(corpus: Corpus, dataset: Dataset, corpus_features: dict[str, Path]) -> None:
    by_what = {what: item for item, what in corpus.broken.items()}
    items = {
        item.id: item
        for item in build_catalog(
            dataset.name, sorted(dataset.titles), videos=dataset.videos, covers=dataset.covers, titles=dataset.titles
        ).items
    }
    assert items[by_what["no video"]].video is None
    assert items[by_what["no cover"]].cover is None
    assert dataset.videos is not None
    assert (dataset.videos / f"{by_what['video of zero bytes']}.mp4").stat().st_size == 0
    assert (dataset.videos / f"{by_what['video cut off after 600 bytes']}.mp4").stat().st_size == 600
    assert (dataset.videos / f"{by_what['web page saved as mp4']}.mp4").read_bytes().startswith(b"<html>")
    states = {name: state_of(FeatureFile(path)) for name, path in corpus_features.items()}
    assert states["resnet-tiny"] == {by_what["cover is garbage"]: State.FAILED, by_what["no cover"]: State.MISSING}
    assert states["minilm-tiny"] == {by_what["blank title"]: State.MISSING}
    assert not corpus.fresh & corpus.broken.keys()


def state_of(file: FeatureFile) -> dict[str, int]:
    return {i: s for i, s in zip(file.columns.ids, file.columns.states.tolist(), strict=True) if s != State.DONE}


def test_a_corpus_too_small_for_its_users_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a corpus of 16 items is too small: a user has up to 20 .*at least 32"):
        make_corpus(tmp_path / "c", seed=0, size=CorpusSize(items=16, users=5))
    assert not (tmp_path / "c").exists()
