"""A disk that is full, at every stage: one line and code 2, nothing half-written, and the same command goes on.

Each stage runs in a process of its own, as the fault was a crash at its end. A limit on the size of files stands for
the full disk where no file system can be mounted; it stops the files that HDF5 writes, in the middle.
"""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import run_pipeline
from features import atomic
from features.shards import job as shards
from features.store import FeatureFile
from tests.support.media import write_cover, write_covers
from tests.support.processes import Started
from tests.support.small import item_ids, small_dataset, write_vectors

COUNT = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_covers(tmp_path_factory.mktemp("full") / "data", COUNT)


def extraction(data: Path, out: Path) -> list[str]:
    line = f"extract --data {data} --encoders resnet-tiny --weights random --out {out} --shard-size 8 --device cpu"
    return [*line.split(), "--dtype", "float32"]


def limited(limit: int, line: list[str]) -> int:
    """Run a command line under a limit of bytes per file, if it is not 0; only errors are printed."""
    import resource

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with redirect_stdout(io.StringIO()):
        return run_pipeline.main(line)


def refused(line: list[str], limit: int = 0) -> str:
    """Run a command line under a limit of bytes per file; return the one line it ends with, all that it says."""
    with tempfile.NamedTemporaryFile() as file:  # outside of the folders that are looked at
        code, told = Started(limited, limit, [*line, "--quiet"], told=Path(file.name)).end()
    assert code == 2, (code, told)
    assert told.count("\n") == 1
    assert told.startswith("error: cannot write ")
    return told


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*.tmp") if path.is_file()]


def shard_bytes(out: Path) -> int:
    return max(path.stat().st_size for path in out.rglob("*.h5"))


def test_shards(tmp_path: Path, data: Path) -> None:
    told = refused(extraction(data, tmp_path / "out"), 3000)
    assert ".shards/" in told
    assert "free some disk space or choose another folder" in told
    assert not hidden(tmp_path)
    assert run_pipeline.main(extraction(data, tmp_path / "out")) == 0


def test_the_merge_and_rows_made_again(tmp_path: Path, data: Path) -> None:
    covers = data / "covers"
    out = tmp_path / "out"
    assert run_pipeline.main(extraction(data, out)) == 0
    (file,) = out.glob("*.h5")
    whole = file.read_bytes()
    limit = len(whole) - 100  # a shard of 8 rows fits, the file of 40 does not
    write_cover(covers / "3.png", kind=7, size=(44, 44))
    told = refused(extraction(data, out), limit)
    assert file.name in told
    assert file.read_bytes() == whole
    assert len(list(out.rglob("*.json"))) == 1  # the new row is kept
    assert not hidden(out)
    assert run_pipeline.main(extraction(data, out)) == 0
    assert FeatureFile(file).vectors_sha256 not in whole.decode("latin-1")
    assert not list(out.rglob("*.json"))


def test_records(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record of a shard is too small for a limit: here the system says so itself."""
    real = atomic.fsync_file

    def full(path: Path) -> None:
        if ".json." in path.name:
            raise OSError(28, "No space left on device")
        real(path)

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "fsync_file", full)
        assert run_pipeline.main(extraction(data, tmp_path)) == 2
    assert "No space left on device); free some disk space" in capsys.readouterr().err
    assert shards.write_atomic is atomic.write_atomic
    assert not hidden(tmp_path)
    assert run_pipeline.main(extraction(data, tmp_path)) == 0


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "mmrec"])
def test_exports(tmp_path: Path, form: str) -> None:
    write_vectors(tmp_path / "f.h5", "d", [f"{n}" for n in range(2000)])
    line = ["features", "export", str(tmp_path / "f.h5"), "--format", form, "--out", str(tmp_path / "out")]
    refused(line, 4000)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]
    assert run_pipeline.main(line) == 0


def test_features_merged_by_hand(tmp_path: Path) -> None:
    parts = [write_vectors(tmp_path / f"{n}.h5", "d", [f"{n}-{row}" for row in range(300)]) for n in range(2)]
    line = ["features", "merge", str(tmp_path / "all.h5"), *map(str, parts)]
    refused(line, max(path.stat().st_size for path in parts))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.h5", "1.h5"]
    assert run_pipeline.main(line) == 0


def test_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_dataset(tmp_path / "data")
    write_vectors(tmp_path / "f.h5", "data", item_ids())
    (tmp_path / "r.yaml").write_text(
        "name: small\ndata: {folder: data}\nmodel: {name: sasrec}\nitems: {kind: id, dim: 8}\ntrain: {epochs: 1}\n"
    )
    monkeypatch.chdir(tmp_path)
    line = ["train", "r.yaml", "--out", "run", "--device", "cpu"]
    assert "run/checkpoint.pt" in refused(line, 8000)
    assert run_pipeline.main(line) == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()[:80]}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 8192])
def test_a_disk_without_room_for_anything(disk: Path, data: Path, free: int) -> None:
    """Locks and claims are files, too."""
    (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - free))
    refused(extraction(data, disk / "out"))
    assert [path.name for path in disk.rglob("*") if path.is_file()] == ["ballast"]


def test_a_real_full_disk(disk: Path, data: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 60_000))
    told = refused(extraction(data, disk / "out"))
    assert "No space left on device" in told
    assert not hidden(disk)
    ballast.unlink()
    assert run_pipeline.main(extraction(data, disk / "out")) == 0
    (file,) = (disk / "out").glob("*.h5")
    FeatureFile(file).verify()
