"""Strict conversion of plain data into frozen dataclasses; errors name the dotted path of what does not fit."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError, nearest

if TYPE_CHECKING:  # verbs that check nothing do not wait for pydantic
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

LISTS = ("tuple_type", "list_type")
WORDS = dict.fromkeys(("dataclass_type", "dict_type", "mapping_type"), "give a mapping of keys to values")


def structure(target: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Return plain data as an instance of the dataclass `target`; ConfigError if it does not fit.

    `prefix`, such as 'model.', goes before the dotted paths in messages.
    """
    from pydantic import ValidationError

    try:
        # through JSON, because strict mode then still turns lists into tuples, and converts nothing else
        return _adapter(target).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        details = error.errors()
        raise ConfigError("; ".join(_explain(target, detail, prefix) for detail in details[:3])) from error
    except TypeError as error:  # a YAML value that JSON cannot hold, such as a date
        raise ConfigError(
            f"{prefix.rstrip('.') or 'recipe'} holds a value that is neither text, number, list nor mapping, such as a "
            "date; put it in quotes"
        ) from error


@cache
def _adapter(target: type) -> TypeAdapter[Any]:
    """Return what validates a dataclass; building it takes longer than using it."""
    from pydantic import TypeAdapter

    return TypeAdapter(target)


def _explain(target: type, detail: ErrorDetails, prefix: str) -> str:
    loc = detail["loc"]
    path = prefix + ".".join(str(part) for part in loc)
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {path!r}; {_meant(target, loc)}"
    if detail["type"] in ("missing", "missing_argument"):
        return f"{path} is missing; give it a value"
    if detail["type"] == "value_error":  # raised by a dataclass in its own __post_init__
        return str(detail["ctx"]["error"])
    return f"{path} is {detail['input']!r}: {_wanted(detail)}"


def _wanted(detail: ErrorDetails) -> str:
    """Return what to give instead, in the terms of YAML, where pydantic speaks of arrays and objects."""
    given = detail["input"]
    if detail["type"] in LISTS:
        return f"give a list, such as [{given}]" if given and isinstance(given, str | int | float) else "give a list"
    return WORDS.get(detail["type"]) or f"{detail['msg'][0].lower()}{detail['msg'][1:]}"


def _meant(target: Any, loc: tuple[int | str, ...]) -> str:
    """Return the tail of an error about an unknown key: the same key with its section, or the nearest key."""
    name, known = str(loc[-1]), _keys(target, loc[:-1])
    hints = typing.get_type_hints(target) if len(loc) == 1 else {}
    single = {section: kind for section, kind in hints.items() if typing.get_origin(kind) is not tuple}
    whole = [repr(f"{section}.{name}") for section, kind in single.items() if name in _keys(kind, ())]
    return f"did you mean {' or '.join(whole)}? Known: {', '.join(sorted(known))}" if whole else nearest(name, known)


def _keys(target: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the dataclass at `loc`, a path of keys and list positions."""
    for part in loc:
        options = [target, *typing.get_args(target)]
        holder = next((option for option in options if is_dataclass(option)), None)
        if isinstance(part, str) and holder is not None:
            target = typing.get_type_hints(holder).get(part)
    options = [target, *typing.get_args(target)]
    holder = next((option for option in options if is_dataclass(option)), None)
    return [entry.name for entry in fields(holder)] if holder is not None else []
