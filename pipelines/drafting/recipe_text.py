"""The text of a drafted recipe: commented YAML that loads and trains as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict

from features.errors import ConfigError
from features.paths import shown
from pipelines.drafting import settings
from pipelines.drafting.draft import Draft
from pipelines.drafting.facts import RARE
from pipelines.drafting.found_features import Search
from pipelines.drafting.settings import Setting

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+@-]*", re.ASCII)
WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}  # which some reader of YAML takes for no text
COMMENT_AT = 28  # column where comments begin, if the value leaves room


def recipe_text(draft: Draft) -> str:
    """Return the recipe as YAML."""
    facts = draft.facts
    counts = f"{facts.users:,} users, {facts.items:,} items, {facts.rows:,} training interactions"
    parts = [
        f"# Drafted by `init` from {_said(draft.name)}: {counts}.",
        "# Sizes are starting points chosen from these counts, not tuned; `search` looks for better ones.",
        "# docs/recipes.md says what every key means. Paths count from the folder in which `init` ran.",
        f"name: {_text(recipe_name(draft.name))}",
        "data:",
        *_data(draft),
        "items:",
        *_items(draft),
        *_features(draft.search),
        "model:",
        *_model(draft),
        "train:",
        *_train(draft),
        "evaluate:",
        _line("mask", Setting("hide", "items that a user has met are not ranked for that user")),
        _line("at", settings.list_lengths(facts)),
    ]
    return "\n".join(parts) + "\n"


def recipe_name(dataset: str) -> str:
    """Return a dataset's name as the name of a run folder."""
    return re.sub(r"[^\w+.-]+", "-", shown(dataset)).strip(".-") or "data"


def _data(draft: Draft) -> Iterator[str]:
    data, facts = draft.data, draft.facts
    yield f"  folder: {_text(data.folder)}"
    columns = {name: value for name, value in asdict(data.columns).items() if value is not None}
    if columns:
        told = ", ".join(
            f"{name}: {value if isinstance(value, int) else _text(value)}" for name, value in columns.items()
        )
        yield f"  columns: {{{told}}}"
    if facts.given_split:
        yield _line("split", Setting("given", "the dataset's own; of the keys below only max_length applies to it"))
    yield from () if facts.given_split else _filters(draft)
    yield _line("max_length", draft.length)
    further = f"also ranks {facts.further_items:,} items with a title or media, but without interactions"
    if facts.further_items and not facts.given_split:
        yield _line("candidates", Setting("interactions", f"ranks all {facts.items:,} items of the table"))
        yield _line("candidates", Setting("catalog", further), off=True)


def _filters(draft: Draft) -> Iterator[str]:
    data, facts = draft.data, draft.facts
    if data.repeats != "keep":
        why = f"{facts.duplicates:,} rows repeat the user, item and time of another"
        yield _line("repeats", Setting(data.repeats, why))
    elif facts.repeats:
        why = f"would keep one row of each user and item; {facts.repeats:,} rows are repeats"
        yield _line("repeats", Setting("first", why), off=True)
    yield _line("keep_last", Setting("null", "all interactions of a user count; MicroLens keeps 13"))
    left_out = f"{facts.short_users:,} users have fewer and are left out" if facts.short_users else "no user has fewer"
    fewest = f"; the shortest history has {facts.fewest}" if facts.fewest > data.min_interactions else ""
    yield _line("min_interactions", Setting(str(data.min_interactions), left_out + fewest))
    if facts.rare_items:
        why = f"would leave out {facts.rare_items:,} items with fewer, then users who become short"
        yield _line("min_item_interactions", Setting(str(RARE), why), off=True)


def _items(draft: Draft) -> Iterator[str]:
    content = bool(draft.search.chosen)
    chosen = settings.kind(draft.facts, content=content)
    yield _line("kind", chosen)
    others = {
        "id+v": "ids and vectors, summed",
        "v": "vectors alone, by a linear map",
        "dnn": "vectors alone, by a perceptron",
        "id": "ids alone",
    }
    for name, why in others.items() if content else ():
        if name != chosen.value:
            yield _line("kind", Setting(name, why), off=True)
    yield _line("dim", settings.width(draft.facts))
    if len(draft.search.chosen) > 1:
        yield _line("fuse", Setting("sum", f"adds the parts of {len(draft.search.chosen)} feature files"))
        yield _line("fuse", Setting("gate", "weighs them per item"), off=True)


def _features(search: Search) -> Iterator[str]:
    if not search.chosen and not search.others:
        return
    yield "features:" if search.chosen else "# features:"
    for found in search.chosen:
        yield f"  # {_said(found.line)}"
        yield f"  - path: {_text(found.path.as_posix())}"
        if found.lacking:
            yield _line("absent", Setting("mean", "items without a vector get the mean of the others"), indent=4)
    for found, why in search.others:
        yield f"  # not read, {_said(why)}: {_said(found.line)}"
        yield f"  # - path: {_text(found.path.as_posix())}"


def _model(draft: Draft) -> Iterator[str]:
    yield _line("name", settings.model(draft.facts))
    yield _line("loss", settings.loss(draft.facts, content=bool(draft.search.chosen)))


def _train(draft: Draft) -> Iterator[str]:
    facts = draft.facts
    in_batch = settings.loss(facts, content=bool(draft.search.chosen)).value == "in-batch"
    yield _line("epochs", settings.epochs(facts))
    yield _line("patience", settings.patience(facts))
    yield _line("batch_size", settings.batch_size(facts, in_batch=in_batch))
    yield _line("lr", Setting("1e-3", "the first thing to search"))
    if faster := settings.optimizer(facts):
        yield _line("optimizer", faster)
    yield _line("monitor", Setting("NDCG@10", "validation metric that chooses the best epoch"))


def _line(key: str, setting: Setting, *, off: bool = False, indent: int = 2) -> str:
    """Return a line of a section with its reason behind it; `off` puts it into a comment."""
    told = f"{' ' * indent}{'# ' if off else ''}{key}: {setting.value}"
    return f"{told.ljust(COMMENT_AT)}  # {setting.why}"


def _text(text: str) -> str:
    """Return text as a YAML scalar; ConfigError for a file name whose bytes are not UTF-8, which YAML cannot hold."""
    if shown(text) != text:
        raise ConfigError(f"{shown(text)} holds bytes that are not UTF-8, which a recipe cannot name; rename it")
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    return "".join(_escaped(character) for character in json.dumps(text, ensure_ascii=False))


def _escaped(character: str) -> str:
    """Return a character as YAML's double quotes take it."""
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 2**16 else f"\\U{ord(character):08x}"


def _said(text: str) -> str:
    """Return text for a comment: on one line, without characters that YAML refuses."""
    return " ".join("".join(c if c.isprintable() else " " for c in shown(text)).split())
