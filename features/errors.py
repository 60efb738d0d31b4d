"""The three errors a user can meet. Each names the thing, its value, the limit and the next step, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FreezeframeError(ValueError):
    """Something the user can mend: shown as one line, exit code 2, no traceback."""


class ConfigError(FreezeframeError):
    """A recipe, a command line or a dataset folder that cannot be meant as written."""


class MediaError(FreezeframeError):
    """A video, cover or title that cannot be read; costs one row, or the run above `--max-failed`."""


class StoreError(FreezeframeError):
    """A feature file that is absent, damaged, foreign, misaligned or not finite."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the tail of an error about an unknown name: a guess if one is close, and what there is.

    >>> nearest("sasrek", ["sasrec", "popularity"])
    "did you mean 'sasrec'? Known: popularity, sasrec"
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {', '.join(options) or 'none'}"


def shortened(error: object, most: int = 160) -> str:
    """Return what a library says as one line of at most `most` characters.

    A longer one ends with a sentence where that keeps half of them, or else with a word.

    >>> shortened("There is no such repository. Check the name, and then the branch.", most=40)
    'There is no such repository'
    """
    line = " ".join(str(error).split()).removesuffix(".")
    if len(line) <= most:
        return line
    sentence = line[: most + 1].rpartition(". ")[0]
    words = line[: most - 3].rpartition(" ")[0] or line[: most - 4]
    return sentence if len(sentence) >= most / 2 else f"{words} ..."
