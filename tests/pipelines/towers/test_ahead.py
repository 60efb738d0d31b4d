"""Rows of the next batch are read while this one computes: the right ones, in time, with no effect on numbers."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from features.store import FeatureFile
from models.items import towers
from models.items.towers import LooksAhead
from pipelines.runs.experiment import run_recipe
from pipelines.towers import look_ahead as ahead
from pipelines.towers.activations import MappedActivations
from pipelines.towers.look_ahead import LookAhead
from pipelines.towers.media import StoredPixels
from tests.support.small import item_ids, recipe, small_dataset, write
from tests.support.tower_runs import TITLES, changes, losses, trained, write_activations


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = small_dataset(tmp_path / "small")
    titles = zip(item_ids(), TITLES, strict=True)
    write(folder / "items.csv", "item,title\n" + "".join(f"{item},{title}\n" for item, title in titles))
    return folder


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the system is asked to read, as bytes of the file."""
    asked: list[bytes] = []

    def posix_fadvise(descriptor: int, place: int, length: int, how: int) -> None:
        assert how == 3  # POSIX_FADV_WILLNEED
        asked.append(os.pread(descriptor, length, place))

    monkeypatch.setattr(os, "posix_fadvise", posix_fadvise, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    return asked


@pytest.mark.parametrize("block", [2**17, 100])
def test_the_bytes_that_are_asked_for_are_those_of_the_rows(
    block: int, advice: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "BLOCK", block)
    file = FeatureFile(write_activations(tmp_path / "cut.h5", "bert-tiny", 1, order=-1))
    mapped = file.mapped()
    LookAhead(file.path, mapped).expect(np.array([7, -1, 2, 9])).result(60)
    assert b"".join(advice) == mapped[[2, 7, 9]].tobytes()
    assert max(len(asked) for asked in advice) <= block


def test_rows_that_are_expected_no_more_are_dropped(advice: list[bytes], tmp_path: Path) -> None:
    file = FeatureFile(write_activations(tmp_path / "cut.h5", "bert-tiny", 1))
    mapped, started = file.mapped(), Event()
    reader = LookAhead(file.path, mapped)
    reader._thread.submit(started.wait, 60)
    reader.expect(np.array([1, 2, 3]))
    last = reader.expect(np.array([5]))
    started.set()
    last.result(60)
    assert b"".join(advice) == mapped[5].tobytes()


def test_a_file_that_is_gone_is_no_matter_here(tmp_path: Path) -> None:
    file = FeatureFile(write_activations(tmp_path / "cut.h5", "bert-tiny", 1))
    reader = LookAhead(file.path, file.mapped())
    file.path.unlink()
    reader.expect(np.array([1])).result(60)


def test_what_does_not_lie_in_memory_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(LookAhead, "expect", lambda self, rows: asked.append(rows.tolist()))
    file = FeatureFile(write_activations(tmp_path / "cut.h5", "bert-tiny", 1, order=-1))
    for resident_bytes in (0, 2**31):
        source = MappedActivations(file, item_ids(), resident_bytes=resident_bytes)
        assert isinstance(source, LooksAhead)
        source.expect(torch.tensor([0, 4]))
    assert asked == [[29, 25]]
    assert issubclass(StoredPixels, LooksAhead)


def test_a_run_that_reads_ahead_has_the_same_bits(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "WITHOUT_GRAPH", 8)
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes("top", "bert-tiny", 1, (file,)))
    run_recipe(made, tmp_path / "resident")
    events: list[tuple[str, list[int]]] = []

    class Mapped(MappedActivations):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, resident_bytes=0)

        def expect(self, items: Tensor) -> None:
            events.append(("expect", items.tolist()))
            super().expect(items)

        def read(self, items: Tensor, tokens: int | None = None) -> Tensor:
            events.append(("read", items.tolist()))
            return super().read(items, tokens)

    monkeypatch.setattr("pipelines.towers.open_towers.MappedActivations", Mapped)
    run_recipe(made, tmp_path / "ahead")
    assert losses(tmp_path / "ahead") == losses(tmp_path / "resident")
    first, second = trained(tmp_path / "resident"), trained(tmp_path / "ahead")
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert_told_in_time(events)


def assert_told_in_time(events: list[tuple[str, list[int]]]) -> None:
    """Check that each expected set of items is what is read after the read that follows."""
    expected = [number for number, (what, _) in enumerate(events) if what == "expect"]
    assert len(expected) > 20  # two of three steps an epoch, three of four pieces a validation
    for number in expected:
        reads = [items for what, items in events[number:] if what == "read"]
        assert reads[1] == events[number][1]
