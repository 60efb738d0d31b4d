"""Stage e: queries per second of retrieval, 100 hits each, over as many vectors as MicroLens has items.

- flat, as `recommend` searches: the product's index, which is FAISS's exact one on the CPU;
- flat on the card: the same index moved there, which needs a FAISS built for GPUs;
- IVF: inverted lists, 16 of them searched; `found` is the share of the exact top 10 that it finds;
- product and top-k by torch: no index at all, as evaluation ranks.

Vectors are drawn from a mixture, so that the lists of an IVF have something to hold on to. Its recall on them says
nothing about real items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_stages.measuring import now, rate
from benchmarks.gpu_stages.reporting import Budget, Report
from benchmarks.gpu_stages.sizes import Sizes

TITLE = "retrieval"
TOP, EXACT, PROBES = 100, 10, 16
AT_ONCE = 1024  # queries of one call
TRAINED_ON = 64  # vectors per list that an IVF is trained on
Floats = NDArray[np.float32]


def run(report: Report, sizes: Sizes, folder: Path, device: torch.device, budget: Budget) -> None:
    """Fill the report."""
    del folder
    items, queries = drawn_vectors(sizes, device)
    table = f"{len(items):,} vectors of {items.shape[1]}, {TOP} hits, {AT_ONCE} queries at once"
    with report.row(table, "product and top-k by torch") as row:
        row["queries/s"] = by_torch(items, queries, device, budget.share(4) / 2)
    host, asked = items.cpu().numpy(), queries.cpu().numpy()
    exact = exact_top(items, queries)
    del items
    with report.row(table, "flat on the card (FAISS)") as row:
        index = on_card(flat(host), device)
        row["queries/s"] = searched(index, asked, budget.share(3) / 2)
        row["found"] = found(index, asked, exact)
    with report.row(table, f"IVF, {sizes.lists} lists (FAISS)") as row:
        ivf(row, host, asked, exact, sizes, device, budget)
    with report.row(table, "flat, as `recommend` searches") as row:
        from pipelines.retrieval.retrieve import build_index

        row["queries/s"] = searched(build_index(host), asked, budget.share(1) / 2, least=1)
        row["where"] = "CPU"


def drawn_vectors(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return vectors (I, D) and queries (Q, D) around common middles, float32, on the device."""
    generator = torch.Generator(device).manual_seed(0)
    draw = {"generator": generator, "device": device}
    middles = torch.randn(sizes.lists, sizes.candidate_width, **draw)

    def around(count: int) -> Tensor:
        near = torch.randint(sizes.lists, (count,), **draw)
        return middles[near].add_(torch.randn(count, sizes.candidate_width, **draw))

    return around(sizes.candidates), around(sizes.queries)


def by_torch(items: Tensor, queries: Tensor, device: torch.device, seconds: float) -> float:
    """Return queries per second of a product and a top-k."""
    size = min(AT_ONCE, len(queries))
    asked = queries[:size]
    return size * rate(lambda: (asked @ items.T).topk(min(TOP, len(items))), device, seconds, warm=1)


def exact_top(items: Tensor, queries: Tensor) -> NDArray[np.int64]:
    """Return the rows of the best items for the first queries."""
    best: Tensor = (queries[:AT_ONCE] @ items.T).topk(EXACT).indices
    return best.cpu().numpy()


def flat(vectors: Floats) -> Any:
    """Return FAISS's exact inner-product index, on the CPU."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def on_card(index: Any, device: torch.device) -> Any:
    """Return an index moved to the card; RuntimeError where there is none, or FAISS is built without GPUs."""
    import faiss

    if device.type != "cuda":
        raise RuntimeError("needs a CUDA device, and this run has none")
    if not hasattr(faiss, "StandardGpuResources"):
        raise RuntimeError("the installed FAISS is built without GPUs (faiss-gpu has them)")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)


def ivf(
    row: dict[str, Any], vectors: Floats, asked: Floats, exact: Any, sizes: Sizes, device: torch.device, budget: Budget
) -> None:
    """Fill in an inverted file, on the card where FAISS can be there, otherwise on the CPU."""
    import faiss

    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], sizes.lists, faiss.METRIC_INNER_PRODUCT
    )
    row["where"] = "CPU"
    try:
        index = on_card(index, device)
        row["where"] = "card"
    except RuntimeError as error:
        row["note"] = str(error)
        if sizes.scale == 1:
            raise RuntimeError(f"{error}; on a CPU it would take minutes to train") from error
    began = now(device)
    index.train(vectors[: TRAINED_ON * sizes.lists])
    index.add(vectors)
    row["building (s)"] = now(device) - began
    index.nprobe = PROBES
    row["queries/s"] = searched(index, asked, budget.share(2) / 2)
    row["found"] = found(index, asked, exact)


def searched(index: Any, queries: Floats, seconds: float, *, least: int = 2) -> float:
    """Return queries per second; FAISS returns when the hits are on the host."""
    part = queries[:AT_ONCE]
    return len(part) * rate(lambda: index.search(part, TOP), torch.device("cpu"), seconds, warm=1, least=least)


def found(index: Any, queries: Floats, exact: NDArray[np.int64]) -> float:
    """Return the share of the exact top 10 among the first 10 hits."""
    rows = index.search(queries[: len(exact)], EXACT)[1]
    return float(np.mean([len(set(mine) & set(best)) / EXACT for mine, best in zip(rows, exact, strict=True)]))
