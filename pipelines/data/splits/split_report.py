"""What a split came to, for the data report: its rule, and how many rows, users and targets each part has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.data.split import EvalPart, Split


def split_facts(split: Split) -> dict[str, Any]:
    """Return a split's rule and numbers as plain data."""
    return {
        "protocol": split.protocol,
        "told": split.told,
        "users": len(split.users),
        "candidates": len(split.items),
        "training_rows": split.train_edges.shape[1],
        "trained_items": int((split.train_counts > 0).sum()),
        "dropped_users": split.dropped_users,
        "dropped_items": split.dropped_items,
        "valid": _part_facts(split, split.valid),
        "test": _part_facts(split, split.test),
    }


def split_rows(split: Split) -> Sequence[Sequence[str]]:
    """Return the rows of the same as a table: what is counted, and its value."""
    facts = split_facts(split)
    rows = [
        ("training", f"{facts['training_rows']} rows of {facts['users']} users and {facts['trained_items']} items"),
    ]
    for name in ("valid", "test"):
        part = facts[name]
        cold = f"{part['cold_targets']} of items in no training row"
        rows.append(
            ("validation" if name == "valid" else name, f"{part['targets']} targets of {part['users']} users, {cold}")
        )
    rows.append(("candidates", str(facts["candidates"])))
    rows.append(("left out by the split", f"{facts['dropped_users']} users, {facts['dropped_items']} items"))
    return rows


def _part_facts(split: Split, part: EvalPart) -> dict[str, int]:
    cold = int((split.train_counts[part.targets] == 0).sum())
    return {"users": len(part.users), "targets": len(part.targets), "cold_targets": cold}
