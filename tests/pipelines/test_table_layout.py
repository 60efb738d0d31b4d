"""Tables are fitted to a width: nothing is lost, no number is broken, no column is empty, no line is too long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from pipelines.table_layout import BORDER, NUMBER, Column, Layout, fold, lay_out

NUMBERS = st.sampled_from(["-", "0.1234", "0.1234 ± 0.0012", "+0.0123 [+0.0100, +0.0150]", "<0.0001", "12", "9.5"])
WORDS = st.text(alphabet="ab-_/, =9.[]é视", min_size=0, max_size=60)
NAMES = st.text(alphabet="abc-+1", min_size=1, max_size=50)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    kinds = draw(st.lists(st.sampled_from([NUMBERS, WORDS]), min_size=1, max_size=9))
    heads = [
        "recipe",
        *draw(
            st.lists(
                st.sampled_from(["HR@10", "ours - paper HR@10", "s/epoch", "made from"]),
                min_size=len(kinds),
                max_size=len(kinds),
            )
        ),
    ]
    rows = draw(st.lists(st.tuples(NAMES, *kinds).map(list), min_size=1, max_size=5))
    return heads, rows


def width_of(block: tuple[Column, ...]) -> int:
    return sum(column.width + BORDER for column in block) + 1


def bare(text: str) -> str:
    return "".join(text.split())


def shown_cells(layout: Layout) -> list[str]:
    return [cell for block in layout.blocks for column in block for cell in column.cells]


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(60, 220), st.booleans())
def test_what_fits_is_whole_and_the_rest_is_told(
    table: tuple[list[str], list[list[str]]], width: int, leave_out: bool
) -> None:
    heads, rows = table
    layout = lay_out(heads, rows, width, leave_out=leave_out)
    for block in layout.blocks:
        assert width_of(block) <= width
        for column in block:
            assert all(cell_len(line) <= column.width for cell in column.cells for line in cell.split("\n"))
            assert column is block[0] or any(cell not in ("", "-") for cell in column.cells)
            if column.numbers and column is not block[0]:
                assert all("\n" not in cell for cell in column.cells)
    cells = shown_cells(layout)
    for place, head in enumerate(heads[1:], start=1):
        column_cells = [row[place] for row in rows]
        if head in layout.left_out or all(cell in ("", "-") for cell in column_cells):
            continue
        numbers = all(NUMBER.fullmatch(cell) for cell in column_cells)
        for cell in column_cells:
            if numbers:
                assert any(cell in shown for shown in cells), cell
            else:
                assert any(bare(cell) in bare(shown) for shown in cells), cell
    assert leave_out or not layout.left_out


@settings(max_examples=20, deadline=None)
@given(tables())
def test_without_a_width_all_columns_stand_side_by_side(table: tuple[list[str], list[list[str]]]) -> None:
    heads, rows = table
    (block,) = lay_out(heads, rows, None).blocks
    assert [column.head for column in block] == heads
    assert [list(row) for row in zip(*(column.cells for column in block), strict=True)] == rows


def test_numbers_go_on_in_blocks_with_the_names_of_the_rows() -> None:
    heads = ["recipe", "metric", *(f"HR@{n}" for n in range(6))]
    rows = [["a-long-name-of-a-recipe", "HR@10", *["0.1234 ± 0.0012"] * 6]] * 2
    layout = lay_out(heads, rows, 80, keys=2)
    assert [[column.head for column in block] for block in layout.blocks] == [
        ["recipe", "metric", "HR@0", "HR@1"],
        ["recipe", "metric", "HR@2", "HR@3"],
        ["recipe", "metric", "HR@4", "HR@5"],
    ]


def test_long_texts_stand_below_the_name_or_are_left_out() -> None:
    heads, rows = ["file", "title", "recipes"], [["a" * 40, "word " * 12, "10"]]
    below = lay_out(heads, rows, 60)
    assert [column.head for column in below.blocks[0]] == ["file", "recipes"]
    assert below.blocks[0][0].cells[0].startswith("a" * 40 + "\n  title: word word")
    assert lay_out(heads, rows, 60, leave_out=True).left_out == ("title",)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a learning-rate of 1e-05", 12, ["a learning-", "rate of", "1e-05"]),
        ("pipelines/recipes/tables", 10, ["pipelines/", "recipes/", "tables"]),
        ("  title: one two", 9, ["  title:", "  one two"]),
        ("微视频 推荐", 6, ["微视频", "推荐"]),
        ("one\ntwo three", 5, ["one", "two", "three"]),
    ],
)
def test_text_is_broken_where_it_hurts_least(text: str, width: int, lines: list[str]) -> None:
    assert fold(text, width) == lines


def test_sentences_keep_their_words() -> None:
    assert fold("see /a/very/long/path now", 8, break_words=False) == ["see", "/a/very/long/path", "now"]
