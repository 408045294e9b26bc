"""Pictures: every mode comes out as the eye sees it, damaged ones are named, and what is kept is what was decoded."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import pytest
from PIL import Image

from auxtasks.data import stored
from auxtasks.data.decoding import Picture, decode_one, open_rgb
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.sources import load_source
from auxtasks.errors import CheckpointError, ColumnError, DataError, ImageError


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


# --- one picture -----------------------------------------------------------------------------------------------------


def test_every_kind_of_item_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = noise(6, 5)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    items = [
        pixels,
        picture,
        encode(picture),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": encode(picture), "path": "elsewhere.png"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ]
    for item in items:
        np.testing.assert_array_equal(decode_one(item, (6, 5), 3), pixels)


def test_grey_arrays_with_and_without_an_axis() -> None:
    pixels = noise(4, 4, 1)
    np.testing.assert_array_equal(decode_one(pixels, (4, 4), 1), pixels)
    np.testing.assert_array_equal(decode_one(pixels[..., 0], (4, 4), 3), np.repeat(pixels, 3, axis=2))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("L", (2, 2), 90), (90, 90, 90)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),  # unseen: the white behind it
        (Image.new("RGBA", (2, 2), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 257 * 77, np.uint16)), (77, 77, 77)),
        (Image.fromarray(np.full((2, 2), 257 * 77, np.int32)), (77, 77, 77)),
    ],
)
def test_modes(picture: Image.Image, expected: tuple[int, int, int]) -> None:
    assert tuple(decode_one(picture, (2, 2), 3)[0, 0]) == expected
    grey = decode_one(picture, (2, 2), 1)[0, 0, 0]
    assert grey == Image.new("RGB", (1, 1), expected).convert("L").getpixel((0, 0))


def test_sixteen_bits_from_a_file() -> None:
    values = (np.arange(16, dtype=np.uint16).reshape(4, 4)) * 4369  # 0 to 65535
    pixels = decode_one(encode(Image.fromarray(values)), (4, 4), 1)
    np.testing.assert_array_equal(pixels[..., 0], np.arange(16).reshape(4, 4) * 17)


def test_palette_with_transparency() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.putdata([0, 1])
    pixels = decode_one(encode(picture, transparency=1), (1, 2), 3)
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert decode_one(encode(picture), (1, 2), 3).tolist() == [[[10, 20, 30], [200, 0, 0]]]


def test_depths_without_a_known_range_are_refused() -> None:
    with pytest.raises(ImageError, match=r"its pixels are float32 from 0.5 to 0.5, whose range"):
        decode_one(Image.new("F", (2, 2), 0.5), (2, 2), 1)
    with pytest.raises(ImageError, match=r"its pixels are int32 from -1 to -1"):
        decode_one(Image.new("I", (2, 2), -1), (2, 2), 1)


def test_exif_orientation_is_applied() -> None:
    pixels = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded = decode_one(encode(Image.fromarray(pixels), exif=exif), (3, 2), 3)
    np.testing.assert_array_equal(decoded, np.rot90(pixels, -1))
    assert open_rgb(encode(Image.fromarray(pixels), exif=exif)).size == (2, 3)


def test_downscaling_averages() -> None:
    # A checkerboard of single pixels: taking every fourth would give black or white.
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(decode_one(board, (16, 16), 1).astype(int) - 128).max() <= 2


def test_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same() -> None:
    line = np.linspace(0, 255, 1024)
    pixels = np.stack([np.add.outer(line, line) / 2] * 3, axis=2).astype(np.uint8)
    small = decode_one(encode(Image.fromarray(pixels), "JPEG", quality=95), (32, 32), 3)
    reference = decode_one(pixels, (32, 32), 3)
    assert np.abs(small.astype(int) - reference).max() <= 3


def test_fits() -> None:
    # Three vertical stripes, 4 wide and 4 high each.
    pixels = np.repeat(np.array([10, 100, 200], np.uint8), 4)[None].repeat(4, axis=0)
    assert decode_one(pixels, (4, 4), 1, fit="crop")[..., 0].tolist() == [[100] * 4] * 4
    padded = decode_one(pixels, (12, 12), 1, fit="pad")[..., 0]
    np.testing.assert_array_equal(padded[4:8], pixels)
    assert not padded[:4].any()
    assert not padded[8:].any()
    stretched = decode_one(pixels, (4, 3), 1, fit="stretch")[..., 0]
    assert (np.diff(stretched.astype(int), axis=1) > 50).all()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("absent.png", r"absent.png: there is no such file"),
        ("http://x.org/a.png", r"a web address is not opened"),
        (b"no image", r"the picture \(bytes\): the contents are not an image that Pillow knows"),
        (encode(Image.fromarray(noise(50, 50)))[:3000], r"cannot be decoded \(OSError: .*truncated"),
        (np.zeros((2, 2)), r"expected a uint8 array .* found float64 of shape \(2, 2\)"),
        (np.zeros((2, 2, 2), np.uint8), r"found uint8 of shape \(2, 2, 2\)"),
        ({"bytes": None, "path": None}, r"the row holds no picture"),
        (3, r"expected a path, bytes, a PIL image or a uint8 array, found int"),
    ],
)
def test_damaged_items(item: Picture, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_one(item, (4, 4), 3)


@pytest.mark.parametrize("limit", [10_000, 6_000])  # a warning of Pillow's, and an error of its
def test_decompression_bombs(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    bomb = encode(Image.new("L", (130, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=rf"more than PIL.Image.MAX_IMAGE_PIXELS = {limit}"):
        decode_one(bomb, (4, 4), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=r"more than PIL.Image.MAX_IMAGE_PIXELS"):
            decode_one(bomb, (4, 4), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 4)}, r"both at least 1; found \(0, 4\)"),
        ({"channels": 4}, r"channels is 1 \(grey\) or 3 \(RGB\); found 4"),
        ({"fit": "squeeze"}, r"'crop' or 'pad'; found 'squeeze'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_one(noise(4, 4), **{"size": (4, 4), "channels": 3, **settings})


# --- many ------------------------------------------------------------------------------------------------------------

NAMES = ["b", "a", "b", "a", "b"]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.stack([noise(6, 6, seed=seed) for seed in range(5)])


@pytest.fixture
def source(pixels: np.ndarray) -> datasets.Dataset:
    return load_source({"image": pixels, "label": NAMES}, columns={"image": "image", "label": "label"})


@pytest.fixture
def damaged(pixels: np.ndarray) -> datasets.Dataset:
    contents = [encode(Image.fromarray(picture)) for picture in pixels]
    contents[1] = b"damaged"
    contents[4] = contents[4][:50]
    stored = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(contents)]
    return load_source({"image": stored, "label": NAMES}, columns={"image": "image", "label": "label"})


def decode(source: datasets.Dataset, **settings: object) -> ImageTable:
    return decode_images(source, **{"size": (6, 6), "channels": 3, "workers": 2, **settings})


def test_table_holds_the_source_in_order(
    source: datasets.Dataset, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_ROWS_AT_A_TIME", 2)  # three blocks
    table = decode(source)
    np.testing.assert_array_equal(table.pixels, pixels)
    assert table.pixels.dtype == np.uint8
    assert table.labels.tolist() == [1, 0, 1, 0, 1]
    assert table.labels.dtype == table.rows.dtype == np.int64
    assert (table.class_names, table.rows.tolist(), table.skipped) == (("a", "b"), [0, 1, 2, 3, 4], ())
    record = table.record(3)
    np.testing.assert_array_equal(record["image"], pixels[3])
    assert record["label"] == 0
    record["image"][:] = 0  # its own copy
    np.testing.assert_array_equal(table.pixels[3], pixels[3])


def test_unlabelled(pixels: np.ndarray) -> None:
    table = decode(load_source({"image": pixels}, columns={"image": "image"}))
    assert (table.labels.tolist(), table.class_names) == ([-1] * 5, ())
    partly = load_source(
        {"image": pixels[:2], "y": ["a", None]}, columns={"image": "image", "label": "y"}, allow_unlabelled=True
    )
    assert decode(partly).labels.tolist() == [0, -1]


def test_damaged_picture_is_named(damaged: datasets.Dataset) -> None:
    with pytest.raises(ImageError, match=r"row 1 \(1.png\): the contents are not an image.*on_error='skip'"):
        decode(damaged)


@pytest.mark.parametrize("kept", [False, True])
def test_damaged_pictures_are_left_out_and_reported(
    damaged: datasets.Dataset, pixels: np.ndarray, tmp_path: Path, kept: bool
) -> None:
    cache = tmp_path if kept else None
    for _ in range(2):  # made, then read again where it was kept
        table = decode(damaged, on_error="skip", cache=cache)
        np.testing.assert_array_equal(table.pixels, pixels[[0, 2, 3]])
        assert table.rows.tolist() == [0, 2, 3]
        assert table.labels.tolist() == [1, 1, 0]
        assert [message.split(":")[0] for message in table.skipped] == ["row 1 (1.png)", "row 4 (4.png)"]


def test_all_damaged(damaged: datasets.Dataset) -> None:
    with pytest.raises(ImageError, match=r"none of the 1 pictures could be decoded. The first: row 0 \(1.png\)"):
        decode(damaged.select([1]), on_error="skip")


def test_what_is_not_pictures() -> None:
    with pytest.raises(ColumnError, match=r"expected a column 'image' of pictures, found n"):
        decode(datasets.Dataset.from_dict({"n": [1]}))
    with pytest.raises(DataError, match="the data set is empty"):
        decode(datasets.Dataset.from_dict({"image": []}, datasets.Features({"image": datasets.Image()})))
    unchecked = datasets.Dataset.from_dict(
        {"image": [noise(2, 2)], "label": ["a"]},
        datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    with pytest.raises(ColumnError, match=r"'label' is .*string.*not class labels"):
        decode(unchecked)


# --- fingerprints and subsets ----------------------------------------------------------------------------------------


def test_fingerprint_changes_with_everything_and_nothing_else(
    source: datasets.Dataset, pixels: np.ndarray, tmp_path: Path
) -> None:
    roles = {"image": "image", "label": "label"}
    changed = pixels.copy()
    changed[4, 5, 5, 2] ^= 1
    tables = {
        "same": decode(source),
        "size": decode(source, size=(5, 6)),
        "channels": decode(source, channels=1),
        "fit": decode(source, fit="crop"),
        "pixel": decode(load_source({"image": changed, "label": NAMES}, columns=roles)),
        "labels": decode(load_source({"image": pixels, "label": ["a", *NAMES[1:]]}, columns=roles)),
        "names": decode(load_source({"image": pixels, "label": [name + "x" for name in NAMES]}, columns=roles)),
        "order": decode(source.select([1, 0, 2, 3, 4])),
        "fewer": decode(source.select([0, 1, 2, 3])),
    }
    assert len({table.fingerprint for table in tables.values()}) == len(tables)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    from_files = load_source(
        {"image": [str(tmp_path / f"{number}.png") for number in range(5)], "label": NAMES}, columns=roles
    )
    assert decode(from_files, workers=1, cache=tmp_path / "kept").fingerprint == tables["same"].fingerprint


def test_subset(source: datasets.Dataset, pixels: np.ndarray) -> None:
    table = decode(source)
    scattered = table.subset([4, 0])
    np.testing.assert_array_equal(scattered.pixels, pixels[[4, 0]])
    assert (scattered.rows.tolist(), scattered.labels.tolist(), scattered.class_names) == ([4, 0], [1, 1], ("a", "b"))
    run = table.subset(range(1, 3))
    np.testing.assert_array_equal(run.pixels, pixels[1:3])
    assert np.shares_memory(run.pixels, table.pixels)
    assert len(table.subset([])) == 0
    fingerprints = [table.fingerprint, *(table.subset(chosen).fingerprint for chosen in ([0], [1], [0, 1], [1, 0], []))]
    assert len(set(fingerprints)) == 6
    assert table.subset([1, 0]).fingerprint == table.subset(np.array([1, 0])).fingerprint
    # Whose subset it is counts.
    assert scattered.subset([0]).fingerprint != table.subset([0]).fingerprint
    with pytest.raises(DataError, match=r"indices run from 0 to 5, but there are 5 pictures"):
        table.subset([0, 5])
    with pytest.raises(DataError, match=r"indices run from -1 to -1"):
        table.subset([-1])


# --- kept on the disk ------------------------------------------------------------------------------------------------


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = stored.decode

    def decode_and_count(*arguments: object) -> object:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(stored, "decode", decode_and_count)
    return calls


def test_kept_result_is_mapped_and_equal(
    source: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decode(source)
    calls = count_decodes(monkeypatch)
    first = decode(source, cache=tmp_path)
    assert len(calls) == 5
    second = decode(source, cache=tmp_path)
    assert len(calls) == 5  # nothing was decoded again
    for table in (first, second):
        assert isinstance(table.pixels, np.memmap)
        np.testing.assert_array_equal(table.pixels, plain.pixels)
        assert table.fingerprint == plain.fingerprint
    decode(source, cache=tmp_path, channels=1)
    assert len(calls) == 10
    assert len(list(tmp_path.iterdir())) == 2  # no temporary folder is left


def test_changed_file_is_decoded_again(tmp_path: Path) -> None:
    place = tmp_path / "a.png"
    Image.fromarray(noise(6, 6, seed=1)).save(place)
    source = load_source({"image": [str(place)]}, columns={"image": "image"})
    before = decode(source, cache=tmp_path / "kept")
    Image.fromarray(noise(6, 6, seed=2)).save(place)
    after = decode(source, cache=tmp_path / "kept")
    np.testing.assert_array_equal(after.pixels[0], noise(6, 6, seed=2))
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest", "rows", "header"])
def test_damaged_cache_is_made_anew(
    source: datasets.Dataset,
    pixels: np.ndarray,
    tmp_path: Path,
    damage: Literal["flip", "cut", "manifest", "rows", "header"],
) -> None:
    decode(source, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    file = folder / "pixels.npy"
    contents = bytearray(file.read_bytes())
    match damage:
        case "flip":
            contents[-1] ^= 1
            file.write_bytes(contents)
        case "cut":
            file.write_bytes(contents[:-10])
        case "header":
            file.write_bytes(b"x" * 10)
        case "manifest":
            (folder / "manifest.json").write_text("{}")
        case "rows":
            (folder / "rows.npy").unlink()
    with pytest.warns(UserWarning, match=r"images-[0-9a-f]{32} is damaged .*; the pictures are decoded anew"):
        table = decode(source, cache=tmp_path)
    np.testing.assert_array_equal(table.pixels, pixels)
    np.testing.assert_array_equal(decode(source, cache=tmp_path).pixels, pixels)


def test_failed_decoding_keeps_nothing(damaged: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="row 1"):
        decode(damaged, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_that_cannot_be_written(source: datasets.Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((CheckpointError, OSError), match=r"file"):
        decode(source, cache=tmp_path / "file")
