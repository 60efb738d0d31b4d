"""Verb `recommend`: top items for one user, many users, or people who are not in the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError
from freezeframe import imports
from pipelines.commands.options import argument, json_option, option


@dataclass(frozen=True)
class Recommend:
    """What `recommend` is asked for."""

    run: Path = argument()
    """Run folder."""
    user: str | None = option(None)
    """Raw user id."""
    users: str | None = option(None, metavar="FILE|all")
    """A file with one raw user id per line, or 'all'; the lists go to --out."""
    history: str | None = option(None, metavar="IDS")
    """Raw item ids with commas between them, oldest first, that somebody has had who is not in the data; for models
    that read histories."""
    histories: Path | None = option(None, metavar="FILE")
    """A table of interactions (CSV, TSV, Parquet) of people who are not in the data; the lists go to --out."""
    out: Path | None = option(None, metavar="FILE")
    """File for the lists of --users or --histories: .parquet, .csv or .jsonl, with columns user, rank, item, score."""
    only: Path | None = option(None, metavar="FILE")
    """A file with one raw item id per line; no other items are recommended."""
    never: Path | None = option(None, flag="--not", metavar="FILE")
    """A file with one raw item id per line; these items are not recommended."""
    seen: str = option("hide", choices=("hide", "keep"))
    """Whether items that somebody has had are hidden."""
    data: Path | None = option(None)
    """Dataset folder, where it is not the run's; it may hold new interactions."""
    top: int = option(10)
    """How many items."""
    json: bool = json_option()


REQUEST = Recommend


def run(request: Recommend) -> None:
    """Print the best items that a user has not seen, or write those of many people to a file."""
    people = [name for name in ("user", "users", "history", "histories") if getattr(request, name) is not None]
    if len(people) != 1:
        given = ", ".join(f"--{name}" for name in people) or "none of them"
        raise ConfigError(f"give one of --user, --users, --history and --histories; found: {given}")
    with imports():
        from pipelines.retrieval.asking import Wishes, recommend_to_many, recommend_to_one

    wishes = Wishes(request.top, request.only, request.never, hide_seen=request.seen == "hide")
    source = request.users if request.users is not None else request.histories
    if source is None:
        if request.out is not None:
            raise ConfigError(f"--{people[0]} prints its list; leave out --out, or give --users or --histories")
        recommend_to_one(request.run, request.user, request.history, wishes, data=request.data, json=request.json)
        return
    if request.out is None:
        raise ConfigError(f"--{people[0]} needs --out FILE (.parquet, .csv or .jsonl)")
    recommend_to_many(request.run, source, wishes, request.out, data=request.data, json=request.json)
