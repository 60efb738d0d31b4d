"""Cover encoders."""

from __future__ import annotations

from typing import Any

from extract.encoders.entries import norms
from extract.encoders.inputs import PixelInput
from extract.encoders.spec import Backend, EncoderSpec, WeightsSource

IMAGENET_1K = "BSD-3-Clause code, trained on ImageNet-1k"


def _resnet(
    name: str, block: str, layers: tuple[int, ...], tag: str, *, width: int, resize: int, parameters: int
) -> EncoderSpec:
    """Return the entry of a torchvision ResNet (arXiv 1512.03385)."""
    return EncoderSpec(
        name=name,
        modality="cover",
        width=width,
        backend=Backend("torchvision_zoo", "load_resnet"),
        family="resnet",
        inputs=PixelInput(224, resize, *norms.IMAGENET),
        pooling="mean of the last map",
        blocks=("layer1", "layer2", "layer3", "layer4"),
        paper="1512.03385",
        arch={"block": block, "layers": layers},
        weights=WeightsSource(f"torchvision {name}", tag, IMAGENET_1K),
        parameters=parameters,
    )


def _hub(
    name: str, model: str, place: str, licence: str, *, width: int, paper: str, parameters: int, **changes: Any
) -> EncoderSpec:
    """Return the entry of an image transformer at 224 px; `changes` may set revision, arch, inputs, pooling ..."""
    revision = changes.pop("revision", "main")
    extra = changes.pop("extra_keys", ("classifier", "pooler", "vit.pooler"))
    common: dict[str, Any] = {
        "modality": "cover",
        "backend": Backend("huggingface", "load_image"),
        "family": "hub-image",
        "inputs": PixelInput(224, 256, *norms.IMAGENET, interpolation="bicubic"),
        "pooling": "class token after the last norm",
        "blocks": ("layers",),
        "weights": WeightsSource(place, revision, licence, extra_keys=extra),
    }
    changes["arch"] = {"model": model, **changes.get("arch", {})}
    return EncoderSpec(name=name, width=width, paper=paper, parameters=parameters, **(common | changes))


def _swin(name: str, place: str, *, width: int, parameters: int, **arch: Any) -> EncoderSpec:
    """Return the entry of a Swin (arXiv 2103.14030); its blocks are in four stages."""
    return _hub(
        name,
        "Swin",
        place,
        "MIT",
        width=width,
        paper="2103.14030",
        parameters=parameters,
        pooling="mean of tokens after the last norm",
        blocks=tuple(f"encoder.layers.{stage}.blocks" for stage in range(4)),
        arch=arch,
    )


def clip_arch(
    embed: int, vision: dict[str, Any], *, text_width: int, text_heads: int, size: int = 224
) -> dict[str, Any]:
    """Return the arguments of open_clip.CLIP for one of OpenAI's models, whose text towers have 12 layers."""
    return {
        "embed_dim": embed,
        "quick_gelu": True,  # OpenAI's weights were trained with it; open_clip's own default is GELU
        "vision_cfg": {"image_size": size, **vision},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": text_width,
            "heads": text_heads,
            "layers": 12,
        },
    }


def _clip(
    name: str, model: str, *, width: int, arch: dict[str, Any], parameters: int, resnet: bool = False
) -> EncoderSpec:
    """Return the entry of the image tower of one of OpenAI's CLIP models (arXiv 2103.00020)."""
    size = arch["vision_cfg"]["image_size"]
    return EncoderSpec(
        name=name,
        modality="cover",
        width=width,
        backend=Backend("openclip", "load_image"),
        family="clip",
        inputs=PixelInput(size, size, *norms.CLIP, interpolation="bicubic"),
        pooling="attention pooling" if resnet else "projected class token",
        blocks=("layer1", "layer2", "layer3", "layer4") if resnet else ("transformer.resblocks",),
        paper="2103.00020",
        arch=arch,
        weights=WeightsSource(f"open_clip {model}", "openai", "MIT"),
        parameters=parameters,
    )


