"""Runs whose encoder trains: the library's encoders, from a recipe, over stored activations or over media."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from extract.encoders.cutting import split_encoder
from features.errors import ConfigError, StoreError
from features.store import FeatureFile, FeatureRows, write_features
from models.items import towers as tower_parts
from models.shared.recommender import KINDS
from pipelines.data.load import load_data
from pipelines.recipe.recipe import build_recipe, load_recipe
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import build_model
from pipelines.runs.run import open_run
from pipelines.towers.media import media_of
from pipelines.towers.open_towers import Media, load_encoder, open_towers
from tests.support.small import ITEMS, LAYERS, item_ids, plain_recipe, recipe, write, write_layers, write_vectors
from tests.support.tower_runs import TITLES, changes, data, losses, media, trained, without_key_bias, write_activations

__all__ = ["data"]  # a fixture


@pytest.mark.parametrize(
    ("name", "count", "kept", "near"),
    [
        ("videomae-tiny", 1, 1, 1e-5),
        ("videomae-tiny", 1, 2, 1e-5),
        ("bert-tiny", 1, 1, 1e-5),
        ("bert-tiny", 1, 2, 1e-5),
        # BatchNorm by the batch at hand multiplies what its convolutions round
        pytest.param("resnet-tiny", 1, 1, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_top_is_end_to_end(name: str, count: int, kept: int, near: float, data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", name, kept, order=-1)
    rate = {"encoder_lr": 1e-4}
    run_recipe(recipe(data, changes("top", name, count, (file,), **rate)), tmp_path / "top", device="cpu")
    run_recipe(recipe(data, changes("e2e", name, count, **rate)), tmp_path / "e2e", device="cpu", media=media)
    assert losses(tmp_path / "top") == pytest.approx(losses(tmp_path / "e2e"), rel=1e-5)
    cut, whole = trained(tmp_path / "top"), trained(tmp_path / "e2e")
    assert len(cut) == len(whole)
    assert len(cut) > len([key for key in cut if not key.startswith("items.tower.")])
    for (key, one), two in zip(cut.items(), whole.values(), strict=True):
        first, second = without_key_bias(key, one), without_key_bias(key, two)
        size = max(float(one.abs().max()), 1e-3)
        torch.testing.assert_close(first, second, rtol=near, atol=near * size, msg=f"{key} of {name}")


@pytest.mark.parametrize("kind", ["top", "e2e"])
def test_titles_are_encoded_beside_titles_of_their_length(kind: str, data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes(kind, "bert-tiny", files=(file,)))
    split = load_data(made.data).split
    encoder = load_encoder("bert-tiny", "random", 0)
    assert encoder.tokenizer is not None
    wanted = [len(TITLES[int(item)].split()) for item in split.items.ids]
    marks = int(encoder.tokenizer.tokenise(["word"]).mask.sum()) - 1
    (tower,) = open_towers(made, split, [FeatureFile(file)], media).towers.values()
    assert tower.lengths is not None
    for _ in range(2):
        assert tower.lengths(torch.arange(ITEMS)).tolist() == [words + marks for words in wanted]
    if kind == "top":  # no padding is read
        shortest = int(torch.tensor(wanted).argmin())
        assert tower.source.read(torch.tensor([shortest])).shape[1] == min(wanted) + marks  # type: ignore[union-attr]
    alone = [tower.module(tower.source.read(torch.tensor([item]))) for item in range(ITEMS)]
    together = tower.module(tower.source.read(torch.arange(ITEMS)))
    torch.testing.assert_close(together, torch.cat(alone))


def test_encoders_that_see_as_many_tokens_of_every_title_are_not_cut(data: Path) -> None:
    made = recipe(data, changes("e2e", "clip-tiny-text"))
    (tower,) = open_towers(made, load_data(made.data).split, [], media).towers.values()
    assert tower.lengths is None


def test_one_recipe_takes_every_kind(data: Path, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "vectors.h5", "small", item_ids())
    layers = write_layers(tmp_path / "layers.h5", "small", item_ids())
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 2)
    parts = {}
    for kind in KINDS:
        made = recipe(data, changes(kind, "bert-tiny", 1, (vectors, layers, file), encoder_lr=1e-4))
        run_recipe(replace(made, train=replace(made.train, epochs=1)), tmp_path / kind)
        record = json.loads((tmp_path / kind / "record.json").read_text())
        parts[kind] = record["parameter_counts"]
        assert bool(record.get("encoders")) == (kind in ("top", "e2e"))
    assert parts["id"]["items"] == {"trained": ITEMS * 8, "frozen": 0}
    assert parts["v"]["items"] == {"trained": 8 * 8 + 8, "frozen": 0}
    assert parts["id+v"]["items"]["trained"] == parts["id"]["items"]["trained"] + parts["v"]["items"]["trained"]
    assert parts["dnn"]["items"]["trained"] > parts["v"]["items"]["trained"]
    assert parts["adapter"]["items"]["trained"] == LAYERS * (2 * 8 * 8 + 8 + 8 + 1) + 8 * 8 + 8
    encoder = load_encoder("bert-tiny", "random", 0)
    _, top = split_encoder(encoder, 1)
    inside, whole = (sum(tensor.numel() for tensor in part.parameters()) for part in (top, encoder))
    assert parts["e2e"]["items.tower"] == {"trained": inside, "frozen": whole - inside}
    assert parts["top"]["items.tower"]["trained"] == inside
    assert 0 < parts["top"]["items.tower"]["frozen"] < whole - inside  # the block between, not the embeddings
    assert {kind: part["model"] for kind, part in parts.items()} == dict.fromkeys(parts, parts["id"]["model"])


@pytest.mark.parametrize("name", ["bert-tiny", "videomae-tiny", "swin-tiny", "clip-tiny-image"])
def test_blocks_of_the_libraries_are_made_again(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load_data(recipe(data).data).split
    runs: list[Any] = []
    monkeypatch.setattr(
        tower_parts, "checkpoint", lambda block, *a, **k: runs.append(block) or checkpoint(block, *a, **k)
    )
    found = []
    for options in ({}, {"checkpointing": True}):
        made = recipe(data, changes("e2e", name, 2, **options))
        model = build_model(made, split, [], {}, open_towers(made, split, [], media))
        assert not runs
        torch.manual_seed(0)
        model.items(torch.arange(9)).square().sum().backward()
        found.append([weight.grad for weight in model.items.parameters() if weight.grad is not None])
    assert len(runs) == 2
    assert len(found[0]) > 20
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_model_without_items_loads_no_encoder(data: Path, tmp_path: Path) -> None:
    made = build_recipe(plain_recipe(data, changes("e2e", "resnet-tiny") | {"model": {"name": "popularity"}}))
    assert run_recipe(made, tmp_path / "run")["test"]


def test_a_run_opens_again_with_its_encoder(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes("top", "bert-tiny", 1, (file,)))
    metrics = run_recipe(made, tmp_path / "run")
    assert load_recipe(tmp_path / "run" / "config.yaml") == made
    first, again = open_run(tmp_path / "run"), open_run(tmp_path / "run")
    assert torch.equal(first.model.item_vectors(), again.model.item_vectors())
    assert run_recipe(made, tmp_path / "run") == metrics
    (record,) = json.loads((tmp_path / "run" / "record.json").read_text())["encoders"]
    assert (record["encoder"], record["top_blocks"], record["blocks"]) == ("bert-tiny", 1, 2)
    assert record["activations"] == FeatureFile(file).provenance.fingerprint


def test_a_run_over_other_media_is_not_opened(data: Path, tmp_path: Path) -> None:
    run_recipe(recipe(data, changes("e2e", "bert-tiny")), tmp_path / "run")
    other = load_data(recipe(data).data)
    other.dataset.titles["003"] = "another title"
    with pytest.raises(ConfigError, match=r"encoder 'bert-tiny': its media changed since .*run was trained"):
        open_run(tmp_path / "run", media=media_of(other.dataset, other.split))


def refused(data: Path, wanted: dict[str, Any], message: str, media: Media | None = None) -> None:
    run = data.parent / "refused"
    with pytest.raises((ConfigError, StoreError), match=message):
        run_recipe(recipe(data, wanted), run, media=media)
    assert not run.exists()


def test_what_cannot_be_meant_is_told_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "vectors.h5", "small", item_ids())
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    twin = write_activations(tmp_path / "twin.h5", "bert-tiny", 2, dtype="float16")
    top = {"kind": "top", "name": "bert-tiny"}
    none = r"none of the 1 feature files holds activations of encoder 'bert-tiny'; make one with .*--top-blocks 1`"
    refused(data, changes(**top, files=(vectors,)), none)
    refused(data, changes("top", "bert-tinny", files=(file,)), r"encoder 'bert-tinny' is unknown; did you mean 'bert-t")
    differ = r"2 feature files hold activations of 'bert-tiny' \(cut\.h5, twin\.h5\) that differ in more"
    refused(data, changes(**top, files=(file, twin)), differ)
    refused(
        data, changes(**top, count=2, files=(file,)), r"top_blocks is 2, .*below the last 1 of the 2 .*--top-blocks 2`"
    )
    refused(data, changes(**top, count="all", files=(file,)), r"top_blocks is all, .*or kind 'e2e'")
    refused(data, changes(**top, weights="pretrained", files=(file,)), r"weights is 'pretrained', .*others; use random")
    refused(
        data, changes("v", "bert-tiny", files=(file,)), r"items.kind is 'v', but .*cut\.h5 holds activations of shape"
    )
    refused(data, changes("e2e", "bert-tiny", 3), r"top_blocks is 3, but encoder 'bert-tiny' has 2 blocks")
    refused(data, changes("e2e", "bert-tinny"), r"encoder 'bert-tinny' is unknown; did you mean 'bert-tiny'")
    refused(data, changes("e2e", "resnet-tiny"), r"encoder 'resnet-tiny' reads covers, but none of the 0 feature files")
    refused(data, changes("e2e", "resnet-tiny", micro_batch=4), r"BatchNorm in the trained part", media)
    write(data / "items.csv", "item,title\n000,first\n")
    refused(
        data, changes("e2e", "bert-tiny"), r"29 of 30 items have no title, first '001', and kind 'e2e' encodes every"
    )


def test_the_file_with_the_fewest_blocks_that_serve_is_taken(data: Path, tmp_path: Path) -> None:
    files = [write_activations(tmp_path / f"{count}.h5", "resnet-tiny", count) for count in (4, 2, 3)]
    for count, served in ((1, 2), (2, 2), (3, 3), (4, 4)):
        made = recipe(data, changes("top", "resnet-tiny", count, tuple(files)))
        split = load_data(made.data).split
        (facts,) = open_towers(made, split, [FeatureFile(file) for file in files], media).facts
        assert facts["activations"] == FeatureFile(tmp_path / f"{served}.h5").provenance.fingerprint
    wanted = changes("top", "resnet-tiny", 5, tuple(files))
    refused(data, wanted, r"top_blocks is 5, but .*4\.h5 is cut below the last 4 of the 4 blocks of 'resnet-t")
    twice = write_activations(tmp_path / "again.h5", "resnet-tiny", 2)
    refused(data, changes("top", "resnet-tiny", 1, (*files, twice)), r"4 feature files hold .*name one under features")


@pytest.mark.parametrize(("key", "value"), [("pooling", "maximum"), ("inputs", {"max_tokens": 7}), ("tokenizer", "t")])
def test_activations_of_another_recipe_are_refused(key: str, value: Any, data: Path, tmp_path: Path) -> None:
    held = FeatureFile(write_activations(tmp_path / "cut.h5", "bert-tiny", 1))
    rows = FeatureRows(list(held.columns.ids), held.read(held.columns.ids), held.columns.states, *[[""] * ITEMS] * 3)
    other = replace(held.provenance, recipe={**held.provenance.recipe, key: value})
    write_features(tmp_path / "o.h5", rows, other)
    wanted = changes("top", "bert-tiny", files=(tmp_path / "o.h5",))
    refused(data, wanted, rf"o\.h5 was made by another 'bert-tiny' \({key} .*, not .*\); extract again")


def test_an_item_without_activations_is_refused(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1, missing=2)
    refused(data, changes("top", "bert-tiny", files=(file,)), r"cut\.h5 lacks 2 of 30 items, first '000' \(missing")


def test_activations_of_other_weights_are_refused(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    held = FeatureFile(file)
    rows = FeatureRows(list(held.columns.ids), held.read(held.columns.ids), held.columns.states, *[[""] * ITEMS] * 3)
    write_features(tmp_path / "o.h5", rows, replace(held.provenance, weights_sha256="ab" * 32))
    wanted = changes("top", "bert-tiny", files=(tmp_path / "o.h5",))
    refused(data, wanted, r"items.weights 'random' of 'bert-tiny' have sha256 \w{12}, .* was made with abababababab")


@pytest.mark.parametrize("model", ["lightgcn", "mmgcn", "grcn", "vbpr"])
@pytest.mark.parametrize("kind", ["top", "e2e"])
def test_models_that_cannot_train_an_encoder_say_why(kind: str, model: str, data: Path) -> None:
    plain = plain_recipe(data, changes(kind, "bert-tiny") | {"model": {"name": model}})
    reason = (
        "its bias is a linear function of frozen vectors" if model == "vbpr" else "every step would encode the whole"
    )
    with pytest.raises(ConfigError, match=f"items.kind is '{kind}', which {model} cannot work with .*{reason}"):
        build_recipe(plain)
