"""Raw media to one feature file: decode ahead, preprocess, encode, write shards; resumes where it stopped.

Batches are formed inside a shard and shards are cut the same way after every restart, so a run that was killed ends
with the same bytes as one that was not. Letters: B batch, I items, F feature width, T frames, H W pixels.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.catalog import Catalog, Item, source, stamp
from extract.decoders import get_decoder, one_line, read_cover
from extract.encoder import Batch, Encoder, EncoderSpec, PixelInput, Tokens
from extract.options import ExtractOptions, ExtractReport
from extract.preprocess import preprocess
from features.errors import ConfigError, MediaError
from features.provenance import FINGERPRINT_CHARS, Provenance, library_versions
from features.shards import FeatureJob, Wanted
from features.store import FeatureRows, State

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "pytorchvideo",
    "decord",
    "av",
    "pillow",
    "numpy",
)
AHEAD = 2  # clips decoded ahead per worker; 32 frames of 1080p are 200 MB

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Work:
    """An extraction that is ready to run: what to encode, with what, into what."""

    catalog: Catalog
    encoder: Encoder
    job: FeatureJob
    options: ExtractOptions
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "write": 0.0})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall clock to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


@dataclass
class Loaded:
    """What a decoder thread made of one item: pixels (T, H, W, 3) or (H, W, 3), or a title; or why not."""

    content: NDArray[np.uint8] | str | None = None
    digest: str = ""
    state: State = State.DONE
    reason: str = ""


def extract(
    catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, *, progress: Progress | None = None
) -> ExtractReport:
    """Encode every item of a catalog into one feature file, or bring that file up to date.

    Args:
        catalog: the items; the order of its rows.
        spec: the encoder's entry.
        options: see there.
        progress: called with (items that have a row, all items) after each batch; what it raises stops the run, and
            the next run goes on after the last finished shard.

    Raises:
        ConfigError: an option, weights or a modality the catalog lacks altogether.
        MediaError: more items without a vector than `max_failed`; the rows made so far are kept for the next run.
        StoreError: weights or a feature file that do not fit, or a full disk.
    """
    work = prepare(catalog, spec, options)
    unchanged = work.job.unchanged
    shards = [_by_length(work, shard) for shard in work.job.shards(options.shard_size)]
    new_rows = sum(map(len, shards))
    if not unchanged:
        _run(work, shards, progress)
        _check_failures(work)
        with work.timed("write"):
            work.job.finish()
    bad = work.job.rejected()
    states = [state for _, state, _ in bad]
    counts = {name: states.count(name) for name in ("missing", "failed")}
    return ExtractReport(
        path=work.job.target,
        encoder=spec.name,
        fingerprint=work.job.provenance.fingerprint,
        counts={"done": len(catalog.items) - len(bad), **counts},
        new_rows=new_rows,
        unchanged=unchanged,
        bad=bad,
        seconds=dict(work.seconds),
        warning=work.encoder.warning,
    )


def prepare(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions) -> Work:
    """Load the encoder and open the feature job; the checks that need no media happen here."""
    get_decoder(options.decoder)
    _check_catalog(catalog, spec)
    if options.frames is not None:
        if spec.modality != "video":
            raise ConfigError(f"encoder {spec.name!r} reads {spec.modality}s, which have no frames; leave --frames out")
        spec = replace(spec, frames=options.frames)
    encoder = spec.backend(spec, options.weights, options.seed).to(options.device)
    provenance = Provenance(
        dataset=catalog.dataset,
        recipe=encoder.recipe()
        | {"dtype": options.dtype, "decoder": options.decoder if spec.modality == "video" else None},
        weights_sha256=encoder.weights_sha256,
        libraries=library_versions(LIBRARIES),
        command=options.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / feature_name(catalog.dataset, spec.name, provenance.fingerprint)
    wanted = Wanted([item.id for item in catalog.items], [stamp(item, spec.modality) for item in catalog.items])
    return Work(catalog, encoder, FeatureJob(target, provenance, wanted, retry_failed=options.retry_failed), options)


def feature_name(dataset: str, encoder: str, fingerprint: str) -> str:
    """Return the file name of features; signs that file systems dislike become '-'."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset).strip("-")[:80] or "dataset"
    return f"{safe}.{encoder}.{fingerprint[:FINGERPRINT_CHARS]}.h5"


def _check_catalog(catalog: Catalog, spec: EncoderSpec) -> None:
    total, missing = len(catalog.items), catalog.count_missing()[spec.modality]
    if missing == total:
        raise ConfigError(
            f"dataset {catalog.dataset!r} has no {spec.modality} for any of its {total} items, which encoder "
            f"{spec.name!r} needs; check the folder or table of {spec.modality}s and that its names are the item ids"
        )


def _check_failures(work: Work) -> None:
    bad, total = work.job.rejected(), len(work.catalog.items)
    if len(bad) <= work.options.max_failed * total:
        return
    missing = sum(state == "missing" for _, state, _ in bad)
    first = "; ".join(f"{item}: {reason}" for item, _, reason in bad[:3])
    raise MediaError(
        f"{len(bad)} of {total} items have no vector ({missing} missing, {len(bad) - missing} failed), more than "
        f"--max-failed {work.options.max_failed:g} allows. First: {first}. Repair them, or run again with "
        f"--max-failed {math.ceil(1000 * len(bad) / total) / 1000:g}; what is done is kept"
    )


def _by_length(work: Work, shard: Sequence[int]) -> Sequence[int]:
    """Return the rows of a shard, titles sorted by length: batches of like lengths hold little padding."""
    if work.encoder.spec.modality != "title":
        return shard
    return sorted(shard, key=lambda row: len(work.catalog.items[row].title or ""))