VIT_B_32 = clip_arch(512, {"layers": 12, "width": 768, "patch_size": 32}, text_width=512, text_heads=8)
VIT_L_14 = clip_arch(768, {"layers": 24, "width": 1024, "patch_size": 14}, text_width=768, text_heads=12)
RN50 = clip_arch(1024, {"layers": (3, 4, 6, 3), "width": 64}, text_width=512, text_heads=8)
RN50X4 = clip_arch(640, {"layers": (4, 6, 10, 6), "width": 80}, text_width=640, text_heads=10, size=288)
RN50X16 = clip_arch(768, {"layers": (6, 8, 18, 8), "width": 96}, text_width=768, text_heads=12, size=384)
RN50X64 = clip_arch(1024, {"layers": (3, 15, 36, 10), "width": 128}, text_width=1024, text_heads=16, size=448)

COVER = (
    _resnet("resnet18", "BasicBlock", (2, 2, 2, 2), "IMAGENET1K_V1", width=512, resize=256, parameters=11_176_512),
    _resnet("resnet34", "BasicBlock", (3, 4, 6, 3), "IMAGENET1K_V1", width=512, resize=256, parameters=21_284_672),
    # 232: torchvision's V2 recipe
    _resnet("resnet50", "Bottleneck", (3, 4, 6, 3), "IMAGENET1K_V2", width=2048, resize=232, parameters=23_508_032),
    _swin("swin-t", "microsoft/swin-tiny-patch4-window7-224", width=768, parameters=27_519_354),
    _swin(
        "swin-b",
        "microsoft/swin-base-patch4-window7-224",
        width=1024,
        parameters=86_743_224,
        embed_dim=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
    ),
    _hub(
        "vit-base",
        "ViT",
        "google/vit-base-patch16-224-in21k",
        "Apache-2.0",
        width=768,
        paper="2010.11929",
        parameters=85_798_656,
        revision="b4569560a39a0f1af58e3ddaf17facf20ab919b0",
        inputs=PixelInput(224, 224, *norms.HALF, mode="stretch"),
    ),
    _hub(
        "vit-mae-base",
        "ViTMAE",
        "facebook/vit-mae-base",
        "CC-BY-NC-4.0 (authors), Apache-2.0 (hub)",
        width=768,
        paper="2111.06377",
        parameters=85_798_656,
        revision="25b184bea5538bf5c4c852c79d221195fdd2778d",
        arch={"mask_ratio": 0.0},  # the default drops three quarters of the patches, different ones in every call
        extra_keys=("decoder",),
    ),
    _hub(
        "beit-base",
        "Beit",
        "microsoft/beit-base-patch16-224",
        "Apache-2.0",
        width=768,
        paper="2106.08254",
        parameters=85_761_984,
        inputs=PixelInput(224, 256, *norms.HALF, interpolation="bicubic"),
        pooling="mean of patch tokens, normed",
        arch={
            "use_relative_position_bias": True,
            "use_absolute_position_embeddings": False,
            "layer_scale_init_value": 0.1,
        },
    ),
    _clip("clip-vit-b-32-image", "ViT-B-32", width=512, arch=VIT_B_32, parameters=87_849_216),
    _clip("clip-vit-l-14-image", "ViT-L-14", width=768, arch=VIT_L_14, parameters=303_966_208),
    _clip("clip-rn50-image", "RN50", width=1024, arch=RN50, parameters=38_316_896, resnet=True),
    _clip("clip-rn50x4-image", "RN50x4", width=640, arch=RN50X4, parameters=87_137_080, resnet=True),
    _clip("clip-rn50x16-image", "RN50x16", width=768, arch=RN50X16, parameters=167_328_912, resnet=True),
    _clip("clip-rn50x64-image", "RN50x64", width=1024, arch=RN50X64, parameters=420_380_352, resnet=True),
)
