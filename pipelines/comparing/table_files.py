"""Comparisons on the terminal, and as Markdown, LaTeX and CSV files."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.comparing.cost_table import cost_summary, cost_table, costs
from pipelines.comparing.result_table import (
    Comparison,
    Row,
    Tests,
    comparison,
    made_from,
    paper_difference,
    significance,
    tests_summary,
)
from pipelines.console import explain, table

GROUPS = ("all", "warm", "cold")
Cells = Sequence[Sequence[str]]


def print_comparison(shown: Comparison) -> None:
    """Print the table with its notes, the costs, and the tests."""
    table(shown.title, *comparison(shown.rows))
    for line in shown.lines:
        explain(line)
    if shown.costs:
        table("costs", *cost_table(shown.rows))
        explain(cost_summary(shown.rows))
    if shown.tests:
        table("differences", *significance(shown.tests), keys=2)
        explain(tests_summary(shown.tests))


def markdown(header: Sequence[str], cells: Cells) -> str:
    """Return the table as Markdown; | in a cell is escaped."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *cells]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def write_markdown(path: Path, shown: Comparison) -> None:
    """Write the tables to a Markdown file."""
    said, *remarks = shown.lines
    parts = [f"**{shown.title}**\n"] if shown.title != Comparison.title else []
    parts += [markdown(*comparison(shown.rows)), f"{said}.\n"]
    parts += ["".join(f"- {note}\n" for note in remarks)] if remarks else []
    parts += [markdown(*cost_table(shown.rows)), f"{cost_summary(shown.rows)}.\n"] if shown.costs else []
    parts += [markdown(*significance(shown.tests)), f"{tests_summary(shown.tests)}.\n"] if shown.tests else []
    _write(path, "\n".join(parts))


ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
} | {character: "\\" + character for character in "&%$#_{}"}


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands.

    >>> escape_latex("id+v_2: 5 %")
    'id+v\\\\_2: 5 \\\\%'
    """
    escaped = "".join(ESCAPES.get(character, character) for character in text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped  # after \\ these would be arguments


def latex(header: Sequence[str], cells: Cells, caption: str) -> str:
    """Return a LaTeX table (package booktabs): first column to the left, all others to the right."""
    lines = [" & ".join(escape_latex(cell) for cell in line) + r" \\" for line in (header, *cells)]
    body = [lines[0], r"\midrule", *lines[1:]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{escape_latex(caption)}}}",
            r"\end{table}",
            "",
        ]
    )


def write_latex(path: Path, shown: Comparison) -> None:
    """Write the tables to a LaTeX file, to be \\input where booktabs is loaded."""
    title = [shown.title] if shown.title != Comparison.title else []
    caption = ". ".join([*title, *shown.lines]) + "."
    parts = ["% needs \\usepackage{booktabs}\n", latex(*comparison(shown.rows), caption)]
    parts += [latex(*cost_table(shown.rows), cost_summary(shown.rows) + ".")] if shown.costs else []
    parts += [latex(*significance(shown.tests), tests_summary(shown.tests) + ".")] if shown.tests else []
    _write(path, "\n".join(parts))


CSV_COLUMNS = (
    "recipe",
    "group",
    "metric",
    "users",
    "candidates",
    "mask",
    "seeds",
    "mean",
    "sd",
    "values",
    "paper",
    "difference",
    "relative",
    "source",
    "low",
    "high",
    "baseline",
    "minus_baseline",
    "minus_low",
    "minus_high",
    "p",
    "p_holm",
    "made_from",
)


def write_csv(path: Path, shown: Comparison) -> None:
    """Write one line per recipe, group and metric, unrounded: all that the runs recorded, even what no table shows.

    `values` holds one value per seed, separated by blanks. A cell is empty where there is no value. Where costs are
    shown, they are a group of their own, with the names and units of the ledger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, CSV_COLUMNS, restval="")
        writer.writeheader()
        for row in shown.rows:
            for group in (*GROUPS, "lists"):
                for metric in row.metrics[0]["test"].get(group, {}):
                    writer.writerow(_csv_line(row, group, metric, shown.tests))
        for row, spent in zip(shown.rows, costs(shown.rows) if shown.costs else (), strict=shown.costs):
            for name, values in spent.items():
                writer.writerow({"recipe": row.name, "group": "costs", "metric": name, **_csv_values(values)})


def _csv_values(values: Sequence[float]) -> dict[str, Any]:
    line = {"seeds": len(values), "mean": statistics.fmean(values), "values": " ".join(map(str, values))}
    return line | ({"sd": statistics.stdev(values)} if len(values) > 1 else {})


def _csv_line(row: Row, group: str, metric: str, tests: Tests | None) -> dict[str, Any]:
    values = row.values(group, metric)
    first = row.metrics[0]
    line: dict[str, Any] = {"recipe": row.name, "group": group, "metric": metric, **_csv_values(values)}
    line |= {"users": first["test"]["users"].get(group, first["test"]["users"]["all"])}
    line |= {"candidates": first["candidates"], "mask": row.recipe.evaluate.mask, "made_from": made_from(row)}
    if group != "all":
        return line
    if (against := paper_difference(row, metric)) and (paper := row.paper):
        line |= {"paper": paper.metrics[metric], "source": paper.source}
        line |= {"difference": against[0], "relative": against[1]}
    return line | _csv_tests(row, metric, tests)


def _csv_tests(row: Row, metric: str, tests: Tests | None) -> dict[str, Any]:
    if tests is None or row.name not in tests.rows:
        return {}
    found = next((one for one in tests.compared[tests.rows.index(row.name)] if one.metric == metric), None)
    if found is None:
        return {}
    line: dict[str, Any] = {"low": found.own.low, "high": found.own.high, "baseline": tests.baseline}
    if found.difference:
        line |= {"minus_baseline": found.difference.mean, "minus_low": found.difference.low}
        line |= {"minus_high": found.difference.high, "p": found.p, "p_holm": found.p_holm}
    return line


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


WRITERS: dict[str, Callable[[Path, Comparison], None]] = {
    "csv": write_csv,
    "markdown": write_markdown,
    "latex": write_latex,
}
