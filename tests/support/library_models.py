"""The libraries' own models, built from their own entry points: what encoders must equal, and files to load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import PixelInput, Tokens
from extract.encoders.registry import ENCODERS

HUB = {
    "slow-tiny": "slow-r50",
    "c2d-tiny": "c2d-r50",
    "r3d50-tiny": "r3d-r50",
    "csn-tiny": "csn-r101",
    "x3d-tiny": "x3d-xs",
    "mvit-tiny": "mvit-tiny",
}
IMAGE = ("swin-tiny", "vit-tiny", "vit-mae-tiny", "beit-tiny")


def native_pixels(name: str, count: int) -> Tensor | None:
    """Return clips at the size that pytorchvideo's stock head can pool; None for other encoders."""
    if name not in HUB:
        return None
    spec = ENCODERS[HUB[name]]
    assert spec.frames is not None
    assert isinstance(spec.inputs, PixelInput)
    shape = (count, spec.frames.count, 3, spec.inputs.size, spec.inputs.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def stock_model(name: str) -> nn.Module:
    """Return the library's model of a file-loaded tiny encoder, head included."""
    arch: dict[str, Any] = dict(ENCODERS[name].arch)
    if name.startswith("resnet"):
        from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

        small = name == "resnet-tiny"
        return ResNet(BasicBlock if small else Bottleneck, [1] * 4, width_per_group=64 if small else 8)
    if name == "r3d-tiny":
        from torchvision.models.video.resnet import BasicBlock as Block3D
        from torchvision.models.video.resnet import BasicStem, Conv3DSimple, VideoResNet

        return VideoResNet(Block3D, [Conv3DSimple] * 4, [1] * 4, BasicStem)
    if name == "swin3d-tiny":
        from torchvision.models.video import SwinTransformer3d

        return SwinTransformer3d([2, 4, 4], 24, [1, 1], [2, 4], [2, 4, 4])
    if name == "slowfast-tiny":
        from pytorchvideo.models.slowfast import create_slowfast

        return create_slowfast(**arch)
    if name in HUB:
        from pytorchvideo.models import hub

        return getattr(hub, arch.pop("hub"))(**arch)
    import open_clip

    return open_clip.CLIP(**arch)


def seen_by(model: nn.Module, classifier: str, forward: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
    """Return a forward that gives what the model's classifier is fed."""
    grabbed: list[Tensor] = []
    model.get_submodule(classifier).register_forward_pre_hook(lambda _, inputs: grabbed.append(inputs[0]))

    def features(batch: Any) -> Tensor:
        forward(batch)
        return grabbed.pop().flatten(1)

    return features


def library_image(name: str, state: dict[str, Tensor]) -> Callable[[Any], Tensor]:
    import transformers

    arch = dict(ENCODERS[name].arch)
    family = arch.pop("model")
    config = getattr(transformers, f"{family}Config")(**arch)
    model = getattr(transformers, f"{family}Model")(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("pooler.") for key in missing)
    if family == "Swin":
        return lambda images: model(images).last_hidden_state.mean(1)
    if family == "Beit":
        return lambda images: model.pooler.layernorm(model(images).last_hidden_state[:, 1:].mean(1))
    return lambda images: model(images).last_hidden_state[:, 0]


def library_model(name: str, encoder: Encoder) -> Callable[[Any], Tensor]:
    """Return a forward through the library's own model, built from its own entry point, with the encoder's tensors."""
    state = encoder.model.state_dict()
    if name == "videomae-tiny":
        from transformers import VideoMAEConfig, VideoMAEModel

        mae = VideoMAEModel(VideoMAEConfig(**{**ENCODERS[name].arch, "num_frames": 4})).eval()
        mae.load_state_dict(state)
        return lambda clips: mae(clips).last_hidden_state.mean(1)
    if name in IMAGE:
        return library_image(name, state)
    if name in HUB or name in ("r3d-tiny", "swin3d-tiny"):
        stock = stock_model(name).eval()
        missing, unexpected = stock.load_state_dict(state, strict=False)
        classifier = {"r3d-tiny": "fc", "swin3d-tiny": "head", "mvit-tiny": "head.proj"}.get(name)
        classifier = classifier or f"blocks.{len(stock.blocks) - 1}.proj"  # type: ignore[arg-type]
        assert not unexpected
        assert all(key.startswith(classifier) for key in missing)
        return seen_by(stock, classifier, lambda clips: stock(clips.transpose(1, 2)))
    if name.startswith("resnet"):
        from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

        small = name == "resnet-tiny"
        net = ResNet(BasicBlock if small else Bottleneck, [1] * 4, width_per_group=64 if small else 8).eval()
        net.load_state_dict(state, strict=False)
        body = nn.Sequential(*list(net.children())[:-1])  # all but fc
        return lambda images: body(images).flatten(1)
    if name in ("bert-tiny", "minilm-tiny"):
        from transformers import BertConfig, BertModel

        bert = BertModel(BertConfig(**ENCODERS[name].arch), add_pooling_layer=False).eval()
        bert.load_state_dict(state)
        if name == "bert-tiny":
            return lambda tokens: bert(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]

        def mean(tokens: Tokens) -> Tensor:  # title by title, without padding
            rows = [row[mask][None] for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
            return torch.cat([bert(row).last_hidden_state.mean(1) for row in rows])

        return mean
    return library_model_of_pairs(name, state)


def library_model_of_pairs(name: str, state: dict[str, Tensor]) -> Callable[[Any], Tensor]:
    if name == "slowfast-tiny":
        from pytorchvideo.models.slowfast import create_slowfast

        # the stock fixed pools at this input: 8 frames of 64 px leave 2 and 8 maps of 2 x 2
        stock = create_slowfast(
            model_depth=18,
            slowfast_fusion_conv_kernel_size=(7, 1, 1),
            stem_dim_outs=(8, 1),
            head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)),
        ).eval()
        stock.load_state_dict(state, strict=False)
        grabbed: list[Tensor] = []
        stock.blocks[6].proj.register_forward_pre_hook(lambda _, inputs: grabbed.append(inputs[0]))

        def forward(clips: Tensor) -> Tensor:
            stock([clips.transpose(1, 2)[:, :, [0, 7]], clips.transpose(1, 2)])
            return grabbed.pop().flatten(1)

        return forward
    import open_clip

    clip = open_clip.CLIP(**ENCODERS[name].arch).eval()
    prefix = "visual." if "image" in name else ""
    missing, unexpected = clip.load_state_dict({prefix + key: value for key, value in state.items()}, strict=False)
    assert not unexpected
    assert all(key.startswith("visual.") != bool(prefix) for key in missing)
    return clip.encode_image if prefix else lambda tokens: clip.encode_text(tokens.ids)
