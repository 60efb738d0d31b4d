"""Activations read by memory map: the rows of the store, absent rows, and what is no activation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from features.errors import StoreError
from features.store import FeatureFile
from pipelines.data.load import load_data
from pipelines.runs.inputs import open_features
from pipelines.towers.activations import MappedActivations
from tests.support.small import ITEMS, item_ids, recipe, write_vectors
from tests.support.tower_runs import changes, data, write_activations

__all__ = ["data"]  # a fixture


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_mapped_rows_are_those_of_the_store(dtype: str, tmp_path: Path) -> None:
    file = FeatureFile(write_activations(tmp_path / "cut.h5", "bert-tiny", 1, dtype=dtype, order=-1))
    ids = item_ids()
    mapped, resident = MappedActivations(file, ids, resident_bytes=0), MappedActivations(file, ids)
    assert (mapped.resident, resident.resident) == (False, True)
    some = torch.tensor([0, 4, 5, 29])
    expected = torch.from_numpy(file.read([ids[item] for item in some]))
    assert mapped.read(some).dtype == {"float16": torch.float16}.get(dtype, torch.float32)
    assert torch.equal(mapped.read(some).float(), expected)
    assert torch.equal(resident.read(some), mapped.read(some))
    for source in (mapped, resident):
        assert torch.equal(source.read(some, 3), mapped.read(some)[:, :3])
    kept = mapped.read(some)
    mapped.read(torch.arange(4))
    assert torch.equal(kept.float(), expected), "what is read is not written to again"


@pytest.mark.parametrize("resident_bytes", [0, 2**31])
def test_absent_rows_are_refused_or_filled(resident_bytes: int, tmp_path: Path) -> None:
    file = FeatureFile(write_activations(tmp_path / "cut.h5", "resnet-tiny", 1, missing=3))
    ids = item_ids()

    def opened(absent: Any) -> Tensor:
        return MappedActivations(file, ids, absent=absent, resident_bytes=resident_bytes).read(torch.arange(ITEMS))

    with pytest.raises(StoreError, match=r"lacks 3 of 30 items, first '000' \(missing: gone\)"):
        opened("error")
    for absent in ("zero", "mean"):
        torch.testing.assert_close(opened(absent), torch.from_numpy(file.read(ids, absent=absent)))


def test_vectors_and_rows_that_are_not_finite_are_no_activations(tmp_path: Path) -> None:
    vectors = FeatureFile(write_vectors(tmp_path / "vectors.h5", "small", item_ids()))
    with pytest.raises(StoreError, match=r"vectors\.h5 holds vectors of shape \(30, 8\), no activations"):
        MappedActivations(vectors, item_ids())
    path = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    file = FeatureFile(path)
    raw = bytearray(path.read_bytes())
    place = raw.find(file.mapped()[4].tobytes())
    raw[place : place + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="not finite"):
        MappedActivations(FeatureFile(path), item_ids(), resident_bytes=0).read(torch.tensor([3, 4]))
    with pytest.raises(StoreError, match="not finite"):
        MappedActivations(FeatureFile(path), item_ids())
    with pytest.raises(StoreError, match="not finite"):  # the mean would carry it into the absent row
        MappedActivations(FeatureFile(path), [*item_ids(), "absent"], absent="mean", resident_bytes=0)


def test_open_features_knows_activations(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes("top", "bert-tiny", files=(file,)))
    (opened,) = open_features(made, load_data(made.data).split)
    assert len(opened.shape) == 3
