"""Media that stand decoded in an LMDB or in a file of pixels: what the recipe says of them, and what is refused."""

from __future__ import annotations

from typing import Any

from extract.encoders.encoder import EncoderSpec
from extract.encoders.pixel_contract import refuse_other_contract
from extract.media.catalog import Catalog, source
from extract.media.lmdb_media import LmdbEntry
from extract.media.pixel_media import PixelEntry
from features.errors import ConfigError
from features.store import FeatureFile


def stored_media(catalog: Catalog, spec: EncoderSpec) -> dict[str, Any]:
    """Return what decoded media add to the recipe of an encoder with its frames chosen; nothing for files.

    Raises:
        ConfigError: frames that stored ones cannot be, or pixels cut for another input contract.
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
    """Refuse frames that stored ones cannot be; how many there are of them is seen item by item."""
    frames = spec.frames
    if frames is None or (frames.kind == "middle" and frames.stride == 1):
        return
    raise ConfigError(
        f"encoder {spec.name!r} asks for frames '{frames}' of a whole clip, but an LMDB holds a few neighbouring ones; "
        "use --frames middle:5 (and single --faults instead of five-frames)"
    )
