"""The command `freezeframe`: its names, its version, completion, and packages that a user's own folders cannot hide."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import freezeframe
import run_pipeline
from extract.jobs.farm import Order
from extract.jobs.options import ExtractOptions
from extract.media import sandbox
from extract.media.catalog import build_catalog
from extract.media.limits import Limits
from features import installation
from tests.support.media import pictures, write_clip, write_cover
from tests.support.small import write

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = 'raise RuntimeError("a package of the user: " + __name__)\n'


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user, whose packages are named as ours; it is the working folder and stands in PYTHONPATH."""
    for name in freezeframe.PACKAGES:
        write(tmp_path / "mine" / name / "__init__.py", HOSTILE)
    write(tmp_path / "mine" / "run_pipeline.py", HOSTILE)
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"), prepend=os.pathsep)
    return tmp_path / "mine"


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


# ---- whose packages


@pytest.mark.parametrize("how", ["file", "module", "spawned"])
def test_every_process_finds_our_packages(hostile: Path, how: str) -> None:
    """Started by its path, with `-m` where we are the last on the path, and in a process that spawn starts."""
    words = {
        "file": [str(ROOT / "freezeframe.py"), "data", "--help"],
        "module": ["-c", ("import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('freezeframe', "
                   "run_name='__main__')"), str(ROOT), "data", "--help"],
        "spawned": [str(write(hostile.parent / "main.py", SPAWNING))],
    }[how]  # fmt: skip
    done = python(*words)
    assert done.returncode == 0, done.stderr
    assert "dataset folder" in done.stdout


SPAWNING = f"""
import sys
sys.path[0] = {str(ROOT)!r}
import freezeframe
del sys.path[0]
from multiprocessing import get_context
def work():
    import run_pipeline
    run_pipeline.main(["data", "--help"])
if __name__ == "__main__":
    process = get_context("spawn").Process(target=work)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def test_decoders_find_our_packages(hostile: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", pictures(4, kind=1))
    sandbox.close_idle()  # those of earlier tests were started in another folder
    media = sandbox.read_media(tmp_path / "a.mp4", Limits(), policies=["uniform:2"])
    sandbox.close_idle()
    assert media.total == 4


@pytest.mark.slow
def test_what_a_ray_worker_runs_finds_our_packages(hostile: Path, tmp_path: Path) -> None:
    """Ray pickles the task as cloudpickle does; its workers have the user's folder first on their path."""
    cloudpickle = pytest.importorskip("cloudpickle")
    from extract.jobs import farm_ray

    order = Order(build_catalog("toy", ["1"], titles={"1": "one"}), ("no-encoder",), ExtractOptions(tmp_path / "out"))
    told = pickle.dumps((order, 1))  # a worker makes nothing of an encoder that does not exist
    (tmp_path / "task").write_bytes(cloudpickle.dumps((farm_ray._task(str(ROOT)), told)))
    code = "import pickle, sys; task, told = pickle.load(open(sys.argv[1], 'rb')); print(task(told)); "
    done = python("-c", code + "import features; print(features.__file__)", str(tmp_path / "task"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(ROOT / "features" / "__init__.py")]


def test_another_package_in_our_folders_is_named(tmp_path: Path) -> None:
    def install(name: str, *files: str) -> None:
        for file in files:
            write(tmp_path / file, f"# of {name}\n")
        lines = [f"{file},sha256=x,{(tmp_path / file).stat().st_size}\n" for file in files]
        write(tmp_path / f"{name}.dist-info" / "RECORD", "".join(lines))

    assert freezeframe.clashes(tmp_path) == []
    install("freezeframe-0.1.0", "models/__init__.py", "models/sasrec.py", "features/__init__.py")
    install("innocent-1.0", "innocent/models/__init__.py")
    assert freezeframe.clashes(tmp_path) == []
    write(tmp_path / "models" / "mine.py", "# a model that the user added\n")
    assert freezeframe.clashes(tmp_path) == []
    install("their_models-2.0", "models/resnet.py")
    (line,) = freezeframe.clashes(tmp_path)
    assert line.startswith("the package their_models-2.0 installs models/resnet.py into a folder of freezeframe's")
    install("their_models-2.0", "models/__init__.py")
    assert "their_models-2.0 installs models/__init__.py" in freezeframe.clashes(tmp_path)[0]
    shutil.rmtree(tmp_path / "their_models-2.0.dist-info")
    (line,) = freezeframe.clashes(tmp_path)
    assert line.endswith("__init__.py is not as freezeframe installed it; install freezeframe again")
    assert freezeframe.clashes(ROOT) == [], "a checkout"


# ---- names and versions


def test_the_command_prints_the_name_it_was_called_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "bin" / "freezeframe", "#!/bin/sh\n").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    called = {
        "run_pipeline.py": "python run_pipeline.py",
        "/a b/run_pipeline.py": "python '/a b/run_pipeline.py'",
        "/x/freezeframe.py": "python -m freezeframe",
        str(tmp_path / "bin" / "freezeframe"): "freezeframe",
        "freezeframe": "freezeframe",
        "../env/bin/freezeframe": "../env/bin/freezeframe",
        "/usr/bin/pytest": "python run_pipeline.py",
    }
    for given, told in called.items():
        monkeypatch.setattr(sys, "argv", [given, "data"])
        assert installation.called_as() == told
        name = "run_pipeline.py" if told.endswith("run_pipeline.py") or "/run_" in told else told
        assert run_pipeline.parser_of(["data"]).format_usage().startswith(f"usage: {name} [-h]")
    monkeypatch.setattr(installation, "_project", dict)  # as where a wheel is installed
    assert installation.called_as() == "freezeframe"
    assert installation.install_extra("ray") == "pip install 'WHEEL[ray]' (freezeframe's wheel)"


