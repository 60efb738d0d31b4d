"""Covers and frames from LMDB environments, in the layouts of MicroLens and PixelRec.

An entry's value is a pickle of an object that only carries attributes, or an encoded image (JPEG, PNG, WebP). Pickles
are programs and may come from strangers: the reader here imports nothing and calls nothing that they name.

- MicroLens covers: class LMDB_Image, `image` = float32 (3, S, S) bytes; its frames: class LMDB_VIDEO, `video` = float32
  (F, 3, 224, 224) bytes. Both hold (p / 255 - 0.5) / 0.5 of 8-bit pixels p, from which p comes back exactly.
- PixelRec covers: `channels`, `size` (H, W) and `image` = uint8 (H, W, C) bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.media.covers.image import decode_image
from extract.media.frames import FrameUnion, frame_indices
from features.errors import ConfigError, MediaError, shortened

BOOKKEEPING = ("__keys__", "__len__")
SIDE = 224  # px; height and width of the stored frames
MARKED = 4096  # bytes read in each of three places of a value
OFF_GRID = 0.02  # grey levels; rounding in float32 leaves 1e-5


@dataclass(frozen=True)
class LmdbEntry:
    """One item's value in an environment."""

    path: Path
    """The environment: a folder with data.mdb in it, or a file."""
    key: str
    """The item id."""
    mark: str
    """Cheap mark of the value: its size in bytes and a hash of three places in it."""

    @property
    def name(self) -> str:
        """Return the name that messages use."""
        return f"{self.key} in {self.path.name}"


def is_lmdb(path: Path) -> bool:
    """Return whether a path is an LMDB environment, going by file names alone."""
    return (path / "data.mdb").is_file() or (path.suffix in (".mdb", ".lmdb") and path.is_file())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import lmdb

    environment = lmdb.open(
        str(path.absolute()), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, create=False
    )
    try:
        yield environment
    finally:
        environment.close()


def list_entries(path: Path, what: str) -> dict[str, LmdbEntry]:
    """Return item id -> entry, without the bookkeeping keys of the layouts. Three places of each value are read.

    Raises:
        ConfigError: the path is not an LMDB, the package lmdb is not installed, or a key is not text.
    """
    try:
        with _opened(path) as environment, environment.begin(buffers=True) as transaction:
            found = {bytes(key): _mark(value) for key, value in transaction.cursor()}
    except ImportError as error:
        raise ConfigError(f"{path} is an LMDB, which needs lmdb; install it with `pip install lmdb`") from error
    except Exception as error:  # lmdb's errors share no base but Exception
        raise ConfigError(
            f"LMDB of {what} {path} cannot be read ({shortened(error)}); check the path, or copy it again"
        ) from error
    try:
        entries = {key.decode(): mark for key, mark in found.items()}
    except UnicodeDecodeError as error:
        raise ConfigError(f"LMDB of {what} {path} has key {error.object!r}; item ids must be UTF-8 text") from error
    return {key: LmdbEntry(path, key, mark) for key, mark in entries.items() if key not in BOOKKEEPING}


