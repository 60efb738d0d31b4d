"""From raw media to feature files: one pass over the items feeds all encoders, and resumes where it stopped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from extract.encoders.faults import with_faults
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import weights_source
from extract.jobs.batch_size import settled_batch_size
from extract.jobs.changed_sources import Tell, Telling, known_digests
from extract.jobs.decoded_media import stored_media
from extract.jobs.disk_room import announce, check_room
from extract.jobs.options import AUTO, ExtractOptions
from extract.jobs.outputs import asked_for
from extract.jobs.pixels import Pixels, distinct_contracts
from extract.jobs.report import ExtractReport
from extract.jobs.sharding import Job, Progress, Work, claims_of
from extract.jobs.turns import in_turn, make_all
from extract.media.catalog import Catalog, stamp, why_missing
from extract.media.covers.damage import check_damage_reader
from extract.media.covers.image import COVER_READER
from extract.media.decoders import DECODING, get_decoder
from extract.media.folder_listing import Ignored
from extract.media.this_system import refuse_system, shortfalls
from features.errors import ConfigError, MediaError
from features.provenance import FINGERPRINT_CHARS, Provenance, library_versions
from features.shards.job import Wanted

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "pytorchvideo",
    "decord",
    "av",
    "torchcodec",
    "pillow",
    "numpy",
)


SHARD_BYTES = 2**28  # most bytes of a shard's rows (float32, or uint8 pixels), because a shard is held in memory


def extract(
    catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, *, progress: Progress | None = None
) -> ExtractReport:
    """Encode every item of a catalog with one encoder; see `extract_all`."""
    return extract_all(catalog, [spec], options, progress=progress)[0]


def extract_all(
    catalog: Catalog,
    specs: Sequence[EncoderSpec],
    options: ExtractOptions,
    *,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> list[ExtractReport]:
    """Encode every item of a catalog into one feature file per encoder, or bring those files up to date.

    With `options.pixels` there is one file of pixels per input contract.

    Each video is decoded once for all encoders, for the union of their frames. Each cover is read once.

    Args:
        catalog: the items, in the order of the rows.
        specs: the entries of the encoders.
        options: how to extract. `options.frames` replaces the frames of all video encoders.
        progress: called after each batch with (rows made, rows wanted, rows that failed in this run) over all files.
            What it raises stops the run; the next run goes on after the last finished shard.
        tell: called with lines for the user, such as the size of activations to be stored and the free disk space.

    Raises:
        ConfigError: an option or weights cannot be used, an encoder is given twice, or the catalog has no source at all
            of an encoder's modality.
        MediaError: more items lack a vector than `max_failed` allows. The rows made so far are kept for the next run,
            and the files of the other encoders are written.
        StoreError: weights or an existing feature file do not fit, or the disk is full. If activations or pixels will
            not fit on the disk, it is raised before anything is written.
    """
    works = prepare_all(catalog, specs, options, progress=progress, tell=tell)
    asked = {work.job.target: len(work.job.pending) for work in works if not work.job.unchanged}
    with in_turn(catalog, works, progress=progress, tell=tell) as works:
        forget_failed(works)
        busy = [work for work in works if not work.job.unchanged]
        asked |= {work.job.target: max(asked.get(work.job.target, 0), len(work.job.pending)) for work in busy}
        make_all(catalog, busy, works, progress=progress, tell=tell)
        finish(busy)
        claims_of(works).clear()  # left by workers that were killed
        return [report(work, asked.get(work.job.target, 0), unchanged=work.job.target not in asked) for work in works]


def forget_failed(works: Sequence[Work]) -> None:
    """Drop failed rows of earlier, unfinished runs if the options ask for it or if a reason may have passed."""
    for work in works:
        if work.options.retry_failed:
            work.job.forget_failed()
        work.job.forget_passing()


def prepare_all(
    catalog: Catalog,
    specs: Sequence[EncoderSpec],
    options: ExtractOptions,
    *,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> list[Work]:
    """Load each encoder once and open its job; ConfigError for one given twice. If it raises, nothing is written."""
    options.refuse_absent_device()
    opens_media = any(spec.modality != "title" for spec in specs)
    if opens_media:
        refuse_system()
    specs = distinct_specs(specs, options)
    works = [prepare(catalog, spec, options, Telling(tell, progress)) for spec in specs]
    _refuse_twice(specs, [work.job.target for work in works])
    check_room(works)
    if tell is not None:
        for line in [*announce(works), *(shortfalls(options.decoder) if opens_media else ())]:
            tell(line)
    return _settled(works, options)


def distinct_specs(specs: Sequence[EncoderSpec], options: ExtractOptions) -> Sequence[EncoderSpec]:
    """Return the entries that get a file of their own; ConfigError for one given twice, or for frames that none reads.

    It comes before anything is loaded. With `options.pixels` encoders of one input contract share a file.
    """
    if options.frames is not None and all(spec.modality != "video" for spec in specs):
        names = ", ".join(spec.name for spec in specs)
        raise ConfigError(f"--frames {options.frames} is for videos, but {names} read none; leave --frames out")
    if options.pixels:
        specs = distinct_contracts([_asked_for(spec, options) for spec in specs])
    _refuse_twice(specs, specs)
    return specs


def _refuse_twice(specs: Sequence[EncoderSpec], keys: Sequence[object]) -> None:
    """Raise ConfigError for the first encoder whose key another one has as well."""
    twice = next((spec.name for spec, key in zip(specs, keys, strict=True) if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"encoder {twice!r} is given twice; name each encoder once")


def _settled(works: Sequence[Work], asked: ExtractOptions) -> list[Work]:
    """Choose batch and shard sizes and compile: the steps that need all encoders and come after all checks."""
    done = []
    for work in works:
        options = work.options
        options.out.mkdir(parents=True, exist_ok=True)
        if options.batch_size == AUTO and not work.job.unchanged:
            fits = settled_batch_size(work.encoder, options, work.job.folder, work.output)
            options = replace(options, batch_size=fits)
        if options.compile:
            work.output.module.compile()
        done.append(replace(work, options=options))
    most = min((_most_rows(work) for work in done if work.output.unit), default=asked.shard_size)
    size = min(asked.shard_size, most)
    return [replace(work, options=replace(work.options, shard_size=size)) for work in done]


def _most_rows(work: Work) -> int:
    """Return the most rows that a shard may hold: whole batches, if there is room for one."""
    rows = max(1, SHARD_BYTES // ((1 if work.output.pixels else 4) * work.output.numbers))
    batch = max(1, work.options.batch_size)
    return rows - rows % batch if rows > batch else rows


def prepare(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, telling: Telling | None = None) -> Work:
    """Load the encoder and open its feature job; checks that need no media happen here."""
    spec = checked(catalog, spec, options)
    encoder = Pixels(spec) if options.pixels else spec.backend(spec, options.weights, options.seed)
    spec = encoder.to(options.device).spec
    stored = stored_media(catalog, spec)
    output = asked_for(encoder, options, catalog)
    provenance = Provenance(
        dataset=catalog.dataset,
        recipe=encoder.recipe()
        | {
            "dtype": "uint8" if output.pixels else options.disk_dtype,
            "decoder": reader_of(spec, options, stored),
        }
        | ({"decoding": DECODING} if spec.modality == "video" and not stored else {})
        | ({} if output.pixels else {"precision": options.precision})
        | stored
        | dict(output.recipe),
        weights_sha256=encoder.weights_sha256,
        weights_source="" if output.pixels else weights_source(options.weights, spec.weights, encoder.weights_sha256),
        libraries=library_versions(LIBRARIES),
        command=options.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    named = f"{spec.name}-microlens" if spec.faults else spec.name
    target = options.out / feature_name(catalog.dataset, named + output.mark, provenance.fingerprint)
    wanted = Wanted(
        [item.id for item in catalog.items],
        [stamp(item, spec.modality) for item in catalog.items],
        known_digests(catalog, spec.modality, options, telling),
    )
    job = Job(target, provenance, wanted, retry_failed=options.retry_failed)
    if catalog.partial and job.others:
        raise ConfigError(
            f"{target} holds {len(job.others)} items that --items leaves out, first {job.others[0]!r}; name them too, "
            "or choose another --out"
        )
    return Work(encoder, job, options, output, catalog.ignored.get(spec.modality, Ignored()))


def checked(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions) -> EncoderSpec:
    """Return the entry with the frames and faults that the options ask for.

    Raises:
        ConfigError: the decoder is unknown or absent, or the catalog has no source of the encoder's modality.
    """
    get_decoder(options.decoder)
    if spec.modality == "cover":
        check_damage_reader()
    _check_catalog(catalog, spec)
    return _asked_for(spec, options)


def reader_of(spec: EncoderSpec, options: ExtractOptions, stored: Mapping[str, Any]) -> str | None:
    """Return the name of what decodes this modality; None if nothing is decoded."""
    if spec.modality == "cover" and stored.get("stored") != "pixels":
        return COVER_READER
    return options.decoder if spec.modality == "video" and not stored else None


def _asked_for(spec: EncoderSpec, options: ExtractOptions) -> EncoderSpec:
    """Return the entry with the frames and faults that the options ask for."""
    if options.faults:
        spec = with_faults(spec, options.faults)
    if options.frames is None or spec.modality != "video":
        return spec
    if "five-frames" in spec.faults:
        raise ConfigError(f"--frames {options.frames} and fault 'five-frames' both choose frames; leave one out")
    return replace(spec, frames=options.frames)


def feature_name(dataset: str, encoder: str, fingerprint: str) -> str:
    """Return the name of a feature file; characters that file systems dislike become '-'."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset).strip("-")[:80] or "dataset"
    return f"{safe}.{encoder}.{fingerprint[:FINGERPRINT_CHARS]}.h5"


