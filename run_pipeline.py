"""freezeframe's command line: it lists the verbs and calls the one that is asked for.

A verb is a module of `pipelines.commands`, which declares its options and does its one call. Start with
`python run_pipeline.py demo`, then `python run_pipeline.py VERB --help`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

# Only the standard library up here, and only the verb that is asked for: `--help` does not wait for torch.

VERBS = {
    "demo": "the whole job on a generated corpus: extract, train, compare, recommend, export",
    "data": "what a dataset folder holds: users, items, repeats, ties, and what titles and media join",
    "init": "a commented recipe for a dataset folder and its feature files",
    "extract": "raw videos, covers and titles into feature files, one per encoder",
    "features": "inspect, verify, merge, import and export feature files",
    "train": "train and test one recipe; goes on where it was stopped; under torchrun on several GPUs",
    "search": "try settings of a recipe, judged on the validation part",
    "evaluate": "test a finished run again",
    "compare": "recipes, groups of them or finished runs, in one table with the papers' numbers and tests",
    "recommend": "top items for a user, seen items hidden",
    "similar": "items with the most similar features (cosine)",
    "export": "datasets and features for other toolboxes",
    "encoders": "the encoders there are",
    "models": "the recommenders there are",
}
ID_OPTIONS = ("--user", "--item")  # take an id as the user has it
NO_IDS = (
    *ID_OPTIONS,
    "--top",
    "--data",
    "--columns",
    "--json",
    "--quiet",
    "--wide",
    "--help",
    "-h",
)  # what else may follow them
EXTRACT = {"torchvision", "transformers", "open_clip", "pytorchvideo", "decord", "lmdb", "av", "PIL", "simplejpeg"}
BASE = {"torch", "numpy", "h5py", "faiss", "sklearn", "scipy", "polars", "safetensors", "pydantic", "ruamel", "rich"}


class Asked(NamedTuple):
    """What a command line asks for."""

    request: type[Any]
    """The dataclass whose fields are the options."""
    run: Callable[[Any], None]
    """Takes the request and does it."""
    found: dict[str, Any]
    """The options by name, as the parser found them."""
    shares: bool
    """Whether several processes may do it together."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 2 with one line on standard error when the user can mend it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no 'é' gets its code, and no traceback
            stream.reconfigure(errors="backslashreplace")
    asked = _parse(sys.argv[1:] if argv is None else argv)
    from features.errors import FreezeframeError
    from pipelines.commands.options import read_request

    try:
        if not asked.shares and "TORCHELASTIC_RUN_ID" in os.environ:
            _refuse_torchrun()
        with _manner(asked.found):
            asked.run(read_request(asked.request, asked.found))
    except FreezeframeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRACT | BASE:
            raise
        sys.stderr.write(f"error: {library} is not installed{_where(library)}\n")
        return 2
    except OSError as error:
        if error.filename is None:  # not about a file: our bug, or a library's
            raise
        sys.stderr.write(f"error: cannot use {error.filename} ({error.strerror}); check the path and its permissions\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    return 0


def _where(library: str) -> str:
    """Return what to do about a library that is not installed."""
    if library in EXTRACT:
        return "; media need pip install -e '.[extract]'"
    return f" for {sys.executable}; after `make install` say `. .venv/bin/activate` first, else pip install -e ."


def _manner(found: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return what makes a verb show as much as it was asked to; nothing is imported where that is the usual."""
    if not (found["quiet"] or found["wide"]):
        return nullcontext()
    from pipelines.console import Manner, in_manner

    return in_manner(Manner(quiet=found["quiet"], wide=found["wide"]))


def _refuse_torchrun() -> None:
    """Stop a verb that several processes would each do whole, in the same folder."""
    from pipelines.runs.processes import refuse_verb, started_by_torchrun

    if started_by_torchrun():
        refuse_verb()


def _parse(words: Sequence[str]) -> Asked:
    """Read a command line; key=value may also stand after options, where argparse alone refuses them."""
    parser = parser_of(words)
    known, rest = parser.parse_known_args(_with_ids(words))
    found = vars(known)
    if rest and ("overrides" not in found or any(word.startswith("-") or "=" not in word for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        found["overrides"] = [*found["overrides"], *rest]
    return Asked(found.pop("asked_request"), found.pop("asked_run"), found, found.pop("asked_shares"))


def _with_ids(words: Sequence[str]) -> list[str]:
    """Return the words with '--user -17' as '--user=-17': argparse takes an id with a dash in front for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ID_OPTIONS and word.startswith("-") and word.partition("=")[0] not in NO_IDS:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def parser_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line: all verbs by name, and the options of the one that comes first."""
    what = "Micro-video recommendation, the whole way."
    # No abbreviations: a script that repeats the command line (--engine slurm) could not tell which option is meant.
    parser = argparse.ArgumentParser(prog="run_pipeline.py", description=what, allow_abbrev=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    asked = next((word for word in words if not word.startswith("-")), "")
    for name, told in VERBS.items():
        verb = verbs.add_parser(name, help=told, description=told, allow_abbrev=False)
        if name == asked:
            _fill(verb, name)
    return parser


def _fill(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a verb's parser the options that its module declares, or one parser for each of its actions."""
    from pipelines.commands.options import Help, Shown, add_options

    module = importlib.import_module(f"pipelines.commands.{name}")
    shares = getattr(module, "SHARES", False)
    if hasattr(module, "ACTIONS"):
        actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
        for action, declared in module.ACTIONS.items():
            told = declared.what
            one = actions.add_parser(action, help=told, description=told, formatter_class=Help, allow_abbrev=False)
            add_options(one, declared.request)
            add_options(one, Shown)
            one.set_defaults(asked_request=declared.request, asked_run=declared.run, asked_shares=shares)
        return
    parser.formatter_class = Help
    add_options(parser, module.REQUEST)
    add_options(parser, Shown)
    parser.set_defaults(asked_request=module.REQUEST, asked_run=module.run, asked_shares=shares)


if __name__ == "__main__":
    sys.exit(main())
