"""Preprocessing of pixels against torchvision, and the tokens of hashed words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extract.encoders.hashed_words import END, PAD, START, hashed_words
from extract.encoders.inputs import PixelInput, TextInput, WrappedInput
from extract.encoders.preprocess import Inputs, View, chunk_frames, crop, preprocess
from extract.encoders.registry import ENCODERS
from extract.media.frames import FrameUnion, frame_indices, parse_frame_policy
from features.errors import MediaError
from tests.support.media import pictures


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


CONTRACTS = {
    "crop": PixelInput(32, 40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
    "bicubic": PixelInput(32, 40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), interpolation="bicubic"),
    "stretch": PixelInput(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), mode="stretch"),
    "wrapped": WrappedInput(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), mode="stretch"),
    "larger": PixelInput(90, 100, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize("cropped", [False, True])
@pytest.mark.parametrize("policy", ["middle:5", "uniform:24", "middle:7x9"])
@pytest.mark.parametrize("name", list(CONTRACTS))
def test_frame_by_frame_equals_all_at_once(name: str, policy: str, cropped: bool) -> None:
    """Bit for bit, and lying in memory alike: convolutions round by that."""
    inputs, chosen = CONTRACTS[name], parse_frame_policy(policy)
    union = FrameUnion((chosen, parse_frame_policy("uniform:3"), parse_frame_policy("middle:2")))
    clip = np.random.default_rng(0).integers(0, 256, (20, 45, 61, 3), dtype=np.uint8)
    wanted = clip[frame_indices(chosen, len(clip))]
    # as it was done when all frames came at once: eight at a time, in one thread, on frames that repeat
    work = crop if cropped else preprocess
    expected = torch.cat([work(part, inputs) for part in torch.split(torch.from_numpy(wanted), 8)])
    for size in (1, 3, 8, 20):
        maker = Inputs(View(inputs, chosen, cropped), union, len(clip), "cpu")
        for part in torch.split(torch.from_numpy(clip[frame_indices(union, len(clip))]), size):
            maker.take(part)
        got = maker.finish()
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()


def test_large_frames_are_computed_one_at_a_time() -> None:
    assert chunk_frames(2160, 3840) == 1
    assert chunk_frames(1080, 1920) == 2
    assert chunk_frames(240, 320) == 8
    assert 8 * 3 * 240 * 320 <= 2**24
