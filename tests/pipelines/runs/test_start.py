"""A run that starts from the weights of a finished one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from extract.encoders.encoder import Encoder
from features.errors import ConfigError
from features.provenance import Provenance
from features.store import FeatureFile, FeatureRows, write_features
from pipelines.comparing.compare import compare
from pipelines.comparing.cost_table import cost_summary, cost_table, costs
from pipelines.data.load import load_data
from pipelines.recipe.recipe import Recipe
from pipelines.runs import experiment
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import build_model, open_features
from pipelines.runs.run import open_run
from pipelines.runs.warm_start import start_from
from pipelines.towers.open_towers import load_encoder, open_towers
from pipelines.training.fit import Progress
from tests.support.small import ITEMS, item_ids, recipe, write_layers, write_vectors
from tests.support.tower_runs import changes, data, losses, media, trained, write_activations

__all__ = ["data"]  # a fixture


def vectors_of(path: Path, encoder: Encoder) -> Path:
    """Write what `extract` does: a vector per item."""
    with torch.no_grad():
        vectors = encoder(media(encoder).read(torch.arange(ITEMS))).numpy()
    rows = FeatureRows(item_ids(), vectors, *[[0] * ITEMS], *[[""] * ITEMS] * 3)  # type: ignore[arg-type]
    write_features(path, rows, Provenance("small", encoder.recipe(), weights_sha256=encoder.weights_sha256))
    return path


def made(
    data: Path, kind: str, file: Path | None, start: str | None = None, name: str = "bert-tiny", **options: Any
) -> Recipe:
    plain = changes(kind, name, 1, () if file is None else (file,), **options)
    plain["train"] |= {"epochs": 3, "start_from": start}
    return replace(recipe(data, plain), name=f"small-{kind}")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return vectors_of(tmp_path / "vectors.h5", load_encoder("bert-tiny", "random", 0))


@pytest.fixture
def frozen(data: Path, vectors: Path, tmp_path: Path) -> Path:
    run_recipe(made(data, "v", vectors), tmp_path / "runs" / "v", device="cpu")
    return tmp_path / "runs" / "v"


@pytest.mark.parametrize("normalise", ["standard", "l2", "none"])
@pytest.mark.parametrize("kind", ["top", "e2e"])
def test_an_encoder_starts_with_the_item_vectors_of_the_frozen_run(
    kind: str, normalise: str, data: Path, vectors: Path, tmp_path: Path
) -> None:
    run_recipe(made(data, "v", vectors, normalise=normalise), tmp_path / "v", device="cpu")
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1) if kind == "top" else None
    now = made(data, kind, file, "v", normalise=normalise)
    earlier = open_run(tmp_path / "v")
    split, files = earlier.data.split, open_features(now, earlier.data.split)
    model = build_model(now, split, files, {}, open_towers(now, split, files, media))
    before = model.item_vectors().clone()
    facts = start_from(model, now, earlier, open_features(earlier.recipe, split))
    wanted = earlier.model.item_vectors()
    assert not torch.allclose(before, wanted, atol=0.1 * float(wanted.abs().max()))
    torch.testing.assert_close(model.eval().item_vectors(), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert facts["projection"] < 1e-4
    own, taken = model.state_dict(), earlier.model.state_dict()
    rest = [name for name in own if not name.startswith("items.")]
    assert len(rest) > 5
    assert all(torch.equal(own[name], taken[name]) for name in rest)


def test_what_trains_goes_on_from_there(data: Path, tmp_path: Path) -> None:
    name = "videomae-tiny"  # without dropout, whose noise would hide what the frozen run has learned
    vectors = vectors_of(tmp_path / "vectors.h5", load_encoder(name, "random", 0))
    plain = made(data, "v", vectors)
    # validated at its end alone, so that its best weights are its last, which have learned something
    frozen = tmp_path / "runs" / "v"
    run_recipe(replace(plain, train=replace(plain.train, epochs=30, eval_every=30)), frozen, device="cpu")
    file = write_activations(tmp_path / "cut.h5", name, 1)
    run_recipe(made(data, "top", file, None, name), tmp_path / "runs" / "cold", device="cpu")
    run_recipe(made(data, "top", file, "v", name), tmp_path / "runs" / "warm", device="cpu")
    cold, warm, before = (losses(tmp_path / "runs" / name) for name in ("cold", "warm", "v"))
    assert min(cold[0], before[0]) > warm[0] + 0.5 * (before[0] - before[-1])
    record = json.loads((tmp_path / "runs" / "warm" / "record.json").read_text())
    assert record["start"]["recipe"] == "small-v"
    assert record["start"]["folder"] == str(frozen)
    assert record["start"]["seconds"] == pytest.approx(json.loads((frozen / "record.json").read_text())["train_s"])
    assert "start" not in json.loads((tmp_path / "runs" / "cold" / "record.json").read_text())


def test_same_items_go_on_whole(data: Path, vectors: Path, frozen: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    for kind, path, options in (("v", vectors, {}), ("top", file, {"encoder_lr": 1e-5})):
        run_recipe(made(data, kind, path), tmp_path / "again" / "one", device="cpu")
        now = made(data, kind, path, "one", **options)
        earlier = open_run(tmp_path / "again" / "one")
        split, files = earlier.data.split, open_features(now, earlier.data.split)
        model = build_model(replace(now, seed=5), split, files, {}, open_towers(now, split, files, media))
        start_from(model, now, earlier, files)
        for name, tensor in earlier.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        shutil.rmtree(tmp_path / "again")


def test_a_killed_run_goes_on_without_the_one_it_started_from(
    data: Path, frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    now = made(data, "top", file, "v")
    run_recipe(now, tmp_path / "runs" / "whole", device="cpu")
    real = experiment.fit

    def killed(*args: Any, **options: Any) -> Any:
        def stop(at: Progress) -> None:
            if at.epoch == 2:
                raise KeyboardInterrupt

        return real(*args, **options | {"progress": stop})

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(now, tmp_path / "runs" / "broken", device="cpu")
    shutil.rmtree(frozen)
    run_recipe(now, tmp_path / "runs" / "broken", device="cpu")
    assert losses(tmp_path / "runs" / "broken") == losses(tmp_path / "runs" / "whole")
    one, two = trained(tmp_path / "runs" / "whole"), trained(tmp_path / "runs" / "broken")
    assert all(torch.equal(one[name], two[name]) for name in one)
    starts = [
        json.loads((tmp_path / "runs" / name / "record.json").read_text())["start"] for name in ("whole", "broken")
    ]
    assert starts[0] == starts[1]


def test_a_comparison_makes_the_run_before_and_counts_it(data: Path, vectors: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    first, then = made(data, "v", vectors), made(data, "top", file, "small-v-seed{seed}")
    with pytest.raises(ConfigError, match=r"'small-top' starts from .*small-v-seed0.*no finished run"):
        compare([then, first], 2, tmp_path / "runs", device="cpu")
    wide = made(data, "top", file, "small-v-seed{seed}", dim=16)
    with pytest.raises(ConfigError, match=r"its items.dim is 8, this one's 16"):
        compare([first, wide], 2, tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists(), "told before anything is trained"
    rows = compare([first, then], 2, tmp_path / "runs", device="cpu")
    starts = [json.loads((folder / "record.json").read_text())["start"] for folder in rows[1].folders]
    assert [Path(start["folder"]).name for start in starts] == ["small-v-seed0", "small-v-seed1"]
    assert [start["seed"] for start in starts] == [0, 1]
    plain, warm = costs(rows)
    assert "start_s" not in plain
    assert warm["start_s"] == pytest.approx(plain["total_s"])
    for total, train, valid, start in zip(
        *(warm[k] for k in ("total_s", "train_s", "valid_s", "start_s")), strict=True
    ):
        assert total == pytest.approx(train + valid + start)
    header, cells = cost_table(rows)
    assert cells[0][header.index("start s")] == "-"
    assert "started from" in cost_summary(rows)
    assert "started from" not in cost_summary(rows[:1])
    shutil.rmtree(tmp_path / "runs" / "small-v-seed0")
    compare([then], 2, tmp_path / "runs", device="cpu")  # finished: where it started from is not asked for


def _refusal(now: Recipe, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        run_recipe(now, folder / "run", device="cpu")
    assert not (folder / "run").exists()
    return str(caught.value)


def test_a_run_that_is_none_or_another_is_refused(data: Path, vectors: Path, frozen: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    runs = frozen.parent
    good = made(data, "top", file, "v")
    gone = replace(good, train=replace(good.train, start_from="nothing"))
    assert "nothing" in _refusal(gone, runs)
    assert "train a recipe first" in _refusal(gone, runs)
    assert "data.max_length was 10, now 5" in _refusal(replace(good, data=replace(good.data, max_length=5)), runs)
    other = recipe(data, {"model": {"name": "gru4rec"}, "train": {"epochs": 1, "start_from": "v"}})
    assert "a run of 'sasrec', this one of 'gru4rec'" in _refusal(other, runs)
    assert "items are of kind 'v', these of 'dnn'" in _refusal(made(data, "dnn", vectors, "v"), runs)
    assert "its items.dim is 8, this one's 16" in _refusal(made(data, "top", file, "v", dim=16), runs)
    assert "its items.normalise is 'standard', this one's 'l2'" in _refusal(
        made(data, "top", file, "v", normalise="l2"), runs
    )
    deeper = replace(good, model=replace(good.model, settings=replace(good.model.settings, layers=1)))
    assert "give both the same model settings" in _refusal(deeper, runs)


def test_vectors_of_another_encoder_or_of_other_weights_are_refused(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    noise = write_vectors(tmp_path / "noise.h5", "small", item_ids())
    run_recipe(made(data, "v", noise), tmp_path / "runs" / "noise", device="cpu")
    said = _refusal(made(data, "top", file, "noise"), tmp_path / "runs")
    assert "trained on vectors of noise, this one trains bert-tiny" in said
    others = vectors_of(tmp_path / "others.h5", load_encoder("bert-tiny", "random", 3))
    run_recipe(made(data, "v", others), tmp_path / "runs" / "others", device="cpu")
    said = _refusal(made(data, "top", file, "others"), tmp_path / "runs")
    assert "encoder 'bert-tiny' gives vectors that differ" in said
    assert "use the weights, frames and pooling that made the file" in said


def test_one_list_of_files_serves_both_runs(data: Path, vectors: Path, tmp_path: Path) -> None:
    files = (write_activations(tmp_path / "cut.h5", "bert-tiny", 1), vectors)
    train = {"epochs": 1, "batch_size": 16}
    for kind, start in (("v", None), ("top", "v")):
        plain = changes(kind, "bert-tiny", 1, files) | {"train": train | {"start_from": start}}
        run_recipe(recipe(data, plain), tmp_path / "runs" / kind, device="cpu")
    assert json.loads((tmp_path / "runs" / "top" / "record.json").read_text())["start"]["projection"] < 1e-4


def test_several_encoders_start_where_they_stood(data: Path, vectors: Path, tmp_path: Path) -> None:
    names = ("bert-tiny", "minilm-tiny")
    other = vectors_of(tmp_path / "other.h5", load_encoder(names[1], "random", 0))
    cuts = tuple(write_activations(tmp_path / f"{name}.h5", name, 1) for name in names)
    plain = changes("v", names[0], 1, (vectors, other)) | {"train": {"epochs": 2}}
    run_recipe(recipe(data, plain), tmp_path / "runs" / "v", device="cpu")
    now = recipe(data, changes("top", list(names), 1, cuts) | {"train": {"epochs": 1, "start_from": "v"}})  # type: ignore[arg-type]
    earlier = open_run(tmp_path / "runs" / "v")
    split, files = earlier.data.split, open_features(now, earlier.data.split)
    model = build_model(now, split, files, {}, open_towers(now, split, files, media))
    start_from(model, now, earlier, open_features(earlier.recipe, split))
    wanted = earlier.model.item_vectors()
    torch.testing.assert_close(model.eval().item_vectors(), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    turned = recipe(data, changes("top", [*names[::-1]], 1, cuts) | {"train": {"epochs": 1, "start_from": "v"}})  # type: ignore[arg-type]
    said = _refusal(turned, tmp_path / "runs")
    assert "trained on vectors of bert-tiny, minilm-tiny, this one trains minilm-tiny, bert-tiny" in said


def test_a_mix_of_layers_is_no_start(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    layers = write_layers(tmp_path / "layers.h5", "small", item_ids())
    run_recipe(made(data, "v", layers, mix=True), tmp_path / "runs" / "mix", device="cpu")
    assert "over one vector per item" in _refusal(made(data, "top", file, "mix"), tmp_path / "runs")


def test_dimensions_that_hold_rounding_alone_do_not_blow_up(data: Path, tmp_path: Path) -> None:
    """A frozen run scales a dimension of deviation 1e-9 to 1; a map that leaned on it would multiply noise by 1e9."""
    encoder = load_encoder("bert-tiny", "random", 0)
    path = vectors_of(tmp_path / "vectors.h5", encoder)
    values = torch.from_numpy(FeatureFile(path).read(item_ids()).copy())
    now = made(data, "top", write_activations(tmp_path / "cut.h5", "bert-tiny", 1))
    split = load_data(now.data).split
    model = build_model(now, split, [], {}, open_towers(now, split, open_features(now, split), media))
    points = torch.randn(ITEMS, 8)
    shrunk: Tensor = values.clone()
    shrunk[:, 0] = 1e-9 * torch.randn(ITEMS)
    tower = model.items
    tower._raw = lambda items: shrunk[items]  # type: ignore[union-attr,assignment]
    tower.project_onto(shrunk, points)  # type: ignore[union-attr,operator]
    assert float(tower.project.weight.detach().abs().max()) < 1e4  # type: ignore[union-attr,arg-type,operator]
