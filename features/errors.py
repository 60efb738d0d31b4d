"""The three errors a user can meet. Each names the thing, its value, the limit and the next step, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FreezeframeError(ValueError):
    """Something the user can mend: shown as one line, exit code 2, no traceback."""


class ConfigError(FreezeframeError):
    """A recipe, a command line or a dataset folder that cannot be used as it is."""


class MediaError(FreezeframeError):
    """A video, cover or title that cannot be read. It costs one row; above `--max-failed` of them, the run fails."""


class StoreError(FreezeframeError):
    """A feature file that is absent, damaged, foreign, misaligned or not finite."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known name, if one is close, and all known names.

    >>> nearest("sasrek", ["sasrec", "popularity"])
    "did you mean 'sasrec'? Known: popularity, sasrec"
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {', '.join(options) or 'none'}"


def shortened(error: object, most: int = 160) -> str:
    """Return the text of an error as one line of at most `most` characters.

    A longer text is cut after a sentence if that keeps half of `most`, or else after a word.

    >>> shortened("There is no such repository. Check the name, and then the branch.", most=40)
    'There is no such repository'
    """
    line = " ".join(str(error).split()).removesuffix(".")
    if len(line) <= most:
        return line
    sentence = line[: most + 1].rpartition(". ")[0]
    words = line[: most - 3].rpartition(" ")[0] or line[: most - 4]
    return sentence if len(sentence) >= most / 2 else f"{words} ..."
