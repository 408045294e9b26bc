"""Alignment: the real detector, on drawn faces (which it takes for faces) and on pictures without one."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from auxtasks.checkpoint import read_json
from auxtasks.data import align
from auxtasks.data.align import Face, align_faces, crop_extent, cut_out, find_face
from auxtasks.data.decoding import decode_one
from auxtasks.data.drawn_faces import draw_face
from auxtasks.data.images import decode_images
from auxtasks.data.sources import load_source
from auxtasks.errors import DataError, ImageError

FACE = Image.fromarray(draw_face(1, 0, size=120, channels=3))
EMPTY = Image.new("RGB", (80, 60), (90, 120, 150))


def table(pictures: list[object]) -> datasets.Dataset:
    names = [f"n{number}" for number in range(len(pictures))]
    return load_source(
        {"image": pictures, "label": names, "extra": names}, columns={"image": "image", "label": "label"}
    )


# --- geometry, without the detector ----------------------------------------------------------------------------------


def test_extent_holds_the_box_its_margin_and_the_aspect() -> None:
    assert crop_extent((10, 10, 30, 50), (60, 30), 0.0) == (40, 20)
    assert crop_extent((0, 0, 40, 20), (32, 32), 0.5) == (80, 80)


def test_cut_without_turning_is_a_plain_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    face = Face((10, 8, 30, 28), ((15, 15), (25, 15)), 1.0)
    cut = cut_out(Image.fromarray(pixels), face, size=(20, 20), margin=0.0)
    np.testing.assert_array_equal(np.asarray(cut), pixels[8:28, 10:30])


@pytest.mark.parametrize("angle", [-0.6, 0.3])
def test_cut_turns_the_eyes_level(angle: float) -> None:
    # Two white dots on a tilted line about the middle.
    middle, reach = 50.0, 18.0
    eyes = [(middle + side * reach * math.cos(angle), middle + side * reach * math.sin(angle)) for side in (-1, 1)]
    y, x = np.mgrid[0:100, 0:100] + 0.5
    dots = sum(np.exp(-((x - eye_x) ** 2 + (y - eye_y) ** 2) / 8) for eye_x, eye_y in eyes)
    picture = Image.fromarray((np.clip(dots, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    face = Face((20, 20, 80, 80), (eyes[0], eyes[1]), 1.0)
    assert face.roll == pytest.approx(angle)
    for level in (True, False):
        pixels = np.asarray(cut_out(picture, face, size=(60, 60), margin=0.0, level_eyes=level))[..., 0].astype(float)
        rows = [np.average(np.arange(60), weights=half.sum(axis=1)) for half in (pixels[:, :30], pixels[:, 30:])]
        fall = rows[1] - rows[0]
        assert fall == pytest.approx(0.0 if level else 2 * reach * math.sin(angle), abs=0.4)


def test_beyond_the_edge_is_black() -> None:
    face = Face((-20, -20, 20, 20), ((-5, 0), (5, 0)), 1.0)
    pixels = np.asarray(cut_out(Image.new("RGB", (50, 50), "white"), face, size=(40, 40), margin=0.0))
    assert not pixels[:20].any()
    assert pixels[22:, 22:].min() == 255


# --- the detector ----------------------------------------------------------------------------------------------------


def test_a_face_is_found_where_it_is() -> None:
    face = find_face(FACE)
    assert face is not None
    left, top, right, bottom = face.box
    assert 0 < left < right < 120
    assert 0 < top < bottom < 120
    (left_x, left_y), (right_x, right_y) = face.eyes
    assert left < left_x < right_x < right
    assert top < min(left_y, right_y)
    assert max(left_y, right_y) < bottom
    assert face.probability > 0.7
    # The same picture on a larger canvas: the same face, moved.
    canvas = Image.new("RGB", (220, 200), (128, 128, 128))
    canvas.paste(FACE, (70, 50))
    moved = find_face(canvas)
    assert moved is not None
    np.testing.assert_allclose(np.subtract(moved.box, face.box), [70, 50, 70, 50], atol=8)


def test_the_largest_face_is_taken() -> None:
    canvas = Image.new("RGB", (260, 160), (128, 128, 128))
    canvas.paste(FACE.resize((60, 60)), (5, 5))
    canvas.paste(FACE, (110, 20))
    face = find_face(canvas)
    assert face is not None
    assert face.box[0] > 110


def test_no_face() -> None:
    assert find_face(EMPTY) is None
    assert find_face(Image.new("RGB", (8, 8))) is None


def test_crops_replace_the_pictures_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = table([FACE, EMPTY, FACE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    with caplog.at_level(logging.WARNING, logger=align.__name__):
        aligned = align_faces(source, size=(40, 32), cache=tmp_path)
    assert "no face was found in 1 of 3 pictures; they were kept whole" in caplog.text
    assert aligned.column_names == ["image", "face_found", "label", "extra"]
    assert aligned["face_found"][:] == [True, False, True]
    assert aligned["extra"][:] == ["n0", "n1", "n2"]
    assert aligned.features["label"] == source.features["label"]
    pixels = decode_images(aligned, size=(40, 32), channels=3, workers=1).pixels
    found = find_face(FACE)
    assert found is not None
    np.testing.assert_array_equal(pixels[0], np.asarray(cut_out(FACE, found, size=(40, 32), margin=0.15)))
    np.testing.assert_array_equal(pixels[1], decode_one(EMPTY, (40, 32), 3, "crop"))
    (folder,) = tmp_path.glob("faces-*")
    manifest = read_json(folder / "manifest.json")
    assert (manifest["found"], manifest["missing_rows"]) == (2, [1])

    # Once more: nothing is looked for again, also when the labels changed.
    def detector(_: int) -> object:
        raise AssertionError

    monkeypatch.setattr(align, "_detector", detector)
    relabelled = source.remove_columns("extra")
    again = align_faces(relabelled, size=(40, 32), cache=tmp_path)
    assert again.column_names == ["image", "face_found", "label"]
    np.testing.assert_array_equal(decode_images(again, size=(40, 32), channels=3, workers=1).pixels, pixels)
    # Other settings, or a damaged file, are looked for.
    with pytest.raises(AssertionError):
        align_faces(source, size=(40, 32), margin=0.3, cache=tmp_path)
    (folder / "faces.parquet").write_bytes(b"damaged")
    with pytest.raises(AssertionError):
        align_faces(source, size=(40, 32), cache=tmp_path)


def test_pictures_without_a_face_can_be_left_out_or_refused(tmp_path: Path) -> None:
    source = table([EMPTY, FACE])
    skipped = align_faces(source, size=(32, 32), cache=tmp_path, on_missing="skip")
    assert skipped["extra"][:] == ["n1"]
    with pytest.raises(ImageError, match=r"row 0 \(no file name\): no face was found.*'keep' or 'skip'"):
        align_faces(source, size=(32, 32), cache=tmp_path, on_missing="raise")
    with pytest.raises(ImageError, match=r"no face was found in any of the 1 pictures"):
        align_faces(source.select([0]), size=(32, 32), cache=tmp_path, on_missing="skip")


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"row 1: .*not an image that Pillow knows"):
        align_faces(table([FACE, b"damaged"]), size=(32, 32), cache=tmp_path)
    assert list(tmp_path.glob("faces-*")) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 1)}, r"size is \(height, width\) in pixels, both at least 1; found \(0, 1\)"),
        ({"margin": -1.0}, r"margin is a part of the face's side, from 0 to 2; found -1.0"),
        ({"on_missing": "drop"}, r"on_missing is 'keep', 'skip' or 'raise'; found 'drop'"),
        ({"smallest_face": 4}, r"at least 12, the detector's window; found 4"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        align_faces(table([FACE]), **{"size": (32, 32), "cache": tmp_path, **settings})


@pytest.mark.data
@pytest.mark.skipif("AUXTASKS_DATA" not in os.environ, reason="AUXTASKS_DATA is not set")
def test_real_photos(tmp_path: Path) -> None:
    file = Path(os.environ["AUXTASKS_DATA"]) / "faces" / "lfw.parquet"
    photos = load_source(file, columns={"image": "image", "label": "name"}, cache_dir=tmp_path).select(range(16))
    aligned = align_faces(photos, size=(48, 48), cache=tmp_path)
    assert sum(aligned["face_found"]) >= 14
