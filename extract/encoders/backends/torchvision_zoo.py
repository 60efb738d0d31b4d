"""Image and video encoders from torchvision."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from extract.encoders.encoder import Encoder
from extract.encoders.parts import Parts
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import load_strict, local_path, no_download, no_pretrained, read_state, seeded


def load_resnet(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build a ResNet (arXiv 1512.03385) whose output is the pooled map, (B, 512) or (B, 2048).

    Args:
        spec: the entry; its `arch` holds 'block' ('BasicBlock' or 'Bottleneck'), 'layers' and further arguments of the
            library.
        weights: 'pretrained', 'random' or a state-dict file as torchvision publishes it.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights; StoreError: weights that do not fit.
    """
    from torchvision.models import resnet

    arch: dict[str, Any] = dict(spec.arch)
    block = {"BasicBlock": resnet.BasicBlock, "Bottleneck": resnet.Bottleneck}[arch.pop("block")]
    with seeded(seed):
        model = resnet.ResNet(block, **arch)
    return _finished(spec, model, "fc", weights, seed)


def load_r3d(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build R3D (arXiv 1711.11248) whose output is the pooled map, (B, 512), at any number of frames.

    Args:
        spec: the entry; its `arch` holds 'layers', the number of blocks in each stage.
        weights: 'pretrained', 'random' or a state-dict file as torchvision publishes it.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights; StoreError: weights that do not fit.
    """
    from torchvision.models.video import resnet

    with seeded(seed):
        model = resnet.VideoResNet(
            resnet.BasicBlock, [resnet.Conv3DSimple] * 4, list(spec.arch["layers"]), resnet.BasicStem
        )
    return _finished(spec, model, "fc", weights, seed)


def load_swin3d(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build Video Swin (arXiv 2106.13230) whose output is the mean of its tokens, (B, 768), at any number of frames.

    Args:
        spec: the entry; its `arch` holds the arguments of torchvision's SwinTransformer3d.
        weights: 'pretrained', 'random' or a state-dict file as torchvision publishes it.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights; StoreError: weights that do not fit.
    """
    from torchvision.models.video import SwinTransformer3d

    arch = {name: list(value) if isinstance(value, tuple) else value for name, value in spec.arch.items()}
    with seeded(seed):
        model = SwinTransformer3d(**arch)
    return _finished(spec, model, "head", weights, seed)


def _finished(spec: EncoderSpec, model: nn.Module, classifier: str, weights: str, seed: int) -> Encoder:
    """Load the weights, remove the classifier and return the encoder."""
    if weights != "random":
        state, place = _state(spec, weights)
        load_strict(model, state, place)
    setattr(model, classifier, nn.Identity())
    features = _pooled if spec.frames is None else _pooled_clips
    kind = "random" if weights == "random" else "checkpoint"
    parts = {"ResNet": _resnet_parts, "VideoResNet": _r3d_parts}.get(type(model).__name__, _swin3d_parts)
    return Encoder(spec, model, features, weights=kind, seed=seed, parts=parts)  # type: ignore[arg-type]


class TimeInside(nn.Module):
    """Puts the dimension of time where convolutions over time expect it."""

    def forward(self, clips: Tensor) -> Tensor:
        """Return (B, 3, T, H, W) from (B, T, 3, H, W)."""
        return clips.transpose(1, 2)


class _ChannelsFirst(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 4, 1, 2, 3)


def _resnet_parts(model: Any) -> Parts:
    stages = (*model.layer1, *model.layer2, *model.layer3, *model.layer4)
    stem = (model.conv1, model.bn1, model.relu, model.maxpool)
    return Parts((*stem, *stages, model.avgpool, nn.Flatten(), model.fc), pool=mean_of_map)


def _r3d_parts(model: Any) -> Parts:
    stages = (*model.layer1, *model.layer2, *model.layer3, *model.layer4)
    return Parts((TimeInside(), model.stem, *stages, model.avgpool, nn.Flatten(), model.fc), pool=mean_of_map)


def _swin3d_parts(model: Any) -> Parts:
    steps = [TimeInside(), model.patch_embed, model.pos_drop]
    for stage in model.features:  # a list of blocks, or the merging of patches between two stages
        steps += stage if isinstance(stage, nn.Sequential) else [stage]
    end = (model.norm, _ChannelsFirst(), model.avgpool, nn.Flatten(), model.head)
    return Parts((*steps, *end), channels=-1, pool=lambda maps: maps.mean(dim=(1, 2, 3)))


def mean_of_map(maps: Tensor) -> Tensor:
    """Return the mean (B, C) over all positions of maps (B, C, ...)."""
    return maps.flatten(2).mean(dim=2)


def _state(spec: EncoderSpec, weights: str) -> tuple[dict[str, Tensor], str]:
    if weights != "pretrained":
        path = local_path(weights)
        return read_state(path), str(path)
    if spec.weights is None:
        raise no_pretrained(spec.name)
    from torchvision.models import get_model_weights

    tag = get_model_weights(spec.weights.place.split()[-1])[spec.weights.revision]
    try:  # file names end in the first characters of the file's sha256, which is checked
        return dict(tag.get_state_dict(progress=False, check_hash=True)), f"{spec.weights.place} {tag.name}"
    except (OSError, RuntimeError) as error:
        raise no_download(spec.name, spec.weights, error) from error


def _pooled(model: nn.Module, pixels: Tensor) -> Tensor:
    features: Tensor = model(pixels)
    return features


def _pooled_clips(model: nn.Module, clips: Tensor) -> Tensor:
    features: Tensor = model(clips.transpose(1, 2))
    return features