def _check_catalog(catalog: Catalog, spec: EncoderSpec) -> None:
    total, missing = len(catalog.items), catalog.count_missing()[spec.modality]
    if missing == total:
        raise ConfigError(
            f"dataset {catalog.dataset!r} has no {spec.modality} for any of its {total} items, which encoder "
            f"{spec.name!r} needs; check the folder or table of {spec.modality}s and that its names are the item ids"
            f"{_passed_over(catalog, spec)}"
        )


def _passed_over(catalog: Catalog, spec: EncoderSpec) -> str:
    ignored = catalog.ignored.get(spec.modality, Ignored())
    unusable = next((why_missing(item, spec.modality) for item in catalog.items), "") if not ignored.count else ""
    return f" ({ignored})" if ignored.count else f" ({unusable})" if unusable != f"no {spec.modality}" else ""


def finish(works: Sequence[Work]) -> None:
    """Write the files of the encoders that had enough good items, then raise for the others."""
    failure: MediaError | None = None
    for work in works:
        try:
            _check_failures(work)
        except MediaError as error:
            failure = failure or error
            continue
        with work.timed("write"):
            work.job.finish()
    if failure is not None:
        raise failure


def _check_failures(work: Work) -> None:
    bad, total = work.job.rejected(), len(work.job.wanted.ids)
    if len(bad) <= work.options.max_failed * total:
        return
    missing = sum(state == "missing" for _, state, _ in bad)
    first = "; ".join(f"{item}: {reason}" for item, _, reason in bad[:3])
    what = "pixels" if work.output.pixels else "vector"
    raise MediaError(
        f"{len(bad)} of {total} items have no {what} ({missing} missing, {len(bad) - missing} failed), more than "
        f"--max-failed {work.options.max_failed:g} allows. First: {first}. Repair them, or run again with "
        f"--max-failed {math.ceil(1000 * len(bad) / total) / 1000:g}; what is done is kept"
    )


def report(work: Work, new_rows: int, *, unchanged: bool) -> ExtractReport:
    """Return what became of one encoder's file."""
    bad = work.job.rejected()
    states = [state for _, state, _ in bad]
    counts = {name: states.count(name) for name in ("missing", "failed")}
    return ExtractReport(
        path=work.job.target,
        encoder=work.encoder.spec.name,
        modality=work.modality,
        fingerprint=work.job.provenance.fingerprint,
        counts={"done": len(work.job.wanted.ids) - len(bad), **counts},
        new_rows=new_rows,
        unchanged=unchanged,
        bad=bad,
        cosine_error=work.job.cosine_error,
        seconds=dict(work.seconds),
        warning="; ".join(filter(None, [work.encoder.warning, _unpinned(work)])),
        ignored=work.ignored,
    )


def _unpinned(work: Work) -> str:
    """Return a warning if the weights are the publisher's newest revision, else ''."""
    source = work.encoder.spec.weights
    if work.options.weights != "pretrained" or source is None or source.revision != "main":
        return ""
    return (
        f"the weights of {work.encoder.spec.name} are the newest of {source.place}, not a fixed revision; if they "
        "change, the fingerprint changes too"
    )
