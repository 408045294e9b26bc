"""One picture, whatever it comes as, to pixels.

What happens to it, in this order:

1. turned upright by its EXIF orientation;
2. 16 bits a channel scaled to 8 (value / 257); other depths are refused, since their range is not known;
3. transparency laid over white, which is what a page or a catalogue shows;
4. converted to grey (ITU-R 601 luma) or RGB;
5. cropped, padded or stretched to the target's aspect ratio, and resized with an antialiased bicubic filter.
   A large JPEG is decoded at a fraction of its size, never below twice the target's.
"""

from __future__ import annotations

import functools
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from auxtasks.errors import DataError, ImageError

__all__ = [
    "Fit",
    "Picture",
    "Pixels",
    "check_settings",
    "check_size",
    "decode",
    "decode_one",
    "open_rgb",
    "reason",
    "resize",
]

Fit: TypeAlias = Literal["stretch", "crop", "pad"]
Pixels: TypeAlias = NDArray[np.uint8]
Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Pixels | Mapping[str, object]"

_WHITE = (255, 255, 255, 255)
# Closed, since Pillow hands some kinds of pictures to other programs: of PostScript, whatever the file's suffix says,
# Ghostscript runs what is written in it.
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "SUN", "TIFF", "WEBP",
)  # fmt: skip


def decode_one(item: Picture, size: tuple[int, int], channels: int, fit: Fit = "stretch") -> Pixels:
    """Decode and resize one picture.

    Args:
        item: a path, encoded bytes, a PIL image, a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a stored
            picture ``{"bytes", "path"}``.
        size: height and width of the result, in pixels.
        channels: 1 for grey, 3 for RGB.
        fit: ``"stretch"`` changes the aspect ratio, ``"crop"`` cuts off what is too long, equally at both ends, and
            ``"pad"`` adds black.

    Returns:
        (H, W, C) uint8.

    Raises:
        ImageError: the picture cannot be read; names the file where there is one.
        DataError: a setting is wrong.

    Example:
        >>> decode_one(np.full((6, 9, 3), 7, np.uint8), size=(4, 4), channels=1, fit="crop").shape
        (4, 4, 1)
    """
    check_settings(size, channels, fit)
    try:
        return decode(item, size, channels, fit)
    except Exception as error:  # image plugins raise nearly anything for a damaged file
        raise ImageError(f"{_name_of(item)}: {reason(error)}") from error


def open_rgb(item: Picture) -> Image.Image:
    """Open a picture at its full size, upright, as RGB; see the top of this page for how.

    Raises:
        ImageError: the picture cannot be read; names the file where there is one.

    Example:
        >>> open_rgb(np.zeros((4, 6), np.uint8)).size
        (6, 4)
    """
    try:
        return _to_channels(ImageOps.exif_transpose(_open_picture(item)), 3)
    except Exception as error:  # image plugins raise nearly anything for a damaged file
        raise ImageError(f"{_name_of(item)}: {reason(error)}") from error


def check_settings(size: tuple[int, int], channels: int, fit: str) -> None:
    """Refuse settings of `decode_one` that make no sense.

    Example:
        >>> check_settings((32, 32), 3, "stretch")
        >>> check_settings((32, 32), 2, "stretch")
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: channels is 1 (grey) or 3 (RGB); found 2.
    """
    check_size(size)
    if channels not in (1, 3):
        raise DataError(f"channels is 1 (grey) or 3 (RGB); found {channels}.")
    if fit not in ("stretch", "crop", "pad"):
        raise DataError(f"fit is 'stretch', 'crop' or 'pad'; found {fit!r}.")


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size that no picture can be brought to.

    Raises:
        DataError: it is below 1, or beyond PIL.Image.MAX_IMAGE_PIXELS; shows both numbers.

    Example:
        >>> check_size((32, 32))
        >>> check_size((10**9, 32))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: size is 1000000000 x 32 = 32,000,000,000 pixels, more than the 89,478,485 of...
    """
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"size is (height, width) in pixels, both at least 1; found {size}.")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise DataError(
            f"size is {size[0]} x {size[1]} = {size[0] * size[1]:,} pixels, more than the {limit:,} of "
            "PIL.Image.MAX_IMAGE_PIXELS: pictures are brought to this size, so make it smaller."
        )


def decode(item: Picture, size: tuple[int, int], channels: int, fit: Fit) -> Pixels:
    """Do what `decode_one` does with checked settings; errors come as they are."""
    picture = _open_picture(item, size)
    picture = _to_channels(ImageOps.exif_transpose(picture), channels)
    pixels: Pixels = np.asarray(resize(picture, size, fit), dtype=np.uint8)
    return pixels.reshape(*size, channels)


def _open_picture(item: object, size: tuple[int, int] | None = None) -> Image.Image:
    """Open a picture and check its claimed size before any of its pixels is decoded."""
    match item:
        case Image.Image():
            return item
        case np.ndarray():
            return _picture_of_array(item)
        case Mapping():
            contents, path = item.get("bytes"), item.get("path")
            if contents is None and path is None:
                raise ImageError("the row holds no picture: bytes and path are both missing.")
            return _open_picture(path if contents is None else contents, size)
        case bytes() | bytearray():
            source = io.BytesIO(item)
        case str() | os.PathLike():
            if "://" in os.fspath(item):
                raise ImageError("a web address is not opened; download the file first.")
            # Read whole: Pillow keeps the file of an animation open.
            source = io.BytesIO(_contents_of(Path(item)))
        case _:
            raise ImageError(f"expected a path, bytes, a PIL image or a uint8 array, found {type(item).__name__}.")
    picture: Image.Image = Image.open(source, formats=_formats())
    try:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and picture.width * picture.height > limit:
            raise ImageError(_too_large(f"{picture.width} x {picture.height} pixels"))
        if picture.format == "JPEG" and size is not None:
            # Twice the target in both directions, so that the filter below still has something to average.
            picture.draft(None, (2 * max(size), 2 * max(size)))
        picture.load()
    except BaseException:
        picture.close()
        raise
    return picture


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return which of `_FORMATS` this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _contents_of(path: Path) -> bytes:
    """Read a file; a pipe or a device, which may never end, is not opened at all."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError("it is a folder; expected a picture's file.")
    if not stat.S_ISREG(mode):
        raise ImageError("it is a pipe, a socket or a device, which may never end; expected a picture's file.")
    return path.read_bytes()


