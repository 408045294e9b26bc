"""Whatever holds pictures, paths, bytes, structs or arrays, to a column of stored pictures ``{"bytes", "path"}``."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageOps

from auxtasks.data.arrow import arrow_column, spell_feature
from auxtasks.errors import ColumnError

__all__ = ["STORED_IMAGE", "as_image_column", "stored_image"]

STORED_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_ARRAY_FEATURES = (datasets.Array2D, datasets.Array3D)


def as_image_column(part: datasets.Dataset, base: Path | None, place: str, name: str) -> datasets.Dataset:
    """Turn whatever holds pictures into stored pictures, `datasets.Image(decode=False)`.

    Example:
        >>> part = datasets.Dataset.from_dict({"image": ["ada/1.png"]})
        >>> found = as_image_column(part, Path("photos"), "here", "image")
        >>> found.features["image"].decode, Path(found[0]["image"]["path"]).name
        (False, '1.png')
    """
    feature = part.features["image"]
    stored = datasets.Image(decode=False)
    if isinstance(feature, datasets.Image):
        return part.cast_column("image", stored)
    column = arrow_column(part, "image")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _image_dataset(pa.nulls(len(column), pa.binary()), _rooted(column.to_pylist(), base))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _image_dataset(column.cast(pa.binary()).combine_chunks(), pa.nulls(len(column), pa.string()))
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return _from_struct(column, base)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or isinstance(feature, _ARRAY_FEATURES):
        return _from_arrays(part)
    raise ColumnError(
        f"{place}: the column {name!r}, declared as image, holds {spell_feature(feature)}; expected pictures, encoded "
        "bytes, a struct of bytes and path, paths as strings, or uint8 arrays."
    )


def _from_struct(column: pa.ChunkedArray, base: Path | None) -> datasets.Dataset:
    """Read a struct of bytes and path, as pandas writes it: fields in any order, one of them perhaps missing."""
    whole = column.combine_chunks()
    whole = whole if isinstance(whole, pa.StructArray) else pa.concat_arrays(column.chunks)
    fields = {field.name for field in whole.type}
    rows = len(whole)
    contents = pc.struct_field(whole, "bytes").cast(pa.binary()) if "bytes" in fields else pa.nulls(rows, pa.binary())
    paths = pc.struct_field(whole, "path").cast(pa.string()) if "path" in fields else pa.nulls(rows, pa.string())
    if contents.null_count:
        # Only where there are no bytes is the path a place to read from; elsewhere it is a name to keep.
        listed = zip(paths.to_pylist(), contents.is_null().to_pylist(), strict=True)
        paths = pa.array([_rooted([path], base)[0].as_py() if absent else path for path, absent in listed], pa.string())
    return _image_dataset(contents, paths)


def _rooted(paths: Sequence[str | None], base: Path | None) -> pa.Array:
    """Make relative paths start from `base`; an absolute one stays, since joining keeps it."""
    if base is None:
        return pa.array(paths, pa.string())
    start = str(base.absolute())
    return pa.array([None if not path else os.path.join(start, path) for path in paths], pa.string())  # noqa: PTH118


def _image_dataset(contents: pa.Array, paths: pa.Array) -> datasets.Dataset:
    """Make a data set of one column of stored pictures."""
    column = pa.StructArray.from_arrays([contents, paths], ["bytes", "path"])
    features = datasets.Features({"image": datasets.Image(decode=False)})
    return datasets.Dataset(pa.table({"image": column}), info=datasets.DatasetInfo(features=features))


def _from_arrays(part: datasets.Dataset) -> datasets.Dataset:
    """Encode nested lists of numbers as PNG, which has no loss."""
    stored = [stored_image(_array_of(row, index), index) for index, row in enumerate(part.with_format(None)["image"])]
    column = pa.array(stored, STORED_IMAGE)
    return _image_dataset(column.field("bytes"), column.field("path"))


def _array_of(item: object, row: int) -> NDArray[np.generic] | None:
    """Return nested lists of numbers as an array; of nothing, nothing."""
    try:
        return None if item is None else np.asarray(item)
    except ValueError as error:
        raise ColumnError(f"row {row}: expected a picture, whose lines are of one length; found {error}.") from error


def stored_image(item: object, row: int) -> dict[str, object]:
    """Return one picture in memory as ``{"bytes", "path"}``.

    Example:
        >>> sorted(stored_image(np.zeros((4, 4), np.uint8), row=0))
        ['bytes', 'path']
    """
    match item:
        case str() | os.PathLike():
            return {"bytes": None, "path": os.fspath(item)}
        case bytes() | bytearray():
            return {"bytes": bytes(item), "path": None}
        case Mapping() if {"bytes", "path"} & set(item):
            return {"bytes": item.get("bytes"), "path": item.get("path")}
        case Image.Image():
            # Turned upright first: PNG would lose the camera's orientation.
            return {"bytes": _encode(ImageOps.exif_transpose(item)), "path": None}
        case np.ndarray():
            return {"bytes": _encode(_array_to_picture(item, row)), "path": None}
        case None:
            return {"bytes": None, "path": None}
    raise ColumnError(f"row {row}: expected a picture, a path, bytes or a uint8 array, found {type(item).__name__}.")


def _array_to_picture(array: NDArray[np.generic], row: int) -> Image.Image:
    """Check that an array is a picture: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), whole numbers from 0 to 255."""
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    shaped = squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[2] in (3, 4))
    whole = array.dtype.kind in "iu" and array.size > 0 and int(array.min()) >= 0 and int(array.max()) <= 255
    if not shaped or not whole:
        raise ColumnError(
            f"row {row}: expected a picture as whole numbers from 0 to 255 of shape (H, W), (H, W, 1), (H, W, 3) or "
            f"(H, W, 4), found {array.dtype} of shape {array.shape}. Scale floats by 255 and convert to uint8."
        )
    return Image.fromarray(np.ascontiguousarray(squeezed.astype(np.uint8)))


def _encode(picture: Image.Image) -> bytes:
    """Encode without loss: as PNG where it knows the mode, else as TIFF."""
    buffer = io.BytesIO()
    png = picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
    picture.save(buffer, format="PNG", compress_level=1) if png else picture.save(buffer, format="TIFF")
    return buffer.getvalue()
