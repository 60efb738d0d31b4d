"""Everything that computes on a GPU: no tensor is left behind on the CPU, and numbers are the CPU's.

On machines without one a pretended GPU shows the former (support/pretend_gpu.py), and computes the CPU's very numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extract.encoders.inputs import Batch, Tokens
from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.media.catalog import Catalog
from features.errors import ConfigError
from features.store import FeatureFile
from models.shared.host_copy import map_tensors
from pipelines.ranking.full_ranking import _many_ranks
from pipelines.retrieval.retrieve import recommend
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import open_run
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig
from tests.support import tower_runs
from tests.support.checkerboard import CASES, batch_for, build, checkerboard
from tests.support.encoding import TINY, batch, encode
from tests.support.encoding import build as build_encoder
from tests.support.pretend_gpu import pretend_gpu
from tests.support.small import item_ids, recipe, write_layers, write_vectors
from tests.support.tower_runs import changes, data, write_activations
from tests.support.toy_media import catalog, media, options

__all__ = ["catalog", "data", "media"]  # fixtures

SPLIT = checkerboard()
# every model, and every representation in one of them
SOME = [(name, items) for name, items in CASES if name == "sasrec" or items in ("none", "id", "id+v")]


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "pretended":
        with pretend_gpu() as name:
            yield name
        return
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    yield "cuda"


def alike(here: Any, there: Any, device: str) -> None:
    """Compare numbers of the CPU with those of a device: more closely where it is pretended."""
    near = 1e-3 if device == "cuda" else 1e-5
    np.testing.assert_allclose(np.asarray(there), np.asarray(here), rtol=near, atol=near)


def losses(name: str, items: str, device: str, run: Path) -> list[float]:
    config = TrainConfig(epochs=2, batch_size=64, lr=1e-2, eval_every=2)
    fitted = fit(build(name, items), SPLIT, config, seed=0, run=run, mask="hide", device=device)
    return [epoch.loss for epoch in fitted.history]


def test_a_pretended_gpu_takes_no_tensor_of_the_cpu() -> None:
    with pretend_gpu() as name:
        there, here = torch.arange(3, device=name), torch.arange(3)
        assert there[here].tolist() == (there + 0).tolist() == [0, 1, 2]  # indices may be of the CPU
        assert (there + torch.tensor(1)).tolist() == [1, 2, 3]
        for mixed in (lambda: there + here, lambda: here[there], lambda: torch.cat([there, here])):
            with pytest.raises(RuntimeError, match="on the CPU"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


def test_a_pretended_gpu_lacks_what_apples_lacks() -> None:
    bags = torch.tensor([0, 2]), torch.ones(3, 2), torch.tensor([0, 1, 2])
    with pretend_gpu() as name:
        there = torch.ones(3, device=name)
        for made in (there.double, lambda: torch.zeros(2, dtype=torch.float64, device=name)):
            with pytest.raises(TypeError, match="float64"):
                made()
        with pytest.raises(NotImplementedError, match="embedding_bag"):
            torch.nn.functional.embedding_bag(*(tensor.to(name) for tensor in bags), include_last_offset=True)
        with pytest.raises(NotImplementedError, match="layout"):
            there.to_sparse()


@pytest.mark.parametrize("how", ["uniform", "popularity"])
def test_negatives_and_their_chances_are_the_same_on_every_device(how: str, device: str) -> None:
    batch = batch_for(build("sasrec", "id"), SPLIT)

    def planned(place: str) -> list[Any]:
        model = build("sasrec", "id", loss="sampled", negatives=9, sampling=how).to(place)
        torch.manual_seed(0)
        needed = model.planned(map_tensors(batch, lambda tensor: tensor.to(place))).needed
        return [tensor.tolist() for tensor in (needed.items, needed.negatives, needed.chance)]

    assert planned(device) == planned("cpu")


def test_ranks_of_several_targets_are_the_same_where_float64_is_not() -> None:
    scores = torch.tensor([[1.0, 3, 2, 2, 0], [5, 5, 5, 1, 2]])
    rows, items = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([4, 2, 1, 3, 0])
    hidden = torch.tensor([True, False, False, False, False])

    def ranked(device: str) -> list[Any]:
        there = scores.clone().to(device)
        found = _many_ranks(there, scores[rows, items].to(device), (rows.to(device), items), hidden.to(device))
        return [one.tolist() for one in found]

    with pretend_gpu() as name:
        assert ranked(name) == ranked("cpu") == [[1, 2, np.inf, 1, 5], [1, 2, 1, 3, 1]]


def test_a_device_without_sparse_tensors_takes_no_lazy_optimiser(device: str, tmp_path: Path) -> None:
    if device == "cuda":
        pytest.skip("CUDA has them")
    config = TrainConfig(epochs=1, optimizer="lazy")
    with pytest.raises(ConfigError, match=r"'lazy' needs sparse gradients, which device 'lazy:0' lacks; use 'adamw'"):
        fit(build("sasrec", "id"), SPLIT, config, seed=0, run=tmp_path, mask="hide", device=device)


@pytest.mark.parametrize(("name", "items"), SOME, ids=[f"{name}-{items}" for name, items in SOME])
def test_recommenders_train_and_rank(name: str, items: str, device: str, tmp_path: Path) -> None:
    here, there = losses(name, items, "cpu", tmp_path / "here"), losses(name, items, device, tmp_path / "there")
    assert np.isfinite(there).all()
    if device != "cuda":  # where dropout and negatives are drawn otherwise
        alike(here, there, device)


RUNS: list[tuple[str, str, dict[str, Any]]] = [
    *((kind, "bert-tiny", {}) for kind in ("id", "id+v", "adapter")),
    *((kind, name, {}) for kind in ("top", "e2e") for name in ("bert-tiny", "videomae-tiny", "resnet-tiny")),
    ("e2e", "resnet-tiny", {"bn_mode": "batch"}),
    ("e2e", "swin-tiny", {"micro_batch": 12, "checkpointing": True}),
    ("top", "clip-tiny-text", {"micro_batch": 12}),
]


@pytest.mark.parametrize(("kind", "name", "more"), RUNS, ids=["-".join(map(str, (k, n, *m))) for k, n, m in RUNS])
def test_runs_end_and_open_again(
    kind: str, name: str, more: dict[str, Any], device: str, data: Path, tmp_path: Path
) -> None:
    files = [
        write_vectors(tmp_path / "v.h5", "small", item_ids()),
        write_layers(tmp_path / "l.h5", "small", item_ids()),
    ]
    if kind == "top":
        files.append(write_activations(tmp_path / "cut.h5", name, 2))
    made = changes(kind, name, 1, tuple(files), **more) | {"train": {"epochs": 2, "batch_size": 64, "eval_every": 2}}
    for place in ("cpu", device):
        run_recipe(recipe(data, made), tmp_path / place, device=place, media=tower_runs.media)
    if device != "cuda":
        alike(tower_runs.losses(tmp_path / "cpu"), tower_runs.losses(tmp_path / device), device)
    run = open_run(tmp_path / device, device=device, media=tower_runs.media)
    assert len(recommend(run, "u01", 5)) == 5


def on(batch: Batch, device: str) -> Batch:
    return Tokens(*(part.to(device) for part in batch)) if isinstance(batch, Tokens) else batch.to(device)


@pytest.mark.parametrize("name", TINY)
def test_encoders_encode(name: str, device: str) -> None:
    encoder = build_encoder(name)
    inputs = batch(encoder, 3)
    alike(encode(encoder, inputs), encode(encoder.to(device), on(inputs, device)).cpu(), device)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {"top_blocks": 1}) for name in ("videomae-tiny", "slowfast-tiny", "resnet-tiny", "bert-tiny")),
        *((name, {"layers": "all"}) for name in ("videomae-tiny", "clip-tiny-text")),
        *((name, {}) for name in ("slowfast-tiny", "clip-tiny-image", "minilm-tiny")),
    ],
)
def test_files_are_extracted(name: str, more: dict[str, Any], device: str, catalog: Catalog, tmp_path: Path) -> None:
    found = []
    for place in ("cpu", device):
        report = extract(catalog, ENCODERS[name], options(tmp_path / place, device=place, dtype="float32", **more))
        found.append(FeatureFile(report.path).read(["6", "0", "3"]))
    first, second = found
    alike(first, second, device)
