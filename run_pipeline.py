"""freezeframe's command line: it lists the verbs and calls the one that is asked for.

A verb is a module of `pipelines.commands`, which declares its options and does its one call. Start with
`python run_pipeline.py demo`, then `python run_pipeline.py VERB --help`. Where freezeframe is installed, the command
`freezeframe` does the same (freezeframe.py).
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import freezeframe  # first of our modules: it makes sure that the others are ours
from features.installation import called_as, install_extra, versions

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
    "report": "finished runs as one page to look at: tables, curves, people with what they are offered, features",
    "recommend": "top items for a user, seen items hidden",
    "similar": "items with the most similar features (cosine)",
    "export": "datasets and features for other toolboxes",
    "encoders": "the encoders there are",
    "models": "the recommenders there are",
    "completion": "completion of verbs and options with the tab key, for bash, zsh or fish",
    "schema": "what a recipe may hold, as a JSON schema for editors",
}
ROOMS = {  # verbs that lie in a room of their own
    "results": ("evaluate", "compare", "report"),
    "tools": ("completion", "schema"),  # for a shell or an editor
}
ID_OPTIONS = ("--user", "--item", "--history")  # take ids as the user has them
NO_IDS = (
    *ID_OPTIONS,
    "--users",
    "--histories",
    "--out",
    "--only",
    "--not",
    "--seen",
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
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may stand here, and runs nothing
        _complete()
    asked = _parse(sys.argv[1:] if argv is None else argv)
    from features.errors import FreezeframeError

    try:
        _do(asked)
    except (FreezeframeError, ModuleNotFoundError, OSError) as error:
        told = str(error) if isinstance(error, FreezeframeError) else _in_one_line(error)
        if not told:
            raise
        sys.stderr.write(f"error: {told}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    return 0


def _do(asked: Asked) -> None:
    from pipelines.commands.options import read_request

    if not asked.shares and "TORCHELASTIC_RUN_ID" in os.environ:
        _refuse_torchrun()
    request = read_request(asked.request, asked.found)
    with _manner(asked.found):
        asked.run(request)


def _in_one_line(error: ModuleNotFoundError | OSError) -> str:
    """Return what a user can mend; '' for a bug of ours or of a library."""
    if isinstance(error, OSError):
        about = f"cannot use {error.filename} ({error.strerror}); check the path and its permissions"
        return about if error.filename is not None else ""
    library = (error.name or "").partition(".")[0]
    return f"{library} is not installed{_where(library)}" if library in EXTRACT | BASE else ""


def _where(library: str) -> str:
    """Return what to do about a library that is not installed."""
    if library in EXTRACT:
        return f"; media need {install_extra('extract')}"
    return f" for {sys.executable}; after `make install` say `. .venv/bin/activate` first, else pip install -e ."


def _manner(found: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return what makes a verb show as much as it was asked to; nothing is imported where that is the usual."""
    quiet, wide, json = found["quiet"], found["wide"], bool(found.get("json"))
    if not (quiet or wide or json):
        return nullcontext()
    from pipelines.console import Manner, in_manner

    return in_manner(Manner(quiet, wide, json))


def _complete() -> None:
    """Answer a shell that asks what may stand at the cursor, and end the process; argcomplete knows the shells."""
    try:
        import argcomplete
    except ImportError:
        sys.exit(1)
    line = os.environ.get("COMP_LINE", "")
    typed = line.encode()[: int(os.environ.get("COMP_POINT", len(line)))].decode(errors="ignore")
    argcomplete.autocomplete(parser_of(typed.split()[1:]))


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
    from pipelines.commands.options import add_version

    what = "Micro-video recommendation, the whole way."
    asked = next((word for word in words if not word.startswith("-")), "")
    # No abbreviations: a script that repeats the command line (--engine slurm) could not tell which option is meant.
    parser = argparse.ArgumentParser(prog=_name(), description=what, allow_abbrev=False)
    add_version(parser, versions)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, told in VERBS.items():
        verb = verbs.add_parser(name, help=told, description=told, allow_abbrev=False)
        if name == asked:
            _fill(verb, name)
    return parser


def _name() -> str:
    """Return how we were called, without the folder of run_pipeline.py."""
    called = called_as()
    return "run_pipeline.py" if called.startswith("python ") and not called.endswith(" freezeframe") else called


def module_of(verb: str) -> ModuleType:
    """Return the module that declares a verb."""
    room = next((f"{room}." for room, verbs in ROOMS.items() if verb in verbs), "")
    return importlib.import_module(f"pipelines.commands.{room}{verb}")


def _fill(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a verb's parser the options that its module declares, or one parser for each of its actions."""
    from pipelines.commands.options import Help, Shown, add_options

    module = module_of(name)
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
    freezeframe.run_alone(main)
