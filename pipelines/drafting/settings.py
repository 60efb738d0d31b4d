"""Sizes that suit a dataset, each with the reason. They are starting points by rule of thumb, not tuned values."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipelines.data.split import Ints
from pipelines.drafting.facts import Facts, length_of_most

LONGEST = 50  # histories: attention costs the square of the length
FULL_ITEMS = 20_000  # up to here a softmax over all items is cheap
LAZY_ITEMS = 200_000  # from here most rows of an id table are not used by a step
STEPS = 20  # per epoch, if the data allow it
BATCHES = (16, 1024)
LEAST_NEGATIVES = 32  # windows; a smaller batch has too few items to serve as negatives
FEW_ITEMS = 100  # of these a list of 20 would be a fifth
FEW_USERS = 200  # a validation metric over fewer is noisy
IDS_NEED = 5  # training interactions per item
MOST_COLD = 0.2  # share of test targets that ids cannot know


class Setting(NamedTuple):
    """A value of a recipe, and why it was chosen."""

    value: str
    """The value as YAML."""
    why: str
    """The reason, in a few words."""


def history_length(lengths: Ints, *, given_split: bool = False) -> Setting:
    """Return `max_length`, L, from the number of interactions (U,) of each user; of a given split, of training rows."""
    most = length_of_most(lengths)
    what = "training interactions" if given_split else "interactions"
    wanted = max(2, most - (0 if given_split else 1))  # the last one is the test target
    if wanted > LONGEST:
        return Setting(str(LONGEST), f"1 of 10 users has {most:,} {what} or more, but longer histories cost time")
    return Setting(str(wanted), f"9 of 10 users have at most {most} {what}")


def width(facts: Facts) -> Setting:
    """Return `items.dim`, D."""
    dim = next(dim for most, dim in ((5_000, 32), (500_000, 64), (math.inf, 128)) if facts.rows < most)
    return Setting(str(dim), f"for {facts.rows:,} training interactions; more data carry wider vectors")


def kind(facts: Facts, *, content: bool) -> Setting:
    """Return `items.kind`: 'id' without feature files, else 'id+v', or 'v' where ids have too little to learn from."""
    if not content:
        return Setting("id", "a learned vector per item; there are no feature files")
    if facts.cold_share >= MOST_COLD:
        return Setting(
            "v", f"{facts.cold_share:.0%} of the test targets occur in no training row: ids cannot know them"
        )
    if facts.rows_per_item < IDS_NEED:
        return Setting("v", f"{facts.rows_per_item:.1f} training interactions per item are few to learn ids from")
    return Setting("id+v", f"ids have {facts.rows_per_item:.1f} training interactions per item to learn from")


def model(facts: Facts) -> Setting:
    """Return `model.name`: a model of sequences, unless there is no order, or no sequence, to learn from."""
    if facts.sequential:
        return Setting("sasrec", "reads a user's history in order")
    if facts.ordered:
        return Setting("lightgcn", "no user has two training interactions, which a model of sequences needs")
    return Setting("lightgcn", "the rows have no times, so that a model of sequences would learn the file's order")


def loss(facts: Facts, *, content: bool) -> Setting:
    """Return `model.loss`: over all items, unless there are too many, or content shall place the cold ones."""
    if facts.items > FULL_ITEMS:
        return Setting("in-batch", f"over the items of the batch, because {facts.items:,} items are many for 'full'")
    if content and facts.cold_share >= MOST_COLD:
        return Setting(
            "in-batch", f"over the items of the batch; 'full' would push down {facts.unseen_items} cold items"
        )
    return Setting("full", f"a softmax over all {facts.items:,} items; nothing is sampled")


def batch_size(facts: Facts, *, in_batch: bool) -> Setting:
    """Return `train.batch_size`: at least `STEPS` steps per epoch if the data allow it."""
    examples, (least, most) = _examples(facts), BATCHES
    least = LEAST_NEGATIVES if in_batch else least
    size = min(most, max(least, 2 ** round(math.log2(max(1, examples / STEPS)))))
    what = "windows of histories" if facts.sequential else "interactions"
    return Setting(str(size), f"makes {math.ceil(examples / size):,} steps per epoch over {examples:,} {what}")


def _examples(facts: Facts) -> int:
    return facts.windows if facts.sequential else facts.rows


def epochs(facts: Facts) -> Setting:
    """Return `train.epochs`."""
    sizes = ((2_000, 200), (1_000_000, 100), (20_000_000, 50), (math.inf, 20))
    most = next(most for rows, most in sizes if facts.rows < rows)
    return Setting(str(most), "at most; training stops earlier, when `patience` runs out")


def patience(facts: Facts) -> Setting:
    """Return `train.patience`."""
    if facts.users < FEW_USERS:
        return Setting("20", f"epochs without a better `monitor`; over {facts.users} users it is noisy")
    return Setting("10" if facts.rows < 1_000_000 else "5", "epochs without a better `monitor`")


def optimizer(facts: Facts) -> Setting | None:
    """Return `train.optimizer` where another than the default pays; else None."""
    if facts.items < LAZY_ITEMS:
        return None
    return Setting("lazy", f"leaves alone the rows of {facts.items:,} items that a step did not use")


def list_lengths(facts: Facts) -> Setting:
    """Return `evaluate.at`, K."""
    if facts.items < FEW_ITEMS:
        return Setting("[5, 10]", f"of {facts.items} items, a list of 20 would hold {20 / facts.items:.0%}")
    return Setting("[10, 20]", "lengths of the lists that are measured")
