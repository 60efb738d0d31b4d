"""Known oddities of published numbers, printed below tables that show them. Each is a fact that can be checked."""

from __future__ import annotations

import re

MICROLENS = r"2309\.15379"
ODDITIES: dict[str, str] = {  # pattern of a recipe's paper.source -> note
    MICROLENS: (
        "MicroLens gives one run per number and no spread; its released code for the video models counts at 10 only"
    ),
    MICROLENS + r".*Table 6\b": (
        "Table 6 of MicroLens: the rows were trained with batches of 5 to 120 users, hence with unequal numbers of "
        "negatives, and column FT is column topT minus 1.00 in all 15 rows (within rounding)"
    ),
    MICROLENS + r".*Table (8|10)\b": (
        "Tables 8 and 10 of MicroLens: the paper does not say how items and users were filtered, and the jump of HR@10 "
        "between subsets needs a candidate set of tens of items; compare the candidates"
    ),
    MICROLENS + r".*Table 9\b": (
        "Table 9 of MicroLens: the numbers of YouTube ID cannot all be right (NDCG grows by 0.0117, but the added hits "
        "allow 0.0090)"
    ),
}


def oddities(source: str) -> list[str]:
    """Return the known oddities of a source such as 'arXiv 2309.15379, Table 6, column frozen'."""
    return [note for pattern, note in ODDITIES.items() if re.search(pattern, source)]
