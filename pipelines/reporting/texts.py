"""Text from outside, made fit for a page: titles and ids may hold anything."""

from __future__ import annotations

import re

UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    r"""Return a text with a replacement character for all that no page may hold: control characters, half surrogates.

    >>> clean("a\x00b")
    'a�b'
    """
    return UNFIT.sub("\ufffd", text)
