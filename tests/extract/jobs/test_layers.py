"""Hidden states of several blocks in one file: the library's own, pooled as the encoder pools, or a clear refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import run_pipeline
from extract.encoders.inputs import Batch, Tokens
from extract.encoders.pooled_layers import layers_of, parse_layers
from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media.catalog import build_catalog
from features.errors import ConfigError
from features.store import FeatureFile
from tests.support.encoding import BLOCKS, TINY, batch, build, encode

TRANSFORMERS = ["videomae-tiny", "vit-tiny", "vit-mae-tiny", "beit-tiny", "bert-tiny", "minilm-tiny"]
TITLES = {"a": "a cat plays the piano", "b": "cooking rice", "c": "", "d": "one two three four five six"}


def pooled(name: str, given: Any, inputs: Batch) -> Tensor:
    """Pool what a block of a small transformer gave."""
    states: Tensor = given[0] if isinstance(given, tuple) else given
    if name == "minilm-tiny":
        assert isinstance(inputs, Tokens)
        return torch.stack([row[mask].mean(0) for row, mask in zip(states, inputs.mask, strict=True)])
    if name == "videomae-tiny":
        return states.mean(1)
    return states[:, 1:].mean(1) if name == "beit-tiny" else states[:, 0]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_layers_are_what_the_librarys_blocks_give(name: str) -> None:
    encoder = build(name)
    inputs, seen = batch(encoder, 3), []
    for block in encoder.blocks():
        block.register_forward_hook(lambda _, __, given: seen.append(given))
    encode(encoder, inputs)
    direct = torch.stack([pooled(name, given, inputs) for given in seen], dim=1)
    module, numbers, width = layers_of(encoder, "all")
    assert numbers == (1, 2)
    assert width == direct.shape[2]
    with torch.inference_mode():
        torch.testing.assert_close(module(inputs), direct, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layers_of(encoder, (2,))[0](inputs), direct[:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name != "clip-rn-tiny-image"])
def test_the_last_layer_of_every_encoder(name: str) -> None:
    """Where nothing but the pooling follows the last block, its layer is the encoder's vector."""
    encoder = build(name)
    module, numbers, width = layers_of(encoder, (BLOCKS[name],))
    inputs = batch(encoder, 2)
    with torch.inference_mode():
        got = module(inputs)
    assert got.shape == (2, 1, width)
    assert numbers == (BLOCKS[name],)
    plain = ("resnet", "r3d", "slow-", "slowfast", "c2d", "csn", "bert", "minilm")
    if name.startswith(plain):
        torch.testing.assert_close(got[:, 0], encode(encoder, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "chosen", "said"),
    [
        ("resnet-tiny", "all", r"layers of 'resnet-tiny' have different widths \(1: 64, 2: 128, 3: 256, 4: 512\)"),
        ("clip-rn-tiny-image", (1,), r"no pooling for inner blocks \(attention pooling\)"),
        ("bert-tiny", (1, 3), "--layers 1,3, but encoder 'bert-tiny' has 2 blocks; name each once, from 1 to 2"),
        ("bert-tiny", (0,), "--layers 0, but"),
        ("bert-tiny", (2, 2), "--layers 2,2, but"),
    ],
)
def test_layers_that_cannot_be_had(name: str, chosen: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        layers_of(build(name), chosen)


def test_layers_are_parsed() -> None:
    assert parse_layers("all") == "all"
    assert parse_layers(" 12, 3,6") == (12, 3, 6)
    for text in ("", "3,", "-1", "three"):
        with pytest.raises(ConfigError, match="is neither 'all' nor block numbers"):
            parse_layers(text)


def test_layers_in_the_store(tmp_path: Path) -> None:
    catalog = build_catalog("toy", None, titles=TITLES)
    run = ExtractOptions(tmp_path, weights="random", dtype="float32", layers="all", max_failed=0.5)
    report = extract(catalog, ENCODERS["bert-tiny"], run)
    file = FeatureFile(report.path)
    assert file.shape == (4, 2, 48)
    assert report.path.name.startswith("toy.bert-tiny-layers.")
    assert file.provenance.recipe["layers"] == [1, 2]
    second = extract(catalog, ENCODERS["bert-tiny"], replace(run, layers=(2,)))
    np.testing.assert_array_equal(FeatureFile(second.path).read(["a", "d"])[:, 0], file.read(["a", "d"])[:, 1])
    assert second.fingerprint != report.fingerprint
    named = extract(catalog, ENCODERS["bert-tiny"], replace(run, layers=(2, 1)))
    assert named.unchanged  # the same recipe
    with pytest.raises(ConfigError, match="--top-blocks and --layers each say what is stored"):
        replace(run, top_blocks=1)


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,title\na,one\nb,two words\n")
    (tmp_path / "interactions.tsv").write_text("user\titem\ttimestamp\nu\ta\t1\nu\tb\t2\n")
    line = ["extract", "--data", str(tmp_path), "--encoders", "minilm-tiny", "--weights", "random", "--device", "cpu"]
    assert run_pipeline.main([*line, "--out", str(tmp_path / "f"), "--layers", "1,2"]) == 0
    (path,) = (tmp_path / "f").glob("*.minilm-tiny-layers.*.h5")
    assert FeatureFile(path).dtype == np.float16
    assert run_pipeline.main([*line, "--out", str(tmp_path / "f"), "--layers", "9"]) == 2
