"""A top trained over stored activations is the same blocks trained end to end, for every family and every cut.

The files are those that `extract` writes, in batches of two; training's are of up to a dozen, or of all that there are
of the widest encoders. On the machine where these tests were written losses and all trained tensors are equal bit for
bit. Other processors may round otherwise: hence the tolerance.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.difference import Difference, Trained, difference
from benchmarks.exactness import Corpus
from extract.encoders.registry import ENCODERS
from tests.support.encoding import BLOCKS

STEPS, ITEMS = 50, 12
LONG = ["videomae-tiny", "bert-tiny"]  # trained for STEPS: pixels and titles; the others for fewer
QUICK = [*LONG, "minilm-tiny", "clip-tiny-image", "clip-tiny-text"]
SLOW = ["resnet-tiny", "swin-tiny", "slowfast-tiny", "mvit-tiny", "swin3d-tiny", "r3d-tiny"]
SLOW += ["vit-tiny", "vit-mae-tiny", "beit-tiny", "clip-rn-tiny-image"]
FEWER = {name: 12 for name in (*QUICK, *SLOW) if name not in LONG} | {"r3d-tiny": 3}
WIDE = {"resnet-tiny": 4, "r3d-tiny": 3, "slowfast-tiny": 6}  # items of the widest, to save time
pytestmark = pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")  # pytorchvideo


class Bench:
    """The corpora and runs of this module, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._corpora: dict[str, Corpus] = {}
        self._whole: dict[tuple[str, int], Trained] = {}

    def compare(self, name: str, count: int, cached: int, dtype: str = "float32") -> Difference:
        if name not in self._corpora:
            self._corpora[name] = Corpus(self._folder / name, ENCODERS[name], WIDE.get(name, ITEMS))
        corpus = self._corpora[name]
        if (name, count) not in self._whole:
            self._whole[name, count] = corpus.train("e2e", count, None, FEWER.get(name, STEPS))
        top = corpus.train("top", count, corpus.cut(cached, dtype), FEWER.get(name, STEPS))
        return difference(top, self._whole[name, count])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("exact"))


def cuts(name: str) -> list[tuple[str, int, int]]:
    """Return (name, T, the T that was cached): 1, 2 and all that a file allows, each from its own and the deepest."""
    most = BLOCKS[name]
    return [(name, count, cached) for count in sorted({1, 2, most}) for cached in sorted({count, most})]


CASES = [cut for name in QUICK for cut in cuts(name)]
CASES_SLOW = [pytest.param(*cut, marks=pytest.mark.slow) for name in SLOW for cut in cuts(name)]


@pytest.mark.parametrize(("name", "count", "cached"), [*CASES, *CASES_SLOW])
def test_top_is_end_to_end(name: str, count: int, cached: int, bench: Bench) -> None:
    found = bench.compare(name, count, cached)
    assert found.losses <= 1e-5
    assert found.weights <= 1e-5, found.worst


def test_the_comparison_sees_other_activations(bench: Bench, tmp_path: Path) -> None:
    bench.compare("bert-tiny", 1, 1)
    other = Corpus(tmp_path / "other", ENCODERS["bert-tiny"], ITEMS, seed=1)
    found = difference(other.train("top", 1, other.cut(1), STEPS), bench._whole["bert-tiny", 1])
    assert found.vectors > 1e-2
    assert found.losses > 1e-3
    assert found.weights > 1e-3
    assert not found.bits


# What benchmarks/exactness.py measures (benchmarks/results/exactness-2-cores.md), times about four.
ROUNDED = [
    ("videomae-tiny", "float16", 2e-4, 1e-5),
    ("videomae-tiny", "int8", 8e-3, 4e-3),
    ("bert-tiny", "float16", 1e-3, 2e-3),
    ("bert-tiny", "int8", 4e-2, 2e-2),
    pytest.param("resnet-tiny", "float16", 6e-4, 1.2e-1, marks=pytest.mark.slow),
    pytest.param("resnet-tiny", "int8", 3e-2, 4e-1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "dtype", "vectors", "losses"), ROUNDED)
def test_what_rounded_files_cost(name: str, dtype: str, vectors: float, losses: float, bench: Bench) -> None:
    found = bench.compare(name, 1, 1, dtype)
    assert 0 < found.vectors <= vectors
    assert 0 < found.losses <= losses
