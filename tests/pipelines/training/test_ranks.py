"""Several processes train one model as one process does on the whole batch; two, over gloo, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from features.errors import ConfigError
from models.items.towers import Tower, share_out, towers_of
from models.shared.process_group import ALONE, Ranks, own_randomness
from pipelines.recipe.recipe import build_recipe
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.experiment import run_recipe
from pipelines.runs.processes import _device, refuse_recipe, share_model
from tests.support.processes import Started
from tests.support.ranks_worker import CASES, ROWS, command, gathered, torchrun, toy, train, work
from tests.support.shared import made_once
from tests.support.small import item_ids, plain_recipe, recipe, small_dataset, write
from tests.support.tower_runs import TITLES, changes, losses, trained, write_activations
from tests.support.toy_towers import FRAMES, ITEMS, WIDTH, Counted, e2e, frames, model

ROOT = Path(__file__).parents[3]
NEAR = 1e-5
NAME = "clip-tiny-text"  # no dropout inside
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")


def two(told: Path, what: Callable[..., None], *arguments: object) -> tuple[int | None, str]:
    """Let two processes do the same; return the exit status of torchrun's agent and what all printed."""
    return Started(torchrun, what, *arguments, told=told).end(300)


def errors(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""

    def make(folder: Path) -> None:
        status, told = two(folder / "told", work, "exact", folder)
        assert status == 0, told

    folder = made_once(tmp_path_factory, "ranks", make)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def seen_by_softmax(name: str, weight: Tensor) -> Tensor:
    """Return a tensor without biases of attention's keys: Adam makes steps of what their gradients round."""
    return weight.view(3, -1)[[0, 2]] if name.endswith(("qkv.bias", "in_proj_bias")) else weight


def assert_near(one: dict[str, Tensor], two: dict[str, Tensor], least: float = 1e-3) -> None:
    """Compare tensors by name, within NEAR of the largest entry of each, or of `least`."""
    assert one.keys() == two.keys()
    for name, weight in one.items():
        first, second = seen_by_softmax(name, weight), seen_by_softmax(name, two[name])
        size = max(float(weight.abs().max()), least)
        torch.testing.assert_close(second, first, rtol=NEAR, atol=NEAR * size, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(case: str, found: list[dict[str, Any]]) -> None:
    alone, (first, second) = train(toy(case), ALONE), (part[case] for part in found)
    assert first["losses"] == pytest.approx(alone["losses"], rel=NEAR)
    assert first["valid"] == alone["valid"]
    assert_near(alone["weights"], first["weights"])
    largest = max(float(gradient.abs().max()) for gradient in alone["gradients"].values())
    assert_near(alone["gradients"], first["gradients"], largest / 100)
    torch.testing.assert_close(first["table"], alone["table"], rtol=NEAR, atol=1e-6)
    assert first["losses"] == second["losses"]
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


@pytest.mark.slow
def test_a_resumed_run_of_two_is_an_unbroken_one(found: list[dict[str, Any]]) -> None:
    for part in found:
        assert part["resumed"]["losses"] == part["e2e"]["losses"]
        assert all(torch.equal(w, part["e2e"]["weights"][name]) for name, w in part["resumed"]["weights"].items())


@pytest.mark.slow
def test_dropout_inside_the_encoder_leaves_the_processes_alike(found: list[dict[str, Any]]) -> None:
    first, second = (part["dropout"] for part in found)
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
    assert first["losses"] == second["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_each_process_gets_the_gradient_of_its_rows(name: str, found: list[dict[str, Any]]) -> None:
    loss, gradient = gathered(*ROWS[name], ALONE)
    parts = [part["gathered"][name] for part in found]
    torch.testing.assert_close(torch.cat([own for _, own in parts]), gradient)
    for there, _ in parts:
        torch.testing.assert_close(there, loss)


@pytest.mark.slow
def test_gradients_are_summed_or_those_of_the_first(found: list[dict[str, Any]]) -> None:
    for part in found:
        assert [None if g is None else g.unique().tolist() for g in part["joined"]] == [[3], [1], [3], [1], None, [1]]


def test_streams_differ_and_leave_no_trace() -> None:
    device = torch.device("cpu")
    torch.manual_seed(0)
    expected = torch.rand(3)
    drawn = []
    for stream, batch in ((0, 7), (1, 7), (0, 8)):
        torch.manual_seed(0)
        with own_randomness(device, stream, batch):
            drawn.append(torch.rand(3))
        assert torch.equal(torch.rand(3), expected)
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3


class Second(Ranks):
    """The second of two processes, the first of which is not there."""

    def share(self, rows: Tensor) -> Tensor:
        return rows

    def gather(self, own: Tensor, count: int) -> Tensor:
        assert len(own) == count
        return own


def test_dropout_inside_the_encoder_differs_from_step_to_step() -> None:
    """Nothing else draws: a recommender without dropout, or one on a GPU, leaves the CPU's generator alone."""
    alike = torch.ones(ITEMS, FRAMES, WIDTH)
    made = model(e2e(2, alike), kind="e2e", top_blocks=2)
    share_out(made, Second(1, 2))
    items = towers_of(made)[0].train()
    torch.manual_seed(0)
    one, two, again = (items(torch.tensor(batch)).detach() for batch in ([0, 1], [2, 3], [0, 1]))
    assert torch.equal(one, again)
    assert not torch.allclose(one, two)


def test_what_would_not_be_exact_or_faster_is_refused(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    pair = Ranks(0, 2)
    of_ids, towers = recipe(data), recipe(data, changes("e2e", "bert-tiny"))
    refuse_recipe(of_ids, ALONE)
    refuse_recipe(towers, pair)
    with pytest.raises(ConfigError, match=r"'small' trains no encoder \(items.kind is 'id'\), .*among 2 processes"):
        refuse_recipe(of_ids, pair)
    lazy = replace(towers, train=replace(towers.train, optimizer="lazy"))
    with pytest.raises(ConfigError, match="'lazy' works in one process only; use 'adamw'"):
        refuse_recipe(lazy, pair)
    layers = nn.Sequential(nn.Flatten(1), nn.BatchNorm1d(48), nn.Linear(48, 12))
    with_norm = model(Tower(Counted(frames()), layers, (layers,)), kind="e2e")
    with pytest.raises(ConfigError, match="'small': BatchNorm in the trained part of 'toy' would see 1/2 of a batch"):
        share_model(with_norm, towers, pair)
    share_out(with_norm, ALONE)
    with pytest.raises(ConfigError, match="--device is 'cuda:1'; with several processes each takes a GPU of its own"):
        _device("cuda:1", 0, 2)
    if not torch.cuda.is_available():
        assert _device("auto", 0, 2) == "cpu"
        with pytest.raises(ConfigError, match="2 processes on this machine and 0 GPUs; use --nproc-per-node=1"):
            _device("cuda", 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "message"),
    [("fails", "error: the second process cannot go on"), ("both_fail", "error: no process can go on")],
)
def test_one_line_says_why_all_ended(task: str, message: str, tmp_path: Path) -> None:
    status, told = two(tmp_path / "told", work, task, tmp_path)
    assert status == 1, told
    assert errors(told) == [message]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    status, told = two(tmp_path / "told", work, "dies", tmp_path)
    assert status == 1, told
    assert len(errors(told)) <= 1  # none where torchrun ends the other before it notices


def from_the_shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start two processes with the command `torchrun`; a hang ends the test."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, "--nproc-per-node=2", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["top", "e2e"])
def test_torchrun_trains_a_recipe(kind: str, tmp_path: Path) -> None:
    data = titled(tmp_path)
    files = (write_activations(tmp_path / "cut.h5", NAME, 1),) if kind == "top" else ()
    plain = plain_recipe(data, changes(kind, NAME, 1, files, encoder_lr=1e-4))
    plain["train"]["epochs"] = 3
    path = write(tmp_path / "recipe.yaml", dump_yaml(plain))
    alone, shared = tmp_path / "one", tmp_path / "two"
    words = ["train", str(path), "--out", str(shared), "--device", "cpu"]
    if kind == "top":
        done = from_the_shell("run_pipeline.py", *words, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == json.loads((shared / "metrics.json").read_text())
    else:
        status, told = two(tmp_path / "told", command, words)
        assert status == 0, told
    metrics = run_recipe(build_recipe(plain), alone, device="cpu")
    assert json.loads((shared / "metrics.json").read_text())["test"]["all"] == pytest.approx(metrics["test"]["all"])
    assert losses(shared) == pytest.approx(losses(alone), rel=NEAR)
    assert_near(trained(alone), trained(shared))
    records = [json.loads((folder / "record.json").read_text()) for folder in (alone, shared)]
    assert [record["processes"] for record in records] == [1, 2]
    assert {path.name for path in alone.iterdir()} == {path.name for path in shared.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("train", "unknown key 'train.epoch'"),
        ("evaluate", "torchrun starts several processes, but only `train` shares its work among them"),
    ],
)
def test_torchrun_says_once_what_is_wrong(verb: str, message: str, tmp_path: Path) -> None:
    plain = plain_recipe(titled(tmp_path), changes("e2e", NAME))
    recipe_file = write(tmp_path / "recipe.yaml", dump_yaml(plain | {"train": {"epoch": 3}}))
    status, told = two(tmp_path / "told", command, [verb, str(recipe_file), "--device", "cpu"])
    assert status == 1, told
    (line,) = errors(told)
    assert message in line


def titled(tmp_path: Path) -> Path:
    data = small_dataset(tmp_path / "small")
    titles = zip(item_ids(), TITLES, strict=True)
    write(data / "items.csv", "item,title\n" + "".join(f"{item},{title}\n" for item, title in titles))
    return data
