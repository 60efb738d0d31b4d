"""One shard in the making: sources read ahead in threads, batched, encoded, with the state of every row."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extract.catalog import Item, digest
from extract.decoders import get_decoder, read_cover
from extract.encoders import EncoderSpec
from extract.frames import FramePolicy
from extract.loading import Encoder
from extract.preprocess import preprocess
from features.errors import ConfigError, MediaError
from features.store import FeatureRows, State

Source = NDArray[np.uint8] | str  # decoded pixels (T, H, W, 3) or (H, W, 3), or a title


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract. Only weights, seed, dtype, frames and decoder change the numbers, hence the fingerprint.

    Attributes:
        out: folder for feature files.
        weights: 'pretrained', 'random' or a local path.
        seed: of random weights.
        dtype: on disk.
        frames: frame policy instead of the encoder's own.
        decoder: see extract/decoders.py.
        batch_size: sources per forward pass.
        shard_size: rows per shard.
        workers: decoding threads.
        device: torch device.
        max_failed: share of missing and failed rows above which the run fails.
        retry_failed: make failed rows of an earlier file again.
        command: command line, for the provenance.
    """

    out: Path
    weights: str = "pretrained"
    seed: int = 0
    dtype: str = "float16"
    frames: FramePolicy | None = None
    decoder: str = "auto"
    batch_size: int = 16
    shard_size: int = 256
    workers: int = 2
    device: str = "cpu"
    max_failed: float = 0.05
    retry_failed: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        if self.dtype not in ("float16", "float32"):
            raise ConfigError(f"--dtype is {self.dtype!r}; store float16 or float32")
        for name in ("batch_size", "shard_size", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it starts at 1")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"--max-failed is {self.max_failed}; it is a share between 0 and 1")
        get_decoder(self.decoder)


@dataclass(frozen=True)
class Outcome:
    """A source read, or why it could not be."""

    source: Source | None
    state: State = State.DONE
    reason: str = ""
    digest: str = ""


class Reader:
    """Reads sources in worker threads, some ahead of need, and yields one outcome per item in order."""

    def __init__(self, items: Sequence[Item], spec: EncoderSpec, options: ExtractOptions) -> None:
        self.items, self.spec, self.options = items, spec, options
        self.pool = ThreadPoolExecutor(options.workers)
        self.ahead = options.batch_size + 2 * options.workers  # bounds memory: decoded clips are megabytes each

    def __enter__(self) -> Iterator[Outcome]:
        return self._outcomes()

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _outcomes(self) -> Iterator[Outcome]:
        waiting: deque[Future[Outcome]] = deque()
        for item in self.items:
            waiting.append(self.pool.submit(self._read, item))
            if len(waiting) > self.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, item: Item) -> Outcome:
        modality, source = self.spec.modality, item.source(self.spec.modality)
        if source is None:
            return Outcome(None, State.MISSING, f"no {modality}")
        if isinstance(source, str):
            return Outcome(source, digest=digest(source.encode()))
        try:
            hashed = digest(source.read_bytes())
            if self.spec.frames is None:
                return Outcome(read_cover(source), digest=hashed)
            return Outcome(get_decoder(self.options.decoder)(source, self.spec.frames), digest=hashed)
        except (MediaError, OSError) as error:
            return Outcome(None, State.FAILED, " ".join(str(error).split()))


class Rows:
    """One shard in the making: gathers batches, encodes them, keeps the state of each row."""

    def __init__(self, items: Sequence[Item], encoder: Encoder, options: ExtractOptions) -> None:
        self.items, self.encoder, self.options = items, encoder, options
        self.vectors = np.full((len(items), encoder.width), np.nan, dtype=np.dtype(options.dtype))
        self.states = np.zeros(len(items), dtype=np.uint8)
        self.reasons = [""] * len(items)
        self.digests = [""] * len(items)
        self.batch: list[tuple[int, Any]] = []

    def add(self, row: int, outcome: Outcome) -> float:
        """Take one outcome; returns seconds spent encoding if that filled a batch."""
        self.states[row], self.reasons[row], self.digests[row] = outcome.state, outcome.reason, outcome.digest
        if outcome.source is None:
            return 0.0
        began = time.perf_counter()
        self.batch.append((row, self._prepared(outcome.source)))
        spent = time.perf_counter() - began
        return spent + (self.flush() if len(self.batch) == self.options.batch_size else 0.0)

    def _prepared(self, source: Source) -> Any:
        if isinstance(source, str):
            return source
        frames = torch.from_numpy(np.ascontiguousarray(source)).to(self.options.device)
        if frames.ndim == 3:
            return preprocess(frames[None], self.encoder.spec)[0]
        return preprocess(frames, self.encoder.spec)

    def flush(self) -> float:
        """Encode what has gathered; returns the seconds it took."""
        if not self.batch:
            return 0.0
        began = time.perf_counter()
        rows = [row for row, _ in self.batch]
        sources = [source for _, source in self.batch]
        tokenise = self.encoder.tokenise
        batch = (tokenise(sources) if tokenise else torch.stack(sources)).to(self.options.device)
        with torch.inference_mode(), np.errstate(over="ignore"):
            self.vectors[rows] = self.encoder(batch).cpu().numpy()
        for row in rows:
            if not np.isfinite(self.vectors[row]).all():
                self.states[row] = State.FAILED
                self.reasons[row] = f"vector is not finite in {self.options.dtype}"
                self.vectors[row] = np.nan
        self.batch.clear()
        return time.perf_counter() - began

    def finished(self) -> FeatureRows:
        """Return the shard's rows."""
        modality = self.encoder.spec.modality
        return FeatureRows(
            ids=[item.id for item in self.items],
            vectors=self.vectors,
            states=self.states,
            reasons=self.reasons,
            stamps=[item.stamp(modality) for item in self.items],
            digests=self.digests,
        )
