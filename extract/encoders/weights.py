"""Weights: where they come from, reading them without running code, refusing those that do not fit, hashing them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from extract.encoders.spec import WeightsSource
from features.errors import ConfigError, StoreError, shortened


def weights_source(weights: str, pretrained: WeightsSource | None, sha256: str) -> str:
    """Return where an encoder's weights came from, for a person to read; '' for random ones.

    Args:
        weights: what the user asked for: 'pretrained', 'random', or a file or folder.
        pretrained: where the encoder's pretrained weights are.
        sha256: hash of the weights as loaded.
    """
    if weights == "random":
        return ""
    if weights == "pretrained" and pretrained is not None:
        return f"{pretrained.place} @ {pretrained.revision}"
    return f"local {Path(weights).name}, sha256 {sha256[:12]}"


def state_sha256(module: nn.Module) -> str:
    """Return the sha256 (64 hex characters) of a module's state: names, types, shapes and bytes, by sorted name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers drawn inside the block; afterwards the process's random state is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def local_path(weights: str) -> Path:
    """Return the path a user gave for `--weights`; ConfigError if nothing is there."""
    path = Path(weights).expanduser()
    if not path.exists():
        raise ConfigError(
            f"weights {weights!r} are neither 'pretrained' nor 'random' nor an existing file or folder; check the path"
        )
    return path


def no_download(name: str, source: WeightsSource, error: Exception) -> ConfigError:
    """Return the error for a failed download: which weights, which revision, and another way to get them."""
    return ConfigError(
        f"cannot get the weights of {name!r} from {source.place} (revision {source.revision}): "
        f"{shortened(error)}; fetch them on another machine and give their folder or file with "
        "`--weights PATH` (in a recipe `items.weights: PATH`), or try the machinery with `--weights random`"
    )


def no_pretrained(name: str) -> ConfigError:
    """Return the error for a tiny encoder that was asked for pretrained weights."""
    return ConfigError(
        f"encoder {name!r} is tiny and has no pretrained weights; use `--weights random` (in a recipe "
        "`items.weights: random`), or a local path"
    )


def read_state(path: Path, key: str = "") -> dict[str, Tensor]:
    """Read a state dict from .safetensors or a torch file (tensors only, no code runs).

    Args:
        path: the file.
        key: entry that the tensors are wrapped in, if the file has it.

    Raises:
        StoreError: the file does not hold named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own errors
        raise StoreError(f"weights {path} cannot be read ({shortened(error)}); copy them again") from error
    if isinstance(state, Mapping) and key in state:
        state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise StoreError(f"weights {path} hold no state dict of named tensors; give the publisher's file")
    return dict(state)


def check_keys(place: str, missing: Sequence[str], unexpected: Sequence[str], reshaped: Sequence[str] = ()) -> None:
    """Raise StoreError unless a checkpoint fits: a partial load would silently give random features."""
    found = {"lacks": missing, "has unexpected": unexpected, "has another shape of": reshaped}
    parts = [f"{what} {len(keys)} tensors ({', '.join(sorted(keys)[:3])})" for what, keys in found.items() if keys]
    if parts:
        raise StoreError(f"weights {place} do not fit the encoder: {'; '.join(parts)}; give its own checkpoint")


def load_strict(model: nn.Module, state: Mapping[str, Tensor], place: str) -> None:
    """Load a state dict; StoreError that names some keys unless every tensor has its place and shape."""
    own = model.state_dict()
    reshaped = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    check_keys(place, list(own.keys() - state.keys()), list(state.keys() - own.keys()), reshaped)
    model.load_state_dict(state)
