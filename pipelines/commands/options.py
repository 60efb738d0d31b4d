"""Options of a verb, declared once: as the fields of its request.

A verb's module holds a frozen dataclass, its request. Every field is an option, or an argument without a name of its
own, and the docstring under the field is its help text. The parser is built from the fields, and the request is built
from what the parser found. Only the standard library is imported here, so that `--help` does not wait for torch.

A field's `metadata`, all of it optional, says what its type cannot:
    flag: the option's name; without it the field's name with dashes.
    positional: True for an argument without a name.
    parse: from the text to the value; ConfigError for a text it cannot read.
    choices, metavar, nargs: as argparse has them.
    help: the help text, where several verbs share it.
    command_default: what the command line takes in place of the field's own default.
    hidden: True for a field that is no option.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

Request = TypeVar("Request")
TYPES: Mapping[str, tuple[Callable[[str], Any], str | None]] = {
    "str": (str, None),
    "int": (int, "N"),
    "float": (float, "X"),
    "Path": (Path, "PATH"),
}
COLUMNS = "Which columns mean what, e.g. user=uid,item=vid,time=ts; numbers for tables without a header; time=none"


JSON = "Print the result as one JSON document on standard output; what else is said goes to standard error"


def json_option() -> Any:
    """Return the field `json` of a verb that prints a result. docs/command.md says which keys each verb prints."""
    return option(False, help=JSON)


def argument(**metadata: Any) -> Any:
    """Return a field for an argument without a name, which must be given unless `nargs` says otherwise."""
    default = {"*": (), "?": None}.get(metadata.get("nargs", ""), dataclasses.MISSING)
    return dataclasses.field(default=default, metadata={"positional": True, **metadata})


def option(default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    """Return a field for an option; one without a default must be given."""
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Shown:
    """What every verb takes beside its own options: how much is shown."""

    quiet: bool = option(False)
    """Show no progress and no notes, only results, warnings and errors."""
    wide: bool = option(False)
    """Show all columns of a table side by side, also in a terminal that is too narrow for them."""


@dataclasses.dataclass(frozen=True)
class Action:
    """One action of a verb that has several, such as `features inspect`."""

    what: str
    """What it does, in one line."""
    request: type[Any]
    """The dataclass whose fields are its options."""
    run: Callable[[Any], None]
    """Does it."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of an option where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, "", [], ()) else super()._get_help_string(action)


def add_options(parser: argparse.ArgumentParser, request: type[Any]) -> None:
    """Add the options that a request's fields declare, those of nested requests among them."""
    helps = field_docstrings(request)
    for field in dataclasses.fields(request):
        if nested := nested_request(field):
            add_options(parser, nested)
        elif not field.metadata.get("hidden"):
            _add(parser, field, field.metadata.get("help") or helps[field.name])


def add_version(parser: argparse.ArgumentParser, told: Callable[[], str]) -> None:
    """Add the option --version; `told` is called only where it is given."""

    class Version(argparse.Action):
        def __call__(self, *_: object) -> None:
            sys.stdout.write(f"{told()}\n")
            parser.exit()

    parser.add_argument(
        "--version", action=Version, nargs=0, help="Print the versions of freezeframe, Python and torch"
    )


def read_request(request: type[Request], found: Mapping[str, Any]) -> Request:
    """Build a request from what the parser found, by field name; texts with a `parse` of their own are read here."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(request):  # type: ignore[arg-type]
        if nested := nested_request(field):
            values[field.name] = read_request(nested, found)
        elif field.name in found:
            value, parse = found[field.name], field.metadata.get("parse")
            value = parse(value) if parse is not None and isinstance(value, str) else value
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return request(**values)


def nested_request(field: dataclasses.Field[Any]) -> type[Any] | None:
    """Return the dataclass whose fields are options, too, where a field holds one."""
    held = field.metadata.get("options", field.default_factory)
    return held if isinstance(held, type) and dataclasses.is_dataclass(held) else None


def option_fields(request: type[Any]) -> Iterator[dataclasses.Field[Any]]:
    """Yield the fields of a request that are options or arguments, in the order of the help."""
    for field in dataclasses.fields(request):
        if nested := nested_request(field):
            yield from option_fields(nested)
        elif not field.metadata.get("hidden"):
            yield field


def field_docstrings(request: type[Any]) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, on one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(request))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        told = below.value if isinstance(below, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Constant) and isinstance(told.value, str):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(told.value.split())
    return found


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], told: str) -> None:
    how = field.metadata
    given: dict[str, Any] = {key: how[key] for key in ("choices", "metavar", "nargs") if key in how}
    default = how.get("command_default", field.default)
    given["help"] = (told[:-1] if told.endswith(".") else told).replace("%", "%%")
    if how.get("positional"):
        names = [field.name]
        if "nargs" in how:
            given["default"] = list(default) if isinstance(default, tuple) else None
    else:
        names = [how.get("flag", f"--{field.name.replace('_', '-')}")]
        given |= {"dest": field.name, "required": default is dataclasses.MISSING, "default": default}
        if default is dataclasses.MISSING:
            del given["default"]
    if field.type == "bool":
        given = {key: given[key] for key in ("dest", "help")} | {"action": "store_true"}
    elif "parse" not in how:
        kind = str(field.type).removesuffix(" | None").removeprefix("tuple[").removesuffix(", ...]")
        given["type"], short = TYPES.get(kind, (str, None))
        if short and not how.get("positional"):
            given.setdefault("metavar", short)
    parser.add_argument(*names, **given)
