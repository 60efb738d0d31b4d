"""The model hub: files in the local cache are used without asking it, and an offline machine gets its error at once.

The hub's own client retries each file for half a minute before it gives up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from extract.encoders.spec import WeightsSource
from extract.encoders.weights import no_download

ANSWER_S = 5.0  # seconds; with a network, looking up a name and connecting take less
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def cached(repository: str, revision: str | None, files: Sequence[str]) -> Path | None:
    """Return the folder of a snapshot in the local cache that holds any of `files`; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    for name in files:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def refuse_offline(name: str, source: WeightsSource) -> None:
    """Raise ConfigError if the hub cannot be reached from here; a proxy is trusted to reach it.

    Args:
        name: name of the encoder.
        source: source of its weights, which are not in the cache.
    """
    from huggingface_hub import constants

    host, port = urlsplit(constants.ENDPOINT).hostname, urlsplit(constants.ENDPOINT).port or 443
    if host is None or any(os.environ.get(proxy) for proxy in PROXIES):
        return
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
    except OSError as error:
        told = OSError(f"it is not in the local cache, and {host} cannot be reached: {error.strerror or error}")
        raise no_download(name, source, told) from error
