"""The shared exam of encoders: every entry of ENCODERS takes it by existing; equality with the libraries' models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import PixelInput, TextInput
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import ENCODERS
from features.provenance import canonical_json
from tests.support.encoding import (
    BLOCKS,
    FAMILIES,
    FULL,
    TINY,
    TITLES,
    batch,
    build,
    build_without_numbers,
    encode,
    pixels,
    shape_of_vectors,
)
from tests.support.library_models import library_model, native_pixels
from tests.support.media import pictures


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: build(name) for name in TINY}


@pytest.mark.parametrize("name", ENCODERS)
def test_entries_are_complete(name: str) -> None:
    spec = ENCODERS[name]
    assert spec.name == name
    assert (spec.frames is not None) == (spec.modality == "video")
    assert isinstance(spec.inputs, TextInput) == (spec.modality == "title")
    assert spec.paper.count(".") == 1
    assert (spec.weights is None) == ("-tiny" in name)
    if spec.weights is not None:
        assert spec.weights.licence
        assert spec.weights.revision
    assert name in BLOCKS


@pytest.mark.parametrize("name", TINY)
def test_vectors_have_the_promised_shape(encoders: dict[str, Encoder], name: str) -> None:
    vectors = encode(encoders[name], batch(encoders[name], 8))
    assert vectors.shape == (8, ENCODERS[name].width)
    assert encoders[name].width == ENCODERS[name].width
    assert vectors.dtype == torch.float32
    assert torch.isfinite(vectors).all()
    assert vectors.abs().max() < 1000  # far from float16's limit


@pytest.mark.parametrize("name", TINY)
def test_a_vector_does_not_depend_on_its_batch(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    together = encode(encoder, batch(encoder, 8))
    if encoder.tokenizer is not None:
        alone = [encode(encoder, encoder.tokenizer.tokenise([title])) for title in TITLES[:8]]
    else:
        alone = [encode(encoder, pixels(encoder.spec, kind)[None]) for kind in range(8)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_encoders_are_frozen(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    assert not any(module.training for module in encoder.model.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(encode(encoder, batch(encoder, 2)), encode(encoder, batch(encoder, 2)))


@pytest.mark.parametrize("name", TINY)
def test_seeds_decide_random_weights_and_touch_nothing_else(encoders: dict[str, Encoder], name: str) -> None:
    torch.manual_seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again, other = build(name), build(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert again.weights_sha256 == encoders[name].weights_sha256
    assert other.weights_sha256 != again.weights_sha256
    assert "random weights (seed 1)" in other.warning


@pytest.mark.parametrize("name", TINY)
def test_blocks_are_all_of_them_in_order(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    blocks = encoder.blocks()
    assert len(blocks) == BLOCKS[name]
    seen: list[nn.Module] = []
    for block in blocks:
        block.register_forward_hook(lambda module, *_: seen.append(module))
    encode(encoder, batch(encoder, 1))
    assert seen == blocks


@pytest.mark.parametrize("name", TINY)
def test_recipes_are_plain_json_and_say_random(encoders: dict[str, Encoder], name: str) -> None:
    recipe = json.loads(canonical_json(encoders[name].recipe()))
    assert recipe["weights"] == "random"
    assert recipe["seed"] == 0
    assert recipe["weights_sha256"] == encoders[name].weights_sha256
    assert (recipe["tokenizer"] is not None) == (ENCODERS[name].modality == "title")


@pytest.mark.parametrize("name", [name for name in TINY if ENCODERS[name].modality != "title"])
def test_tiny_encoders_tell_pictures_apart(encoders: dict[str, Encoder], name: str) -> None:
    """Two clips of one ground colour (other box paths) lie closer than clips of different grounds, after centring."""
    encoder, spec = encoders[name], ENCODERS[name]
    assert isinstance(spec.inputs, PixelInput)
    count = spec.frames.count if spec.frames else 1
    images = [pictures(count + 3, kind=kind)[shift : shift + count] for kind in range(4) for shift in (0, 3)]
    tensors = [preprocess(image if spec.frames else image[0], spec.inputs) for image in images]
    vectors = encode(encoder, torch.stack(tensors)).double()
    distance = torch.cdist(vectors, vectors)
    for place in range(8):
        twin = place ^ 1
        others = [other for other in range(8) if other not in (place, twin)]
        assert distance[place, twin] < distance[place, others].min()


@pytest.mark.parametrize("name", [name for name in TINY if ENCODERS[name].modality == "title"])
def test_tiny_encoders_tell_titles_apart(encoders: dict[str, Encoder], name: str) -> None:
    tokenizer = encoders[name].tokenizer
    assert tokenizer is not None
    titles = ["football goal match", "Football goal  match", "football goal save", "cooking rice soup"]
    vectors = nn.functional.normalize(encode(encoders[name], tokenizer.tokenise(titles)), dim=1)
    distance = torch.cdist(vectors, vectors)
    assert distance[0, 1] < 1e-3  # case and blanks mean nothing
    assert 0.05 < distance[0, 2] < distance[0, 3]  # shared words bring titles closer


@pytest.mark.parametrize("name", [name for name in FULL if name not in FAMILIES or ENCODERS[name].frames])
def test_full_size_encoders_have_the_promised_shape(name: str) -> None:
    """On the `meta` device. One of each family computes in test_encoder_split.py, there video ones on few frames."""
    encoder = build_without_numbers(name)
    assert shape_of_vectors(encoder, batch(encoder, 1)) == (1, ENCODERS[name].width)
    assert len(encoder.blocks()) == BLOCKS[name]
    assert sum(parameter.numel() for parameter in encoder.model.parameters()) == ENCODERS[name].parameters


@pytest.mark.parametrize("name", TINY)
def test_equal_to_the_librarys_own_forward(encoders: dict[str, Encoder], name: str) -> None:
    native = native_pixels(name, 2)
    inputs = batch(encoders[name], 4) if native is None else native
    with torch.inference_mode():
        direct = library_model(name, encoders[name])(inputs)
    torch.testing.assert_close(encode(encoders[name], inputs), direct, atol=1e-5, rtol=0)


def test_every_tiny_encoder_is_of_a_full_ones_class() -> None:
    backends = {ENCODERS[name].backend for name in FULL}
    assert {ENCODERS[name].backend for name in TINY} == backends


def test_all_entries_of_a_backend_are_of_one_family() -> None:
    pairs = {(spec.backend, spec.family) for spec in ENCODERS.values()}
    assert len(pairs) == len({backend for backend, _ in pairs})
