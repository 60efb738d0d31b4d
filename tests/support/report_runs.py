"""Two short runs on a small dataset with covers and clips, whose titles and ids are as hostile as a page may meet."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl

from pipelines.runs.experiment import run_recipe
from tests.support.media import pictures, write_clip, write_cover
from tests.support.small import ITEMS, item_ids, recipe, small_dataset, write_vectors

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "' onmouseover='document.title=1' x='",
    "<svg onload=alert(1)><!--",
    "&lt;b&gt; stays as it is; {{ 7 * 7 }} {% raw %}",
    "\u202eright to left override, and then מה שלום לך",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3ac and $x^2$ \\frac",
    "bell \x07 and escape \x1b[31m",
    "]]> --> <![CDATA[ https://example.org/x.js",
]
HOSTILE_USER = "<u onclick=alert(1)>&\"'"
HOSTILE_NAME = "v <b>$x$ & 'co' \U0001f3ac"


def hostile_runs(folder: Path) -> None:
    """Fill a folder: data/, f.h5, g.h5, runs/id, runs/v and runs/v-seed1.

    Item 1 has a clip and no cover, items 2 to 19 have covers, item 3's is broken, the others have nothing to see.
    """
    data = small_dataset(folder / "data")
    table = pl.read_csv(data / "interactions.tsv", separator="\t", infer_schema=False)
    renamed = pl.when(pl.col("user") == "u03").then(pl.lit(HOSTILE_USER)).otherwise(pl.col("user"))
    table.with_columns(renamed.alias("user")).write_csv(data / "interactions.tsv", separator="\t")
    titles = [*HOSTILE, *(f"title {item}" for item in range(len(HOSTILE), ITEMS))]
    with (data / "items.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("item", "title"), *zip(item_ids(), titles, strict=True)])
    for name in ("covers", "videos"):
        (data / name).mkdir()
    write_clip(data / "videos" / "001.mp4", pictures(6, kind=1))
    for item in range(2, 20):
        write_cover(data / "covers" / f"{item:03}.jpg", kind=item)
    (data / "covers" / "003.jpg").write_bytes(b"no picture")
    write_vectors(folder / "f.h5", "data", item_ids(), missing=["005"])
    write_vectors(folder / "g.h5", "data", item_ids(), seed=1)
    for name, seed, changes in (
        ("id", 0, {}),
        ("v", 0, _content(folder)),
        ("v-seed1", 1, _content(folder)),
    ):
        train = {"epochs": 2, "batch_size": 16, "patience": 9}
        run_recipe(recipe(data, {"train": train, "seed": seed, **changes}), folder / "runs" / name, device="cpu")


def _content(folder: Path) -> dict[str, object]:
    features = [{"path": str(folder / "f.h5"), "absent": "mean"}]
    return {"name": HOSTILE_NAME, "items": {"kind": "v", "dim": 8}, "features": features}
