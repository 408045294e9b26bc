"""What a camera may change in a picture without changing what it shows; a pure function of (picture, rng).

All geometry is one affine resampling: an item costs a tenth of a millisecond, and interpolation blurs it only once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, from_numpy

__all__ = ["Augment", "center", "stack_pictures", "with_room"]

Picture = NDArray[np.uint8]  # (H, W, C)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random geometry, light, focus and occlusion. All at 0 is the centre of the picture, unchanged.

    Attributes:
        size: height and width of the result in pixels; the source may be larger, which leaves room for the shift.
        shift: largest shift, as a share of the size, each way.
        scale: largest change of scale, as a natural logarithm: 0.2 is 0.82 to 1.22 times.
        stretch: largest change of the ratio of width to height, as a natural logarithm.
        rotate: largest rotation in degrees.
        flip: probability of a mirror image.
        gamma: largest change of exposure, as the natural logarithm of the exponent.
        gradient: largest change of brightness from one side to the other, as a share.
        blur: probability of a loss of focus: down to as little as half the pixels and back.
        erase: probability that a rectangle is covered by a flat grey.

    Example:
        >>> from auxtasks.seeding import generator
        >>> picture = np.zeros((60, 60, 1), dtype=np.uint8)
        >>> Augment(size=(48, 48))(picture, generator(0, "augment")).shape
        (48, 48, 1)
    """

    size: tuple[int, int]
    shift: float = 0.1
    scale: float = 0.18
    stretch: float = 0.0
    rotate: float = 11.0
    flip: float = 0.5
    gamma: float = 0.3
    gradient: float = 0.3
    blur: float = 0.3
    erase: float = 0.3

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Map (H, W, C) to (height, width, C), uint8 both."""
        # All numbers are drawn at once and always, so that one option's use shifts no other's numbers.
        u = rng.random(15)
        moved = self._move(picture, u[:6])
        if u[6] < self.blur:
            moved = _defocus(moved, keep=0.5 + 0.4 * u[7])
        lit = self._light(_as_array(moved), u[8], u[9])
        if u[10] < self.erase:
            _cover(lit, u[11:15])
        return lit

    def _move(self, picture: Picture, u: NDArray[np.float64]) -> Image.Image:
        height, width = self.size
        source_height, source_width = picture.shape[:2]
        angle = math.radians(self.rotate) * (2 * u[0] - 1)
        zoom = math.exp(self.scale * (2 * u[1] - 1))
        aspect = math.exp(self.stretch * (2 * u[2] - 1) / 2)
        mirror = -1.0 if u[3] < self.flip else 1.0
        # Pillow asks for the map from a result's pixel to the source's.
        step_x, step_y = zoom * aspect * source_width / width, zoom / aspect * source_height / height
        a, b = mirror * math.cos(angle) * step_x, -math.sin(angle) * step_y
        d, e = mirror * math.sin(angle) * step_x, math.cos(angle) * step_y
        c = source_width * (0.5 + self.shift * (2 * u[4] - 1)) - a * width / 2 - b * height / 2
        f = source_height * (0.5 + self.shift * (2 * u[5] - 1)) - d * width / 2 - e * height / 2
        border = self._border(source_height, source_width)
        return _as_image(_with_border(picture, border)).transform(
            (width, height),
            Image.Transform.AFFINE,
            (a, b, c + border, d, e, f + border),
            resample=Image.Resampling.BILINEAR,
        )

    def _border(self, height: int, width: int) -> int:
        """Return how far outside a source a result's corner can come from, in pixels."""
        grown = math.exp(self.scale + self.stretch / 2) / 2
        reaches = []
        for across, along in ((width, height), (height, width)):
            angle = min(math.radians(self.rotate), math.atan2(along, across))  # at the latter a corner reaches farthest
            reach = grown * (math.cos(angle) * across + math.sin(angle) * along)
            reaches.append(reach + (self.shift - 0.5) * across)
        return 1 + math.ceil(max(reaches))

    def _light(self, picture: Picture, u_gamma: float, u_gradient: float) -> Picture:
        if not self.gamma and not self.gradient:
            return picture.copy()  # a quarter of the time of a picture that is only moved
        exponent = math.exp(self.gamma * (2 * u_gamma - 1))
        curve = LEVELS**exponent * 255
        ramp = 1 + self.gradient * (2 * u_gradient - 1) * _ramp(picture.shape[1])
        lit = curve[picture] * ramp[None, :, None]
        return np.clip(lit, 0, 255).astype(np.uint8)


LEVELS = np.arange(256, dtype=np.float32) / 255


def with_room(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which pictures are decoded and kept for an input of `size`: a quarter more, room for a shift.

    Example:
        >>> with_room((48, 48))
        (60, 60)
    """
    height, width = size
    return round(height * 1.25), round(width * 1.25)


def center(picture: Picture, size: tuple[int, int]) -> Picture:
    """Resize without any chance: what evaluation uses where training augments.

    Example:
        >>> center(np.zeros((60, 60, 3), dtype=np.uint8), (48, 48)).shape
        (48, 48, 3)
    """
    if picture.shape[:2] == size:
        return picture
    height, width = size
    return _as_array(_as_image(picture).resize((width, height), Image.Resampling.BILINEAR))


def stack_pictures(pictures: Sequence[Picture]) -> Tensor:
    """Stack pictures (H, W, C) into a batch (B, C, H, W), uint8.

    The copy is made by NumPy: torch takes a grey batch that was only permuted for channels-last, in which GroupNorm is
    ten times slower in bfloat16 on a CPU, and a whole training step half as fast.

    Example:
        >>> stack_pictures([np.zeros((48, 48, 1), dtype=np.uint8)] * 2).stride()
        (2304, 2304, 48, 1)
    """
    return from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy(order="C"))


def _with_border(picture: Picture, border: int) -> Picture:
    """Repeat the edges, so that what a shift brings in from outside is not black."""
    # As np.pad(mode="edge"), ten times as fast on a small picture.
    rows, columns = _edge_indices(picture.shape[0], border), _edge_indices(picture.shape[1], border)
    return picture[rows][:, columns]


@functools.lru_cache(maxsize=16)
def _edge_indices(length: int, border: int) -> NDArray[np.int64]:
    return np.clip(np.arange(-border, length + border), 0, length - 1)


@functools.lru_cache(maxsize=16)
def _ramp(length: int) -> NDArray[np.float32]:
    return np.linspace(-1, 1, length, dtype=np.float32)


def _as_image(picture: Picture) -> Image.Image:
    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def _as_array(image: Image.Image) -> Picture:
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _defocus(image: Image.Image, keep: float) -> Image.Image:
    small = (max(1, round(image.width * keep)), max(1, round(image.height * keep)))
    return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def _cover(picture: Picture, u: NDArray[np.float64]) -> None:
    height, width = picture.shape[:2]
    tall, wide = round(height * (0.12 + 0.2 * u[0])), round(width * (0.12 + 0.2 * u[1]))
    top, left = int(u[2] * (height - tall + 1)), int(u[3] * (width - wide + 1))
    # The grey level follows from the place, so that no further number is needed.
    picture[top : top + tall, left : left + wide] = int(256 * ((u[0] * 7 + u[1] * 13) % 1))
