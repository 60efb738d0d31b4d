"""Tables as people have them: encodings, separators, quotes, headers, times, ids. Right, or one line that helps."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import in_time_order
from pipelines.data.detection import read_dataset
from pipelines.data.load import make_split
from pipelines.data.tables import Columns, parse_columns, read_table, times_of
from tests.support.small import write, write_interactions

ROWS = [("u", "b", 2), ("u", "a", 1), ("v", "a", 3)]
SORTED = [("u", "a"), ("u", "b"), ("v", "a")]
Writer = Callable[[Path], object]


def text(header: str | None, separator: str = ",") -> str:
    lines = [separator.join(map(str, row)) for row in ROWS]
    return "\n".join(([header] if header is not None else []) + lines) + "\n"


def put(name: str, content: str | bytes) -> Writer:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def parquet(**columns: list[object]) -> Writer:
    return lambda folder: pl.DataFrame(columns).write_parquet(folder / "interactions.parquet")


PLAIN = "user,item,timestamp"
READ: dict[str, tuple[Writer, str | None]] = {
    "semicolons": (put("interactions.csv", text("user;item;timestamp", ";")), None),
    "tabs in a csv": (put("interactions.csv", text("user\titem\ttimestamp", "\t")), None),
    "commas in a tsv": (put("interactions.tsv", text(PLAIN)), None),
    "bars": (put("interactions.csv", text("user|item|timestamp", "|")), None),
    "gzip": (put("interactions.csv.gz", gzip.compress(text(PLAIN).encode())), None),
    "gzipped tsv": (put("interactions.tsv.gz", gzip.compress(text("user\titem\ttimestamp", "\t").encode())), None),
    "UTF-16": (put("interactions.csv", text(PLAIN).encode("utf-16")), None),
    "big-endian UTF-16": (put("interactions.csv", b"\xfe\xff" + text(PLAIN).encode("utf-16-be")), None),
    "UTF-8 with a byte order mark": (put("interactions.csv", text(PLAIN).encode("utf-8-sig")), None),
    "lines of Windows": (put("interactions.csv", text(PLAIN).replace("\n", "\r\n")), None),
    "blank lines at the end": (put("interactions.csv", text(PLAIN) + "\n\n"), None),
    "every cell quoted": (
        put("interactions.csv", '"user","item","timestamp"\n"u","b","2"\n"u","a","1"\n"v","a","3"\n'),
        None,
    ),
    "quoted in a tsv": (put("interactions.tsv", '"user"\t"item"\t"timestamp"\n"u"\t"b"\t2\nu\ta\t1\nv\ta\t3\n'), None),
    "no header": (put("interactions.csv", text(None)), "user=0,item=1,time=2"),
    "no header, quoted": (put("interactions.csv", '"u",b,2\nu,a,1\nv,a,3\n'), "user=0,item=1,time=2"),
    "other names": (put("interactions.csv", text("who,what,when")), "user=who,item=what,time=when"),
    "names in common use": (put("interactions.csv", text("userId,movieId,ts")), None),
    "Amazon's names": (put("interactions.csv", text("reviewerID,asin,unixReviewTime")), None),
    "RecBole": (put("x.inter", text("user_id:token\titem_id:token\ttimestamp:float", "\t")), None),
    "ISO dates": (
        put("interactions.csv", f"{PLAIN}\nu,b,2024-05-02\nu,a,2024-05-01\nv,a,2024-05-03\n"),
        None,
    ),
    "ISO times with offsets": (
        put(
            "interactions.csv",
            f"{PLAIN}\nu,b,2024-05-01T10:00:00Z\nu,a,2024-05-01T11:30:00+02:00\nv,a,2024-05-01T00:00:00.5Z\n",
        ),
        None,
    ),
    "ISO times with blanks": (
        put(
            "interactions.csv", f"{PLAIN}\nu,b,2024-05-01 10:00:01\nu,a,2024-05-01 10:00:00.75\nv,a,2024-05-01 10:00\n"
        ),
        None,
    ),
    "no times": (put("interactions.csv", "user,item\nu,a\nu,b\nv,a\n"), "time=none"),
    "JSON lines": (
        put(
            "interactions.jsonl", "".join(json.dumps(dict(zip(PLAIN.split(","), r, strict=True))) + "\n" for r in ROWS)
        ),
        None,
    ),
    "floats in Parquet": (parquet(user=["u", "u", "v"], item=[2.0, 1.0, 1.0], timestamp=[2, 1, 3]), None),
    "categories in Parquet": (
        lambda folder: (
            pl.DataFrame(ROWS, schema=PLAIN.split(","), orient="row")
            .with_columns(pl.col("item").cast(pl.Categorical))
            .write_parquet(folder / "interactions.parquet")
        ),
        None,
    ),
}


@pytest.mark.parametrize("what", READ)
def test_what_people_have_is_read(tmp_path: Path, what: str) -> None:
    writer, columns = READ[what]
    writer(tmp_path)
    found = list(read_dataset(tmp_path, parse_columns(columns)).interactions.select("user", "item").iter_rows())
    assert found == ([("u", "1"), ("u", "2"), ("v", "1")] if "floats" in what else SORTED)


REFUSED: dict[str, tuple[Writer, str | None, str]] = {
    "no header": (
        put("interactions.csv", text(None).replace("u", "1").replace("b", "7").replace("a", "8").replace("v", "3")),
        None,
        r"if the first line is not a header, number the columns: --columns user=0,item=1,time=2",
    ),
    "no times": (put("interactions.csv", "user,item\nu,a\n"), None, r"rows are in the order of events, give time=none"),
    "two users": (
        put("interactions.csv", "uid,userid,item,timestamp\n1,2,3,4\n"),
        None,
        r"2 columns that may be the user: uid and userid; say which with --columns user=uid",
    ),
    "a column asked for": (
        put("interactions.csv", text(PLAIN)),
        "user=usr",
        r"has no column 'usr' for user; did you mean 'user'\?",
    ),
    "UTF-16 without a mark": (
        put("interactions.csv", ("x" * 50 + "é\n").encode("utf-16-be") + b"\xff"),
        None,
        r"is not UTF-8 text, but looks like UTF-16 without a byte order mark .*; save it as UTF-8",
    ),
    "half a gzip": (put("interactions.csv.gz", gzip.compress(text(PLAIN).encode())[:30]), None, r"copy it again"),
    "floats that are no ids": (
        parquet(user=["u"], item=[1.5], timestamp=[1]),
        None,
        r"column 'item' of type Float64 holds 1 numbers that cannot be ids, first 1\.5",
    ),
    "floats too large": (parquet(user=["u"], item=[2.0**60], timestamp=[1]), None, r"1 numbers that cannot be ids"),
    "lists as ids": (parquet(user=["u"], item=[["a"]], timestamp=[1]), None, r"List\(String\), which cannot be ids"),
    "NaN as an id": (
        parquet(user=["u", "v"], item=[1.0, float("nan")], timestamp=[1, 2]),
        None,
        r"1 rows with an empty",
    ),
    "dates and numbers": (put("interactions.csv", f"{PLAIN}\nu,a,5\nu,b,2024-05-01\n"), None, r"first in line 3"),
    "an open quote": (
        put("interactions.csv", f'{PLAIN}\nu,"a,1\nu,b,2\n'),
        None,
        r"write a quote inside a quoted cell twice",
    ),
    "a cell too many": (
        put("interactions.csv", f'{PLAIN}\nu,"a",1\nu,b,c,2\n'),
        None,
        r"line 3 has 4 cells, but there are 3 columns",
    ),
    "a column twice": (put("interactions.csv", 'user,"user",item,timestamp\n'), None, r"two columns with the same"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_one_line_that_helps(tmp_path: Path, what: str) -> None:
    writer, columns, message = REFUSED[what]
    writer(tmp_path)
    with pytest.raises(ConfigError, match=message) as raised:
        read_dataset(tmp_path, parse_columns(columns))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "cell", "title"),
    [
        ("items.csv", '"say \\"hi\\""', 'say "hi"'),
        ("items.csv", '"say ""hi"""', 'say "hi"'),
        ("items.csv", '"5"" screen, new"', '5" screen, new'),
        ("items.csv", '5" screen', '5" screen'),
        ("items.csv", '"two\nlines"', "two\nlines"),
        ("items.csv", '"back\\slash"', "back\\slash"),
        ("items.tsv", '5" screen', '5" screen'),
        ("items.tsv", '"5"" screen"', '5" screen'),
        ("items.tsv", '"open', '"open'),
        ("items.tsv", '6" and 7"', '6" and 7"'),
    ],
)
def test_quotes_in_titles(tmp_path: Path, name: str, cell: str, title: str) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    write(tmp_path / name, f"item{separator}title\n1{separator}{cell}\n2{separator}plain\n")
    assert read_dataset(tmp_path).titles == {"1": title, "2": "plain"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text('ab",;\t\n\\é', max_size=6), min_size=2, max_size=2), min_size=1, max_size=5))
