"""Items made worse by a stated strength: what lets a ranking be learned without any label.

A corruption is a pure function of (item, strength, rng) that returns another item of the same shape, or None where it
finds none, such as the blur of a blank wall. With the same rng, a stronger corruption goes further the same way: it
hits the features that a weaker one hits, and more. So an item and its corruptions of rising strength are in order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from auxtasks.errors import DataError, did_you_mean

__all__ = ["DISTORTIONS", "FeatureNoise", "FeatureNoiseKind", "ItemCorruption", "PictureDistortion"]

Picture = NDArray[np.uint8]  # (H, W, C)
Features = NDArray[np.float32]  # (D,)
FeatureNoiseKind = Literal["gaussian", "masking", "swap"]

# Draws before a corruption gives up.
TRIES: Final = 8


class ItemCorruption(Protocol):
    """What makes an item worse.

    Example:
        >>> class Dimmer:
        ...     def corrupt(self, item, strength, rng):
        ...         return item * (1 - strength)
        >>> dimmer: ItemCorruption = Dimmer()
        >>> dimmer.corrupt(np.ones(2), 0.25, np.random.default_rng(0)).tolist()
        [0.75, 0.75]
    """

    def corrupt(self, item: Any, strength: float, rng: np.random.Generator) -> NDArray[Any] | None:
        """Return another item of the same shape and type, or None.

        Args:
            item: never written to.
            strength: above 0 and at most 1.
            rng: the item's own; the same one, made anew, for each strength.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNoise:
    """Noise in feature vectors.

    Attributes:
        values: (N, D) the table that the items are from, or the training part of it: what a feature's standard
            deviation and other values are taken from.
        kind: ``"gaussian"`` adds normal noise, in units of each feature's standard deviation; ``"masking"`` sets a
            share of the features to 0; ``"swap"`` gives a share of the features the values that they have in other
            rows, each from a row of its own.
        amount: of what strength 1 does: how many standard deviations, or what share. At least one feature is hit.

    Raises:
        DataError: there is no such kind, no table, or the amount is not above 0 or, as a share, above 1.

    Example:
        >>> from auxtasks.seeding import generator
        >>> noise = FeatureNoise(np.ones((1, 4), dtype=np.float32), "masking", amount=1.0)
        >>> [noise.corrupt(noise.values[0], strength, generator(0, "noise")).tolist() for strength in (0.25, 0.5)]
        [[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]]

    Reference:
        ``"swap"`` is the corruption of Bahri et al., "SCARF", ICLR 2022, whose share is 0.6; ``"masking"`` that of
        Vincent et al., "Stacked denoising autoencoders", JMLR 2010.
    """

    values: NDArray[np.float32]
    kind: FeatureNoiseKind = "swap"
    amount: float = 0.6

    def __post_init__(self) -> None:
        if self.kind not in get_args(FeatureNoiseKind):
            kinds = get_args(FeatureNoiseKind)
            hint = did_you_mean(str(self.kind), kinds)
            raise DataError(f"there is no feature noise {self.kind!r}; there are {', '.join(kinds)}.{hint}")
        if self.values.ndim != 2 or not self.values.size:
            raise DataError(f"feature noise needs a table (N, D) with values; found the shape {self.values.shape}.")
        if not 0 < self.amount < np.inf:
            raise DataError(f"the amount of {self.kind} noise is above 0; found {self.amount}.")
        if self.kind != "gaussian" and self.amount > 1:
            raise DataError(
                f"the amount of {self.kind} noise is a share of the features, at most 1; found {self.amount}."
            )

    @functools.cached_property
    def deviations(self) -> NDArray[np.float64]:
        """The standard deviation of each feature, (D,)."""
        return np.asarray(self.values.std(axis=0, dtype=np.float64))

    def corrupt(self, item: Features, strength: float, rng: np.random.Generator) -> Features | None:
        """Return another vector (D,), or None where none was found: one that is 0 throughout cannot be masked.

        Raises:
            DataError: the strength is not in (0, 1], or the item has not the table's width.
        """
        _check_strength(strength)
        if item.shape != self.values.shape[1:]:
            raise DataError(
                f"an item of the shape {item.shape} is no row of a table of {self.values.shape[1]} features."
            )
        for _ in range(TRIES):
            changed = self._draw(item, self.amount * strength, rng)
            if not np.array_equal(changed, item):
                return changed
        return None

    def _draw(self, item: Features, amount: float, rng: np.random.Generator) -> Features:
        width = len(item)
        if self.kind == "gaussian":
            return (item + amount * self.deviations * rng.standard_normal(width)).astype(item.dtype)
        # Drawn for all features, so that the strength only decides how many of them are hit.
        hit = rng.permutation(width)[: max(1, round(amount * width))]
        donors = rng.integers(len(self.values), size=width)
        changed = item.copy()
        changed[hit] = 0 if self.kind == "masking" else self.values[donors[hit], hit]
        return changed


