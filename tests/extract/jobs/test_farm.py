"""Many workers on one extraction: no shard made twice, none lost, whoever dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import run_pipeline
from extract.encoders.encoder import Encoder
from extract.encoders.registry import ENCODERS
from extract.encoders.spec import EncoderSpec
from extract.jobs import farm_ray, sharding
from extract.jobs.extractor import extract_all, prepare_all
from extract.jobs.farm import Order, extract_locally, rows_made, slurm_script, work
from extract.jobs.options import ExtractOptions
from extract.jobs.sharding import Shard, claims_of, plan
from extract.media.catalog import Catalog, build_catalog
from features.errors import ConfigError
from features.store import FeatureFile
from tests.support.media import pictures, write_clip, write_cover
from tests.support.small import write

NAMES = ("videomae-tiny", "resnet-tiny")
SPECS = [ENCODERS[name] for name in NAMES]
COUNT = 10
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("farm")
    for place in ("videos", "covers"):
        (folder / place).mkdir()
    for number in range(COUNT):
        write_clip(folder / "videos" / f"{number}.mp4", pictures(12, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    (folder / "covers" / "4.jpg").write_bytes(b"no picture")
    return build_catalog("toy", None, videos=folder / "videos", covers=folder / "covers")


def options(out: Path) -> ExtractOptions:
    return ExtractOptions(out, weights="random", dtype="float32", batch_size=2, shard_size=3, max_failed=0.5)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: FeatureFile(path).vectors_sha256 for path in folder.glob("*.h5")}


@pytest.fixture(scope="module")
def whole(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    extract_all(catalog, SPECS, options(folder))
    return hashes(folder)


def test_shards_are_cut_the_same_whatever_is_done(tmp_path: Path, catalog: Catalog) -> None:
    works = prepare_all(catalog, SPECS, options(tmp_path))
    shards = plan(catalog, works, 3)
    assert [shard.name for shard in shards] == ["0-3", "3-3", "6-3", "9-3"]
    assert [shard.count for shard in shards] == [6, 6, 6, 2]
    for _ in sharding.extract_shard(shards[1]):
        pass
    later = plan(catalog, prepare_all(catalog, SPECS, options(tmp_path)), 3)
    assert [shard.name for shard in later] == ["0-3", "6-3", "9-3"]
    assert [shard.rows(later[0].works[0]) for shard in later] == [[0, 1, 2], [6, 7, 8], [9]]


def test_workers_share_the_shards_and_make_none_twice(
    tmp_path: Path, catalog: Catalog, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[str] = Counter()
    real = sharding.extract_shard

    def counting(shard: Shard) -> object:
        if shard.tasks:
            made[shard.name] += 1
            time.sleep(0.05)
        yield from real(shard)

    monkeypatch.setattr(sharding, "extract_shard", counting)
    many = [prepare_all(catalog, SPECS, options(tmp_path)) for _ in range(3)]  # threads stand in for processes
    threads = [threading.Thread(target=sharding.run_shards, args=(catalog, w, claims_of(w))) for w in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == dict.fromkeys(["0-3", "3-3", "6-3", "9-3"], 1)
    assert not list(tmp_path.glob("*.h5"))
    reports = extract_all(catalog, SPECS, options(tmp_path))
    assert [report.new_rows for report in reports] == [0, 0]
    assert hashes(tmp_path) == whole


def test_a_worker_passes_by_what_another_has_claimed(tmp_path: Path, catalog: Catalog, whole: dict[str, str]) -> None:
    order = Order(catalog, NAMES, options(tmp_path))
    claims = claims_of(prepare_all(catalog, SPECS, options(tmp_path)))
    with claims.take("3-3") as mine:
        assert mine
        assert work(order) == 1
    assert work(order) == 0
    assert work(order) == 0
    extract_all(catalog, SPECS, options(tmp_path))
    assert hashes(tmp_path) == whole
    assert work(order) == 0  # all is merged: nothing to do


def test_claims_are_the_same_where_one_encoder_is_finished(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_all(catalog, SPECS[:1], options(tmp_path))
    seen = []
    monkeypatch.setattr(
        "extract.jobs.farm.run_shards",
        lambda _, works, claims, progress: seen.append((len(works), claims._folder)) or 0,
    )
    work(Order(catalog, NAMES, options(tmp_path)))
    assert seen == [(len(SPECS) - 1, claims_of(prepare_all(catalog, SPECS, options(tmp_path)))._folder)]


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("processes", [1, 2])
def test_the_claim_of_a_worker_killed_after_its_shard_is_cleared_away(
    tmp_path: Path, catalog: Catalog, processes: int
) -> None:
    order = Order(catalog, NAMES, options(tmp_path))
    work(order)
    left = claims_of(prepare_all(catalog, SPECS, options(tmp_path)))._folder / "3-3.claim"
    left.parent.mkdir(exist_ok=True)
    left.write_text(json.dumps({"host": "elsewhere", "process": 1}))
    if processes == 1:
        extract_all(catalog, SPECS, options(tmp_path))
    else:
        extract_locally(order, processes)
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5", ".h5"]


def test_rows_made_before_a_restart_are_counted_once(tmp_path: Path, catalog: Catalog) -> None:
    first = prepare_all(catalog, SPECS, options(tmp_path))
    shards = plan(catalog, first, 3)
    assert rows_made(first, COUNT) == (0, 2 * COUNT, 0)
    for _ in sharding.extract_shard(shards[3]):  # of one row per encoder
        pass
    again, onlooker = (prepare_all(catalog, SPECS, options(tmp_path)) for _ in range(2))
    assert rows_made(again, COUNT) == rows_made(onlooker, COUNT) == (2, 2 * COUNT, 0)
    for _ in sharding.extract_shard(plan(catalog, again, 3)[0]):
        pass
    record = next(onlooker[0].job.folder.glob("*.json"))
    record.with_name("damaged.json").write_text("[")
    for _ in range(2):  # what is counted stays counted
        assert rows_made(onlooker, COUNT) == rows_made(again, COUNT) == (8, 2 * COUNT, 0)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often this process builds each encoder of an order."""
    counts: Counter[str] = Counter()

    def build(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
        counts[spec.name] += 1
        return ENCODERS[spec.name].backend(spec, weights, seed)

    monkeypatch.setattr("extract.jobs.farm.get_encoder", lambda name: replace(ENCODERS[name], backend=build))
    monkeypatch.setattr(farm_ray, "_loaded", [])
    return counts


def test_a_process_builds_each_encoder_once(
    tmp_path: Path, catalog: Catalog, whole: dict[str, str], built: Counter[str]
) -> None:
    order = Order(catalog, NAMES, options(tmp_path))
    threads = torch.get_num_threads()
    with claims_of(prepare_all(catalog, SPECS, options(tmp_path))).take("3-3"):
        assert farm_ray._ray_worker(order, threads) == 1
    again = pickle.loads(pickle.dumps(order))  # noqa: S301 - our own bytes, as Ray sends them to the next task
    assert farm_ray._ray_worker(again, threads) == 0
    assert built == dict.fromkeys(NAMES, 1), "the second task of one process uses what the first has loaded"
    assert all(not work.job.pending for work in prepare_all(catalog, SPECS, options(tmp_path)))
    extract_all(catalog, SPECS, options(tmp_path))
    assert hashes(tmp_path) == whole
    other = replace(order, options=options(tmp_path / "other"))
    farm_ray._ray_worker(other, threads)
    assert built == dict.fromkeys(NAMES, 2), "another order is another run"
    assert work(replace(order, options=options(tmp_path / "third"))) == 0
    assert built == dict.fromkeys(NAMES, 3)


def test_an_encoder_given_twice_is_not_built(tmp_path: Path, catalog: Catalog, built: Counter[str]) -> None:
    with pytest.raises(ConfigError, match="encoder 'resnet-tiny' is given twice"):
        work(Order(catalog, ("resnet-tiny", "resnet-tiny"), options(tmp_path)))
    assert not built


@pytest.mark.slow
def test_processes_give_the_same_bytes(tmp_path: Path, catalog: Catalog, whole: dict[str, str]) -> None:
    calls: list[tuple[int, int, int]] = []
    order = Order(catalog, NAMES, options(tmp_path))
    reports = extract_locally(order, 2, progress=lambda *told: calls.append(told))
    assert hashes(tmp_path) == whole
    assert [report.counts["failed"] for report in reports] == [0, 1]
    assert [report.new_rows for report in reports] == [COUNT, COUNT]
    assert calls[-1] == (2 * COUNT, 2 * COUNT, 1)
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5", ".h5"]
    assert [report.unchanged for report in extract_locally(order, 2)] == [True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_killed_process_is_replaced(tmp_path: Path, catalog: Catalog, whole: dict[str, str]) -> None:
    killed = []

    def kill_one(done: int, total: int, failed: int) -> None:
        workers = multiprocessing.active_children()
        if len(killed) < 2 and workers and workers[0].pid not in killed:
            killed.append(workers[0].pid)
            workers[0].kill()

    extract_locally(Order(catalog, NAMES, options(tmp_path)), 2, progress=kill_one)
    assert len(killed) == 2
    assert hashes(tmp_path) == whole


def test_impossible_farms_are_refused(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="--processes is 0"):
        extract_locally(Order(catalog, NAMES, options(tmp_path)), 0)
    with pytest.raises(ConfigError, match="--tasks is 0"):
        slurm_script(["x"], 0, tmp_path)


# ---- the command line


@pytest.fixture
def media(catalog: Catalog) -> Path:
    video = catalog.items[0].video
    assert video is not None
    return video.parents[1]


def command(media: Path, out: Path) -> list[str]:
    rest = [
        "--weights",
        "random",
        "--dtype",
        "float32",
        "--batch-size",
        "2",
        "--shard-size",
        "3",
        "--max-failed",
        "0.5",
    ]
    return ["extract", "--data", str(media), "--encoders", ",".join(NAMES), "--out", str(out), *rest]


def test_workers_and_merge_from_the_command_line(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = command(media, tmp_path)
    assert run_pipeline.main([*line, "--engine", "worker"]) == 0
    assert "nothing left to claim; 0 shards are in other hands" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.h5"))
    assert run_pipeline.main(line) == 0
    assert len(list(tmp_path.glob("*.h5"))) == 2
    assert run_pipeline.main([*line, "--engine", "worker"]) == 0


@pytest.mark.slow
def test_the_slurm_script_does_the_job(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Slurm is needed: each array task is the script itself, and `sbatch` a stand-in that notes what it is given.

    So is Python where a task starts it, which saves two imports of torch; the merge starts the true one.
    """
    out, waiting, noted = tmp_path / "out", tmp_path / "merge.sh", tmp_path / "words"
    sbatch = f'for word in "$@"; do case $word in --wrap=*) echo "${{word#--wrap=}}" > {waiting};; esac; done'
    python = f'case "$*" in *" --engine worker") printf "%s\\n" "$PWD" "$@" > {noted};; *) {sys.executable} "$@";; esac'
    for name, text in {"sbatch": sbatch, "python": python}.items():
        write(tmp_path / "bin" / name, f"#!/bin/bash\n{text}\n").chmod(0o755)
    line = command(media, out)
    monkeypatch.setattr("sys.argv", [str(Path(run_pipeline.__file__)), *line, "--engine", "slurm", "--tasks=2"])
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", str(tmp_path / "bin" / "python"))
        assert run_pipeline.main([*line, "--engine", "slurm", "--tasks=2"]) == 0
    script = out / "extract.sbatch"
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert script.read_text().count("--engine") == 1
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for task in ("1", "0"):
        environment = os.environ | {"PATH": path, "SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": "7"}
        subprocess.run(["bash", str(script)], check=True, env=environment, capture_output=True)
        assert waiting.exists() == (task == "0")
        folder, file, *words = noted.read_text().splitlines()
        assert (Path(folder), Path(file)) == (Path.cwd(), Path(run_pipeline.__file__))
        assert run_pipeline.main(words) == 0
        noted.unlink()
    assert not list(out.glob("*.h5"))
    assert shlex.split(waiting.read_text())[0] == "cd"
    subprocess.run(["bash", str(waiting)], check=True, capture_output=True)
    assert len(list(out.glob("*.h5"))) == 2


def test_orders_survive_a_process_border(catalog: Catalog, tmp_path: Path) -> None:
    order = Order(catalog, NAMES, options(tmp_path))
    assert pickle.loads(pickle.dumps(order)) == order  # noqa: S301 - our own bytes
    assert replace(order, encoders=("x",)) != order


def test_ctrl_c_is_told_once(tmp_path: Path) -> None:
    """A terminal sends it to all processes, wherever they are: in their imports, or at work."""
    videos = tmp_path / "data" / "videos"
    videos.mkdir(parents=True)
    clip = write_clip(tmp_path / "clip.mp4", pictures(200, size=(240, 320)))
    rows = ["user\titem\ttimestamp"]
    for number in range(300):
        (videos / f"{number}.mp4").symlink_to(clip)
        rows.append(f"u\t{number}\t{number}")
    (tmp_path / "data" / "interactions.tsv").write_text("\n".join(rows) + "\n")
    told = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--weights", "random"]
    told += ["--encoders", "videomae-tiny", "--processes", "2", "--frames", "uniform:100"]
    command = [sys.executable, "run_pipeline.py", "extract", *told]
    parent = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(spawned(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)  # for their imports
    assert parent.poll() is None
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode == 130
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors


def spawned(parent: int) -> list[int]:
    """Return the workers among a process' children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(folder.name)] if b"spawn_main" in (folder / "cmdline").read_bytes() else []
        except OSError:  # gone since it was listed
            continue
    return found
