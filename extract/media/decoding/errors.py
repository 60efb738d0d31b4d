"""Turns what decoders raise into errors of one line that name the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from features.errors import FreezeframeError, MediaError

REASON_CHARS = 160  # with the file name this fits the store's 200 bytes


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 160 characters, without numbers, stacks and C++ locations."""
    text = getattr(error, "strerror", None) or str(error).split("Stack trace")[0]
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", text)
    # folders are dropped: they say nothing about the file and differ between machines
    text = re.sub(r"'[^']*/([^'/]+)'", r"'\1'", text)
    text = re.sub(r"(?<![^\s\[(])/(?:[^/\s]+/)+(?=[^/\s])", "", text)
    return " ".join(text.split())[:REASON_CHARS] or type(error).__name__


@contextmanager
def media_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a MediaError: decoders' errors share no base but Exception."""
    try:
        yield
    except MediaError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise MediaError(f"{name}: {error}") from error
    except (FreezeframeError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(f"{name}: {one_line(error)}") from error
