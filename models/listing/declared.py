"""What the files of recommenders declare, read as text: the list of them needs no torch.

A recommender is its file, and its facts are plain values in that file or in the classes it inherits from. Importing the
file would import torch, which takes seconds. So the syntax tree is read instead, and the classes are followed from file
to file. A test holds what is read equal to what the imported class says.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

FACTS = ("paper", "takes", "trains_on", "uses_items", "inner_product")


@dataclass(frozen=True)
class Declared:
    """What a recommender's file says about it; the fields are those of its class."""

    what: str
    """First line of the class's docstring."""
    paper: str
    """Authors, venue and arXiv number."""
    takes: tuple[str, ...]
    """Item representations (`items.kind`) it can work with."""
    trains_on: Literal["windows", "pairs"]
    """What a training batch holds."""
    uses_items: bool
    """Whether it has an item representation at all."""
    inner_product: bool
    """Whether its score is an inner product, which an index can find."""
    settings: dict[str, Any]
    """The fields of its `Config` and their defaults, in order."""


class NotPlainError(Exception):
    """A fact that is no plain value, so that only importing the file tells it."""


def declared(module: str) -> Declared | None:
    """Return what a module declares about its `MODEL`, or None if it has none.

    Raises:
        NotPlainError: a fact is computed, or stands in a module outside `models`.
    """
    if "MODEL" not in _names(module):
        return None
    model = _class(module, ast.Name("MODEL"))
    lineage = list(_lineage(model))
    facts = {name: _fact(lineage, name) for name in FACTS}
    what = next((text for one in lineage if (text := ast.get_docstring(one.node))), "")
    config = _class(*_assigned(lineage, "config_class"))
    settings: dict[str, Any] = {}
    for one in reversed(list(_lineage(config))):
        settings |= {name: _value(one.module, value) for name, value in _fields(one.node)}
    return Declared(what=inspect.cleandoc(what).split("\n")[0], settings=settings, **facts)


def declared_by(model: type[Any]) -> Declared:
    """Return the same facts of an imported recommender."""
    settings = {field.name: field.default for field in dataclasses.fields(model.config_class)}
    what = (inspect.getdoc(model) or "").split("\n")[0]
    return Declared(what=what, settings=settings, **{name: getattr(model, name) for name in FACTS})


class _Class(NamedTuple):
    """A class and the module it stands in."""

    module: str
    node: ast.ClassDef


class _Import(NamedTuple):
    """A name that a module takes from another."""

    module: str
    name: str


@cache
def _names(module: str) -> dict[str, ast.expr | ast.ClassDef | _Import]:
    """Return what the names at the top of a module stand for."""
    spec = find_spec(module) if module.partition(".")[0] == "models" else None
    if spec is None or spec.origin is None:
        raise NotPlainError(module)
    found: dict[str, ast.expr | ast.ClassDef | _Import] = {}
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: _Import(node.module, alias.name) for alias in node.names}
        else:
            found |= dict(_assignments([node]))
    return found


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that are given a value, and the values."""
    for node in body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                yield target.id, node.value


def _class(module: str, name: ast.expr) -> _Class:
    """Return the class that a name in a module stands for."""
    where, node = _found(module, name)
    if not isinstance(node, ast.ClassDef):
        raise NotPlainError(ast.unparse(name))
    return _Class(where, node)


def _found(module: str, expression: ast.expr) -> tuple[str, ast.expr | ast.ClassDef]:
    """Return what an expression stands for, names followed to where they are given a value, and the module of that."""
    node: ast.expr | ast.ClassDef | _Import = expression
    while isinstance(node, ast.Name | _Import):
        if isinstance(node, _Import):
            module, name = node
        else:
            name = node.id
        if name not in _names(module):
            raise NotPlainError(name)
        node = _names(module)[name]
    return module, node


def _lineage(one: _Class) -> Iterator[_Class]:
    """Yield a class and the classes of `models` that it inherits from, nearest first."""
    yield one
    for base in one.node.bases:
        try:
            parent = _class(one.module, base)
        except NotPlainError:  # a library's class, such as nn.Module or ABC, which declares no fact
            continue
        yield from _lineage(parent)


def _assigned(lineage: list[_Class], name: str) -> tuple[str, ast.expr]:
    """Return the value that the nearest class gives a name, and the module it stands in."""
    for one in lineage:
        values = dict(_assignments(one.node.body))
        if name in values:
            return one.module, values[name]
    raise NotPlainError(name)


def _fact(lineage: list[_Class], name: str) -> Any:
    return _value(*_assigned(lineage, name))


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the fields of a dataclass that have a default."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
            yield from _assignments([field])


def _value(module: str, expression: ast.expr) -> Any:
    """Return the value of a literal, of a name for one, or of `get_args` of a `Literal`."""
    where, node = _found(module, expression)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "get_args" and len(node.args) == 1:
        where, node = _found(where, node.args[0])
        if not isinstance(node, ast.Subscript) or ast.unparse(node.value) != "Literal":
            raise NotPlainError(ast.unparse(expression))
        node = node.slice
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise NotPlainError(ast.unparse(expression)) from error
