"""The module that runs: an encoder as it was built from its entry (`EncoderSpec` in spec.py).

Letters: B batch, F feature width, S tokens, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from torch import Tensor, nn

from extract.encoders.inputs import Batch, Tokenizer
from extract.encoders.parts import Parts
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import state_sha256
from features.errors import ConfigError


class Encoder(nn.Module):
    """A frozen encoder: eval mode, no gradients, until someone unfreezes it.

    Args:
        spec: the entry it was built from, with what loading settled (width, frames, arch of a local folder).
        model: the library's own module.
        features: function that maps (model, batch) to (B, F).
        weights: 'random' or 'checkpoint'.
        seed: seed for random weights.
        tokenizer: tokenizer for titles; None for pixels.
        parts: function that takes the model apart into the steps of `features`; None if nobody wrote one.

    Attributes:
        weights_sha256: hash of the tensors as loaded: names, types, shapes and bytes, sorted by name.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        model: nn.Module,
        features: Callable[[Any, Any], Tensor],
        *,
        weights: Literal["random", "checkpoint"],
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
        parts: Callable[[Any], Parts] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.model = model.eval().requires_grad_(False)
        if "batch-norm" in spec.faults:
            _normalise_by_batch(self.model)
        self.tokenizer = tokenizer
        self._features = features
        self._parts = parts
        self._origin: dict[str, Any] = {"weights": weights} | ({"seed": seed} if weights == "random" else {})
        self.weights_sha256 = state_sha256(model)

    @property
    def width(self) -> int:
        """Return F."""
        return self.spec.width

    @property
    def warning(self) -> str:
        """Return what a user must be told about these weights and this entry, or ''."""
        said = []
        if self._origin["weights"] == "random":
            said.append(
                f"{self.spec.name} has random weights (seed {self._origin['seed']}), so its vectors hold nothing "
                "learned; use them for tests only"
            )
        if self.spec.faults:
            faults = ", ".join(self.spec.faults)
            said.append(f"{self.spec.name} is used as in the MicroLens code, with its faults: {faults}")
        return "; ".join(said)

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, F) float32 from pixels (B, T, 3, H, W) or (B, 3, H, W), normalised float32, or from Tokens."""
        return self._features(self.model, batch).float()

    def blocks(self) -> list[nn.Module]:
        """Return the blocks that `spec.blocks` names, in forward order; ConfigError if a local model lacks them."""
        found: list[nn.Module] = []
        for path in self.spec.blocks:
            try:
                module = self.model.get_submodule(path)
            except AttributeError as error:
                raise ConfigError(
                    f"{type(self.model).__name__} has no blocks at {path!r}, where {self.spec.name!r} has them; "
                    "give a folder of the same family"
                ) from error
            found.extend(module if isinstance(module, nn.ModuleList | nn.Sequential) else [module])
        return found

    def parts(self) -> Parts:
        """Return the model as steps; ConfigError if the steps of the library's class are not known."""
        if self._parts is None:
            raise ConfigError(
                f"{type(self.model).__name__} of encoder {self.spec.name!r} cannot be cut: its steps are not known; "
                "use a folder of another family"
            )
        return self._parts(self.model)

    def recipe(self) -> dict[str, Any]:
        """Return plain JSON data that fixes the numbers: same recipe, same vectors."""
        spec = self.spec
        return {
            "encoder": spec.name,
            "modality": spec.modality,
            "width": spec.width,
            "arch": dict(spec.arch),
            **self._origin,
            "weights_sha256": self.weights_sha256,
            "inputs": asdict(spec.inputs),
            "frames": str(spec.frames) if spec.frames else None,
            "tokenizer": self.tokenizer.name if self.tokenizer else None,
            "pooling": spec.pooling,
            "precision": "float32",
            **({"recipe": "microlens", "faults": list(spec.faults)} if spec.faults else {}),
        }


def _normalise_by_batch(model: nn.Module) -> None:
    """Make every BatchNorm use the statistics of the current batch; its running statistics stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = 0.0