def test_what_polars_writes_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    table = pl.DataFrame(rows, schema=["item", "title"], orient="row")
    path = tmp_path_factory.mktemp("t") / "t.csv"
    table.write_csv(path, quote_style="always")
    assert read_table(path).fill_null("").rows() == [tuple(row) for row in rows]


def test_float_ids_join_their_titles_and_do_not_double_the_catalogue(tmp_path: Path) -> None:
    rows = {"user": ["u"] * 4 + ["v"] * 4, "item": [1.0, 2, 3, 4, 2, 3, 4, 1], "timestamp": list(range(8))}
    pl.DataFrame(rows).write_parquet(tmp_path / "interactions.parquet")
    write(tmp_path / "items.csv", "item,title\n1,a\n2,b\n3,c\n4,d\n")
    split = make_split(read_dataset(tmp_path), DataConfig(str(tmp_path), candidates="catalog"))
    assert split.items.ids == ("1", "2", "3", "4")


def test_times_of_rows_without_any_are_their_order(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", "user,item\nv,c\nu,b\nu,a\n")
    dataset = read_dataset(tmp_path, Columns(time="none"))
    assert dataset.interactions.rows() == [("u", "b", 1), ("u", "a", 2), ("v", "c", 0)]
    assert dataset.layout.endswith("(no times, rows in file order)")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "10", "9", "é", "z", "Z"]),
            st.one_of(
                st.integers(-3, 3),
                st.sampled_from([2**53, 2**53 + 1, 2**62, -(2**62)]),
                st.floats(-2, 2).map(lambda time: round(time, 2)),
            ),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_rows_are_sorted_as_polars_sorts_them(rows: list[tuple[str, int | float]]) -> None:
    """By the user's text, then time, fractions of a second included; ties stay in the order of the file."""
    table = pl.DataFrame(
        {
            "user": [user for user, _ in rows],
            "item": [str(place) for place in range(len(rows))],
            "timestamp": pl.Series([math.floor(time) for _, time in rows], dtype=pl.Int64),
            "exact": pl.Series([float(time) for _, time in rows], dtype=pl.Float64),
        }
    )
    expected = table.sort("user", "timestamp", "exact", maintain_order=True).drop("exact")
    whole = table.with_columns(pl.col("timestamp").alias("exact"))
    expected_whole = table.sort("user", "timestamp", maintain_order=True).drop("exact")
    assert in_time_order(table).equals(expected)
    assert in_time_order(whole).equals(expected_whole)


