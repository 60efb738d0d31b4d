"""Vectors and activations extracted from files of decoded frames and covers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import crop, normalise
from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.media import pixel_media
from extract.media.catalog import Catalog, build_catalog
from extract.media.decoders import DECODING
from extract.media.frames import parse_frame_policy
from features.errors import ConfigError, StoreError
from features.store import FeatureFile
from tests.support.media import write_cover
from tests.support.pixel_files import BAD, COUNT, GOOD, SPEC, decoded, from_pixels, made, options, source, write_media
from tests.support.small import write_vectors


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return write_media(tmp_path_factory.mktemp("media"), [str(number) for number in range(COUNT)], broken=BAD)


@pytest.mark.parametrize("media", ["video", "cover"])
def test_vectors_of_stored_pixels_are_those_of_the_pixels(media: str, tmp_path: Path, catalog: Catalog) -> None:
    inputs = SPEC[media].inputs
    assert isinstance(inputs, PixelInput)
    inputs = replace(inputs, resize=72)  # what is stored must not be resized and cropped once more
    spec = replace(SPEC[media], inputs=inputs)
    file = FeatureFile(extract(catalog, spec, options(tmp_path)).path)
    stored = from_pixels(catalog, file, media)
    assert stored.count_missing()[media] == 1  # type: ignore[index]
    run = options(tmp_path, pixels=False)
    report, plain = extract(stored, spec, run), extract(catalog, spec, run)
    encoder = spec.backend(spec, "random", 0)
    with torch.inference_mode():
        pixels = torch.stack([crop(decoded(catalog, item, media), inputs) for item in GOOD])
        expected = encoder(normalise(pixels, inputs)).numpy()
    got = FeatureFile(report.path).read(GOOD)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(got, FeatureFile(plain.path).read(GOOD), rtol=1e-4, atol=1e-5)  # rounding is seen
    assert report.bad == plain.bad
    recipe = dict(FeatureFile(report.path).provenance.recipe)
    assert (recipe.pop("stored"), recipe.pop("stored_fingerprint")) == ("pixels", file.provenance.fingerprint)
    without = dict(FeatureFile(plain.path).provenance.recipe) | {"decoder": None}
    assert without.pop("decoding", None) == (DECODING if media == "video" else None)
    assert recipe == without
    assert extract(stored, spec, run).unchanged


def test_rows_whose_pixels_changed_are_made_again(tmp_path: Path) -> None:
    catalog = write_media(tmp_path / "media", ["0", "1", "2"])
    run = options(tmp_path, pixels=False)
    file = made(tmp_path, catalog, "cover")
    extract(from_pixels(catalog, file, "cover"), SPEC["cover"], run)
    write_cover(source(catalog, "1", "cover"), kind=4, size=(90, 90))
    old = from_pixels(catalog, file, "cover")
    again = made(tmp_path, catalog, "cover")
    assert again.path == file.path
    pixel_media._mapped.cache_clear()  # as in a worker that has not read from it yet
    with pytest.raises(StoreError, match=r"was replaced while it was read; run `extract` again"):
        extract(old, SPEC["cover"], replace(run, out=tmp_path / "elsewhere"))
    report = extract(from_pixels(catalog, again, "cover"), SPEC["cover"], run)
    assert report.new_rows == 1


def test_another_contract_is_refused_with_both_values(tmp_path: Path, catalog: Catalog) -> None:
    file = made(tmp_path, catalog, "video")
    stored, run = from_pixels(catalog, file, "video"), options(tmp_path / "out", pixels=False)
    for name, changes, said in (
        ("videomae-tiny", {"frames": parse_frame_policy("middle:2")}, r"\(frames uniform:4, not middle:2\)"),
        ("slowfast-tiny", {}, r"frames uniform:4, not uniform:8"),
        ("videomae-tiny", {"faults": ("squash",)}, r"\(mode crop, not stretch; resize 64, not None\)"),
    ):
        with pytest.raises(
            ConfigError, match=rf"that encoder '{name}' does not take {said if '(' in said else '.*' + said}"
        ):
            extract(stored, ENCODERS[name], replace(run, **changes))
    with pytest.raises(ConfigError, match=r"holds pixels of videos, not pixels of covers; make a file of those with"):
        build_catalog("toy", None, covers=file.path)
    vectors = write_vectors(tmp_path / "vectors.h5", "toy", ["0"])
    with pytest.raises(ConfigError, match=r"holds vectors, not pixels of videos; make a file .*`extract --pixels`"):
        build_catalog("toy", None, videos=vectors)
    with pytest.raises(StoreError, match="belongs to dataset 'toy', not 'other'"):
        build_catalog("other", None, videos=file.path)
    assert not (tmp_path / "out").exists()