def _run(work: Work, shards: Sequence[Sequence[int]], progress: Progress | None) -> None:
    """Make and write the shards, decoding ahead across their borders."""
    total = len(work.catalog.items)
    done = total - sum(map(len, shards))
    loaded = _decoded_ahead(work, [row for shard in shards for row in shard])
    try:
        with _full_precision(work.options.device), torch.inference_mode():
            for shard in shards:
                batches = []
                for start in range(0, len(shard), work.options.batch_size):
                    rows = shard[start : start + work.options.batch_size]
                    batches.append(encode_rows(work, rows, loaded))
                    done += len(rows)
                    if progress is not None and start + len(rows) < len(shard):
                        progress(done, total)
                with work.timed("write"):
                    work.job.write(_joined(batches))
                if progress is not None:  # after the write: what a caller has been told of is on disk
                    progress(done, total)
    finally:
        loaded.close()


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Keep convolutions in float32 on GPUs, where torch would use TF32: the recipe says float32."""
    if not device.startswith("cuda"):
        return nullcontext()
    manager: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return manager


def _decoded_ahead(work: Work, rows: Sequence[int]) -> Generator[Loaded]:
    """Yield what each row's source holds, in order, while threads read the next ones; close() stops them."""
    waiting: deque[Future[Loaded]] = deque()
    remaining = iter(rows)
    with ThreadPoolExecutor(work.options.workers, thread_name_prefix="decode") as pool:
        try:
            for row in remaining:
                waiting.append(pool.submit(_load, work, work.catalog.items[row]))
                if len(waiting) > AHEAD * work.options.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _load(work: Work, item: Item) -> Loaded:
    """Read one item in a decoder thread; every trouble of its media costs this row and nothing else."""
    spec = work.encoder.spec
    origin = source(item, spec.modality)
    if origin is None:
        return Loaded(state=State.MISSING, reason=f"no {spec.modality}")
    try:
        if isinstance(origin, str):
            return Loaded(origin, hashlib.blake2b(origin.encode(), digest_size=16).hexdigest())
        with origin.open("rb") as handle:
            digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if spec.frames is not None:
            return Loaded(get_decoder(work.options.decoder)(origin, spec.frames).frames, digest)
        return Loaded(read_cover(origin), digest)
    except FileNotFoundError:
        return Loaded(state=State.MISSING, reason=f"{item.id}: {spec.modality} gone since it was listed")
    except (MediaError, OSError, UnicodeError) as error:
        return Loaded(state=State.FAILED, reason=one_line(error))


def encode_rows(work: Work, rows: Sequence[int], loaded: Iterator[Loaded]) -> FeatureRows:
    """Return the feature rows of one batch; takes as many entries of `loaded` as there are rows."""
    parts: list[Loaded] = []
    inputs: list[Tensor | str] = []
    for _ in rows:
        with work.timed("decode"):
            part = next(loaded)
        with work.timed("encode"):
            if part.state == State.DONE:
                _prepare_input(work, part, inputs)
            part.content = None  # a clip's pixels are large; only its resized tensor stays
        parts.append(part)
    vectors = np.full((len(rows), work.encoder.width), np.nan, dtype=work.options.dtype)
    good = [place for place, part in enumerate(parts) if part.state == State.DONE]
    if good:
        with work.timed("encode"), np.errstate(over="ignore"):
            vectors[good] = work.encoder(_batch(work, inputs)).cpu().numpy().astype(work.options.dtype)
    for place in good:
        if not np.isfinite(vectors[place]).all():
            vectors[place] = np.nan
            parts[place].state = State.FAILED
            parts[place].reason = f"vector is not finite in {work.options.dtype}; try --dtype float32"
    wanted = work.job.wanted
    return FeatureRows(
        ids=[wanted.ids[row] for row in rows],
        vectors=vectors,
        states=np.array([part.state for part in parts], dtype=np.uint8),
        reasons=[part.reason for part in parts],
        stamps=[wanted.stamps[row] for row in rows],
        digests=[part.digest for part in parts],
    )


def _prepare_input(work: Work, part: Loaded, inputs: list[Tensor | str]) -> None:
    """Append the encoder's input for one item, or mark the item as failed."""
    spec = work.encoder.spec
    if isinstance(part.content, str):
        inputs.append(part.content)
    elif part.content is not None and isinstance(spec.inputs, PixelInput):
        try:
            inputs.append(preprocess(part.content, spec.inputs, work.options.device))
        except MediaError as error:
            part.state, part.reason = State.FAILED, one_line(error)


def _batch(work: Work, inputs: Sequence[Tensor | str]) -> Batch:
    if work.encoder.tokenizer is None:
        return torch.stack([entry for entry in inputs if isinstance(entry, Tensor)])
    tokens = work.encoder.tokenizer.tokenise([entry for entry in inputs if isinstance(entry, str)])
    return Tokens(tokens.ids.to(work.options.device), tokens.mask.to(work.options.device))


def _joined(parts: Sequence[FeatureRows]) -> FeatureRows:
    return FeatureRows(
        ids=[item for part in parts for item in part.ids],
        vectors=np.concatenate([part.vectors for part in parts]),
        states=np.concatenate([part.states for part in parts]),
        reasons=[reason for part in parts for reason in part.reasons],
        stamps=[mark for part in parts for mark in part.stamps],
        digests=[digest for part in parts for digest in part.digests],
    )


__all__ = ["ExtractOptions", "ExtractReport", "Work", "encode_rows", "extract", "feature_name", "prepare"]
