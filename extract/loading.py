"""What the loaders of all libraries share: seeded random weights, strict checkpoints, a hash of what was loaded.

Imports torch only; the encoders' libraries stay in extract/backends, imported when a network is built.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from features.errors import ConfigError

if TYPE_CHECKING:
    from extract.encoders import EncoderSpec

Tokeniser = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Network:
    """What a loader returns.

    Attributes:
        module: maps a preprocessed batch (extract/preprocess.py) to (B, F).
        width: F as loaded.
        root: the library's own module that the entry's block paths start from.
        tokenise: texts -> (B, 2, L) int64, token ids and attention mask; titles only.
        tokeniser: its name, for the recipe.
    """

    module: nn.Module
    width: int
    root: nn.Module
    tokenise: Tokeniser | None = None
    tokeniser: str = ""


class Encoder(nn.Module):
    """A frozen encoder: preprocessed batch in, (B, F) float32 out; eval mode, no gradients.

    Attributes:
        spec: its entry.
        width: F.
        weights_sha256: hash over names, shapes, types and bytes of the loaded tensors; the same for the same weights,
            whatever file they came from.
    """

    def __init__(self, spec: EncoderSpec, network: Network) -> None:
        super().__init__()
        self.spec = spec
        self.network = network.module
        self.width = network.width
        self.tokenise = network.tokenise
        self.tokeniser = network.tokeniser
        self._root = [network.root]  # in a list: it is part of `network` already, not a second child
        self.weights_sha256 = state_sha256(network.module)
        self.eval().requires_grad_(False)

    def forward(self, batch: Tensor) -> Tensor:
        """Return (B, F) float32 vectors."""
        vectors: Tensor = self.network(batch)
        return vectors.float()

    def blocks(self) -> list[nn.Module]:
        """Return the blocks that the entry's paths lead to, first to last."""
        return [block for path in self.spec.blocks for block in _children(self._root[0].get_submodule(path))]


def _children(module: nn.Module) -> list[nn.Module]:
    return list(module.children())


def load_encoder(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build an encoder on the CPU.

    Args:
        spec: its entry.
        weights: 'pretrained' (the entry's pinned source), 'random', or the path of a local folder or file.
        seed: of random weights.

    Raises:
        ConfigError: an entry without pretrained weights, a path that does not exist, weights that do not fit or
            cannot be had.
    """
    if weights == "pretrained" and spec.weights is None:
        raise ConfigError(
            f"{spec.name} is a toy for tests and demos and has no pretrained weights; use --weights random"
        )
    if weights not in ("pretrained", "random") and not Path(weights).exists():
        raise ConfigError(f"--weights {weights!r} is neither 'pretrained' nor 'random' nor an existing file or folder")
    with seeded(seed):
        return Encoder(spec, spec.load(spec, weights, seed))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let library constructors, which draw from the global generator, draw from `seed`; then put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def state_sha256(module: nn.Module) -> str:
    """Return a sha256 over all parameters and buffers that a checkpoint would hold, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def shipped_folder(package: str) -> Path | None:
    """Return the folder `model/` of an installed package, or None; the package itself is not run."""
    found = importlib.util.find_spec(package) if package else None
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    return folder if folder is not None and folder.is_dir() else None


def load_strictly(module: nn.Module, state: Any, where: str) -> None:
    """Load a state dict; ConfigError naming keys unless every key and shape fits."""
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{where} holds no state dict of tensors; give the checkpoint of this very architecture")
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:240]
        raise ConfigError(f"{where} does not fit this encoder ({detail}); give a checkpoint of it") from error


def read_checkpoint(path: Path) -> Any:
    """Read a local checkpoint file without running anything in it; ConfigError when it is none."""
    if path.is_dir():
        raise ConfigError(f"--weights {path} is a folder; this encoder wants one checkpoint file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and own kinds
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise ConfigError(f"--weights {path} is no readable checkpoint: {reason}") from error


def unreachable(spec: EncoderSpec, error: Exception) -> ConfigError:
    """Return the error for pretrained weights that cannot be downloaded."""
    source = spec.weights
    what = f"{source.repo} ({source.revision})" if source else spec.name
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    return ConfigError(
        f"cannot get weights {what}: {reason}; download them where there is a network and give --weights PATH, "
        "or try the machinery with --weights random"
    )


def hashed_words(vocabulary: int, max_tokens: int) -> Tokeniser:
    """Return a tokeniser for encoders with random weights, which know no vocabulary: each lower-cased word to a hash.

    Token 0 pads, 1 opens and 2 closes a text. crc32 is the same on every machine, unlike Python's own hash.
    """
    from zlib import crc32

    def tokenise(texts: Sequence[str]) -> Tensor:
        rows = [
            [1, *[3 + crc32(word.encode()) % (vocabulary - 3) for word in text.lower().split()[: max_tokens - 2]], 2]
            for text in texts
        ]
        batch = np.zeros((len(rows), 2, max(len(row) for row in rows)), dtype=np.int64)
        for line, row in enumerate(rows):
            batch[line, 0, : len(row)] = row
            batch[line, 1, : len(row)] = 1
        return torch.from_numpy(batch)

    return tokenise
