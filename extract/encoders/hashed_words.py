"""A tokenizer for text encoders with random weights, which have no vocabulary: it hashes words to ids."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch

from extract.encoders.inputs import TextInput, Tokenizer, Tokens

PAD, START, END, FIRST_WORD = 0, 1, 2, 3
# A word is a run of letters and digits. A sign, or a character of a script without spaces, is a word by itself.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]")


def hashed_words(inputs: TextInput, vocabulary: int) -> Tokenizer:
    """Return a tokenizer that maps each lower-cased word to crc32 modulo the vocabulary, between start and end marks.

    crc32 is the same on every machine, unlike Python's own hash of strings.
    """

    def tokenise(titles: Sequence[str]) -> Tokens:
        rows = []
        for title in titles:
            words = WORD.findall((inputs.prefix + title).lower())[: inputs.max_tokens - 2]
            ids = [FIRST_WORD + zlib.crc32(word.encode()) % (vocabulary - FIRST_WORD) for word in words]
            rows.append([START, *ids, END])
        width = max(map(len, rows))
        padded = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return Tokens(padded, torch.arange(width) < lengths[:, None])

    return Tokenizer(f"hashed-words:{vocabulary}", tokenise)