def test_the_version_costs_no_import_of_torch() -> None:
    code = "import run_pipeline, sys\ntry: run_pipeline.main(['--version'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"freezeframe {installation.version()} (Python 3.")
    assert "torch 2." in done.stdout


def test_a_checkout_knows_its_version_without_being_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import metadata

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert installation.version()[0].isdecimal()
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    write(tmp_path / "pyproject.toml", '[project]\nname = "other"\nversion = "9"\n')
    assert installation.version() == "unknown"
    assert "without torch" in installation.versions()


# ---- completion


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("freezeframe ev", {"evaluate "}),
        ("freezeframe features ve", {"verify "}),
        ("freezeframe compare --dr", {"--dry-run "}),
        ("freezeframe extract --engine s", {"slurm "}),
        ("freezeframe completion ", {"bash", "fish", "zsh"}),
    ],
)
def test_completion_offers_verbs_options_and_choices(tmp_path: Path, typed: str, offered: set[str]) -> None:
    pytest.importorskip("argcomplete")
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"), "_ARGCOMPLETE_COMP_WORDBREAKS": " "}
    words = [sys.executable, str(ROOT / "run_pipeline.py")]
    subprocess.run(words, env=os.environ | asked, capture_output=True, check=True)
    assert offered <= set((tmp_path / "offered").read_text().split("\n"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_lines_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("argcomplete")
    assert run_pipeline.main(["completion", shell]) == 0
    assert "freezeframe" in capsys.readouterr().out


def test_completion_without_its_library_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert run_pipeline.main(["completion", "bash"]) == 2
    assert "pip install argcomplete" in capsys.readouterr().err


# ---- the wheel


def build_wheel(folder: Path) -> Path:
    """Build the wheel offline from a copy of what it is made of."""
    pytest.importorskip("setuptools", "77", reason="a wheel is built with setuptools 77 or newer")
    pytest.importorskip("pip", reason="a wheel is built with pip")
    source = folder / "source"
    for name in freezeframe.PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "freezeframe.py", "run_pipeline.py"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder / "wheel")]
    done = python("-m", "pip", "wheel", str(source), *options)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """Install the wheel into an empty environment that borrows all other libraries; return its folder of commands."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    write(packages / "borrowed.pth", "\n".join(borrowed) + "\n")
    options = ["--no-deps", "--no-index", "--ignore-installed", "--quiet"]
    done = python("-m", "pip", "--python", str(folder / "bin" / "python"), "install", *options, str(wheel))
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the folders of an environment have other names")
def test_an_installed_wheel_works_beside_a_users_own_packages(hostile: Path, tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    command = environment(tmp_path / "env", wheel) / "freezeframe"

    def run(*words: str) -> str:
        done = subprocess.run([command, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "warning: the package" not in done.stderr
        return done.stdout

    assert run("--version").startswith(f"freezeframe {installation.version()} ")
    assert "env" in run("compare"), "the groups of recipes are in the wheel"
    (hostile / "data" / "covers").mkdir(parents=True)
    for number in range(3):
        write_cover(hostile / "data" / "covers" / f"{number}.jpg", kind=number)
    extract = "extract --data data --encoders resnet-tiny --weights random --out out"
    assert "written" in run(*extract.split(), "--processes", "2")
