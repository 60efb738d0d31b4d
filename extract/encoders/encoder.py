"""What an encoder is: the entry that describes it (EncoderSpec) and the module that runs (Encoder).

Letters: B batch, F feature width, S tokens, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from extract.encoders.inputs import Batch, PixelInput, TextInput, Tokenizer
from extract.encoders.parts import Parts
from extract.encoders.weights import WeightsSource, state_sha256
from extract.media.frames import FramePolicy
from extract.media.modality import Modality
from features.errors import ConfigError


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder as data. To add an encoder, write such an entry for `ENCODERS` and nothing else."""

    name: str
    """Name as users type it."""
    modality: Modality
    """Kind of media the encoder reads: 'video', 'cover' or 'title'."""
    width: int
    """Length F of a feature vector."""
    backend: Callable[[EncoderSpec, str, int], Encoder]
    """Function that builds the encoder from this entry, the weights and a seed."""
    family: str
    """The kind of model that the backend builds, such as 'videomae' or 'resnet'; not part of the recipe."""
    inputs: PixelInput | TextInput
    """Input contract: how media become the encoder's input."""
    pooling: str
    """How tokens or maps become one vector, in words; part of the recipe."""
    blocks: tuple[str, ...]
    """Dotted paths of the blocks inside the model, in forward order; a list found there stands for its members."""
    paper: str
    """Paper, by its arXiv id."""
    arch: Mapping[str, Any] = field(default_factory=dict)
    """Plain arguments that the model is built with."""
    weights: WeightsSource | None = None
    """Where pretrained weights are; None for tiny encoders, which only have random ones."""
    frames: FramePolicy | None = None
    """The frames a video encoder sees unless the user picks others; None for covers and titles."""
    parameters: int = 0
    """Number of parameters, without the classifier; 0 if nobody counted them."""
    faults: tuple[str, ...] = ()
    """Names of the faults (`extract.encoders.faults.FAULTS`) that this entry has; none in `ENCODERS`."""


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
