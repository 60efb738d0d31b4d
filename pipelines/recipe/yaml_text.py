"""YAML read and written as plain data, without torch. Files are YAML 1.2: `1e-4` is a number and `no` is a word."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from features.errors import ConfigError, shortened
from features.paths import no_file, shortest

RECIPES = Path(__file__).parents[1] / "recipes"
# A line of unquoted free text that YAML would cut short at ' #'. Other values may have a comment after them.
CUT_TEXT = re.compile(r"^[ -]*(note|source|title): *(?![ \"'|>{])[^#\n]*\S #.*$", re.MULTILINE)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the plain data of a recipe file or group file; ConfigError if it is not a YAML mapping."""
    if not path.is_file():
        there = f"recipes that come with freezeframe are in {shortest(RECIPES)}/"
        raise ConfigError(f"recipe {path} {no_file(path, there)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {path} is not UTF-8 text; give a YAML file") from error
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {path} is not a mapping of keys to values")
    cut = CUT_TEXT.search(text)
    if cut is not None:
        raise ConfigError(
            f"recipe {path}: {cut[1]} ends at ' #', where YAML begins a comment ({cut[0].strip()[:60]!r}); put the "
            "text in quotes"
        )
    return raw


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return plain data as YAML text that reads back unchanged, with keys in order."""
    text = _dump(value, allow_unicode=True)
    # the emitter folds lines at characters such as U+0085, which the parser does not treat as line breaks
    return text if parse_yaml(text, "dump") == value else _dump(value, allow_unicode=False)


def _dump(value: Mapping[str, Any], *, allow_unicode: bool) -> str:
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_unicode = allow_unicode
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(value), stream)
    return stream.getvalue()


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2 without constructing objects; ConfigError for bad syntax or a repeated key."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {shortened(error, 200)}") from error


def override_key(raw: dict[str, Any], override: str) -> None:
    """Set a key of plain data from a word `key.path=value`, whose value is YAML; ConfigError for any other word."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"override {override!r} is not of the form key.path=value, such as train.lr=1e-4")
    node: Any = raw
    *parents, last = path.split(".") if not path.startswith("small.") else ["small", path.removeprefix("small.")]
    for key in parents:
        node = node.setdefault(key, {}) if isinstance(node, dict) else _entry(node, key, override)
    value = parse_yaml(text, f"override {override!r}")
    if isinstance(node, dict):
        node[last] = value
    else:
        _entry(node, last, override)
        node[int(last)] = value


def _entry(node: Any, key: str, override: str) -> Any:
    if not isinstance(node, list):
        raise ConfigError(f"override {override!r} leads into a value that has no keys; check the path at {key!r}")
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(
            f"override {override!r}: the list has {len(node)} entries, counted from 0; {key!r} is not one of them"
        )
    return node[int(key)]
