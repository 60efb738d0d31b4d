"""Fixtures shared by all tests: one small rendered corpus with features, and real data where it lies beside us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from extract.encoders.registry import get_encoder
from extract.jobs.options import ExtractOptions
from features.store import FeatureFile
from pipelines.data.detection import read_dataset
from pipelines.data.synthetic import Corpus, CorpusSize, make_corpus
from pipelines.feature_files.extraction import dataset_catalog, extract_with_bar
from tests.support.processes import forked_workers
from tests.support.stores import write

__all__ = ["forked_workers"]  # a fixture

torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """64 clips, covers and titles, 120 users; read-only."""
    folder = tmp_path_factory.mktemp("session") / "corpus"
    return make_corpus(folder, seed=0, size=CorpusSize(items=64, users=120))


@pytest.fixture(scope="session")
def corpus_features(corpus: Corpus) -> dict[str, Path]:
    """Feature files of the corpus by encoder name; read-only."""
    options = ExtractOptions(out=corpus.folder.parent / "features", weights="random", max_failed=0.1)
    specs = [get_encoder(name) for name in ("resnet-tiny", "minilm-tiny")]
    reports = extract_with_bar(dataset_catalog(read_dataset(corpus.folder)), specs, options)
    return {report.encoder: report.path for report in reports}


@pytest.fixture(scope="session")
def scientific() -> Path:
    """Return the folder of IISAN's Amazon Scientific tables."""
    folder = SHARED / "data" / "amazon-scientific"
    if not folder.is_dir():
        pytest.skip(f"needs the Amazon Scientific tables in {folder.parent.name}/{folder.name} beside the checkout")
    return folder


@pytest.fixture
def five(tmp_path: Path) -> FeatureFile:
    """A feature file of items a to e; c is missing, d failed."""
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    return write(tmp_path / "five.h5", list("abcde"), vectors, [0, 0, 1, 2, 0])
