"""Video encoders. Each sees as many frames as it was trained with, spread over the whole clip."""

from __future__ import annotations

from typing import Any

from extract.encoders.entries import norms
from extract.encoders.inputs import PixelInput
from extract.encoders.spec import Backend, EncoderSpec, WeightsSource
from extract.media.frames import FramePolicy

PYTORCHVIDEO = "Apache-2.0 code, trained on Kinetics-400"
TORCHVISION = "BSD-3-Clause code, trained on Kinetics-400"
FOUR_STAGES = ("blocks.1.res_blocks", "blocks.2.res_blocks", "blocks.3.res_blocks", "blocks.4.res_blocks")
AFTER_POOL = ("blocks.1.res_blocks", "blocks.3.res_blocks", "blocks.4.res_blocks", "blocks.5.res_blocks")


def _zoo(name: str, hub: str, file: str, *, frames: int, paper: str, parameters: int, **changes: Any) -> EncoderSpec:
    """Return an entry of pytorchvideo's zoo: a ResNet-like network that takes any number of frames."""
    common: dict[str, Any] = {
        "modality": "video",
        "width": 2048,
        "backend": Backend("pytorchvideo_zoo", "load_net"),
        "family": "pytorchvideo-net",
        # pytorchvideo tests on three crops as large as the short side; this is one centre crop of the training size
        "inputs": PixelInput(224, 256, *norms.KINETICS),
        "frames": FramePolicy("uniform", frames),
        "pooling": "mean of the last map",
        "blocks": FOUR_STAGES,
        "arch": {"hub": hub},
        "weights": WeightsSource(f"pytorchvideo {hub}", file, PYTORCHVIDEO),
    }
    return EncoderSpec(name=name, paper=paper, parameters=parameters, **(common | changes))


def _x3d(name: str, hub: str, file: str, *, frames: int, size: int, resize: int, parameters: int) -> EncoderSpec:
    """Return the entry of an X3D (arXiv 2004.04730): its vector is what the classifier sees, after a ReLU."""
    return _zoo(
        name,
        hub,
        file,
        frames=frames,
        paper="2004.04730",
        parameters=parameters,
        inputs=PixelInput(size, resize, *norms.KINETICS),
        pooling="mean of the last map, projected, ReLU",
    )


def _mvit(name: str, hub: str, file: str, *, frames: int, parameters: int) -> EncoderSpec:
    """Return the entry of an MViT-B (arXiv 2104.11227), whose positions fix the number of frames."""
    return _zoo(
        name,
        hub,
        file,
        frames=frames,
        paper="2104.11227",
        parameters=parameters,
        width=768,
        inputs=PixelInput(224, 224, *norms.KINETICS),
        pooling="class token after the last norm",
        blocks=("blocks",),
        arch={"hub": hub, "temporal_size": frames},
    )


def _videomae(name: str, place: str, revision: str, *, width: int, parameters: int, **arch: Any) -> EncoderSpec:
    """Return the entry of a VideoMAE (arXiv 2203.12602): the mean of the tokens of the pre-trained encoder."""
    return EncoderSpec(
        name=name,
        modality="video",
        width=width,
        backend=Backend("huggingface", "load_videomae"),
        family="videomae",
        inputs=PixelInput(224, 224, *norms.IMAGENET),
        frames=FramePolicy("uniform", 16),
        pooling="mean of tokens",
        blocks=("encoder.layer",),
        paper="2203.12602",
        arch={"use_mean_pooling": False, **arch},  # as in the checkpoint's config: the final LayerNorm is applied
        weights=WeightsSource(
            place, revision, "CC-BY-NC-4.0", extra_keys=("decoder", "encoder_to_decoder", "mask_token")
        ),
        parameters=parameters,
    )


