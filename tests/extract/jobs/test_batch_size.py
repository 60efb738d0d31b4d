"""`--batch-size auto`: what fits, found once per run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from extract.encoders.inputs import Batch
from extract.encoders.registry import ENCODERS
from extract.jobs import batch_size
from extract.jobs.batch_size import largest_batch, settled_batch_size
from extract.jobs.extractor import extract
from extract.jobs.options import AUTO, CPU_BATCH, ExtractOptions
from extract.jobs.outputs import activation_output, vector_output
from extract.media.catalog import Catalog
from features.errors import ConfigError
from features.store import FeatureFile
from run_pipeline import main
from tests.extract.jobs.test_extract_many import catalog as catalog  # a fixture
from tests.support.media import write_cover

SPEC = ENCODERS["resnet-tiny"]


@pytest.mark.parametrize(
    ("memory", "found"), [(1, 8), (8, 8), (16, 8), (40, 16), (200, 64), (255, 64), (256, 256), (9999, 256)]
)
def test_the_largest_power_of_two_that_fits_less_one_step(memory: int, found: int) -> None:
    tried = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= memory

    assert largest_batch(fits) == found
    assert tried == sorted(set(tried))


def on_gpu(out: Path) -> ExtractOptions:
    """Return options of a GPU, which this machine need not have."""
    options = ExtractOptions(out, weights="random", batch_size=AUTO)
    object.__setattr__(options, "device", "cuda:0")
    return options


def test_it_is_found_once_and_kept_for_restarts_and_other_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SPEC.backend(SPEC, "random", 0)
    monkeypatch.setattr(batch_size, "_try", lambda *given: given[-1] <= 64)
    assert settled_batch_size(encoder, on_gpu(tmp_path), tmp_path / "shards") == 32
    monkeypatch.setattr(batch_size, "_try", lambda *_: pytest.fail("tried again"))
    assert settled_batch_size(encoder, on_gpu(tmp_path), tmp_path / "shards") == 32
    (tmp_path / "shards" / "batch-size").write_bytes(b"")  # cut off by a crash
    assert settled_batch_size(encoder, on_gpu(tmp_path), tmp_path / "shards") == 8


@pytest.mark.parametrize("name", ["resnet-tiny", "slowfast-tiny", "minilm-tiny"])
def test_a_trial_is_a_batch_like_the_real_ones(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ENCODERS[name]
    encoder = spec.backend(spec, "random", 0)
    sizes = []

    def forward(batch: Batch) -> torch.Tensor:
        sizes.append(len(batch if isinstance(batch, torch.Tensor) else batch.ids))
        if sizes[-1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(batch)

    plain = encoder.forward
    monkeypatch.setattr(encoder, "forward", forward)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    options = replace(ExtractOptions(tmp_path, weights="random"), batch_size=AUTO)
    fits = [batch_size._try(encoder, vector_output(encoder), options, count) for count in (8, 16, 32)]
    assert fits == [True, True, False]
    # a prefix keeps no more tokens than the longest title of the catalog
    cut = activation_output(encoder, 1, 8)
    assert batch_size._try(encoder, cut, options, 8)
    assert sizes == [8, 16, 32]


def test_on_a_cpu_nothing_is_tried(catalog: Catalog, tmp_path: Path) -> None:
    reports = [
        extract(catalog, SPEC, ExtractOptions(tmp_path / str(size), weights="random", batch_size=size, max_failed=0.9))
        for size in (AUTO, CPU_BATCH)
    ]
    assert len({FeatureFile(report.path).vectors_sha256 for report in reports}) == 1


def test_the_command_line_takes_a_number_or_auto(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "covers").mkdir()
    write_cover(tmp_path / "covers" / "1.jpg")
    line = ["extract", "--data", str(tmp_path), "--encoders", "resnet-tiny", "--weights", "random"]
    assert main([*line, "--out", str(tmp_path / "out"), "--batch-size", "auto"]) == 0
    for bad in ("0", "-3", "all"):
        assert main([*line, "--out", str(tmp_path / "out"), "--batch-size", bad]) == 2
        assert f"--batch-size is {bad!r}, neither a number above 0 nor auto" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="batch_size is -1"):
        ExtractOptions(tmp_path, batch_size=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_a_gpu_it_extracts(catalog: Catalog, tmp_path: Path) -> None:
    options = ExtractOptions(tmp_path, weights="random", batch_size=AUTO, device="cuda", max_failed=0.9)
    assert extract(catalog, SPEC, options).counts["done"] > 0
