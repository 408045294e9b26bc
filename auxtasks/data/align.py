"""Faces found, turned level and cut out: a preprocessing step that is done once and kept.

Photos of people at home or on a stage hold more room than face, and a small network spends its capacity on where the
face is. MTCNN finds it (Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded
Convolutional Networks", IEEE Signal Processing Letters 2016); its weights come with facenet-pytorch, so nothing is
downloaded. The largest face is taken, turned about its middle until the eyes are level, and cut out with a margin.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from auxtasks.checkpoint import atomic_folder, file_digest
from auxtasks.data.decoding import check_size, open_rgb, resize
from auxtasks.data.progress import ProgressBar
from auxtasks.data.sealed import read_sealed, write_sealed
from auxtasks.data.sources import load_source
from auxtasks.data.stored import blocks_of, pictures_key, stored_pictures
from auxtasks.errors import CheckpointError, DataError, ImageError

__all__ = ["Face", "OnMissing", "align_faces", "cut_out", "find_face"]

OnMissing: TypeAlias = Literal["keep", "skip", "raise"]

_logger = logging.getLogger(__name__)
# Part of every cache key: raise it when the same picture would give another crop.
_VERSION = 1
_STORED = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "row": pa.int64(),
        "face_found": pa.bool_(),
    }
)


@dataclasses.dataclass(frozen=True)
class Face:
    """Where a face is, in pixels of its picture, x to the right and y down.

    Attributes:
        box: left, top, right and bottom.
        eyes: x and y of the eye at the left of the picture, then of the other.
        probability: how sure the detector is, from 0 to 1.
    """

    box: tuple[float, float, float, float]
    eyes: tuple[tuple[float, float], tuple[float, float]]
    probability: float

    @property
    def roll(self) -> float:
        """By how much the line through the eyes falls to the right, in radians."""
        (left_x, left_y), (right_x, right_y) = self.eyes
        return math.atan2(right_y - left_y, right_x - left_x)


def align_faces(
    dataset: datasets.Dataset,
    *,
    size: tuple[int, int],
    cache: Path,
    margin: float = 0.15,
    on_missing: OnMissing = "keep",
    smallest_face: int = 20,
    level_eyes: bool = True,
) -> datasets.Dataset:
    """Cut the largest face out of every picture, once, and keep the crops.

    Args:
        dataset: has a column ``image``, as `load_source` returns.
        size: height and width of the crops, in pixels.
        cache: folder in which crops are kept as parquet, in a sub-folder named by the pictures and settings, with a
            ``manifest.json`` that counts the faces found and names the rows without one.
        margin: how much is added at each edge of the face's box, as a part of the box's larger side.
        on_missing: what to do with a picture in which no face is found: keep the whole picture, its middle cut out to
            the crop's aspect ratio; leave it out; or raise.
        smallest_face: side of the smallest face that is looked for, in pixels, at least 12.
        level_eyes: turn the face until its eyes are level.

    Returns:
        The data set with ``image`` replaced by the crops and a column ``face_found`` added. How many faces were not
        found is logged as a warning, and ``face_found`` says where.

    Raises:
        ImageError: a picture cannot be decoded, or no face was found in it with ``on_missing="raise"``; names the row.
            With ``on_missing="skip"``, no face was found in any.
        DataError: a setting is wrong.

    Example:
        >>> import tempfile
        >>> pictures = datasets.Dataset.from_dict({"image": [Image.new("RGB", (64, 64), "white")]})
        >>> pictures = pictures.cast_column("image", datasets.Image())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = align_faces(pictures, size=(32, 32), cache=Path(folder))
        ...     print(found["face_found"][:])
        [False]
    """
    _check(size, margin, on_missing, smallest_face)
    stored = stored_pictures(dataset)
    settings = f"align|{_VERSION}|{size}|{margin}|{on_missing}|{smallest_face}|{level_eyes}"
    place = Path(cache) / f"faces-{pictures_key(stored, settings)[:32]}"
    if not _is_whole(place):

        def cut(picture: Image.Image, face: Face) -> Image.Image:
            return cut_out(picture, face, size=size, margin=margin, level_eyes=level_eyes)

        with atomic_folder(place) as folder:
            missing = _write_crops(folder / "faces.parquet", stored, cut, size, on_missing, smallest_face)
            found = len(stored) - len(missing)
            digest = file_digest(folder / "faces.parquet")
            write_sealed(folder / "manifest.json", {"found": found, "missing_rows": missing, "sha256": digest})
    missing = read_sealed(place / "manifest.json")["missing_rows"]
    if missing:
        done = "left out" if on_missing == "skip" else "kept whole"
        _logger.warning("no face was found in %d of %d pictures; they were %s", len(missing), len(stored), done)
    crops = load_source(place / "faces.parquet", columns={"image": "image"}, cache_dir=cache)
    return _joined(dataset, crops)


def _check(size: tuple[int, int], margin: float, on_missing: str, smallest_face: int) -> None:
    check_size(size)
    if not 0 <= margin <= 2:
        raise DataError(f"margin is a part of the face's side, from 0 to 2; found {margin}.")
    if on_missing not in ("keep", "skip", "raise"):
        raise DataError(f"on_missing is 'keep', 'skip' or 'raise'; found {on_missing!r}.")
    if smallest_face < 12:
        raise DataError(f"smallest_face is in pixels and at least 12, the detector's window; found {smallest_face}.")


def _is_whole(place: Path) -> bool:
    """Tell whether crops are kept there, unchanged since they were written."""
    if not place.exists():
        return False
    try:
        return bool(read_sealed(place / "manifest.json")["sha256"] == file_digest(place / "faces.parquet"))
    except (CheckpointError, OSError, KeyError):
        return False


def _write_crops(
    file: Path,
    stored: datasets.Dataset,
    cut: Callable[[Image.Image, Face], Image.Image],
    size: tuple[int, int],
    on_missing: OnMissing,
    smallest_face: int,
) -> list[int]:
    """Write the crops block by block; return the rows in which no face was found."""
    detect = _detector(smallest_face)
    missing: list[int] = []
    with pq.ParquetWriter(file, _STORED) as writer, ProgressBar("finding faces", len(stored)) as progress:
        for start, block in blocks_of(stored):
            lines = []
            for row, item in enumerate(block, start):
                try:
                    picture = open_rgb(item)
                except ImageError as error:
                    raise ImageError(f"row {row}: {error}") from error
                face = detect(picture)
                if face is None:
                    missing.append(row)
                    if on_missing == "raise":
                        name = item.get("path") or "no file name"
                        raise ImageError(f"row {row} ({name}): no face was found. Remove it, or use 'keep' or 'skip'.")
                if face is not None or on_missing == "keep":
                    crop = resize(picture, size, "crop") if face is None else cut(picture, face)
                    path = Path(str(item["path"])).name if item.get("path") else None
                    lines.append({"image": {"bytes": _png(crop), "path": path}, "row": row, "face_found": bool(face)})
                progress.advance(1)
            writer.write_table(pa.Table.from_pylist(lines, _STORED))
    if on_missing == "skip" and len(missing) == len(stored):
        raise ImageError(f"no face was found in any of the {len(stored)} pictures; are they photos of people?")
    return missing


def _joined(dataset: datasets.Dataset, crops: datasets.Dataset) -> datasets.Dataset:
    """Put the crops in the place of the pictures that they were cut from."""
    rows = np.asarray(crops.with_format("numpy")["row"])
    kept = dataset.with_format(None).remove_columns(["image", *({"face_found"} & set(dataset.column_names))])
    crops = crops.remove_columns("row")
    if not kept.column_names:
        return crops
    kept = kept if len(rows) == len(dataset) else kept.select(rows)
    return datasets.concatenate_datasets([crops, kept], axis=1)


def find_face(picture: Image.Image, smallest_face: int = 20) -> Face | None:
    """Return the largest face in an RGB picture, or nothing where there is none.

    Example:
        >>> face = find_face(Image.new("RGB", (64, 64), "white"))
        >>> face is None
        True
    """
    return _detector(smallest_face)(picture)


def _detector(smallest_face: int) -> Callable[[Image.Image], Face | None]:
    """Load MTCNN; return a function that finds the largest face in an RGB picture."""
    from facenet_pytorch import MTCNN

    network = MTCNN(min_face_size=smallest_face, select_largest=True, device="cpu").eval()

    def detect(picture: Image.Image) -> Face | None:
        # The detector's pyramid would be empty, which it answers with an error of its own.
        if min(picture.size) < smallest_face:
            return None
        try:
            boxes, probabilities, points = network.detect(picture, landmarks=True)
        except (RuntimeError, IndexError) as error:
            # Known faults of facenet-pytorch: when a first guess lies outside the picture, or all do, its arrays no
            # longer match. There is then no face to be had from it.
            _logger.debug("the face detector failed: %s", error)
            return None
        if boxes is None:
            return None
        left, top, right, bottom = (float(value) for value in boxes[0])
        eyes = sorted((float(x), float(y)) for x, y in points[0][:2])
        return Face((left, top, right, bottom), (eyes[0], eyes[1]), float(probabilities[0]))

    return detect


def cut_out(
    picture: Image.Image, face: Face, *, size: tuple[int, int], margin: float, level_eyes: bool = True
) -> Image.Image:
    """Cut a face out of its picture, level, and resize it; beyond the picture's edge is black.

    Args:
        picture: RGB.
        face: where it is.
        size: height and width of the result, in pixels.
        margin: see `align_faces`.
        level_eyes: turn it about its middle until the eyes are level.

    Example:
        >>> face = Face(box=(10, 10, 30, 30), eyes=((15, 17), (25, 17)), probability=1.0)
        >>> cut_out(Image.new("RGB", (60, 60)), face, size=(32, 24), margin=0.1).size
        (24, 32)
    """
    height, width = crop_extent(face.box, size, margin)
    middle = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    inner = max(1, round(width)), max(1, round(height))
    cos, sin = (math.cos(face.roll), math.sin(face.roll)) if level_eyes else (1.0, 0.0)
    # From a pixel (x, y) of the crop to one of the picture: about the crop's middle, turned by the roll.
    x, y = inner[0] / 2, inner[1] / 2
    coefficients = (cos, -sin, middle[0] - cos * x + sin * y, sin, cos, middle[1] - sin * x - cos * y)
    turned = picture.transform(inner, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return resize(turned, size, "stretch")


def crop_extent(box: tuple[float, float, float, float], size: tuple[int, int], margin: float) -> tuple[float, float]:
    """Return the height and width to cut out: the box and its margin, widened to the aspect ratio of `size`.

    Example:
        >>> crop_extent((0, 0, 10, 20), size=(32, 32), margin=0.25)
        (30.0, 30.0)
    """
    across, down = box[2] - box[0], box[3] - box[1]
    added = 2 * margin * max(across, down)
    height = max(down + added, (across + added) * size[0] / size[1])
    return height, height * size[1] / size[0]


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
