"""Video encoders from pytorchvideo 0.1.5. Its `transforms` can no longer be imported and are not needed."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from extract.encoders.backends.torchvision_zoo import TimeInside, mean_of_map
from extract.encoders.encoder import Encoder
from extract.encoders.parts import Parts
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import load_strict, local_path, no_download, no_pretrained, read_state, seeded
from features.errors import ConfigError

ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
HALVING = ("c2d_r50", "i3d_r50")  # a pooling after stage 1 halves the number of frames
ALPHA = 4  # the fast path sees 4 times as many frames as the slow one: the stride of the lateral convolutions


def load_slowfast(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build SlowFast (arXiv 1812.03982) whose output is the pooled maps of both paths, slow before fast.

    The stock head pools a window of fixed size and fails on other inputs. Adaptive pooling gives the same numbers at
    the native size and works for any T and size.

    Args:
        spec: the entry; its `arch` holds the arguments of pytorchvideo's create_slowfast, or 'hub', the name of a model
            of its hub.
        weights: 'pretrained', 'random' or a .pyth file as pytorchvideo publishes it.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights, or too few frames; StoreError: weights that do not fit.
    """
    if spec.frames is not None and spec.frames.count < ALPHA:
        raise ConfigError(
            f"encoder {spec.name!r} got {spec.frames.count} frames; its fast path needs at least {ALPHA}: use --frames "
            "uniform:32, as in the paper"
        )
    model = _built(spec, weights, seed)
    model.blocks[5].pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1), nn.AdaptiveAvgPool3d(1)])
    if "class-scores" not in spec.faults:
        model.blocks[6].proj = nn.Identity()
    kind = "random" if weights == "random" else "checkpoint"
    return Encoder(spec, model, _pooled, weights=kind, seed=seed, parts=_slowfast_parts)  # type: ignore[arg-type]


def load_net(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build one of pytorchvideo's networks whose output is what its classifier would see, (B, F).

    The stock heads pool a window of fixed size. Adaptive pooling gives the same numbers at the native size and works
    for any T and size. Only MViT's table of positions fixes both. X3D's softmax is removed, because 0.1.5 applies it in
    eval mode.

    Args:
        spec: the entry; its `arch` holds 'hub', the name of a model of pytorchvideo's hub, and arguments that change
            it.
        weights: 'pretrained', 'random' or a .pyth file as pytorchvideo publishes it.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights, or a number of frames that MViT, C2D or I3D cannot take.
        StoreError: weights that do not fit.
    """
    if spec.frames is not None and spec.frames.count < 2 and spec.arch["hub"] in HALVING:
        raise ConfigError(
            f"encoder {spec.name!r} got 1 frame; its pooling over time needs at least 2: use --frames uniform:8, as in "
            "its training"
        )
    fixed = spec.arch.get("temporal_size")
    if fixed is not None and spec.frames is not None and spec.frames.count != fixed:
        raise ConfigError(
            f"encoder {spec.name!r} got {spec.frames.count} frames; its table of positions takes {fixed} and no other "
            f"number: use --frames uniform:{fixed}"
        )
    model = _built(spec, weights, seed)
    if hasattr(model, "head"):
        model.head.proj = nn.Identity()
    else:
        _open_head(model.blocks[-1], spec)
    kind = "random" if weights == "random" else "checkpoint"
    parts = _mvit_parts if hasattr(model, "head") else _net_parts
    return Encoder(spec, model, _clips, weights=kind, seed=seed, parts=parts)  # type: ignore[arg-type]


def _open_head(head: Any, spec: EncoderSpec) -> None:
    """Make a head pool maps of any size and end before its classifier."""
    projects = hasattr(head.pool, "pool")  # X3D pools between two projections
    (head.pool if projects else head).pool = nn.AdaptiveAvgPool3d(1)
    if "class-scores" not in spec.faults:
        head.proj, head.activation = nn.Identity(), None
    elif projects:  # the benchmark's copy of the library has no softmax here, but still has one in R(2+1)D
        head.activation = None


def _clips(model: nn.Module, clips: Tensor) -> Tensor:
    features: Tensor = model(clips.transpose(1, 2))
    return features


def _built(spec: EncoderSpec, weights: str, seed: int) -> Any:
    """Return the library's model, head included, with the requested weights."""
    with warnings.catch_warnings():  # fvcore scripts its losses, which are not used here
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        from pytorchvideo.models import hub
        from pytorchvideo.models.slowfast import create_slowfast

    arch: dict[str, Any] = dict(spec.arch)
    name = arch.pop("hub", None)
    with seeded(seed):
        model = create_slowfast(**arch) if name is None else getattr(hub, name)(**arch)
    if weights != "random":
        state, place = _state(spec, weights)
        load_strict(model, state, place)
    return model


def _state(spec: EncoderSpec, weights: str) -> tuple[dict[str, Tensor], str]:
    if weights != "pretrained":
        path = local_path(weights)
        return read_state(path, key="model_state"), str(path)
    if spec.weights is None:
        raise no_pretrained(spec.name)
    from torch.hub import load_state_dict_from_url

    url = f"{ZOO}/{spec.weights.revision}"
    try:
        checkpoint = load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise no_download(spec.name, spec.weights, error) from error
    return dict(checkpoint["model_state"]), spec.weights.place


def two_paths(clips: Tensor) -> list[Tensor]:
    """Return [slow, fast] for clips (B, T, 3, H, W): (B, 3, ceil(T / 4), H, W) and (B, 3, T, H, W).

    The lateral convolutions turn T fast frames into ceil(T / 4), so the slow path needs exactly that many.
    """
    fast = clips.transpose(1, 2)
    count = fast.shape[2]
    slow = torch.linspace(0, count - 1, -(-count // ALPHA)).long().to(fast.device)
    return [fast.index_select(2, slow), fast]


def _pooled(model: nn.Module, clips: Tensor) -> Tensor:
    features: Tensor = model(two_paths(clips))
    return features


class _TwoPaths(nn.Module):
    def forward(self, clips: Tensor) -> list[Tensor]:
        return two_paths(clips)


class _Tokens3D(nn.Module):
    """MViT up to its first block: turns clips into tokens and the (T, H, W) grid that they form."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        steps = (model.patch_embed, model.cls_positional_encoding, model.pos_drop, model.norm_patch_embed)
        self.steps = nn.Sequential(*(step for step in steps if step is not None))
        self.grid = tuple(model.cls_positional_encoding.patch_embed_shape)

    def forward(self, clips: Tensor) -> tuple[Any, ...]:
        return self.steps(clips), self.grid


class _PoolingBlock(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, grid = self.block(state[0], list(state[1]))
        return tokens, tuple(grid)


class _First(nn.Module):
    def forward(self, state: tuple[Any, ...]) -> Any:
        return state[0]


def _slowfast_parts(model: Any) -> Parts:
    return Parts(
        (_TwoPaths(), *model.blocks), pool=lambda paths: torch.cat([mean_of_map(path) for path in paths], dim=1)
    )


def _net_parts(model: Any) -> Parts:
    steps: list[nn.Module] = []
    for stage in model.blocks:
        steps += getattr(stage, "res_blocks", [stage])
    return Parts((TimeInside(), *steps), pool=mean_of_map)


def _mvit_parts(model: Any) -> Parts:
    end = [step for step in (model.norm_embed, model.head) if step is not None]
    blocks = map(_PoolingBlock, model.blocks)
    return Parts((TimeInside(), _Tokens3D(model), *blocks, _First(), *end), pool=lambda state: state[0][:, 0])
