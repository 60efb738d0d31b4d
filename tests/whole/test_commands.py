"""Verbs and their requests: every option is declared once, and help costs nothing."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from features.errors import ConfigError
from pipelines.commands import options
from pipelines.commands.options import argument, option, option_fields, read_request

ROOT = Path(run_pipeline.__file__).parent
HEAVY = ("torch", "numpy", "polars", "pydantic", "h5py", "rich", "faiss")


def requests() -> dict[str, type[Any]]:
    """Return the request of every verb and of every action, by the words that ask for it."""
    found: dict[str, type[Any]] = {}
    for verb in run_pipeline.VERBS:
        module = run_pipeline.module_of(verb)
        if hasattr(module, "ACTIONS"):
            found |= {f"{verb} {name}": action.request for name, action in module.ACTIONS.items()}
        else:
            found[verb] = module.REQUEST
    return found


def parser_for(words: str) -> argparse.ArgumentParser:
    parser = run_pipeline.parser_of(words.split())
    for word in words.split():
        (inner,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = inner.choices[word]
    return parser


@pytest.mark.parametrize("words", requests())
def test_a_verb_takes_what_its_request_declares_and_nothing_else(words: str) -> None:
    parser = parser_for(words)
    taken = [action for action in parser._actions if action.dest != "help"]
    fields = [*option_fields(requests()[words]), *option_fields(options.Shown)]
    assert [action.dest for action in taken] == [field.name for field in fields]
    assert len({action.dest for action in taken}) == len(taken)
    assert all(action.help and action.help[0].isupper() for action in taken)
    for action, field in zip(taken, fields, strict=True):
        assert bool(action.option_strings) != bool(field.metadata.get("positional"))


def test_only_one_place_adds_arguments() -> None:
    places = set()
    for path in [ROOT / "run_pipeline.py", *ROOT.glob("pipelines/**/*.py"), *ROOT.glob("extract/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "add_argument":
                places.add(path)
    assert places == {Path(options.__file__)}


def test_help_imports_no_library() -> None:
    """In one process, verb after verb: what one imports stays."""
    lines = [
        "import contextlib, io, sys, run_pipeline",
        f"for words in {list(requests())!r}:",
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):",
        "        run_pipeline.main([*words.split(), '--help'])",
        f"    assert not set({HEAVY!r}) & set(sys.modules), (words, set({HEAVY!r}) & set(sys.modules))",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, check=True)


@dataclasses.dataclass(frozen=True)
class Inner:
    share: float = option(0.5)
    """Share of them, in %."""
    kept: str = option("", hidden=True)
    """Not an option."""


@dataclasses.dataclass(frozen=True)
class Outer:
    """A request with everything."""

    place: Path = argument()
    """Where."""
    inner: Inner = option(options=Inner)
    """Nested."""
    words: tuple[str, ...] = option((), nargs="+")
    """Some words."""
    count: int | None = option(None, flag="--how-many")
    """How many."""
    loud: bool = option(False)
    """Say it."""
    level: int = option(1, parse=lambda text: {"low": 0, "high": 9}[text], command_default="high")
    """Level."""


def test_a_request_is_read_back_as_it_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(formatter_class=options.Help)
    options.add_options(parser, Outer)

    def read(*words: str) -> Outer:
        return read_request(Outer, vars(parser.parse_args(words)))

    assert read("a") == Outer(Path("a"), Inner(), level=9)
    given = read("a", "--share", "0.25", "--words", "x", "y", "--how-many", "3", "--loud", "--level", "low")
    assert given == Outer(Path("a"), Inner(0.25), ("x", "y"), 3, True, 0)
    with pytest.raises(SystemExit):
        read()
    with pytest.raises(SystemExit):
        read("a", "--kept", "z")
    with pytest.raises(SystemExit):
        read("a", "--how-many", "many")
    assert "argument --how-many: invalid int value: 'many'" in capsys.readouterr().err
    told = " ".join(parser.format_help().split())
    assert "--share X Share of them, in % (default: 0.5)" in told
    assert "--loud Say it" in told
    assert "(default: False)" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "0"], "--batch-size is '0', neither a number above 0 nor auto"),
        (["--dtype", "float8"], "float8"),
        (["--pixels", "--dtype", "int8"], "--pixels stores uint8; leave out --dtype int8"),
        (["--recipe", "microlens", "--faults", "squash"], "leave out --faults squash, or --recipe"),
        (["--ray-address", "auto"], "--ray-address auto is for --engine ray"),
        (["--frames", "many"], "many"),
    ],
)
def test_options_of_extract_that_cannot_be_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["extract", "--data", "d", "--encoders", "resnet-tiny", "--out", "o", *words]
    assert run_pipeline.main(given) == 2
    assert said in capsys.readouterr().err


def test_a_request_that_is_built_by_hand_is_checked_as_well() -> None:
    module = import_module("extract.jobs.options")
    assert module.ExtractOptions(Path("o"), top_blocks=1).disk_dtype == "float32"
    assert module.ExtractOptions(Path("o")).disk_dtype == "float16"
    assert module.ExtractOptions(Path("o"), device="auto").device in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device 'tpu9' is unknown"):
        module.ExtractOptions(Path("o"), device="tpu9")
