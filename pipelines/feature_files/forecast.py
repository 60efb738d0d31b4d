"""What an extraction would do, for `extract --dry-run`: which rows are there, which would be made, and the disk room.

Nothing is written. The name of a feature file depends on the hash of the encoder's weights. They are not loaded here:
a file that agrees in everything else and says that its weights came from the same place is taken for the one that the
extraction would bring up to date. Encoders are built, with random weights, only where `--top-blocks` or `--layers`
leave the size of a row open.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from extract.encoders.inputs import PixelInput
from extract.encoders.pixel_contract import contract_of
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import local_path, weights_source
from extract.jobs.decoded_media import stored_media
from extract.jobs.disk_room import free_bytes, readable
from extract.jobs.extractor import checked, distinct_specs, feature_name, reader_of
from extract.jobs.options import ExtractOptions
from extract.jobs.outputs import activation_output, asked_for
from extract.jobs.pixels import Pixels
from extract.jobs.sharding import Job
from extract.media.catalog import Catalog, stamp
from extract.media.modality import Modality
from extract.media.sandbox import passes
from features.precision import disk_type
from features.provenance import Provenance
from features.shards.job import Wanted
from features.shards.records import recorded, rows_of, shard_sha256
from features.store import FeatureFile, State
from pipelines.console import say, table, warn


@dataclass(frozen=True)
class Forecast:
    """What would become of one encoder's feature file."""

    encoder: str
    """Name of the encoder."""
    modality: Modality
    """What the encoder reads."""
    items: int
    """Rows that the file has in the end."""
    missing: int
    """Items without a source: their rows say so, and nothing is encoded for them."""
    state: Literal["absent", "unfinished", "stale", "complete"]
    """'absent': there is no file. 'unfinished': an earlier run left shards. 'stale': a file is there, with rows to be
    made or dropped. 'complete': there is nothing to do."""
    file: str | None
    """The feature file that is there, or that the shards are for; None where there is neither."""
    kept: int
    """Rows that stand as they are, whether they hold a vector or not."""
    new: int
    """Items that have no row yet."""
    changed: int
    """Rows whose source has another size or date than the one that they were made from."""
    retried: int
    """Rows that failed and are tried again."""
    failed: int
    """Rows that failed and stand."""
    bytes_needed: int
    """Most bytes of disk that the rows and the file made of them take at once, beside what is there already."""

    @property
    def to_make(self) -> int:
        """Return how many rows would be made."""
        return self.new + self.changed + self.retried


def forecast(catalog: Catalog, specs: Sequence[EncoderSpec], options: ExtractOptions) -> list[Forecast]:
    """Return what `extract_all` would do, in the order of the encoders.

    Raises:
        ConfigError: an option cannot be used, or the catalog has no source at all of an encoder's modality.
    """
    return [_forecast(catalog, spec, options) for spec in distinct_specs(specs, options)]


def _forecast(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions) -> Forecast:
    spec = checked(catalog, spec, options)
    if options.weights not in ("pretrained", "random"):
        local_path(options.weights)
    stamps = [stamp(item, spec.modality) for item in catalog.items]
    wanted = Wanted([item.id for item in catalog.items], stamps)
    name = Pixels(spec).spec.name if options.pixels else spec.name
    found = _existing(catalog, spec, options, name)
    jobs = [Job(path, made, wanted, retry_failed=options.retry_failed, read_only=True) for path, made in found[:1]]
    if not jobs:
        need = 2 * len(stamps) * _row_bytes(catalog, spec, options, None)
        return Forecast(
            name, spec.modality, len(stamps), stamps.count(""), "absent", None, 0, len(stamps), 0, 0, 0, need
        )
    return _of_job(jobs[0], catalog, spec, options, name)


def _of_job(job: Job, catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, name: str) -> Forecast:
    made = [job.target] if job.target.is_file() else []
    parts = [FeatureFile(path) for path in (*made, *_sound_shards(job.folder))]
    stored: dict[str, int] = {}
    for part in parts:
        stored |= {item: state for item, _, state, _ in rows_of(part) if stored.get(item) != State.DONE}
    pending = [job.wanted.ids[row] for row in job.pending]
    states = [stored.get(item) for item in pending]
    failed = [(item, why) for item, state, why in job.rejected() if state == "failed"]
    again = _tried_again(job, failed, retry=options.retry_failed)
    retried = sum(state is not None and state != State.DONE for state in states) + len(again)
    row = _row_bytes(catalog, spec, options, parts[0] if parts else None)
    rows = len(job.wanted.ids)
    shards = job.folder.exists()
    return Forecast(
        encoder=name,
        modality=spec.modality,
        items=rows,
        missing=job.wanted.stamps.count(""),
        state="complete" if job.unchanged else "unfinished" if shards else "stale",
        file=str(job.target),
        kept=rows - len(pending) - len(again),
        new=states.count(None),
        changed=states.count(State.DONE),
        retried=retried,
        failed=len(failed) - len(again),
        bytes_needed=0 if job.unchanged else (len(pending) + rows) * row,
    )


def _sound_shards(folder: Path) -> Iterator[Path]:
    """Yield the shards of a work folder that are as their records say; each is read whole to know it."""
    return (path for path in sorted(folder.glob("*.h5")) if _sound(path))


def _sound(shard: Path) -> bool:
    return bool(shard_sha256(shard) == recorded(shard.with_suffix(".json")).get("sha256", ""))


