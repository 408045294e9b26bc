"""Pictures that are none, and folders that hold something else: named, and never waited for."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from auxtasks.data import decode_images, decode_one, load_source
from auxtasks.data.align import align_faces
from auxtasks.data.decoding import check_size
from auxtasks.errors import ColumnError, DataError, ImageError


def encoded(mode="RGB", form="PNG", size=(8, 8), **how):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **how)
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width, height, *chunks):
    """A PNG that says that it is of a size, whatever it holds."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


TEXT_BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.png", encoded()[:30], r"not an image that Pillow knows; the file may be damaged"),
        ("x.jpg", encoded(form="JPEG")[:-60], r"cannot be decoded"),
        ("x.png", b"", r"not an image that Pillow knows"),
        ("x.png", b"a text", r"not an image that Pillow knows"),
        ("x.png", png_of(60_000, 60_000), r"more than PIL\.Image\.MAX_IMAGE_PIXELS = .*decompression bomb"),
        ("x.png", png_of(2**31 - 1, 2**31 - 1), r"decompression bomb"),
        ("x.png", png_of(8, 8, TEXT_BOMB), r"cannot be decoded \(ValueError: Decompressed data too large"),
        ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", r"PostScript.* is never read"),
        ("x.tif", encoded("F", "TIFF"), r"whose range for black and white is not known\. Convert the file"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message) as raised:
        decode_one(tmp_path / name, (4, 4), 3)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("jpeg.png", encoded(form="JPEG")),  # the contents count, not the suffix
        ("tiny.png", encoded(size=(1, 1))),
        ("print.jpg", encoded("CMYK", "JPEG")),
        ("deep.png", encoded("I;16")),
        ("film.gif", encoded("P", "GIF", save_all=True, append_images=[Image.new("P", (8, 8), 3)] * 3)),
    ],
)
def test_an_odd_picture_is_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert decode_one(tmp_path / name, (4, 4), 3).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("/dev/zero", r"row 0 \(/dev/zero\): it is a pipe, a socket or a device, which may never end"),
        ("pipe.png", r"row 0 .*pipe\.png\): it is a pipe, a socket or a device"),
        ("folder.png", r"row 0 .*folder\.png\): it is a folder; expected a picture's file"),
        ("gone.png", r"row 0 .*gone\.png\): there is no such file"),
        ("circle.png", r"row 0 .*circle\.png\): it cannot be decoded .*symbolic links"),
        ("http://x/y.png", r"row 0 .*a web address is not opened; download the file first"),
        ('""', r"row 0 \(no file name\): the row holds no picture"),
        ("../../../../../../etc/hostname", r"row 0 .*(not an image|no such file)"),
        ("a" * 5000, r"row 0 .*it cannot be decoded .*File name too long"),
    ],
)
def test_a_table_that_names_no_picture_is_told_by_its_row(tmp_path, cell, message):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "x.csv").write_text(f"image\n{cell}\n")
    source = load_source(tmp_path / "x.csv", columns={"image": "image"}, cache_dir=tmp_path / "cache")
    with pytest.raises(ImageError, match=message):
        decode_images(source, size=(4, 4), channels=3, cache=tmp_path / "pictures")
    assert not list((tmp_path / "pictures").rglob("*.npy"))


def folder_with(tmp_path, what):
    root = tmp_path / "root"
    root.mkdir()
    match what:
        case "a pipe":
            os.mkfifo(root / "x.png")
        case "a link to a device":
            (root / "x.png").symlink_to("/dev/zero")
        case "a link out of it":
            (tmp_path / "y.png").write_bytes(encoded())
            (root / "x.png").symlink_to(tmp_path / "y.png")
        case "a link to nothing":
            (root / "x.png").symlink_to("gone.png")
        case "links in a circle":
            (root / "x.png").symlink_to("y.png")
            (root / "y.png").symlink_to("x.png")
        case "a link to the folder above":
            (root / "a").mkdir()
            (root / "a" / "up").symlink_to("..")
        case "an empty folder called x.png":
            (root / "x.png").mkdir()
        case "a name that is no UTF-8":
            with open(os.fsencode(root) + b"/\xff.png", "wb") as file:  # noqa: PTH123 - a Path takes no bytes
                file.write(encoded())
    return root


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", r"holds no image; looked for files ending in \.bmp"),
        ("a pipe", r"x\.png is a pipe, a socket or a device, and no picture\. Remove it"),
        ("a link to a device", r"x\.png is a link that leads out of .*, to /dev/zero"),
        ("a link out of it", r"x\.png is a link that leads out of .*Copy the file in its place"),
        ("a link to nothing", r"x\.png is a link that leads nowhere"),
        ("links in a circle", r"\.png is a link that leads nowhere"),
        ("a link to the folder above", r"up is a link to the folder .*its images would count twice"),
        ("an empty folder called x.png", r"holds no image"),
        ("a name that is no UTF-8", r"the name b'.*\\xff\.png' is not UTF-8\. Rename it"),
    ],
)
def test_a_folder_that_holds_something_else_is_told(tmp_path, what, message):
    with pytest.raises(DataError, match=message):
        load_source(folder_with(tmp_path, what), columns={"image": "image"})


