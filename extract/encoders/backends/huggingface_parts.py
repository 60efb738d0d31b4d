"""The models of transformers as steps for `split_encoder`: they do what the model's forward does, with its modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from extract.encoders.inputs import Tokens
from extract.encoders.parts import Parts, Words
from features.errors import ConfigError

BERT_LIKE = ("BertModel", "RobertaModel", "XLMRobertaModel")  # their layers take states and a mask, and nothing else


def video_parts(model: Any) -> Parts:
    """Return the steps of VideoMAE, without the final norm if the fault 'no-last-norm' removed it."""
    norm = nn.Identity() if model.layernorm is None else model.layernorm
    end = _MeanToken()
    return Parts((_Unmasked(model.embeddings), *model.encoder.layer, norm, end), pool=end)


def image_parts(model: nn.Module) -> Callable[[Any], Parts]:
    """Return the function that takes an image transformer apart."""
    takers = {"SwinModel": _swin_parts, "ViTModel": _vit_parts, "ViTMAEModel": _mae_parts, "BeitModel": _beit_parts}
    return takers[type(model).__name__]


def text_parts(model: Any, pooling: str) -> Callable[[Any], Parts] | None:
    """Return the function that takes a text model apart; None for families whose layers are called in another way."""
    if type(model).__name__ not in BERT_LIKE or model.config.is_decoder:
        return None
    end = {"cls": _FirstToken, "masked mean": _MaskedMean}[pooling]()

    def parts(bert: Any) -> Parts:
        blocks = (_MaskedBlock(block, bert.config) for block in bert.encoder.layer)
        return Parts((_WordTokens(bert.embeddings), *blocks, end), pool=end)

    return parts


def shuffle_noise(model: Any, images: Tensor) -> Tensor:
    """Return the noise (B, patches) by which ViTMAE sorts patches, such that they keep their order.

    By default the order is random, and the last bits of a vector differ every time.
    """
    patches = model.embeddings.patch_embeddings.num_patches
    if model.config.mask_ratio > 0:  # a fault: each cover of a batch draws its own patches, the same in every run
        return torch.rand(len(images), patches, generator=torch.Generator().manual_seed(0)).to(images.device)
    return torch.arange(patches, device=images.device).expand(len(images), patches)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return (B, F), the mean of states (B, S, F) over a title's own tokens: padding must not change a vector."""
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _vit_parts(model: Any) -> Parts:
    end = _ClassToken()
    return Parts((model.embeddings, *model.layers, model.layernorm, end), pool=end)


def _mae_parts(model: Any) -> Parts:
    end = _ClassToken()
    return Parts((_Ordered(model), *model.layers, model.layernorm, end), pool=end)


def _beit_parts(model: Any) -> Parts:
    if model.shared_position_bias is not None:
        raise ConfigError("a BEiT with one position bias for all blocks cannot be cut; use one with a bias per block")
    mean = model.pooler.layernorm is not None
    blocks = (_BeitBlock(block) for block in model.layers)
    steps = (_BeitTokens(model.embeddings), *blocks, _FirstOf(), model.layernorm, model.pooler)
    return Parts(steps, pool=lambda state: state[0][:, 1:].mean(dim=1) if mean else state[0][:, 0])


def keep_positions(beit: Any) -> None:
    """Make BEiT build its table of relative positions now: transformers keeps it for ever, for all models of a size.

    A table built in inference mode could not be used in training, and one built from fake tensors would be empty.
    """
    side = beit.config.image_size // beit.config.patch_size
    bias = beit.layers[0].relative_position_bias
    if bias is not None:
        with torch.inference_mode(mode=False), torch.no_grad():
            bias((side, side), False, dim_size=side * side + 1)


def _swin_parts(model: Any) -> Parts:
    steps: list[nn.Module] = [model.embeddings]  # gives tokens and their (H, W)
    for stage in model.encoder.layers:
        steps += [_SwinBlock(block) for block in stage.blocks]
        if stage.downsample is not None:
            steps.append(_SwinMerge(stage.downsample))
    end = (_FirstOf(), model.layernorm, _Transposed(), model.pooler, nn.Flatten())
    return Parts((*steps, *end), pool=lambda state: state[0].mean(dim=1))


class _Inner(nn.Module):
    """A step around one module of the library."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class _Unmasked(_Inner):
    def forward(self, clips: Tensor) -> Tensor:
        tokens: Tensor = self.module(clips, None)
        return tokens


class _Ordered(_Inner):
    def __init__(self, model: Any) -> None:
        super().__init__(model.embeddings)
        self.config = model.config

    @property
    def embeddings(self) -> nn.Module:
        return self.module

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.module(images, noise=shuffle_noise(self, images))[0]
        return tokens


class _BeitTokens(_Inner):
    def forward(self, images: Tensor) -> tuple[Any, ...]:
        return self.module(images, bool_masked_pos=None), tuple(images.shape[2:])


class _BeitBlock(_Inner):
    def forward(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.module(state[0], attention_mask=None, resolution=state[1]), state[1]


class _SwinBlock(_Inner):
    def forward(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.module(*state)[0], state[1]


class _SwinMerge(_Inner):
    def forward(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        height, width = state[1]
        return self.module(*state), ((height + 1) // 2, (width + 1) // 2)


class _WordTokens(_Inner):
    def forward(self, tokens: Tokens) -> Words:
        return Words(self.module(input_ids=tokens.ids), tokens.mask)


class _MaskedBlock(_Inner):
    def __init__(self, module: nn.Module, config: Any) -> None:
        super().__init__(module)
        self.config = config

    def forward(self, words: Words) -> Words:
        from transformers.masking_utils import create_bidirectional_mask

        mask = create_bidirectional_mask(
            config=self._own_config(), inputs_embeds=words.states, attention_mask=words.mask.long()
        )
        return Words(self.module(words.states, mask), words.mask)

    def _own_config(self) -> Any:
        """Return the config that the block's attention uses: it would misread a mask made for another one."""
        found = (getattr(module, "config", None) for module in self.module.modules())
        return next((config for config in found if config is not None), self.config)


class _FirstOf(nn.Module):
    def forward(self, state: tuple[Any, ...]) -> Any:
        return state[0]


class _Transposed(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2)


class _MeanToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class _ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class _FirstToken(nn.Module):
    def forward(self, words: Words) -> Tensor:
        return words.states[:, 0]


class _MaskedMean(nn.Module):
    def forward(self, words: Words) -> Tensor:
        return masked_mean(words.states, words.mask)
