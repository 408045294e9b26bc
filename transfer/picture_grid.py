"""Pictures in a grid: a layer's filters, and inputs beside what an autoencoder makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auxtasks.errors import CheckpointError, TransferError

__all__ = ["filter_grid", "reconstruction_grid", "save_picture"]

Pictures = NDArray[np.float32]  # (N, C, H, W)
Canvas = NDArray[np.uint8]  # (H, W, 3)

_GAP = 1  # pixels between pictures
_LONGEST_SIDE = 1200  # of a saved picture: small ones are enlarged by a whole number, so that pixels stay squares


def filter_grid(filters: Pictures, columns: int = 10) -> Canvas:
    """Return filters side by side, each on a scale of its own: 0 is mid-grey, the largest weight black or white.

    Args:
        filters: (N, C, H, W) weights of a layer's units; colours for three channels, else the channels' mean.
        columns: pictures in a row.

    Raises:
        TransferError: no filters.

    Example:
        >>> filter_grid(np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2), columns=2).shape
        (7, 7, 3)
    """
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True, initial=0)
    scaled = filters / np.where(largest > 0, largest, 1)
    return _grid(((scaled + 1) / 2).astype(np.float32), columns)


def reconstruction_grid(inputs: Pictures, reconstructions: Pictures) -> Canvas:
    """Return inputs in the upper row, and below each what was made of it.

    Args:
        inputs, reconstructions: (N, C, H, W), of one scale: both are stretched by the inputs' lowest and highest value.

    Raises:
        TransferError: no pictures, or other shapes.

    Example:
        >>> pictures = np.zeros((3, 1, 4, 4), np.float32)
        >>> reconstruction_grid(pictures, pictures).shape
        (11, 16, 3)
    """
    if inputs.shape != reconstructions.shape:
        raise TransferError(f"inputs are of shape {inputs.shape}, their reconstructions of {reconstructions.shape}.")
    low, high = (float(inputs.min()), float(inputs.max())) if inputs.size else (0.0, 1.0)
    both = np.concatenate([inputs, reconstructions])
    return _grid(np.clip((both - low) / max(high - low, 1e-6), 0, 1), columns=len(inputs))


def save_picture(canvas: Canvas, path: Path) -> None:
    """Write a PNG, enlarged so that its pixels can be seen.

    Raises:
        CheckpointError: when the disk is full or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     grid = filter_grid(np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2), columns=2)
        ...     save_picture(grid, Path(folder) / "filters.png")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['filters.png']
    """
    times = max(1, _LONGEST_SIDE // max(canvas.shape[:2]))
    picture = Image.fromarray(canvas.repeat(times, axis=0).repeat(times, axis=1))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "PNG")
    except OSError as error:
        raise CheckpointError(f"could not write {path}: {error.strerror or error}.") from error


def _grid(pictures: Pictures, columns: int) -> Canvas:
    """Lay out pictures (N, C, H, W) with values in [0, 1] on white."""
    if not len(pictures):
        raise TransferError("there are no pictures to lay out.")
    count, channels, height, width = pictures.shape
    coloured = pictures if channels == 3 else pictures.mean(axis=1, keepdims=True).repeat(3, axis=1)
    rows = -(-count // columns)
    canvas = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for place, picture in enumerate(coloured):
        top, left = (
            _GAP + step * (side + _GAP) for step, side in zip(divmod(place, columns), (height, width), strict=True)
        )
        canvas[top : top + height, left : left + width] = np.rint(picture.transpose(1, 2, 0) * 255)
    return canvas
