"""What must hold for macOS and Windows, checked on Linux; docs/platforms.md says what this shows and what not."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from extract.encoders.registry import get_encoder
from extract.jobs import extractor
from extract.jobs.extractor import prepare_all
from extract.jobs.options import ExtractOptions
from extract.media import sandbox, this_system
from extract.media.catalog import build_catalog
from extract.media.decoders import get_decoder
from features import atomic
from features.errors import ConfigError
from features.paths import here, readings, refused_by_windows
from features.shards.claims import Claims
from pipelines.recipe.feature_config import FeatureConfig
from tests.support.other_system import in_use
from tests.support.small import plain_recipe, recipe, write

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("extract", "features", "models", "pipelines")


def text_calls() -> Iterator[tuple[str, ast.Call, bool]]:
    """Yield (place, call, whether it writes) of all calls in the product that open a file as text."""
    files = [path for room in PRODUCT for path in sorted((ROOT / room).rglob("*.py"))]
    for path in [*files, ROOT / "run_pipeline.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or "av." in ast.unparse(node):
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            mode = next((mode for mode in modes if set(mode) <= set("rwxab+t")), None)
            if node.func.attr in ("write_text", "read_text"):
                yield place, node, node.func.attr == "write_text"
            elif node.func.attr in ("open", "fdopen") and mode is not None and "b" not in mode:
                yield place, node, mode[0] != "r"
            elif node.func.attr == "open" and not node.args and isinstance(node.func.value, ast.Name):
                yield place, node, False


def test_text_has_the_same_bytes_on_every_system() -> None:
    calls = list(text_calls())
    assert sum(writes for _, _, writes in calls) > 8
    for place, call, writes in calls:
        named = {word.arg for word in call.keywords}
        assert named >= ({"encoding", "newline"} if writes else {"encoding"}), f"{place} leaves it to the system"


names = st.text(st.characters(codec="utf-8", exclude_characters='<>:"/\\\\|?*\0', min_codepoint=32), min_size=1).filter(
    lambda name: not refused_by_windows(name)
)


@given(st.lists(names, min_size=1, max_size=4))
def test_a_path_stored_on_windows_names_the_same_file_here(parts: list[str]) -> None:
    assert Path(*parts) in readings(str(PureWindowsPath(*parts)))
    assert readings("/".join(parts)) == [Path(*parts)]  # what both systems read


def test_a_backslash_that_is_part_of_a_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("made/f.h5"), "")
    assert here("made\\f.h5") == Path("made/f.h5")
    assert FeatureConfig("made\\*.h5").resolve() == Path("made/f.h5")
    write(Path("made\\f.h5"), "")
    assert here("made\\f.h5") == FeatureConfig("made\\f.h5").resolve() == Path("made\\f.h5")


def test_names_that_windows_refuses_are_refused_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe(tmp_path, {"name": "a:b"}).name == "a:b"
    monkeypatch.setattr(sys, "platform", "win32")
    for name in ("a:b", "con", "nul.x", "what?", "dot."):
        with pytest.raises(ConfigError, match=r"becomes a run folder, which Windows refuses; use letters"):
            recipe(tmp_path, {"name": name})
    assert plain_recipe(tmp_path)["name"] == recipe(tmp_path).name


def test_a_file_that_a_virus_scanner_holds_open_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "WAITS_S", (0, 0))
    refusals, replace, unlink = [0] * 4, Path.replace, Path.unlink

    def busy(path: Path, *args: object, **kwargs: object) -> object:
        if refusals and refusals.pop() is not None:
            raise PermissionError(13, "Permission denied")
        return (replace if args else unlink)(path, *args, **kwargs)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(Path, "unlink", busy)
    write(tmp_path / "new", "new")
    with pytest.raises(PermissionError):
        atomic.put_in_place(tmp_path / "new", tmp_path / "old")  # three times
    atomic.put_in_place(tmp_path / "new", tmp_path / "old")  # once
    refusals += [0, 0]
    atomic.remove(tmp_path / "old")
    assert not list(tmp_path.iterdir())


def test_a_claim_asks_no_windows_process_whether_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ctrl_c(process: int, number: int) -> None:
        raise AssertionError(f"os.kill({process}, {number}) sends Ctrl-C on Windows")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", ctrl_c)
    with Claims(tmp_path).take("a") as first, Claims(tmp_path).take("a") as second:
        assert (first, second) == (True, False)


def test_the_pretended_system_knows_what_is_open_and_what_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4))
    assert not in_use(str(tmp_path))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert in_use(str(tmp_path)) == in_use(str(tmp_path / "x.npy")) == str(tmp_path / "x.npy")
    del mapped
    with (tmp_path / "x.npy").open("rb"):
        assert in_use(str(tmp_path / "x.npy"))
    assert not in_use(str(tmp_path / "x.npy"))


# Media.

AS_ON_MACOS = """
from pathlib import Path
from extract.media import decode_worker
decode_worker.sys.platform = "darwin"
decode_worker.STATUS = Path("/there/is/no/proc")
decode_worker.main()
"""


def test_a_worker_without_proc_and_sigio_reads_and_ends_with_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(sandbox, "PROGRAM", AS_ON_MACOS)
    request = {"path": str(tmp_path / "a.png"), "key": None, "policies": [], "decoder": "auto"}
    worker = sandbox._Worker(64)
    try:
        answers = list(worker.ask(request | {"time_s": 60.0, "wall_s": 600.0, "memory_bytes": 64 << 20}, "a.png"))
        assert [pixels.mean() for _, pixels in answers if pixels is not None] == [7]
        worker._held.close()
        assert worker._process.wait(60) == 1
    finally:
        worker.close()


def test_windows_refuses_media_in_one_line_and_takes_titles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "covers").mkdir()
    catalog = build_catalog("d", ["1"], videos=None, covers=tmp_path / "covers", titles={"1": "one"})
    options = ExtractOptions(out=tmp_path / "out", weights="random")
    monkeypatch.setattr(this_system, "sys", SimpleNamespace(platform="win32"))  # for libraries it stays Linux
    with pytest.raises(
        ConfigError, match=r"Windows does not have; extract them on Linux, .+ and copy the feature files"
    ):
        prepare_all(catalog, [get_encoder("resnet-tiny")], options)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(extractor, "prepare", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it goes on to load the encoder
        prepare_all(catalog, [get_encoder("minilm-tiny")], options)


def test_what_a_system_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_system.shortfalls("pyav") == []
    monkeypatch.setattr(this_system, "STATUS", Path("/there/is/no/proc"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    memory, decoder = this_system.shortfalls("auto")
    assert "--decode-mb is not enforced" in memory
    assert "PyAV decodes all videos, with the same frames" in decoder
    with pytest.raises(ConfigError, match=r"'decord' is not installed .+; use --decoder auto"):
        get_decoder("decord")
