"""Video CNNs from pytorchvideo's model zoo, cut before the classifier, for any number of frames and any size.

Never import pytorchvideo.transforms: the released version needs a torchvision module that no longer exists.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from extract.loading import Network, load_strictly, read_checkpoint, unreachable

if TYPE_CHECKING:
    from extract.encoders import EncoderSpec


def load_slowfast(spec: EncoderSpec, weights: str, seed: int) -> Network:  # noqa: ARG001 (seeded by the caller)
    """Load a SlowFast; its pooled vector is the slow pathway's beside the fast one's (2048 + 256 for r50)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore scripts a function at import, which torch has deprecated
        from pytorchvideo.models import hub
        from pytorchvideo.models.hub import slowfast as published
        from pytorchvideo.models.slowfast import create_slowfast
    if "hub" in spec.arch:
        model = getattr(hub, spec.arch["hub"])(pretrained=False)
    else:
        model = create_slowfast(**spec.arch["create"])
    if weights != "random":
        # the zoo's files wrap the weights in 'model_state'; loading the wrapper leniently would load nothing at all
        if weights == "pretrained":
            checkpoint: Any = _download(spec, published.checkpoint_paths[spec.arch["hub"]])
        else:
            checkpoint = read_checkpoint(Path(weights))
        wrapped = isinstance(checkpoint, dict) and "model_state" in checkpoint
        load_strictly(model, checkpoint["model_state"] if wrapped else checkpoint, f"--weights {weights}")
    pools, head = model.blocks[-2], model.blocks[-1]
    pools.pool = nn.ModuleList(nn.AdaptiveAvgPool3d(1) for _ in pools.pool)
    width = head.proj.in_features
    head.proj = nn.Identity()
    return Network(_TwoPathways(model), int(width), model)


def _download(spec: EncoderSpec, address: str) -> object:
    try:
        return torch.hub.load_state_dict_from_url(address, map_location="cpu", progress=False, weights_only=True)
    except Exception as error:  # network errors come as many kinds
        raise unreachable(spec, error) from error


class _TwoPathways(nn.Module):
    """Feeds all frames to the fast pathway and every fourth to the slow one (arXiv 1812.03982, alpha = 4)."""

    ALPHA = 4

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        """Map (B, T, 3, H, W) to (B, F)."""
        fast = batch.transpose(1, 2)
        frames = fast.shape[2]
        slow = torch.linspace(0, frames - 1, frames // self.ALPHA, device=batch.device).long()
        vectors: Tensor = self.model([fast[:, :, slow], fast])
        return vectors
