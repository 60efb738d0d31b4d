"""Media that are stored decoded (LMDB, file of pixels): their part of a recipe, and encoders that they do not fit."""

from __future__ import annotations

from typing import Any

from extract.encoders.pixel_contract import refuse_other_contract
from extract.encoders.spec import EncoderSpec
from extract.media.catalog import Catalog, source
from extract.media.lmdb_media import LmdbEntry
from extract.media.pixel_media import PixelEntry
from features.errors import ConfigError
from features.store import FeatureFile


def stored_media(catalog: Catalog, spec: EncoderSpec) -> dict[str, Any]:
    """Return what decoded media add to the recipe of an encoder; {} if the media are files.

    `spec` has the frames that the options chose.

    Raises:
        ConfigError: the media cannot hold the frames that the encoder asks for, or their pixels were made for another
            input contract.
    """
    origins = (source(item, spec.modality) for item in catalog.items)
    first = next((origin for origin in origins if isinstance(origin, LmdbEntry | PixelEntry)), None)
    if first is None:
        return {}
    if isinstance(first, LmdbEntry):
        _check_frames(spec)
        return {"stored": "lmdb"}
    file = FeatureFile(first.path, dataset=catalog.dataset)
    refuse_other_contract(file, spec)
    return {"stored": "pixels", "stored_fingerprint": file.provenance.fingerprint}


def _check_frames(spec: EncoderSpec) -> None:
    """Raise ConfigError for frames that an LMDB cannot hold; whether an item has enough is checked item by item."""
    frames = spec.frames
    if frames is None or (frames.kind == "middle" and frames.stride == 1):
        return
    raise ConfigError(
        f"encoder {spec.name!r} asks for frames '{frames}' of a whole clip, but an LMDB holds a few neighbouring ones; "
        "use --frames middle:5 (and --faults without five-frames in place of --recipe microlens)"
    )
