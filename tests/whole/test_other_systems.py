"""What must hold for macOS and Windows, checked on Linux; docs/platforms.md says what this shows and what not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("extract", "features", "models", "pipelines")


def text_calls() -> Iterator[tuple[str, ast.Call, bool]]:
    """Yield (place, call, whether it writes) of all calls in the product that open a file as text."""
    files = [path for room in PRODUCT for path in sorted((ROOT / room).rglob("*.py"))]
    for path in [*files, ROOT / "run_pipeline.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            mode = next((mode for mode in modes if set(mode) <= set("rwxab+t")), None)
            if node.func.attr in ("write_text", "read_text"):
                yield place, node, node.func.attr == "write_text"
            elif (
                node.func.attr in ("open", "fdopen")
                and ast.unparse(node.func) != "av.open"
                and mode is not None
                and "b" not in mode
            ):
                yield place, node, mode[0] != "r"
            elif node.func.attr == "open" and not node.args and isinstance(node.func.value, ast.Name):
                yield place, node, False


def test_text_has_the_same_bytes_on_every_system() -> None:
    calls = list(text_calls())
    assert sum(writes for _, _, writes in calls) > 8
    for place, call, writes in calls:
        named = {word.arg for word in call.keywords}
        assert named >= ({"encoding", "newline"} if writes else {"encoding"}), f"{place} leaves it to the system"