def _tried_again(job: Job, failed: Sequence[tuple[str, str]], *, retry: bool) -> list[str]:
    """Return the failed rows of an unfinished run that a new one drops before it starts."""
    finished = set(FeatureFile(job.target).columns.ids) if job.target.is_file() else set()
    of_shards = [(item, why) for item, why in failed if item not in finished]
    return [item for item, _ in of_shards] if retry or any(passes(why) for _, why in of_shards) else []


def _existing(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, name: str) -> list[tuple[Path, Provenance]]:
    """Return the feature files, and those that shards are for, with the recipe that is asked for, newest first."""
    mark = "" if options.top_blocks is None else f"-top{options.top_blocks}"
    mark = "-layers" if options.layers is not None else mark
    pattern = feature_name(catalog.dataset, f"{name}{'-microlens' if spec.faults else ''}{mark}", "*")
    wanted = _known(spec, options, stored_media(catalog, spec))
    found: dict[Path, tuple[Path, Provenance]] = {}
    folders = options.out.glob(pattern.replace(".h5", ".shards"))
    shards = [path for folder in folders for path in itertools.islice(_sound_shards(folder), 1)]  # one tells its recipe
    for path in [*options.out.glob(pattern), *shards]:
        target = path if path.parent == options.out else options.out / f"{path.parent.stem}.h5"
        if target not in found:
            made = FeatureFile(path).provenance
            if made.dataset == catalog.dataset and _agrees(made, wanted, spec, options):
                found[target] = (path, made)
    newest = sorted(found, key=lambda target: found[target][0].stat().st_mtime_ns, reverse=True)
    return [(target, found[target][1]) for target in newest]


def _known(spec: EncoderSpec, options: ExtractOptions, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe must say, as far as it can be known without weights."""
    known: dict[str, Any] = {"decoder": reader_of(spec, options, stored), **stored}
    if options.pixels:
        return known | {"pixels": contract_of(spec), "dtype": "uint8"}
    known |= {"encoder": spec.name, "dtype": options.disk_dtype, "precision": options.precision}
    known |= {"weights": "random", "seed": options.seed} if options.weights == "random" else {"weights": "checkpoint"}
    if options.weights in ("pretrained", "random"):  # a local folder may settle its own
        known |= {"inputs": asdict(spec.inputs), "frames": str(spec.frames) if spec.frames else None}
    if options.top_blocks is not None:
        known["top_blocks"] = options.top_blocks
    if spec.faults:
        known["faults"] = list(spec.faults)
    return known


def _agrees(made: Provenance, wanted: Mapping[str, Any], spec: EncoderSpec, options: ExtractOptions) -> bool:
    """Return whether a file's recipe and the origin of its weights are those that are asked for."""
    recipe = made.recipe
    plain = json.loads(json.dumps(wanted))  # tuples become lists, as in the file
    if any(recipe.get(key) != value for key, value in plain.items()) or (not spec.faults and recipe.get("faults")):
        return False
    if options.layers is not None and not _same_layers(recipe, options.layers):
        return False
    if options.pixels or options.weights == "random" or not made.weights_source:  # older versions did not record it
        return True
    told = weights_source(options.weights, spec.weights, "")
    return made.weights_source.startswith(told) if told.startswith("local ") else made.weights_source == told


def _same_layers(recipe: Mapping[str, Any], asked: tuple[int, ...] | Literal["all"]) -> bool:
    held = recipe.get("layers", [])
    return list(held) == (list(range(1, recipe.get("blocks", 0) + 1)) if asked == "all" else sorted(asked))


def _row_bytes(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, part: FeatureFile | None) -> int:
    """Return the bytes of a row on disk; for titles' activations at most so many."""
    itemsize = 1 if options.pixels else np.dtype(disk_type(options.disk_dtype)).itemsize
    if part is not None:
        return math.prod(part.shape) * itemsize
    if options.pixels:
        assert isinstance(spec.inputs, PixelInput)
        return 3 * spec.inputs.size**2 * (spec.frames.count if spec.frames else 1)
    if options.top_blocks is None and options.layers is None:
        return spec.width * itemsize
    encoder = spec.backend(spec, "random", 0)
    titles = encoder.tokenizer is not None and options.top_blocks is not None
    output = activation_output(encoder, options.top_blocks or 1) if titles else asked_for(encoder, options, catalog)
    return output.numbers * itemsize


def as_data(made: Sequence[Forecast], out: Path) -> dict[str, Any]:
    """Return a forecast as plain data; docs/command.md lists the keys."""
    told = [asdict(one) | {"to_make": one.to_make} for one in made]
    return {"encoders": told, "bytes_needed": needed(made), "bytes_free": free_bytes(out)}


def needed(made: Sequence[Forecast]) -> int:
    """Return the bytes of disk that all encoders need at once."""
    return sum(one.bytes_needed for one in made)


def print_forecast(made: Sequence[Forecast], out: Path) -> None:
    """Print what would be made, and warn where it does not fit on the disk."""
    names = ["items", "missing", "kept", "new", "changed", "retried", "failed"]
    rows = [[one.encoder, one.state, *(str(getattr(one, name)) for name in names)] for one in made]
    table("a dry run", ["encoder", "file", *names], rows)
    for one in made:
        if one.file is not None:
            say(f"{one.encoder}: {one.file}")
    free, need = free_bytes(out), needed(made)
    say(f"{sum(one.to_make for one in made)} rows would be made; nothing is written")
    say(f"disk room: {readable(need)} needed at most, {readable(free)} free in {out}")
    if need > free:
        warn(f"{readable(need)} do not fit into {out}; use another --out, fewer --items or a smaller --dtype")
