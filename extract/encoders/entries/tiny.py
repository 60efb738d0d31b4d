"""Toy sizes of every family, with random weights only: the same classes and code paths as the full entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from extract.encoders.entries.cover import COVER
from extract.encoders.entries.title import TITLE
from extract.encoders.entries.video import VIDEO
from extract.encoders.inputs import PixelInput, TextInput
from extract.encoders.spec import EncoderSpec
from extract.media.frames import FramePolicy

_FULL = {spec.name: spec for spec in (*VIDEO, *COVER, *TITLE)}
SIZE = 64  # px


def _tiny(name: str, of: str, frames: int = 0, **changes: Any) -> EncoderSpec:
    """Return a small version of a full entry: 64 px, without weights."""
    full = _FULL[of]
    if isinstance(full.inputs, PixelInput) and "inputs" not in changes:
        changes["inputs"] = replace(full.inputs, size=SIZE, resize=SIZE)
    if frames:
        changes["frames"] = FramePolicy("uniform", frames)
    return replace(full, name=name, weights=None, parameters=0, **changes)


_CLIP = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
_CLIP_RN = _CLIP | {"vision_cfg": {"image_size": 64, "layers": (1, 1, 1, 1), "width": 16}}
_TRANSFORMER = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "initializer_range": 0.1,  # at the usual 0.02 the positions drown the pixels
}
_IMAGE = {**_TRANSFORMER, "image_size": SIZE, "patch_size": 16}

TINY = (
    _tiny(
        "videomae-tiny",
        "videomae-base",
        4,
        width=48,
        arch={
            "image_size": 64,
            "patch_size": 16,
            "tubelet_size": 2,
            "use_mean_pooling": False,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "initializer_range": 0.1,
        },
    ),
    _tiny(
        "slowfast-tiny",
        "slowfast-r50",
        8,
        width=288,
        arch={"model_depth": 18, "slowfast_fusion_conv_kernel_size": (7, 1, 1), "stem_dim_outs": (8, 1)},
    ),
    _tiny("slow-tiny", "slow-r50", 4, width=256, arch={"hub": "slow_r50", "stem_dim_out": 8}),
    _tiny("c2d-tiny", "c2d-r50", 4, width=256, arch={"hub": "c2d_r50", "stem_dim_out": 8}),
    _tiny("r3d50-tiny", "r3d-r50", 4, width=256, arch={"hub": "r2plus1d_r50", "stem_dim_out": 8}),
    _tiny("csn-tiny", "csn-r101", 8, width=256, arch={"hub": "csn_r101", "stem_dim_out": 8}),
    _tiny("x3d-tiny", "x3d-xs", 4, width=96, arch={"hub": "x3d_xs", "width_factor": 1.0, "head_dim_out": 96}),
    _tiny(
        "mvit-tiny",
        "mvit-b-16x4",
        4,
        width=48,
        arch={
            "hub": "mvit_base_16x4",
            "temporal_size": 4,
            "spatial_size": SIZE,
            "depth": 2,
            "patch_embed_dim": 24,
            "num_heads": 1,
            "embed_dim_mul": [[1, 2.0]],
            "atten_head_mul": [[1, 2.0]],
            "pool_q_stride_size": [[1, 1, 2, 2]],
        },
    ),
    _tiny("r3d-tiny", "r3d-r18", 4, arch={"layers": (1, 1, 1, 1)}),
    _tiny(
        "swin3d-tiny",
        "swin3d-t",
        4,
        width=48,
        arch={
            "patch_size": (2, 4, 4),
            "embed_dim": 24,
            "depths": (1, 1),
            "num_heads": (2, 4),
            "window_size": (2, 4, 4),
        },
        blocks=("features.0", "features.2"),
    ),
    _tiny("resnet-tiny", "resnet18", arch={"block": "BasicBlock", "layers": (1, 1, 1, 1)}),
    _tiny("resnet50-tiny", "resnet50", arch={"block": "Bottleneck", "layers": (1, 1, 1, 1), "width_per_group": 8}),
    _tiny(
        "swin-tiny",
        "swin-t",
        width=48,
        blocks=("encoder.layers.0.blocks", "encoder.layers.1.blocks"),
        arch={
            "model": "Swin",
            "image_size": SIZE,
            "embed_dim": 24,
            "depths": (1, 1),
            "num_heads": (2, 4),
            "window_size": 4,
            "initializer_range": 0.1,
        },
    ),
    _tiny("vit-tiny", "vit-base", width=48, arch={"model": "ViT", **_IMAGE}),
    _tiny("vit-mae-tiny", "vit-mae-base", width=48, arch={"model": "ViTMAE", "mask_ratio": 0.0, **_IMAGE}),
    _tiny(
        "beit-tiny",
        "beit-base",
        width=48,
        arch={"model": "Beit", "use_relative_position_bias": True, **_IMAGE},
    ),
    _tiny("clip-tiny-image", "clip-vit-b-32-image", width=32, arch=_CLIP),
    _tiny("clip-rn-tiny-image", "clip-rn50-image", width=32, arch=_CLIP_RN),
    _tiny(
        "bert-tiny",
        "bert-base",
        width=48,
        arch={
            "vocab_size": 4096,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,  # at the usual 0.02 the first token hardly depends on the words
        },
    ),
    _tiny(
        "minilm-tiny",
        "minilm",
        width=32,
        inputs=TextInput(max_tokens=64),
        arch={
            "vocab_size": 4096,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "initializer_range": 0.1,
        },
    ),
    _tiny("clip-tiny-text", "clip-vit-b-32-text", width=32, inputs=TextInput(max_tokens=32), arch=_CLIP),
)
