"""All eight ways in which a picture may lie: one table, for display matrices and EXIF tags, against plain turning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from extract.media.decoders import list_packets, read_auto, read_decord, read_pyav
from extract.media.decoding.orientation import AS_IT_IS, BY_EXIF, EIGHT, nearest_matrix, upright
from extract.media.frames import FramePolicy
from tests.support.media import pictures, write_clip
from tests.support.video_files import LYING, every_frame, with_matrix

POLICY = FramePolicy("uniform", 4)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("straight") / "clip.mp4", pictures(16))


@pytest.mark.parametrize("read", [read_auto, read_pyav], ids=["auto", "pyav"])
@pytest.mark.parametrize("lying", list(LYING))
def test_display_matrices(straight: Path, tmp_path: Path, lying: str, read: object) -> None:
    matrix, _, turn = LYING[lying]
    path = with_matrix(straight, tmp_path / "turned.mp4", matrix)
    got = read(path, POLICY)  # type: ignore[operator]
    expected = np.stack([turn(frame) for frame in every_frame(straight)[[2, 6, 10, 14]]])
    assert np.array_equal(got.frames, expected)
    assert (got.height, got.width) == expected.shape[1:3]
    assert list_packets(path).ordinary == (lying == "as it is")


@pytest.mark.parametrize("lying", list(LYING))
def test_exif_numbers_are_those_of_pillow(lying: str) -> None:
    matrix, number, turn = LYING[lying]
    picture = pictures(1)[0]
    image = Image.fromarray(picture)
    image.getexif()[0x0112] = number
    assert np.array_equal(upright(picture, BY_EXIF[number]), np.asarray(ImageOps.exif_transpose(image)))
    assert np.array_equal(upright(picture, BY_EXIF[number]), turn(picture))
    assert EIGHT[matrix] is BY_EXIF[number]


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_decord_turns_what_is_not_mirrored_likewise(
    straight: Path, tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    path = with_matrix(straight, tmp_path / "turned.mp4", matrix)
    assert np.array_equal(read_decord(path, POLICY).frames, read_pyav(path, POLICY).frames)
    assert np.array_equal(
        read_decord(path, POLICY).frames, np.rot90(read_pyav(straight, POLICY).frames, turns, axes=(1, 2))
    )


@pytest.mark.parametrize(
    ("display", "expected"),
    [
        ((2, 0, 0, 2), AS_IT_IS),  # scaled
        ((0, 0, 0, 0), AS_IT_IS),  # none
        ((1, 0, 0, 0), AS_IT_IS),
        ((0.94, 0.34, -0.34, 0.94), AS_IT_IS),  # by 20 degrees
        ((0.34, 0.94, -0.94, 0.34), (0, 1, -1, 0)),  # by 70
        ((-0.9, 0, 0, 1.1), (-1, 0, 0, 1)),
    ],
)
def test_other_matrices_are_the_nearest_of_the_eight(
    straight: Path, tmp_path: Path, display: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    a, b, c, d = (round(65536 * number) for number in display)
    assert nearest_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30)) == expected
    path = with_matrix(straight, tmp_path / "turned.mp4", display)
    exact = with_matrix(straight, tmp_path / "exact.mp4", expected)
    assert np.array_equal(read_auto(path, POLICY).frames, read_auto(exact, POLICY).frames)