def _mark(value: memoryview) -> str:
    """Return a value's size and a hash of three places in it; size alone says little, as raw pixels often share one.

    To hash whole values would mean reading hundreds of GB before anything starts.
    """
    places = (len(value) // 8, len(value) // 2, 7 * len(value) // 8)
    found = hashlib.blake2b(b"".join(bytes(value[at : at + MARKED]) for at in places), digest_size=8)
    return f"{len(value)}:{found.hexdigest()}"


@cache
def environment_of(path: str) -> Any:
    """Return an open environment. A decode worker keeps it open, because opening maps the whole file."""
    import lmdb

    return lmdb.open(path, subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False, create=False)


def read_value(path: str, key: str) -> tuple[bytes, str]:
    """Return an entry's bytes and their blake2b hash; FileNotFoundError if there is no such entry (any more)."""
    with environment_of(path).begin() as transaction:
        value = transaction.get(key.encode())
    if value is None:
        raise FileNotFoundError(key)
    return value, hashlib.blake2b(value, digest_size=16).hexdigest()


def cover_of(value: bytes, name: str) -> NDArray[np.uint8]:
    """Return the cover in an entry's value, (H, W, 3) uint8 RGB; MediaError if its layout is not known."""
    if not value.startswith(b"\x80"):  # the first byte of a pickle
        return decode_image(value, name)
    carried = _attributes(value, name)
    image = carried.get("image")
    if not isinstance(image, bytes):
        raise MediaError(f"{name}: the entry has no attribute `image` of bytes; it has {_listed(carried)}")
    if "size" in carried:
        return _raw(image, carried, name)
    side = math.isqrt(len(image) // 12)
    if side < 1 or 12 * side * side != len(image):
        raise MediaError(f"{name}: `image` has {len(image)} bytes, which do not fit a float32 array (3, S, S)")
    cover: NDArray[np.uint8] = _pixels(image, (1, 3, side, side), name)[0]
    return cover


def frames_of(value: bytes, union: FrameUnion, name: str) -> tuple[NDArray[np.uint8], int]:
    """Return the frames (U, H, W, 3) that a union of policies picks, and the number of stored frames.

    Raises:
        MediaError: the value is not an `LMDB_VIDEO`, or it has fewer frames than a policy asks for: none is repeated.
    """
    carried = _attributes(value, name)
    video = carried.get("video")
    if not isinstance(video, bytes):
        raise MediaError(f"{name}: the entry has no attribute `video` of bytes; it has {_listed(carried)}")
    count, rest = divmod(len(video), 4 * 3 * SIDE * SIDE)
    if rest or not count:
        raise MediaError(
            f"{name}: `video` has {len(video)} bytes, which do not fit a float32 array (F, 3, {SIDE}, {SIDE})"
        )
    most = max(policy.count for policy in union.policies)
    if most > count:
        raise MediaError(f"{name}: it holds {count} frames, but {most} are asked for; use --frames middle:{count}")
    wanted = frame_indices(union, count)
    stored = np.frombuffer(video, np.float32).reshape(count, 3, SIDE, SIDE)[wanted]
    return _pixels(stored.tobytes(), (len(wanted), 3, SIDE, SIDE), name), count


def _pixels(stored: bytes, shape: tuple[int, ...], name: str) -> NDArray[np.uint8]:
    """Undo (p / 255 - 0.5) / 0.5 and put the channels last."""
    levels = (np.frombuffer(stored, np.float32).reshape(shape).transpose(0, 2, 3, 1) * 0.5 + 0.5) * 255
    pixels = np.rint(levels)
    off = np.abs(levels - pixels).max()
    if not off <= OFF_GRID or pixels.min() < 0 or pixels.max() > 255:
        raise MediaError(f"{name}: its values are not 8-bit pixels normalised with mean 0.5 and deviation 0.5")
    exact: NDArray[np.uint8] = pixels.astype(np.uint8)
    return exact


def _raw(image: bytes, carried: dict[str, Any], name: str) -> NDArray[np.uint8]:
    size, channels = carried["size"], carried.get("channels", 3)
    if not (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(part, int) and part > 0 for part in (*size, channels))
        and channels in (1, 3)
        and math.prod((*size, channels)) == len(image)
    ):
        raise MediaError(f"{name}: `image` has {len(image)} bytes, but size {size!r} and channels {channels!r}")
    pixels = np.frombuffer(image, np.uint8).reshape(*size, channels)
    return np.repeat(pixels, 3, axis=2) if channels == 1 else pixels


class _Carrier:
    """Stands in for the class of any layout; it only carries attributes."""


class _Attributes(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name.startswith("LMDB_"):  # whichever module the writing script defined it in
            return type("_Entry", (_Carrier,), {})  # a new class each time: a pickle can set attributes of classes
        raise MediaError(f"the pickle asks for {module}.{name}; only LMDB_* objects of bytes and numbers are read")


def _attributes(value: bytes, name: str) -> dict[str, Any]:
    try:
        carrier = _Attributes(io.BytesIO(value)).load()
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise MediaError(f"{name}: the entry is not a readable pickle ({type(error).__name__})") from error
    if not isinstance(carrier, _Carrier):
        raise MediaError(f"{name}: the pickle holds a {type(carrier).__name__}, not an LMDB_* object")
    return dict(vars(carrier))


def _listed(carried: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, carried)))[:60] or "none"
