"""Drawing from implicit shapes on a canvas of tones.

A shape is a signed distance for each pixel, made a coverage by its ratio to the pixel's size, which is antialiasing for
the price of a division.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas", "Plane", "blurred", "capsule", "clipped", "ellipse", "grid", "mix", "norm"]

# Always float32; NumPy's types say that a float32 array times a Python float is float64, which it is not.
Plane: TypeAlias = NDArray[np.floating[Any]]


@functools.lru_cache(maxsize=8)
def grid(size: int) -> tuple[Plane, Plane]:
    """Return x and y of each pixel's centre, (H, W) each, from -1 to 1."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(line, line)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def norm(u: Plane, v: Plane) -> Plane:
    """Length of the vector (u, v) at each pixel."""
    # A third of the time of np.hypot, whose care for overflow nothing here needs.
    length: Plane = np.sqrt(u * u + v * v)
    return length


def clipped(values: Plane) -> Plane:
    """Clip to 0 and 1."""
    # A third of the overhead of np.clip.
    within: Plane = np.minimum(np.maximum(values, 0), 1)
    return within


def ellipse(u: Plane, v: Plane, radius_u: float, radius_v: float) -> Plane:
    """Signed distance, nearly, to an ellipse about the origin: exact on the outline, which is where it is used."""
    return (norm(u * (1 / radius_u), v * (1 / radius_v)) - 1) * min(radius_u, radius_v)


def capsule(u: Plane, v: Plane, half_length: float, radius: float) -> Plane:
    """Signed distance to a line along u about the origin, with round ends."""
    return norm(np.maximum(np.abs(u) - half_length, 0), v) - radius


class Canvas:
    """Planes of tones that shapes are laid over, first to last.

    Example:
        >>> x, y = grid(8)
        >>> canvas = Canvas(np.zeros((1, 8, 8), np.float32), pixel=2 / 8)
        >>> canvas.fill(np.ones((1, 1, 1), np.float32), ellipse(x, y, 0.5, 0.5))
        >>> float(canvas.tones[0, 4, 4]), float(canvas.tones[0, 0, 0])
        (1.0, 0.0)
        >>> clipped(norm(x, y)).max().item(), capsule(x, y, 0.5, 0.1).shape
        (1.0, (8, 8))
    """

    def __init__(self, tones: Plane, pixel: float) -> None:
        self.tones = tones  # (C, H, W)
        self._sharpness = 1 / pixel

    def coverage(self, distance: Plane) -> Plane:
        """Return how much of each pixel a shape covers, (H, W)."""
        return clipped(0.5 - distance * self._sharpness)

    def lay(self, tone: Plane, coverage: Plane) -> None:
        """Blend a tone (C, 1, 1) over the pixels that a shape covers (H, W)."""
        self.tones += coverage * (tone - self.tones)

    def fill(self, tone: Plane, distance: Plane, opacity: float = 1.0) -> None:
        """Lay a shape given by its distance."""
        self.lay(tone, self.coverage(distance) * opacity if opacity != 1 else self.coverage(distance))


def mix(table: Plane, place: float) -> Plane:
    """Read a table of colours (K, 3) at a place from 0 to 1, between its rows where need be.

    Example:
        >>> mix(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], np.float32), 0.25).tolist()
        [0.25, 0.25, 0.25]
        >>> blurred(np.eye(3, dtype=np.float32)[None], 0.25)[0, 1].tolist()
        [0.3125, 0.375, 0.3125]
    """
    at = min(max(place, 0.0), 1.0) * (len(table) - 1)
    low = min(int(at), len(table) - 2)
    mixed: Plane = table[low] + (at - low) * (table[low + 1] - table[low])
    return mixed


def blurred(tones: Plane, amount: float) -> Plane:
    """Average each pixel with its neighbours, `amount` of it from either side, along both axes; edges repeat."""
    if amount <= 0:
        return tones
    for axis in (1, 2):
        lines = tones.swapaxes(0, axis)
        mixed = lines * (1 - 2 * amount)
        mixed[1:] += amount * lines[:-1]
        mixed[:-1] += amount * lines[1:]
        mixed[0] += amount * lines[0]
        mixed[-1] += amount * lines[-1]
        tones = mixed.swapaxes(0, axis)
    return tones