def blur(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Blur by a Gaussian whose radius is at most an eighth of the shorter side."""
    del rng
    radius = max(0.3, strength * min(picture.shape[:2]) / 8)
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    blurred: Picture = np.asarray(image.filter(ImageFilter.GaussianBlur(radius))).reshape(picture.shape)
    return blurred


def noise(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Add normal noise of a standard deviation of at most 80 grey levels."""
    drawn = rng.standard_normal(picture.shape, dtype=np.float32)
    noisy: Picture = np.clip(np.rint(picture + 80 * strength * drawn), 0, 255).astype(np.uint8)
    return noisy


def blocks(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Cut the picture into four times four blocks, and move a share of them, two at least, each to another's place."""
    tall, wide = max(1, picture.shape[0] // 4), max(1, picture.shape[1] // 4)
    tops, lefts = picture.shape[0] // tall, picture.shape[1] // wide
    cells = rng.permutation(tops * lefts)[: max(2, round(strength * tops * lefts))]
    places = [np.s_[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
              for row, column in zip(*divmod(cells, lefts), strict=True)]  # fmt: skip
    moved = picture.copy()
    for place, source in zip(places, [*places[1:], places[0]], strict=True):
        moved[place] = picture[source]
    return moved


def contrast(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Move every pixel towards the picture's mean, at most 0.9 of the way."""
    del rng
    mean = picture.mean(axis=(0, 1), dtype=np.float32)
    flatter: Picture = np.rint(mean + (1 - 0.9 * strength) * (picture - mean)).astype(np.uint8)
    return flatter


def erase(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Cover a rectangle, at most half of the picture, by the picture's mean."""
    height, width = picture.shape[:2]
    share = np.sqrt(strength / 2)
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    # The centre is drawn, so that a larger rectangle holds a smaller one wherever the border does not stop it.
    middle = rng.random(2)
    top, left = (int(np.clip(at * side - size / 2, 0, side - size)) for at, side, size in
                 zip(middle, (height, width), (tall, wide), strict=True))  # fmt: skip
    covered = picture.copy()
    covered[top : top + tall, left : left + wide] = np.rint(picture.mean(axis=(0, 1)))
    return covered


DISTORTIONS: Final[Mapping[str, Callable[[Picture, float, np.random.Generator], Picture]]] = MappingProxyType(
    {"blocks": blocks, "blur": blur, "contrast": contrast, "erase": erase, "noise": noise}
)


@dataclasses.dataclass(frozen=True)
class PictureDistortion:
    """Pictures made worse in one of several ways.

    Attributes:
        kinds: names from `DISTORTIONS`, each as likely; the same rng draws the same one at every strength. Where it
            changes nothing, such as the contrast of a blank picture, the next one is taken.

    Raises:
        DataError: there is no such kind, or none is named.

    Example:
        >>> from auxtasks.seeding import generator
        >>> picture = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
        >>> worse = PictureDistortion(("contrast",)).corrupt(picture, 1.0, generator(0, "noise"))
        >>> worse.shape, int(picture.max() - picture.min()), int(worse.max() - worse.min())
        ((8, 8, 1), 63, 7)

    Reference:
        Liu, van de Weijer and Bagdanov, "RankIQA", ICCV 2017, rank pictures by how strongly they are distorted. Their
        distortions are those of the data sets that they test on; these here are of our own choice.
    """

    kinds: tuple[str, ...] = tuple(DISTORTIONS)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in DISTORTIONS:
                hint = did_you_mean(kind, DISTORTIONS)
                raise DataError(f"there is no distortion {kind!r}; there are {', '.join(DISTORTIONS)}.{hint}")
        if not self.kinds:
            raise DataError(f"no distortion is named; there are {', '.join(DISTORTIONS)}.")

    def corrupt(self, item: Picture, strength: float, rng: np.random.Generator) -> Picture | None:
        """Return another picture (H, W, C), uint8, or None where no kind changes this one.

        Raises:
            DataError: the strength is not in (0, 1], or the item is no such picture.
        """
        _check_strength(strength)
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] not in (1, 3):
            raise DataError(f"expected a picture (H, W, 1 or 3) of uint8; found {item.shape} of {item.dtype}.")
        for place in rng.permutation(len(self.kinds)):
            for _ in range(TRIES):
                changed = DISTORTIONS[self.kinds[place]](item, strength, rng)
                if not np.array_equal(changed, item):
                    return changed
        return None


def _check_strength(strength: float) -> None:
    if not 0 < strength <= 1:
        raise DataError(f"the strength of a corruption is above 0 and at most 1; found {strength}.")
