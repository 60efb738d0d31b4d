"""Image CNNs from torchvision, cut before the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from extract.loading import Network, load_strictly, read_checkpoint, unreachable
from features.errors import ConfigError

if TYPE_CHECKING:
    from extract.encoders import EncoderSpec


def load_resnet(spec: EncoderSpec, weights: str, seed: int) -> Network:  # noqa: ARG001 (seeded by the caller)
    """Load a ResNet; its pooled vector is what the classifier would get."""
    from torchvision.models import resnet

    model = resnet.ResNet(getattr(resnet, spec.arch["block"]), list(spec.arch["layers"]))
    if weights == "pretrained":
        load_strictly(model, _download(spec), f"weights of {spec.name}")
    elif weights != "random":
        load_strictly(model, read_checkpoint(Path(weights)), f"--weights {weights}")
    width = model.fc.in_features
    model.fc = nn.Identity()
    return Network(model, int(width), model)


def _download(spec: EncoderSpec) -> object:
    from torchvision.models import get_weight

    if spec.weights is None:
        raise ConfigError(f"{spec.name} has no pretrained weights; use --weights random")
    try:
        return get_weight(spec.weights.repo).get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # network errors come as many kinds
        raise unreachable(spec, error) from error
