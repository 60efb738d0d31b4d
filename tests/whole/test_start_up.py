"""What a verb imports before it works: no torch where none is needed, and never torch's compiler."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import freezeframe
from models import described, recommenders
from models.listing.declared import NotPlainError, declared, declared_by
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.training.optimizers import AdamW, LazyAdamW
from tests.support.shared import made_once
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors

ROOT = Path(__file__).resolve().parents[2]
RUN = """import sys, run_pipeline
code = run_pipeline.main(sys.argv[1:])
sys.stderr.write(' '.join(sys.modules))
sys.exit(code)"""


def loaded(*words: object) -> set[str]:
    """Return the modules that a command has imported by its end."""
    command = [sys.executable, "-c", RUN, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one dataset in `data/`, its features in `f.h5` and a recipe in `r.yaml`."""

    def make(folder: Path) -> None:
        small_dataset(folder / "data")
        write_vectors(folder / "f.h5", "data", item_ids())
        write(folder / "r.yaml", dump_yaml(plain_recipe(folder / "data")))

    return made_once(tmp_path_factory, "start-up", make)


NO_TORCH = (
    "encoders",
    "models",
    "compare",
    "data {}/data",
    "init {}/data --force --out {}/drafted.yaml",
    "features inspect {}/f.h5",
    "features verify {}/f.h5",
)


@pytest.mark.parametrize("command", NO_TORCH)
def test_verbs_that_need_no_torch_do_not_import_it(command: str, folder: Path) -> None:
    found = loaded(*(word.format(folder) for word in command.split()))
    assert not {"torch", "scipy", "sklearn", "transformers", "torchvision", "matplotlib"} & found


@pytest.mark.parametrize("command", ["compare", "data {}/data"])
def test_verbs_that_check_no_recipe_do_not_import_what_checks_one(command: str, folder: Path) -> None:
    found = loaded(*(word.format(folder) for word in command.split()))
    assert "rich" in found
    assert "pydantic" not in found


def test_training_imports_neither_the_compiler_nor_what_only_media_need(folder: Path, tmp_path: Path) -> None:
    found = loaded("train", folder / "r.yaml", "train.epochs=1", "--device", "cpu", "--out", tmp_path / "run")
    assert "torch" in found
    assert not {"torch._dynamo", "sympy", "torchvision", "transformers", "sklearn", "matplotlib", "av"} & found


def test_recommenders_are_described_as_they_are() -> None:
    assert {name: declared_by(model) for name, model in recommenders().items()} == described()


@pytest.mark.parametrize("name", recommenders())
def test_what_a_recommender_declares_is_plain(name: str) -> None:
    """Else `models` has to import it, and torch with it: write its facts as literals, or names of literals."""
    assert declared(f"models.{name}") == declared_by(recommenders()[name])


def test_facts_that_are_no_literals_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import models

    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    write(
        tmp_path / "odd.py",
        "class Config: ...\nclass Odd:\n    paper = 'a' + 'b'\n    config_class = Config\nMODEL = Odd\n",
    )
    write(tmp_path / "helper.py", "WIDTH = 3\n")
    assert declared("models.helper") is None
    with pytest.raises(NotPlainError):
        declared("models.odd")


@pytest.mark.parametrize("kind", [AdamW, LazyAdamW])
def test_the_optimisers_still_are_torchs(kind: type[AdamW] | type[LazyAdamW]) -> None:
    """The methods taken from below torch's wrappers do what torch's own do."""
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)) for _ in range(2)]
    ours, plain = kind([{"params": [weights[0]]}], lr=0.1, weight_decay=0.01), torch.optim.AdamW([weights[1]], lr=0.1)
    for step in range(3):
        for weight, optimizer in zip(weights, (ours, plain), strict=True):
            optimizer.zero_grad()
            assert weight.grad is None
            (weight**2).sum().mul(step + 1).backward()
            optimizer.step()
            assert weight.requires_grad
            optimizer.load_state_dict(optimizer.state_dict())
    assert torch.allclose(*weights, atol=1e-6)


ENDING = """import atexit, gc, sys, threading
import freezeframe
atexit.register(print, 'registered')
def main():
    with freezeframe.imports():
        print('collects' if gc.isenabled() else 'imports')
    print('collects' if gc.isenabled() else 'imports', gc.get_freeze_count() > 0)
    if 'thread' in sys.argv:
        threading.Timer(0.2, print, ['thread']).start()
    return 3
freezeframe.run_alone(main)"""


def ended(*words: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", ENDING, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    return done.stdout.splitlines()


def test_a_command_ends_with_its_code_its_output_and_what_was_registered_for_the_end() -> None:
    assert ended() == ["imports", "collects True", "registered"]


def test_a_command_waits_for_its_threads() -> None:
    assert ended("thread") == ["imports", "collects True", "thread", "registered"]


def test_a_notebook_keeps_collecting_garbage_while_it_imports() -> None:
    before = gc.get_freeze_count()
    with freezeframe.imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
