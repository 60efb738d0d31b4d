"""How large the stages are: MicroLens-100K's counts and full encoders, or toy sizes for a dry run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The numbers in which a dry run differs from a measurement; the code is the same."""

    encoders: tuple[str, ...]
    """Encoders that extract; the first one is held to the goals."""
    towers: tuple[str, ...]
    """Encoders that are fine-tuned; the first one is held to the goals."""
    exact: str
    """Encoder of the comparison of 'top' with 'e2e'."""
    exact_steps: int
    """Steps that both kinds train."""
    product: int
    """Rows and columns of the square matrices whose product is the yardstick."""
    users: int
    items: int
    interactions: int
    pictures: int
    """Different clips or covers in a file of pixels; items beyond them repeat them."""
    activations: int
    """Rows of a file of activations; items beyond them repeat them."""
    most_items: int
    """Items of one extraction, which ends earlier where its time is over."""
    batch: int
    """Users per step of fine-tuning."""
    placed: int
    """Users per step where places of activations are compared; their items are all different rows."""
    micro_batch: int
    """Items encoded at a time where a whole batch does not fit, and for 'e2e' of all blocks."""
    width: int
    """Width D of the recommender in fine-tuning."""
    scale: int
    """Divides widths and batch sizes of Table 2's recipes; 1 leaves them alone."""
    candidates: int
    candidate_width: int
    """Vectors of the retrieval, and numbers in each."""
    queries: int
    lists: int
    """Lists of the inverted file (IVF)."""
    compiled: tuple[str, ...]
    """Encoders that are measured with `--compile`, too."""
    compiler: str
    """Backend of torch.compile."""
    most_batch: int
    """Items per batch of an extraction at most; above 256 `--batch-size auto` alone decides."""
    row_s: float
    """Seconds of a row at most."""
    profiled: int
    """Training steps under the profiler."""
    threads: int
    """Threads of torch on the CPU; 0 leaves the choice to torch."""


FULL = Sizes(
    encoders=("videomae-base", "slowfast-r50", "clip-vit-b-32-image", "bert-base"),
    towers=("videomae-base", "slowfast-r50"),
    exact="videomae-base",
    exact_steps=18,
    product=8192,
    users=100_000,
    items=19_738,
    interactions=719_405,
    pictures=64,
    activations=512,
    most_items=100_000,
    batch=120,
    placed=32,
    micro_batch=32,
    width=512,
    scale=1,
    candidates=1_142_528,
    candidate_width=512,
    queries=8192,
    lists=4096,
    compiled=("videomae-base", "bert-base", "clip-vit-b-32-image", "slowfast-r50"),
    compiler="inductor",
    most_batch=256,
    row_s=20.0,
    profiled=10,
    threads=0,
)

TINY = Sizes(
    encoders=("videomae-tiny", "clip-tiny-image", "bert-tiny"),
    towers=("videomae-tiny", "resnet-tiny"),
    exact="videomae-tiny",
    exact_steps=6,
    product=256,
    users=200,
    items=60,
    interactions=1400,
    pictures=8,
    activations=16,
    most_items=24,
    batch=8,
    placed=4,
    micro_batch=8,
    width=16,
    scale=128,
    candidates=2048,
    candidate_width=16,
    queries=64,
    lists=16,
    compiled=("bert-tiny",),
    compiler="eager",
    most_batch=4,
    row_s=0.06,
    profiled=1,
    threads=1,
)
