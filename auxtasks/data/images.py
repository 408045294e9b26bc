"""Pictures decoded once, resized once, and kept as one array of bytes.

Decoding costs a hundred times what reading the result does, and a pretraining run sees each picture many times. So a
source is turned into an `ImageTable` first: all pictures of one size and number of channels, ``uint8``, in memory or
memory-mapped.

What happens to a picture, in this order:

1. turned upright by its EXIF orientation;
2. 16 bits a channel scaled to 8 (value / 257); other depths are refused, since their range is not known;
3. transparency laid over white, which is what a page or a catalogue shows;
4. converted to grey (ITU-R 601 luma) or RGB;
5. cropped, padded or stretched to the target's aspect ratio, and resized with an antialiased bicubic filter.
   A large JPEG is decoded at a fraction of its size, never below twice the target's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, TypedDict

import datasets
import numpy as np
import numpy.lib.format
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import Progress, TaskID

from auxtasks.checkpoint import atomic_folder, read_json, write_json
from auxtasks.errors import CheckpointError, ColumnError, DataError, ImageError

__all__ = ["Fit", "ImageRecord", "ImageTable", "Picture", "decode_images", "decode_one"]

Fit: TypeAlias = Literal["stretch", "crop", "pad"]
Pixels: TypeAlias = NDArray[np.uint8]
Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Pixels | Mapping[str, object]"

_WHITE = (255, 255, 255, 255)
_ROWS_AT_A_TIME = 256
# Part of every cache key: raise it when the same file would be decoded to other pixels.
_DECODER_VERSION = 1


class ImageRecord(TypedDict):
    """One row of an `ImageTable`: ``image`` is (H, W, C) uint8, ``label`` is -1 where there is none."""

    image: Pixels
    label: int


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """Pictures of one size, their labels, and where they came from.

    Attributes:
        pixels: (N, H, W, C) uint8, in memory or memory-mapped; read-only when mapped.
        labels: (N,) int64, -1 where unlabelled.
        class_names: the name of each label.
        rows: (N,) int64, the row in the source of each picture.
        skipped: one message for each picture that was left out.
        fingerprint: changes with any pixel, label, name, row or setting, and with nothing else: the same pictures in
            another file, or on another machine, have the same one.

    Example:
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source({"image": [np.zeros((8, 8), np.uint8)] * 3, "label": ["a", "b", "a"]},
        ...                      columns={"image": "image", "label": "label"})
        >>> table = decode_images(source, size=(4, 4), channels=1)
        >>> len(table), table.pixels.shape, table.labels.tolist(), table.subset([2]).rows.tolist()
        (3, (3, 4, 4, 1), [0, 1, 0], [2])
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    skipped: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> ImageRecord:
        """Return one picture, as an array of its own that may be written to, and its label."""
        return {"image": np.array(self.pixels[index]), "label": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageTable:
        """Return the pictures at `indices`, in that order, with the same class names.

        Neighbouring indices, such as ``range(10, 20)``, share the pixels; others copy them.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} pictures.")
        run = len(chosen) > 0 and bool((np.diff(chosen) == 1).all())
        where = slice(int(chosen[0]), int(chosen[-1]) + 1) if run else chosen
        return dataclasses.replace(
            self,
            pixels=self.pixels[where],
            labels=self.labels[where],
            rows=self.rows[where],
            fingerprint=_digest(b"subset", self.fingerprint.encode(), chosen.tobytes()),
        )


# --- one picture -----------------------------------------------------------------------------------------------------


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
    _check_settings(size, channels, fit)
    try:
        return _decode(item, size, channels, fit)
    except Exception as error:  # image plugins raise nearly anything for a damaged file
        raise ImageError(f"{_name_of(item)}: {_reason(error)}") from error


def open_rgb(item: Picture) -> Image.Image:
    """Open a picture at its full size, upright, as RGB; see the top of this page for how.

    Raises:
        ImageError: the picture cannot be read; names the file where there is one.
    """
    try:
        return _to_channels(ImageOps.exif_transpose(_open_picture(item)), 3)
    except Exception as error:  # image plugins raise nearly anything for a damaged file
        raise ImageError(f"{_name_of(item)}: {_reason(error)}") from error


def _check_settings(size: tuple[int, int], channels: int, fit: str) -> None:
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"size is (height, width) in pixels, both at least 1; found {size}.")
    if channels not in (1, 3):
        raise DataError(f"channels is 1 (grey) or 3 (RGB); found {channels}.")
    if fit not in ("stretch", "crop", "pad"):
        raise DataError(f"fit is 'stretch', 'crop' or 'pad'; found {fit!r}.")


def _decode(item: Picture, size: tuple[int, int], channels: int, fit: Fit) -> Pixels:
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
            source = io.BytesIO(Path(item).read_bytes())
        case _:
            raise ImageError(f"expected a path, bytes, a PIL image or a uint8 array, found {type(item).__name__}.")
    picture: Image.Image = Image.open(source)
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
    """Bring a picture to (height, width); see `decode_one` for `fit`."""
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


def _reason(error: Exception) -> str:
    match error:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return _too_large(str(error).split(" exceeds", maxsplit=1)[0])
        case ImageError():
            return str(error)
        case FileNotFoundError():
            return "there is no such file."
        case PIL.UnidentifiedImageError():
            return "the contents are not an image that Pillow knows; the file may be damaged or of another kind."
    return f"it cannot be decoded ({type(error).__name__}: {error})."


# --- many ------------------------------------------------------------------------------------------------------------


def decode_images(
    dataset: datasets.Dataset,
    *,
    size: tuple[int, int],
    channels: int,
    fit: Fit = "stretch",
    on_error: Literal["raise", "skip"] = "raise",
    cache: Path | None = None,
    workers: int | None = None,
) -> ImageTable:
    """Decode and resize all pictures of a data set, once.

    At most 256 encoded pictures and one decoded picture a worker are held besides the result; with `cache` the result
    is on the disk and memory-mapped.

    Args:
        dataset: has a column ``image`` and perhaps ``label``, as `load_source` returns.
        size: height and width, in pixels.
        channels: 1 for grey, 3 for RGB.
        fit: see `decode_one`.
        on_error: what to do with a picture that cannot be decoded.
        cache: folder in which results are kept, each in a sub-folder named by its source and settings. A result
            that is damaged is made anew.
        workers: threads that decode (Pillow releases the GIL); the number of processors, at most 8, if not given.

    Returns:
        The pictures in the source's order.

    Raises:
        ImageError: a picture cannot be decoded (names its row and file), or with ``on_error="skip"`` none can.
        ColumnError: the data set has no picture column, or its labels are not class labels.
        DataError: a setting is wrong.
    """
    _check_settings(size, channels, fit)
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error is 'raise' or 'skip'; found {on_error!r}.")
    stored = stored_pictures(dataset)
    labels, class_names = _labels_of(dataset)
    settings = f"{_DECODER_VERSION}|{PIL.__version__}|{size}|{channels}|{fit}"
    threads = workers or min(8, os.cpu_count() or 1)
    make = _Decoder(stored, size, channels, fit, on_error, threads)
    if cache is None:
        sink = _MemorySink(len(stored), (*size, channels))
        rows, skipped = make.run(sink.write)
        pixels, digest = sink.finish()
    else:
        pixels, rows, skipped, digest = _through_cache(make, Path(cache), settings)
    labels = labels[rows]
    names = "\0".join(class_names).encode()
    public = f"{size}|{channels}|{fit}".encode()
    fingerprint = _digest(public, names, labels.tobytes(), rows.tobytes(), digest.encode())
    return ImageTable(pixels, labels, class_names, rows, skipped, fingerprint)


def stored_pictures(dataset: datasets.Dataset) -> datasets.Dataset:
    """Return the picture column alone, not decoded."""
    feature = dataset.features.get("image")
    if not isinstance(feature, datasets.Image):
        found = ", ".join(dataset.column_names)
        raise ColumnError(f"expected a column 'image' of pictures, found {found}. Read the source with load_source.")
    if not len(dataset):
        raise DataError("there are no pictures to decode: the data set is empty.")
    return dataset.with_format(None).select_columns(["image"]).cast_column("image", datasets.Image(decode=False))


def blocks_of(stored: datasets.Dataset) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """Yield the first row and the stored pictures of each block of rows."""
    for start in range(0, len(stored), _ROWS_AT_A_TIME):
        yield start, stored[start : start + _ROWS_AT_A_TIME]["image"]


def _labels_of(dataset: datasets.Dataset) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (N,) labels, -1 where there is none, and the class names."""
    if "label" not in dataset.column_names:
        return np.full(len(dataset), -1, dtype=np.int64), ()
    feature = dataset.features["label"]
    if not isinstance(feature, datasets.ClassLabel):
        raise ColumnError(f"the column 'label' is {feature}, not class labels. Read the source with load_source.")
    column = dataset.select_columns(["label"]).with_format("arrow")[:].column("label")
    return column.fill_null(-1).to_numpy().astype(np.int64), tuple(feature.names)


class _Decoder:
    """Decodes a column of stored pictures in order, a block at a time, with a bounded number under way."""

    def __init__(
        self,
        stored: datasets.Dataset,
        size: tuple[int, int],
        channels: int,
        fit: Fit,
        on_error: Literal["raise", "skip"],
        threads: int,
    ) -> None:
        self.stored = stored
        self.shape = (*size, channels)
        self._size, self._channels, self._fit = size, channels, fit
        self._on_error = on_error
        self._threads = threads

    def run(self, write: Callable[[Pixels], None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Decode all, hand each block's (n, H, W, C) pixels to `write`; return the rows kept and the messages."""
        rows: list[int] = []
        skipped: list[str] = []
        with ThreadPoolExecutor(self._threads) as pool, ProgressBar("decoding", len(self.stored)) as progress:
            for start, block in blocks_of(self.stored):
                decoded = list(pool.map(self._one, range(start, start + len(block)), block))
                kept = [(start + place, result) for place, result in enumerate(decoded) if not isinstance(result, str)]
                skipped.extend(result for result in decoded if isinstance(result, str))
                rows.extend(row for row, _ in kept)
                if kept:
                    write(np.stack([pixels for _, pixels in kept]))
                progress.advance(len(block))
        if not rows:
            raise ImageError(f"none of the {len(skipped)} pictures could be decoded. The first: {skipped[0]}")
        return np.array(rows, dtype=np.int64), tuple(skipped)

    def _one(self, row: int, item: Mapping[str, object]) -> Pixels | str:
        try:
            return _decode(item, self._size, self._channels, self._fit)
        except Exception as error:  # image plugins raise nearly anything for a damaged file
            name = str(item.get("path") or "no file name")
            message = f"row {row} ({name}): {_reason(error)}"
            if self._on_error == "raise":
                advice = "Repair or remove it, or leave such pictures out with on_error='skip'."
                raise ImageError(f"{message} {advice}") from error
            return message


class _MemorySink:
    """Collects pixels in one array, and their SHA-256."""

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        self._pixels = np.empty((rows, *shape), dtype=np.uint8)
        self._filled = 0
        self._digest = hashlib.sha256()

    def write(self, block: Pixels) -> None:
        self._pixels[self._filled : self._filled + len(block)] = block
        self._filled += len(block)
        self._digest.update(block.tobytes())

    def finish(self) -> tuple[Pixels, str]:
        return self._pixels[: self._filled], self._digest.hexdigest()


class _FileSink:
    """Writes pixels to a .npy file as they come, the number of rows filled in at the end."""

    def __init__(self, file: BinaryIO, rows: int, shape: tuple[int, ...]) -> None:
        self._file = file
        self._shape = shape
        self._filled = 0
        self._digest = hashlib.sha256()
        self._write_header(rows)
        self._start = file.tell()

    def write(self, block: Pixels) -> None:
        contents = block.tobytes()
        self._file.write(contents)
        self._digest.update(contents)
        self._filled += len(block)

    def finish(self) -> str:
        # NumPy pads headers so that the first dimension can change without moving the data.
        self._file.seek(0)
        self._write_header(self._filled)
        if self._file.tell() != self._start:
            raise DataError("the .npy header changed its length; the pixels were not kept.")
        return self._digest.hexdigest()

    def _write_header(self, rows: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._shape)}
        numpy.lib.format.write_array_header_1_0(self._file, header)


class ProgressBar:
    """A bar on a terminal's standard error, from the second second on; nothing anywhere else."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._done = 0
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        self._done += count
        if self._bar is None and sys.stderr.isatty() and time.monotonic() - self._started > 1:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._title, total=self._total)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)


# --- kept on the disk ------------------------------------------------------------------------------------------------


def _through_cache(
    make: _Decoder, cache: Path, settings: str
) -> tuple[Pixels, NDArray[np.int64], tuple[str, ...], str]:
    """Return what is kept for this source and these settings; make and keep it first if it is absent or damaged."""
    place = cache / f"images-{pictures_key(make.stored, settings)[:32]}"
    if place.exists():
        try:
            return _read_kept(place, make.shape)
        except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{place} is damaged ({error}); the pictures are decoded anew.", stacklevel=3)
    with atomic_folder(place) as folder:
        with (folder / "pixels.npy").open("wb") as file:
            sink = _FileSink(file, len(make.stored), make.shape)
            rows, skipped = make.run(sink.write)
            digest = sink.finish()
        np.save(folder / "rows.npy", rows)
        write_json(folder / "manifest.json", {"pixels_sha256": digest, "skipped": skipped, "rows": len(rows)})
    return _read_kept(place, make.shape)


def _read_kept(place: Path, shape: tuple[int, ...]) -> tuple[Pixels, NDArray[np.int64], tuple[str, ...], str]:
    """Map what was kept, after checking that it is whole and unchanged."""
    manifest = read_json(place / "manifest.json")
    pixels: Pixels = np.load(place / "pixels.npy", mmap_mode="r")
    rows: NDArray[np.int64] = np.load(place / "rows.npy")
    count = manifest["rows"]
    if pixels.shape != (count, *shape) or pixels.dtype != np.uint8 or rows.shape != (count,):
        raise CheckpointError(f"{pixels.dtype} pixels of shape {pixels.shape} for {len(rows)} rows")
    digest = hashlib.sha256(pixels.reshape(-1).data).hexdigest()
    if digest != manifest["pixels_sha256"]:
        raise CheckpointError("the pixels are not those that were written")
    return pixels, rows, tuple(manifest["skipped"]), digest


def pictures_key(stored: datasets.Dataset, settings: str) -> str:
    """Digest what the decoded pixels depend on: bytes as they are, files by path, size and time of last change."""
    digest = hashlib.sha256(settings.encode())
    for _, block in blocks_of(stored):
        for item in block:
            contents, path = item.get("bytes"), item.get("path")
            if isinstance(contents, bytes):
                digest.update(b"B%d|" % len(contents))
                digest.update(contents)
            elif isinstance(path, str):
                digest.update(f"P{path}|{_state_of_file(path)}|".encode())
            else:
                digest.update(b"N|")
    return digest.hexdigest()


def _state_of_file(path: str) -> str:
    try:
        state = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
    except OSError:
        return "absent"
    return f"{state.st_size}|{state.st_mtime_ns}"


def _digest(*parts: bytes) -> str:
    """Return a SHA-256 over parts, each with its length, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d|" % len(part))
        digest.update(part)
    return digest.hexdigest()