def _too_large(found: str) -> str:
    return (
        f"{found}: more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}, which a decompression bomb has. "
        "If you trust the file, make it smaller first, or raise that limit."
    )


def _picture_of_array(array: NDArray[np.generic]) -> Image.Image:
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    shaped = squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or not array.size:
        raise ImageError(
            "expected a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"found {array.dtype} of shape {array.shape}."
        )
    return Image.fromarray(np.ascontiguousarray(squeezed))


def _to_channels(picture: Image.Image, channels: int) -> Image.Image:
    """Convert any mode to ``L`` or ``RGB``, 16 bits scaled to 8 and transparency laid over white."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_eight_bits(picture)
    if picture.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", with_alpha.size, _WHITE), with_alpha).convert("RGB")
    return picture.convert(mode)


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; anything else of that kind has no known range."""
    values = np.asarray(picture)
    # "I" is 32 bits, but also what some 16-bit files are opened as.
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"its pixels are {values.dtype} from {values.min()} to {values.max()}, whose range for black and white is "
            "not known. Convert the file to 8 or 16 bits."
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def resize(picture: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Bring a picture to (height, width); see `decode_one` for `fit`.

    Example:
        >>> resize(Image.new("RGB", (40, 20)), (10, 10), "crop").size
        (10, 10)
    """
    height, width = size
    if picture.size == (width, height):
        return picture
    if fit == "stretch":
        return _bicubic(picture, (width, height))
    if fit == "crop":
        return _bicubic(picture, (width, height), _centre_box(picture.size, width / height))
    scale = min(width / picture.width, height / picture.height)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    padded = Image.new(picture.mode, (width, height))
    padded.paste(_bicubic(picture, inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return padded


def _bicubic(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # reducing_gap averages whole blocks first when the picture is much larger: faster, and no visible difference at 3.
    return picture.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _centre_box(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Return the largest box of that aspect ratio (width / height) in the middle of a picture (width, height).

    Example:
        >>> _centre_box((30, 10), aspect=2.0)
        (5.0, 0.0, 25.0, 10.0)
    """
    width, height = size
    inner_width = min(width, height * aspect)
    inner_height = min(height, width / aspect)
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    return left, top, left + inner_width, top + inner_height


def _name_of(item: object) -> str:
    """Name a picture in a message."""
    match item:
        case str() | os.PathLike():
            return os.fspath(item)
        case Mapping() if item.get("path"):
            return str(item["path"])
    return f"the picture ({type(item).__name__})"


def reason(error: Exception) -> str:
    """Say in a message why a picture cannot be read.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory"))
        'there is no such file.'
    """
    match error:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return _too_large(str(error).split(" exceeds", maxsplit=1)[0])
        case ImageError():
            return str(error)
        case FileNotFoundError():
            return "there is no such file."
        case PermissionError():
            return "this user may not read it."
        case PIL.UnidentifiedImageError():
            return (
                "the contents are not an image that Pillow knows; the file may be damaged or of another kind. "
                "PostScript, which is a program, is never read."
            )
    return f"it cannot be decoded ({type(error).__name__}: {error})."
