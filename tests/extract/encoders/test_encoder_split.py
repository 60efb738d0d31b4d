"""Encoders cut in two: the composition is the encoder at every cut, gradients stay in the top."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from extract.encoders.cutting import Padded, split_encoder
from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Tokens
from extract.encoders.parts import Cut, Words
from extract.encoders.registry import ENCODERS
from features.errors import ConfigError
from tests.support.encoding import BLOCKS, FAMILIES, TINY, batch, build, build_for_few_frames, encode, save_bert

DEEP = [pytest.param(name, marks=pytest.mark.slow) if BLOCKS[name] > 20 else name for name in TINY]
pytestmark = pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")  # pytorchvideo
VISUAL = [name for name in TINY if ENCODERS[name].modality != "title"]


def parameters(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


def cuts(name: str) -> list[Cut]:
    return [*range(1, BLOCKS[name] + 1), "all"]


def like(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", DEEP)
def test_prefix_and_top_are_the_encoder_at_every_cut(name: str) -> None:
    encoder = build(name)
    pairs = [
        split_encoder(encoder, count) for count in cuts(name)
    ]  # before the encoder ever ran: a cut computes nothing
    inputs = batch(encoder, 2)
    packing = pairs[0][0].packing
    whole = encode(encoder, packing.padded(inputs) if isinstance(packing, Padded) else inputs)
    for prefix, top in pairs:
        activations = prefix(inputs)
        assert activations.shape == (2, *prefix.shape)
        assert activations.dtype == torch.float32
        kept = activations.clone()
        with torch.inference_mode():
            like(top(activations), whole)
        assert torch.equal(activations, kept)  # nothing is done in place: they may lie in a memory map


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_the_top_and_nothing_else(name: str) -> None:
    encoder = build(name)
    inputs = batch(encoder, 2)
    encode(encoder, inputs)
    last: set[int] = set()
    for count in (1, BLOCKS[name], "all"):
        encoder.zero_grad()
        prefix, top = split_encoder(encoder, count)
        top(prefix(inputs)).square().sum().backward()
        reached = {id(parameter) for parameter in encoder.parameters() if parameter.grad is not None}
        assert reached == parameters(top) == {id(one) for one in encoder.parameters() if one.requires_grad}
        assert not reached & parameters(prefix)
        assert last < reached  # a deeper cut leaves more to train
        last = reached
        held = [block for block in encoder.blocks() if parameters(block) <= reached]
        assert held == encoder.blocks()[0 if count == "all" else -count :]


def test_the_prefix_stays_as_it_was_loaded() -> None:
    prefix, top = split_encoder(build("resnet-tiny"), 2)
    both = nn.Sequential(prefix, top).train()
    assert not any(module.training for module in prefix.steps.modules())
    assert all(module.training for module in top.modules())
    assert not prefix(torch.randn(2, 3, 64, 64, requires_grad=True)).requires_grad
    before = [buffer.clone() for buffer in prefix.buffers()]
    both(torch.randn(2, 3, 64, 64))
    assert all(map(torch.equal, before, prefix.buffers()))


def test_a_later_cut_of_the_same_encoder_takes_over() -> None:
    encoder = build("bert-tiny")
    split_encoder(encoder, 2)
    prefix, top = split_encoder(encoder, 1)
    assert {id(one) for one in encoder.parameters() if one.requires_grad} == parameters(top)
    assert parameters(prefix) | parameters(top) == parameters(encoder.model)


@pytest.mark.parametrize("name", ["bert-tiny", "minilm-tiny", "clip-tiny-text"])
def test_a_titles_row_does_not_depend_on_its_batch(name: str) -> None:
    encoder = build(name)
    assert encoder.tokenizer is not None
    prefix, top = split_encoder(encoder, 1, tokens=16)
    short, long = encoder.tokenizer.tokenise(["a cat!"]), encoder.tokenizer.tokenise(["a cat!", "one " * 13])
    assert prefix.shape[0] == 16
    assert torch.equal(prefix(short)[0] != 0, prefix(long)[0] != 0)
    like(prefix(short)[0], prefix(long)[0])
    assert {prefix.packing.padded(titles).mask.shape[1] for titles in (short, long)} == {32 if "clip" in name else 16}
    with torch.inference_mode():
        like(top(prefix(short)), encoder(short))
        like(top(prefix(long)), encoder(long))
        assert torch.isfinite(top(torch.zeros(2, *prefix.shape))).all()  # items without a vector, read as zeros
    with pytest.raises(ValueError, match="a title has 15 tokens, but only 4 are kept"):
        split_encoder(encoder, 1, tokens=4)[0](long)


def test_padding_comes_back() -> None:
    states = torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for limit, length in ((2, 2), (9, 9), (99, 16)):
        packed = Padded((6, 5), 0, ids=False, limit=limit).pack(Words(states, mask))
        back = Padded((6, 5), 0, ids=False, limit=limit).unpack(packed)
        assert packed.shape == (2, 6, 5)
        assert back.mask.shape == back.states.shape[:2] == (2, length)
        assert torch.equal(back.mask[:, :2], mask[:, :2])
        assert torch.equal(back.states[back.mask], states[mask])
    ids = Padded((6, 1), 4, ids=True, limit=4)
    told = ids.unpack(ids.pack(Tokens(torch.tensor([[0, 250_001, 7], [5, 9, 9]]), mask)))
    assert told.ids.tolist() == [[0, 250_001, 0, 0], [5, 0, 0, 0]]


@pytest.mark.parametrize(("count", "said"), [(0, "top_blocks is 0"), (-1, "top_blocks is -1"), (3, "top_blocks is 3")])
def test_cuts_that_are_none(count: int, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said}, but encoder 'bert-tiny' has 2 blocks; use 1 to 2"):
        split_encoder(build("bert-tiny"), count)


def test_encoders_that_cannot_be_cut(tmp_path: Path) -> None:
    import transformers

    encoder = build("vit-tiny")
    encoder.spec = replace(encoder.spec, blocks=())
    with pytest.raises(ConfigError, match="encoder 'vit-tiny' has no block list"):
        split_encoder(encoder, 1)
    bare = Encoder(ENCODERS["vit-tiny"], encoder.model, lambda model, batch: batch, weights="random")
    with pytest.raises(ConfigError, match="ViTModel of encoder 'vit-tiny' cannot be cut"):
        split_encoder(bare, "all")
    save_bert(tmp_path)  # for the tokenizer
    sizes = {"vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.MPNetModel(transformers.MPNetConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="MPNetModel of encoder 'minilm' cannot be cut"):
        split_encoder(ENCODERS["minilm"].backend(ENCODERS["minilm"], str(tmp_path), 0), 1)


@pytest.mark.parametrize("name", VISUAL)
def test_faults_are_kept_by_both_halves(name: str) -> None:
    from extract.encoders.faults import with_faults

    try:
        spec = with_faults(ENCODERS[name], ["microlens"])
    except ConfigError:
        pytest.skip("the benchmark's code cannot run it")
    encoder = spec.backend(spec, "random", 0)
    inputs = batch(encoder, 2)
    assert isinstance(inputs, Tensor)
    inputs = (
        inputs.movedim(-3, -1).contiguous().movedim(-1, -3)
    )  # BatchNorm by the batch multiplies what rounds otherwise
    for count in (1, 2):
        prefix, top = split_encoder(encoder, count)
        with torch.inference_mode():
            like(top(prefix(inputs)), encode(encoder, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_full_size_encoders_compute_and_are_cut(name: str) -> None:
    """One of each family; test_encoders.py has the shapes of the others, and of whole clips."""
    encoder = build_for_few_frames(name)
    assert len(encoder.blocks()) == BLOCKS[name]
    assert sum(parameter.numel() for parameter in encoder.model.parameters()) == ENCODERS[name].parameters
    inputs = batch(encoder, 1)
    if isinstance(inputs, Tensor):  # as the prefix puts them: in another order convolutions round otherwise
        inputs = inputs.movedim(-3, -1).contiguous().movedim(-1, -3)
    vectors = encode(encoder, inputs)
    assert vectors.shape == (1, ENCODERS[name].width)
    assert torch.isfinite(vectors.half()).all()
    deepest = split_encoder(encoder, BLOCKS[name])[0].shape
    assert min(deepest) >= 1
    prefix, top = split_encoder(encoder, 2)
    activations = prefix(inputs)
    assert activations.shape == (1, *prefix.shape)
    with torch.inference_mode():
        # titles are padded to a multiple of 16 below a cut: the softmax of attention is summed in another order
        torch.testing.assert_close(top(activations), vectors, atol=1e-5, rtol=1e-5)
