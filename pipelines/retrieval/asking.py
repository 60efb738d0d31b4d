"""What the verb `recommend` does: it opens a run, makes lists for one person or many, and says who got none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.errors import ConfigError
from pipelines.console import note, print_json, say
from pipelines.data.dataset import typed_interactions
from pipelines.data.tables import NO_TIME, Columns, columns_for, read_lines, read_table
from pipelines.progress import progress
from pipelines.retrieval.list_files import check_ending, writing
from pipelines.retrieval.many import Choice, Lister, rows_of_users
from pipelines.retrieval.retrieve import Hit, number_of, print_hits, show_recommended
from pipelines.retrieval.searchable import check_top
from pipelines.runs.kept.kept_data import by_user
from pipelines.runs.run import Run, open_to_serve

FEW = 3  # ids that a message lists
ALL = "all"
SOMEBODY = "somebody"  # the user id of a history given on the command line


@dataclass(frozen=True)
class Wishes:
    """What may be recommended, as the command line says it."""

    top: int
    """How many items."""
    only: Path | None = None
    """File of item ids to choose from; None: all items."""
    never: Path | None = None
    """File of item ids to leave out."""
    hide_seen: bool = True
    """Whether to leave out what somebody has had."""

    @property
    def plain(self) -> bool:
        """Return whether every unseen item may be recommended."""
        return self.only is None and self.never is None and self.hide_seen

    def choice(self, run: Run) -> Choice:
        """Return the same with the ids in the files.

        Raises:
            ConfigError: the run knows none of the ids in a file, or has fewer items than are asked for.
        """
        check_top(self.top, len(run.data.split.items))
        only, never = (
            None if path is None else _known_items(run, _ids(path), str(path)) for path in (self.only, self.never)
        )
        return Choice(self.top, only, never or (), self.hide_seen)


def recommend_to_one(
    folder: Path, user: str | None, history: str | None, wishes: Wishes, *, data: Path | None, json: bool
) -> None:
    """Print the best items for a user, or for somebody who is not in the data."""
    if user is not None and wishes.plain:
        show_recommended(open_to_serve(folder, place=data, only_user=user), user, wishes.top, json=json)
        return
    run = open_to_serve(folder, place=data, only_user=user, rows=False)
    lister = Lister(run, wishes.choice(run))
    if user is not None:
        number_of(run, user)
        rows = run.data.dataset.interactions.filter(pl.col("user") == user)
    else:
        rows = _one_history(run, history or "")
    lists = list(lister.lists(rows))
    if not lists:
        raise ConfigError(f"the model knows none of the items in the history of {user or SOMEBODY!r}")
    titles = run.data.dataset.titles
    hits = [Hit(item, score, titles.get(item, "")) for item, score in lists[0].select("item", "score").iter_rows()]
    print_hits(f"recommended to {'user ' + user if user is not None else SOMEBODY}", hits, json=json)


def _one_history(run: Run, text: str) -> pl.DataFrame:
    """Return the interactions of somebody whose items are given as text."""
    _refuse_numbers(run, "--history")
    items = _known_items(run, [item.strip() for item in text.split(",") if item.strip()], f"--history {text!r}")
    return pl.DataFrame({"user": [SOMEBODY] * len(items), "item": items})


def recommend_to_many(
    folder: Path, source: str | Path, wishes: Wishes, out: Path, *, data: Path | None, json: bool
) -> None:
    """Write the lists of many people to a file, and say how many got one.

    Args:
        folder: the run folder.
        source: a file of user ids or 'all' as text; a table of interactions of other people as a Path.
        wishes: what may be recommended.
        out: the file to write.
        data: the dataset folder, if it is not the run's.
        json: whether to print the counts as JSON.
    """
    check_ending(out)
    run = open_to_serve(folder, place=data, rows=False)
    lister = Lister(run, wishes.choice(run))
    if isinstance(source, Path):
        parts, asked = iter([_strangers(run, source)]), None
    else:
        asked = None if source == ALL else _ids(Path(source))
        parts = rows_of_users(run, asked)
    people, lines, met = 0, 0, set()
    with progress("recommend", unit="users") as advance, writing(out) as write:
        total = len(asked or run.data.split.users)
        for rows in parts:
            met |= set(rows["user"].unique().to_list()) if asked is not None else set()
            for lists in lister.lists(rows):
                write(lists)
                lines, people = lines + len(lists), people + lists["user"].n_unique()
                advance(people, max(total, people))
        if not lines:
            raise ConfigError(f"nobody got a list: {_without(lister, asked, met) or 'there are no interactions'}")
    if said := _without(lister, asked, met):
        note(said)
    if json:
        print_json({"out": str(out), "users": people, "rows": lines, "without": _count(lister, asked, met)})
    else:
        say(f"{out}: {lines} rows for {people} users")


def _strangers(run: Run, path: Path) -> pl.DataFrame:
    """Return the interactions of people who are not in the data, user after user; without times, in file order."""
    _refuse_numbers(run, "--histories")
    table = read_table(path)
    rows, _ = typed_interactions(table, path, Columns(time=None if columns_for(table, "time") else NO_TIME))
    return by_user(rows).select("user", "item")


def _refuse_numbers(run: Run, option: str) -> None:
    if not run.model.reads_history:
        raise ConfigError(
            f"{option} needs a model that reads histories; {run.recipe.model.name} knows users by number alone"
        )


def _without(lister: Lister, asked: Sequence[str] | None, met: set[str]) -> str:
    """Return who got no list, and why, in words; '' if everybody got one."""
    reasons = (
        ("unknown to the dataset", _unknown(asked, met)),
        (f"not trained on, and {lister.run.recipe.model.name} knows users by number", lister.unserved.untrained),
        ("without an item that the model knows", lister.unserved.strange),
    )
    return "; ".join(f"{len(users)} users {reason}, {_some(users)}" for reason, users in reasons if users)


def _count(lister: Lister, asked: Sequence[str] | None, met: set[str]) -> dict[str, int]:
    left = lister.unserved
    return {"unknown": len(_unknown(asked, met)), "untrained": len(left.untrained), "strange": len(left.strange)}


def _unknown(asked: Sequence[str] | None, met: set[str]) -> list[str]:
    return [user for user in asked or () if user not in met]


def _known_items(run: Run, ids: Sequence[str], where: str) -> list[str]:
    """Return the ids that the model knows, and say which it does not; ConfigError if it knows none."""
    numbers = run.data.split.items.numbers(ids).tolist()
    strange = [item for item, number in zip(ids, numbers, strict=True) if number < 0]
    if len(strange) == len(ids):
        first = run.data.split.items.ids[0]
        raise ConfigError(f"{where} names no item that the model knows; its ids look like {first!r}")
    if strange:
        note(f"{where}: {len(strange)} of {len(ids)} items are unknown to the model, {_some(strange)}")
    return [item for item, number in zip(ids, numbers, strict=True) if number >= 0]


def _ids(path: Path) -> list[str]:
    """Return the ids of a file, one per line, each once."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give a file with one id per line")
    ids = list(dict.fromkeys(line for line in read_lines(path) if line))
    if not ids:
        raise ConfigError(f"{path} holds no ids; give a file with one id per line")
    return ids


def _some(ids: Sequence[str]) -> str:
    return f"such as {', '.join(map(repr, ids[:FEW]))}"