VIDEO = (
    _videomae(
        "videomae-base",
        "MCG-NJU/videomae-base",
        "dc740ceda42fce44faed2ea03c6d447db72f6af9",
        width=768,
        parameters=86_227_200,
    ),
    _videomae(
        "videomae-large",
        "MCG-NJU/videomae-large",
        "main",
        width=1024,
        parameters=303_860_736,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    ),
    EncoderSpec(
        name="slowfast-r50",
        modality="video",
        width=2304,
        backend=Backend("pytorchvideo_zoo", "load_slowfast"),
        family="slowfast",
        # pytorchvideo tests on three crops of 256 at short side 256; this is one centre crop of 224, its training size
        inputs=PixelInput(224, 256, *norms.KINETICS),
        frames=FramePolicy("uniform", 32),
        pooling="mean of each path's map, slow before fast",
        blocks=("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
        paper="1812.03982",
        arch={"model_depth": 50, "slowfast_fusion_conv_kernel_size": (7, 1, 1)},
        weights=WeightsSource("pytorchvideo slowfast_r50", "SLOWFAST_8x8_R50.pyth", PYTORCHVIDEO),
        parameters=33_644_488,
    ),
    _zoo(
        "slowfast-r101",  # the 16x8 model, as in MicroLens; pytorchvideo's own slowfast_r101 is 8x8
        "slowfast_16x8_r101_50_50",
        "SLOWFAST_16x8_R101_50_50.pyth",
        frames=64,
        paper="1812.03982",
        parameters=52_852_808,
        width=2304,
        backend=Backend("pytorchvideo_zoo", "load_slowfast"),
        family="slowfast",
        pooling="mean of each path's map, slow before fast",
        blocks=("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
    ),
    _zoo("slow-r50", "slow_r50", "SLOW_8x8_R50.pyth", frames=8, paper="1812.03982", parameters=31_634_496),
    _zoo(
        "c2d-r50", "c2d_r50", "C2D_8x8_R50.pyth", frames=8, paper="1711.07971", parameters=23_508_032, blocks=AFTER_POOL
    ),
    _zoo(
        "i3d-r50", "i3d_r50", "I3D_8x8_R50.pyth", frames=8, paper="1705.07750", parameters=27_223_872, blocks=AFTER_POOL
    ),
    # MicroLens calls it R3D-r50, but it is an R(2+1)D
    _zoo("r3d-r50", "r2plus1d_r50", "R2PLUS1D_16x4_R50.pyth", frames=16, paper="1711.11248", parameters=27_288_000),
    _zoo("csn-r101", "csn_r101", "CSN_32x2_R101.pyth", frames=32, paper="1904.02811", parameters=21_394_176),
    _x3d("x3d-xs", "x3d_xs", "X3D_XS.pyth", frames=4, size=160, resize=182, parameters=2_974_674),
    _x3d("x3d-s", "x3d_s", "X3D_S.pyth", frames=13, size=160, resize=182, parameters=2_974_674),
    _x3d("x3d-m", "x3d_m", "X3D_M.pyth", frames=16, size=224, resize=256, parameters=2_974_674),
    _x3d("x3d-l", "x3d_l", "X3D_L.pyth", frames=16, size=312, resize=356, parameters=5_333_784),
    _mvit("mvit-b-16x4", "mvit_base_16x4", "MVIT_B_16x4.pyth", frames=16, parameters=36_303_072),
    _mvit("mvit-b-32x3", "mvit_base_32x3", "MVIT_B_32x3_f294077834.pyth", frames=32, parameters=36_303_840),
    EncoderSpec(
        name="r3d-r18",
        modality="video",
        width=512,
        backend=Backend("torchvision_zoo", "load_r3d"),
        family="r3d",
        # torchvision resizes to 128x171 without antialiasing; here the shape is kept
        inputs=PixelInput(112, 128, *norms.KINETICS_R3D),
        frames=FramePolicy("uniform", 16),
        pooling="mean of the last map",
        blocks=("layer1", "layer2", "layer3", "layer4"),
        paper="1711.11248",
        arch={"layers": (2, 2, 2, 2)},
        weights=WeightsSource("torchvision r3d_18", "KINETICS400_V1", TORCHVISION),
        parameters=33_166_272,
    ),
    EncoderSpec(
        name="swin3d-t",
        modality="video",
        width=768,
        backend=Backend("torchvision_zoo", "load_swin3d"),
        family="swin3d",
        inputs=PixelInput(224, 256, *norms.IMAGENET),
        frames=FramePolicy("uniform", 32),
        pooling="mean of tokens after the last norm",
        blocks=("features.0", "features.2", "features.4", "features.6"),
        paper="2106.13230",
        arch={
            "patch_size": (2, 4, 4),
            "embed_dim": 96,
            "depths": (2, 2, 6, 2),
            "num_heads": (3, 6, 12, 24),
            "window_size": (8, 7, 7),
            "stochastic_depth_prob": 0.1,
        },
        weights=WeightsSource("torchvision swin3d_t", "KINETICS400_V1", TORCHVISION),
        parameters=27_850_470,
    ),
)