@pytest.mark.parametrize(
    ("cells", "whole", "exact"),
    [
        (["3", "2"], [3, 2], [3.0, 2.0]),
        ([" 3", "2"], [None, 2], [None, 2.0]),
        (["9007199254740993", "2"], [2**53 + 1, 2], [2.0**53, 2.0]),
        (["9223372036854775808", "2"], [None, 2], [2.0**63, 2.0]),
        (["3.75", "2"], [3, 2], [3.75, 2.0]),
        (["-0.5", "1e3"], [-1, 1000], [-0.5, 1000.0]),
        (["inf", "2"], [None, 2], [float("inf"), 2.0]),
        (["nan", "2"], [None, 2], [float("nan"), 2.0]),
        (["", "2"], [None, 2], [None, 2.0]),
    ],
)
def test_times_are_whole_numbers_and_exact_ones(cells: list[str], whole: list[int], exact: list[float]) -> None:
    found = times_of(pl.DataFrame({"time": cells}), "time")
    assert found[0].to_list() == whole
    assert found[1].equals(pl.Series(exact), null_equal=True)


def test_iso_times_become_microseconds(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", f"{PLAIN}\nu,a,1970-01-01T00:00:01Z\nu,b,1970-01-01T02:00:02+02:00\n")
    assert read_dataset(tmp_path).interactions["timestamp"].to_list() == [1_000_000, 2_000_000]


def test_a_recipe_may_name_columns(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", "who,what,when\n" + "".join(f"u,{i},{i}\n" for i in range(4)))
    config = DataConfig(str(tmp_path), columns=Columns("who", "what", "when"))
    assert len(make_split(read_dataset(tmp_path, config.columns), config).items) == 4


@pytest.mark.parametrize("text", ["user", "usr=1", "user=", "user=a;item=b=c,x=1"])
def test_columns_that_are_no_columns(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write e\.g\. user=uid,item=vid,time=ts"):
        parse_columns(text)


def test_recbole_titles(tmp_path: Path) -> None:
    write(tmp_path / "x.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\t1\t5.5\n")
    write(tmp_path / "x.item", 'item_id:token\tmovie_title:token_seq\n1\tThe 5" "Screen"\n')
    dataset = read_dataset(tmp_path)
    assert dataset.titles == {"1": 'The 5" "Screen"'}
    assert dataset.name == "x"
    assert dataset.layout == (
        "RecBole folder: x.inter, x.item (user = user_id:token, item = item_id:token, time = timestamp:float)"
    )


def test_iisan_folders_with_cut_users(tmp_path: Path) -> None:
    write(tmp_path / "X_users_10K.tsv", "u\ta b c\n")
    write(tmp_path / "X_items.tsv", "a\tone\nb\ttwo\n")
    assert read_dataset(tmp_path).layout == "IISAN folder: X_users_10K.tsv, X_items.tsv"


def test_repeats(tmp_path: Path) -> None:
    write_interactions(tmp_path, [("u", item, time) for time, item in enumerate("abacbd")])
    dataset = read_dataset(tmp_path)

    def items(repeats: str) -> list[str]:
        config = DataConfig(str(tmp_path), keep_last=None, repeats=repeats)  # type: ignore[arg-type]
        split = make_split(dataset, config)
        kept = [*split.train_edges[1].tolist(), int(split.valid.targets[0]), int(split.test.targets[0])]
        return [split.items.ids[item] for item in kept]

    assert [items(how) for how in ("keep", "first", "last")] == [list("abacbd"), list("abcd"), list("acbd")]


FIXED: dict[str, dict[str, str]] = {
    "IISAN": {"x_users.tsv": "u\ta b c\n", "x_items.tsv": "a\tone\nb\ttwo\nc\tthree\n"},
    "MMRec": {"x.inter": "userID\titemID\tx_label\n0\t0\t0\n0\t1\t1\n0\t2\t2\n"},
    "MicroLens's sequences": {"x_pairs.tsv": "u\ta b c\n"},
}


@pytest.mark.parametrize("layout", FIXED)
def test_columns_named_for_files_that_have_none_are_refused(layout: str, tmp_path: Path) -> None:
    for name, content in FIXED[layout].items():
        (tmp_path / name).write_text(content)
    assert len(read_dataset(tmp_path).interactions) == 3
    with pytest.raises(ConfigError, match=r"is user=uid, but x.* whose columns are fixed; leave it out"):
        read_dataset(tmp_path, Columns(user="uid"))


def test_a_title_column_named_for_microlens_titles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x_pairs.csv").write_text("uid,item,timestamp\nu,a,1\nu,b,2\nu,c,3\n")
    (tmp_path / "x_titles.csv").write_text("a,one\nb,two\nc,three\n")
    assert len(read_dataset(tmp_path, Columns(user="uid")).interactions) == 3
    with pytest.raises(ConfigError, match=r"is title=name, but x_titles.csv is MicroLens's list of titles"):
        read_dataset(tmp_path, Columns(user="uid", title="name"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize(
    ("header", "layout"),
    [("userID\titemID\tx_label", "MMRec"), ("user_id:token\titem_id:token\ttimestamp:float", "RecBole")],
)
def test_inter_files_in_other_encodings_are_recognised(header: str, layout: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_bytes(f"{header}\n0\t0\t0\n0\t1\t1\n0\t2\t2\n".encode(encoding))
    dataset = read_dataset(tmp_path)
    assert dataset.layout.startswith(layout)
    assert dataset.interactions["item"].to_list() == ["0", "1", "2"]
