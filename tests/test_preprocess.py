"""Preprocessing of pixels against torchvision, and the tokens of hashed words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extract.encoder import PixelInput, TextInput
from extract.encoders import ENCODERS
from extract.preprocess import preprocess
from extract.text import END, PAD, START, hashed_words
from features.errors import MediaError
from tests.media import pictures


def test_preprocess_equals_torchvision() -> None:
    from torchvision.transforms import v2
    from torchvision.transforms.functional import InterpolationMode

    rng = np.random.default_rng(0)
    for height, width in [(100, 150), (151, 90), (300, 301), (64, 64), (40, 200)]:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for name in ("resnet50", "clip-vit-b-32-image"):
            inputs = ENCODERS[name].inputs
            assert isinstance(inputs, PixelInput)
            reference = v2.Compose(
                [
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Resize(inputs.resize, InterpolationMode(inputs.interpolation), antialias=True),
                    v2.Lambda(lambda x: x.clamp(0, 1)),
                    v2.CenterCrop(inputs.size),
                    v2.Normalize(inputs.mean, inputs.std),
                ]
            )(torch.from_numpy(image).permute(2, 0, 1))
            torch.testing.assert_close(preprocess(image, inputs), reference, atol=1e-4, rtol=0)


def test_preprocess_stretch_chunks_and_shapes() -> None:
    inputs = PixelInput(size=16, resize=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), mode="stretch")
    frames = pictures(19, size=(40, 90))
    got = preprocess(frames, inputs)
    assert got.shape == (19, 3, 16, 16)
    assert got.abs().max() <= 1
    assert torch.equal(got[17], preprocess(frames[17], inputs))
    assert torch.allclose(preprocess(np.full((5, 7, 3), 255, np.uint8), inputs), torch.ones(3, 16, 16))
    with pytest.raises(MediaError, match="over 20 times"):
        preprocess(np.zeros((2, 100, 3), np.uint8), inputs)


def test_hashed_words() -> None:
    tokenizer = hashed_words(TextInput(max_tokens=5), 1000)
    tokens = tokenizer.tokenise(["Cat  cat", "one two three four", "钢琴"])
    assert tokens.ids.shape == (3, 5)
    assert tokens.ids[0, 0] == START
    assert tokens.ids[0, 1] == tokens.ids[0, 2]
    assert tokens.ids[0, 3:].tolist() == [END, PAD]
    assert tokens.ids[1, 4] == END  # cut to three words
    assert tokens.mask.sum(1).tolist() == [4, 5, 4]
    assert tokens.ids[0, 1] == 3 + 2656977832 % 997  # crc32 of 'cat', the same for ever
    assert tokenizer.name == "hashed-words:1000"
