"""Drawn faces: pictures of people who do not exist, which need no download.

Who it is lies in some forty shape parameters (head, hair, eyes, brows, nose, mouth, beard, glasses, moles); how the
photo came out lies in others (pose, expression, light, background, occlusion, blur, noise).

The photos are made hard on purpose: light, background and pose dominate the distance between pixels (see `drawn_faces`
for what a classical baseline reaches).
"""

from __future__ import annotations

import datasets
import numpy as np
from numpy.typing import NDArray

from auxtasks.data.array_datasets import image_dataset
from auxtasks.data.drawing import blurred, clipped
from auxtasks.data.face_artist import paint
from auxtasks.data.face_parameters import draw_person, draw_shot
from auxtasks.errors import DataError
from auxtasks.seeding import generator

__all__ = ["draw_face", "drawn_faces"]

# Drawn one by one and kept in memory: beyond it, a number too many zeros was written.
_MOST_PHOTOS = 10_000_000
_LARGEST = 1024


def draw_face(person: int, photo: int, *, size: int = 48, seed: int = 0, channels: int = 1) -> NDArray[np.uint8]:
    """Draw one photo of one person; a pure function of its arguments.

    Args:
        person: who; any number from 0.
        photo: which photo of that person; any number from 0.
        size: height and width in pixels.
        seed: another seed is another population.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (H, W, C) uint8.

    Example:
        >>> draw_face(3, 0, size=32).shape, bool((draw_face(3, 0) == draw_face(3, 0)).all())
        ((32, 32, 1), True)
    """
    shot_rng = generator(seed, "photo", epoch=person, index=photo)
    who = draw_person(generator(seed, "identity", index=person))
    shot = draw_shot(shot_rng)
    tones = blurred(paint(who, shot, size, channels), shot.blur * size / 48)
    tones = tones + shot.noise * shot_rng.standard_normal(tones.shape, dtype=np.float32)
    pixels = (clipped(tones) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def drawn_faces(
    people: int = 40, photos: int = 10, size: int = 48, seed: int = 0, first_person: int = 0, channels: int = 1
) -> datasets.Dataset:
    """Draw photos of people who do not exist: columns ``image`` and ``label``, the name of who it is.

    Person and photo are pure functions of the seed and their numbers: 400 people hold the first 40 unchanged, and
    people from 1000 on (``first_person=1000``) are nobody from the first 1000: a test set that shares no identity.

    Pixels at 32 x 32, the first 50 principal components and logistic regression, accuracy on 10 photos of each person
    (mean of 3 draws): 20 people .19 with 1 photo and .53 with 5; 40 people .12 and .44. Nearest mean, 40 people with 5:
    .16. Two photos of one person differ by 10.2 (root of summed squares, pixels from 0 to 1), of two people by 12.3.

    Args:
        people: how many people.
        photos: how many photos of each.
        size: height and width in pixels, at least 16.
        seed: another seed is another population.
        first_person: number of the first one.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: a number is too small, or too large.

    Example:
        >>> data = drawn_faces(people=2, photos=3, size=32)
        >>> len(data), data.features["label"].names, data[5]["label"]
        (6, ['person00000', 'person00001'], 1)
    """
    _at_least("people", people, 1)
    _at_least("photos", photos, 1)
    _at_least("size", size, 16)
    _at_least("first_person", first_person, 0)
    if max(people * photos, first_person) > _MOST_PHOTOS or size > _LARGEST:
        raise DataError(
            f"drawn_faces: at most {_MOST_PHOTOS:,} photos of {_LARGEST} x {_LARGEST} pixels are drawn; found people="
            f"{people} x photos={photos}, size={size}, first_person={first_person}."
        )
    if channels not in (1, 3):
        raise DataError(f"drawn_faces: channels is 1 (grey) or 3 (RGB); found {channels}.")
    numbers = range(first_person, first_person + people)
    pictures = [
        draw_face(person, photo, size=size, seed=seed, channels=channels)
        for person in numbers
        for photo in range(photos)
    ]
    labels = np.repeat(np.arange(people), photos)
    return image_dataset(pictures, labels, [f"person{number:05d}" for number in numbers])


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise DataError(f"drawn_faces: {name} must be at least {least}, found {value}.")