@pytest.mark.parametrize("name", ["a\nb.png", "\u202etxt.png", "a'\"$(touch x).png", "\U0001f600.png", "x.png/y.png"])
def test_a_strange_name_is_only_a_name(tmp_path, name):
    (tmp_path / "root" / name).parent.mkdir(parents=True)
    (tmp_path / "root" / name).write_bytes(encoded())
    source = load_source(tmp_path / "root", columns={"image": "image"})
    assert source["file"][:] == [name]
    assert len(decode_images(source, size=(4, 4), channels=1)) == 1


@pytest.mark.parametrize(
    ("pictures", "error", "message"),
    [
        ([3], ColumnError, r"row 0: expected a picture, .*found int"),
        ([encoded(), object()], ColumnError, r"row 1: expected a picture, .*found object"),
        ([np.zeros((3, 3))], ColumnError, r"row 0: .*found float64 of shape \(3, 3\)\. Scale floats"),
        ([np.zeros((0, 3), np.uint8)], ColumnError, r"row 0: .*found uint8 of shape \(0, 3\)"),
        ([np.zeros((2, 2, 2, 3), np.uint8)], ColumnError, r"row 0: .*of shape \(2, 2, 2, 3\)"),
        ([None, encoded()], ImageError, r"row 0 \(no file name\): the row holds no picture"),
        ([b""], ImageError, r"row 0 .*not an image"),
    ],
)
def test_a_picture_in_memory_that_is_none_is_told_by_its_row(pictures, error, message):
    with pytest.raises(error, match=message):
        decode_images(load_source({"image": pictures}, columns={"image": "image"}), size=(4, 4), channels=3)


def test_nested_lists_that_make_no_picture_are_told():
    import datasets

    rows = datasets.Dataset.from_dict({"image": [[[1, 2], [3, 4]], [[1, 2], [3]]]})
    with pytest.raises(ColumnError, match=r"row 1: expected a picture, whose lines are of one length"):
        load_source(rows, columns={"image": "image"})


@pytest.mark.parametrize("size", [(10**9, 10**9), (10**30, 1), (9460, 9460), (1, 89_478_486)])
def test_a_size_that_no_picture_can_have_is_told_before_any_is_decoded(size, tmp_path):
    rows = load_source({"image": [b"never looked at"]}, columns={"image": "image"})
    expected = rf"size is {size[0]} x {size[1]} = [\d,]+ pixels, more than the 89,478,485 of PIL\.Image\.MAX_IMAGE"
    for use in (
        lambda: decode_images(rows, size=size, channels=1),
        lambda: decode_images(rows, size=size, channels=3, cache=tmp_path / "cache"),
        lambda: decode_one(encoded(), size, 3),
        lambda: align_faces(rows, size=size, cache=tmp_path / "cache"),
    ):
        with pytest.raises(DataError, match=expected):
            use()
    assert not list(tmp_path.iterdir())


def test_the_largest_size_is_taken():
    check_size((9459, 9459))


def test_pictures_that_do_not_fit_the_memory_are_told_with_what_they_take(monkeypatch):
    def none_left(*_, **__):
        raise MemoryError

    rows = load_source({"image": [encoded()]}, columns={"image": "image"})
    monkeypatch.setattr("auxtasks.data.images.np.empty", none_left)
    with pytest.raises(DataError, match=r"1 pictures of 2000 x 1000 pixels take 6\.0 MB, .*: make size smaller"):
        decode_images(rows, size=(2000, 1000), channels=3)
