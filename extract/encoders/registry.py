"""All encoders, one declarative entry each. A new encoder is one more entry.

Tiny entries are the same library classes at toy size, with random weights only, for the demo and the tests.
No entry imports torch: an encoder's library is imported when the encoder is built.
"""

from __future__ import annotations

from extract.encoders.entries.cover import COVER
from extract.encoders.entries.tiny import TINY
from extract.encoders.entries.title import TITLE
from extract.encoders.entries.video import VIDEO
from extract.encoders.spec import EncoderSpec
from features.errors import ConfigError, nearest

ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for spec in (*VIDEO, *COVER, *TITLE, *TINY)}


def get_encoder(name: str) -> EncoderSpec:
    """Return the entry of an encoder; ConfigError with the nearest name if there is none."""
    if name not in ENCODERS:
        raise ConfigError(f"encoder {name!r} is unknown; {nearest(name, ENCODERS)}")
    return ENCODERS[name]
