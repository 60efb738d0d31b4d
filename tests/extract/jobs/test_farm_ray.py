"""Extraction on Ray: clusters of one machine, nodes that go away, and what cannot be asked for."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract_all
from extract.jobs.farm import Order
from extract.jobs.farm_ray import extract_on_ray
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, build_catalog
from features.errors import ConfigError
from features.store import FeatureFile
from run_pipeline import main
from tests.support.media import pictures, write_clip, write_cover

NAMES = ("videomae-tiny", "resnet-tiny")
COUNT = 40


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("ray")
    for place in ("videos", "covers"):
        (folder / place).mkdir()
    for number in range(COUNT):
        write_clip(folder / "videos" / f"{number}.mp4", pictures(12, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    (folder / "videos" / "7.mp4").write_bytes(b"")
    return build_catalog("toy", None, videos=folder / "videos", covers=folder / "covers")


def options(out: Path) -> ExtractOptions:
    return ExtractOptions(
        out, weights="random", dtype="float32", batch_size=1, shard_size=1, max_failed=0.5, stale_s=5.0, workers=1
    )


def hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in folder.glob("*.h5"):
        file = FeatureFile(path)
        file.verify()
        found[path.name] = file.vectors_sha256
    return found


@pytest.fixture(scope="module")
def whole(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    extract_all(catalog, [ENCODERS[name] for name in NAMES], options(folder))
    return hashes(folder)


@pytest.fixture(scope="module")
def ray() -> Any:
    """Ray, where it is installed and can start its daemons."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    try:
        ray.init(address="local", num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        pytest.skip(f"Ray cannot start here: {' '.join(str(error).split())[:200]}")
    finally:
        ray.shutdown()
    return ray


@pytest.fixture
def cluster(ray: Any) -> Iterator[Any]:
    """A head without cores, and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes = [made.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    made.wait_for_nodes()
    try:
        yield made, nodes
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_a_node_that_goes_away_costs_nothing(
    catalog: Catalog, whole: dict[str, str], cluster: Any, tmp_path: Path
) -> None:
    made, nodes = cluster
    removed = threading.Event()

    def remove_one() -> None:
        deadline = time.monotonic() + 300
        while len(list(tmp_path.rglob("*.json"))) < 6 and time.monotonic() < deadline:  # both nodes are at work
            time.sleep(0.02)
        made.remove_node(nodes[0], allow_graceful=False)
        removed.set()

    thread = threading.Thread(target=remove_one)
    thread.start()
    reports = extract_on_ray(Order(catalog, NAMES, options(tmp_path)), 2, address=made.address)
    thread.join()
    assert removed.is_set()
    assert [report.counts for report in reports] == [
        {"done": COUNT - 1, "missing": 0, "failed": 1},
        {"done": COUNT, "missing": 0, "failed": 0},
    ]
    assert hashes(tmp_path) == whole
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".h5"], "claims and shards are cleared away"


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_cluster_of_its_own_and_nothing_left_to_do(catalog: Catalog, whole: dict[str, str], tmp_path: Path) -> None:
    order = Order(catalog, NAMES, replace(options(tmp_path), shard_size=8))
    seen = []
    extract_on_ray(order, 2, progress=lambda *told: seen.append(told[:2]))
    assert hashes(tmp_path) == whole
    assert seen[-1] == (2 * COUNT, 2 * COUNT)
    assert all(report.unchanged for report in extract_on_ray(order, 1))


def test_what_cannot_be_asked_for_is_told(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(catalog, NAMES, options(tmp_path))
    with pytest.raises(ConfigError, match="--processes is 0"):
        extract_on_ray(order, 0)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"--engine ray needs Ray; install it"):
        extract_on_ray(order, 1)


def test_an_address_without_ray_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "items.csv").write_text("item,title\na,b\n")
    line = ["extract", "--data", str(tmp_path), "--encoders", "minilm-tiny", "--weights", "random"]
    assert main([*line, "--out", str(tmp_path / "out"), "--ray-address", "auto"]) == 2
    assert "--ray-address auto is for --engine ray, not for --engine local" in capsys.readouterr().err


@pytest.mark.usefixtures("ray")
def test_a_cluster_that_is_not_there_is_told(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
        extract_on_ray(Order(catalog, NAMES, options(tmp_path)), 1, address="127.0.0.1:1")
