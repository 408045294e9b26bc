"""Corruptions of items: never the item itself, stronger is further, the same for the same numbers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from auxtasks.data.builtin import digits
from auxtasks.data.drawn_faces import draw_face
from auxtasks.data.images import decode_images
from auxtasks.data.item_corruptions import DISTORTIONS, FeatureNoise, FeatureNoiseKind, PictureDistortion
from auxtasks.errors import DataError
from auxtasks.seeding import generator

LEVELS = (0.1, 0.25, 0.5, 1.0)
NOISES: list[FeatureNoiseKind] = ["gaussian", "masking", "swap"]


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(200, 40)) * np.linspace(0.1, 9, 40) + 5).astype(np.float32)


def rng(index: int) -> np.random.Generator:
    return generator(0, "test", index=index)


@pytest.mark.parametrize("kind", NOISES)
def test_feature_noise_is_a_pure_function_and_changes_the_item(table: np.ndarray, kind: FeatureNoiseKind) -> None:
    noise = FeatureNoise(table, kind)
    before = table.copy()
    for index in range(50):
        changed, again = (noise.corrupt(table[index], 0.3, rng(index)) for _ in range(2))
        assert changed is not None
        assert (changed.shape, changed.dtype) == ((40,), np.float32)
        np.testing.assert_array_equal(changed, again)
        assert (changed != table[index]).any()
    np.testing.assert_array_equal(table, before)


@pytest.mark.parametrize("kind", ["masking", "swap"])
def test_a_stronger_share_hits_the_same_features_and_more(table: np.ndarray, kind: FeatureNoiseKind) -> None:
    noise = FeatureNoise(table, kind, amount=0.8)
    for index in range(20):
        hits = []
        for strength in LEVELS:
            changed = noise.corrupt(table[index], strength, rng(index))
            hits.append(changed != table[index])
            assert hits[-1].sum() <= round(0.8 * strength * 40)
            # Each new value is one that the feature has somewhere, or 0.
            for feature in np.flatnonzero(hits[-1]):
                assert changed[feature] in (table[:, feature] if kind == "swap" else [0])
        assert hits[-1].sum() >= 28
        for weaker, stronger in itertools.pairwise(hits):
            assert stronger[weaker].all()


def test_swapped_features_are_drawn_each_from_a_row_of_its_own(table: np.ndarray) -> None:
    changed = FeatureNoise(table, "swap", amount=1.0).corrupt(table[0], 1.0, rng(0))
    donors = [np.flatnonzero(table[:, feature] == changed[feature])[0] for feature in range(40)]
    assert len(set(donors)) > 25


def test_gaussian_noise_has_the_deviation_of_the_features(table: np.ndarray) -> None:
    noise = FeatureNoise(table, "gaussian", amount=0.5)
    moved = np.stack([noise.corrupt(table[0], 0.4, rng(index)) - table[0] for index in range(2000)])
    expected = 0.5 * 0.4 * np.array([np.std(table[:, feature].astype(float)) for feature in range(40)])
    np.testing.assert_allclose(moved.std(axis=0) / expected, 1, atol=0.08)
    np.testing.assert_allclose(moved.mean(axis=0) / expected, 0, atol=0.1)
    # The same way for the same rng, at every strength.
    weak, strong = (noise.corrupt(table[0], strength, rng(3)) - table[0] for strength in (0.2, 0.4))
    np.testing.assert_allclose(strong, 2 * weak, atol=1e-5)


def test_feature_noise_that_can_change_nothing() -> None:
    flat = np.zeros((5, 3), dtype=np.float32)
    for kind in NOISES:
        assert FeatureNoise(flat, kind).corrupt(flat[0], 1.0, rng(0)) is None


def test_sparse_items_are_tried_again() -> None:
    sparse = np.zeros((1, 10), dtype=np.float32)
    sparse[0, 4] = 1
    # One feature in ten is masked: the only one that tells must be found within eight draws.
    found = [FeatureNoise(sparse, "masking", amount=0.1).corrupt(sparse[0], 1.0, rng(index)) for index in range(300)]
    share = np.mean([changed is not None for changed in found])
    assert abs(share - (1 - 0.9**8)) < 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: FeatureNoise(t, "swop"), r"no feature noise 'swop'; .*Did you mean \"swap\"\?"),
        (lambda t: FeatureNoise(t[0]), r"needs a table \(N, D\) with values; found the shape \(40,\)"),
        (lambda t: FeatureNoise(t[:0]), r"found the shape \(0, 40\)"),
        (lambda t: FeatureNoise(t, amount=0), r"the amount of swap noise is above 0; found 0"),
        (lambda t: FeatureNoise(t, amount=float("nan")), r"is above 0; found nan"),
        (lambda t: FeatureNoise(t, "masking", 1.5), r"is a share of the features, at most 1; found 1.5"),
        (lambda t: FeatureNoise(t).corrupt(t[0, :3], 0.5, rng(0)), r"shape \(3,\) is no row of a table of 40 features"),
        (lambda t: FeatureNoise(t).corrupt(t[0], 0, rng(0)), r"above 0 and at most 1; found 0"),
        (lambda t: FeatureNoise(t).corrupt(t[0], 1.1, rng(0)), r"above 0 and at most 1; found 1.1"),
        (lambda t: PictureDistortion(("blurr",)), r"no distortion 'blurr'; .*Did you mean \"blur\"\?"),
        (lambda t: PictureDistortion(()), r"no distortion is named; there are blocks, blur"),
        (lambda t: PictureDistortion().corrupt(t[:8, :8, None], 0.5, rng(0)), r"found \(8, 8, 1\) of float32"),
        (lambda t: PictureDistortion().corrupt(np.zeros((8, 8), np.uint8), 0.5, rng(0)), r"found \(8, 8\) of uint8"),
        (lambda t: PictureDistortion().corrupt(draw_face(0, 0), float("nan"), rng(0)), r"at most 1; found nan"),
    ],
)
def test_wrong_settings(table: np.ndarray, make: Callable[[np.ndarray], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(table)


@pytest.mark.parametrize("kind", DISTORTIONS)
@pytest.mark.parametrize(("size", "channels"), [(48, 1), (31, 3)])
def test_a_distortion_grows_with_its_strength(kind: str, size: int, channels: int) -> None:
    distortion = PictureDistortion((kind,))
    away = np.zeros((20, len(LEVELS)))
    for person in range(20):
        face = draw_face(person, 0, size=size, channels=channels)
        before = face.copy()
        for place, strength in enumerate(LEVELS):
            worse = distortion.corrupt(face, strength, rng(person))
            assert (worse.shape, worse.dtype) == (face.shape, np.uint8)
            np.testing.assert_array_equal(worse, distortion.corrupt(face, strength, rng(person)))
            away[person, place] = np.sqrt(np.mean((worse.astype(float) - face) ** 2))
        np.testing.assert_array_equal(face, before)
    assert (away > 0).all()
    assert (np.diff(away.mean(axis=0)) > 0).all()
    # Of one picture as well: a share of blocks or pixels need not be further away each time, but nearly always is.
    assert (np.diff(away, axis=1) > 0).mean() > 0.8


def test_blocks_keep_all_pixels() -> None:
    face = draw_face(3, 0, size=48)
    worse = PictureDistortion(("blocks",)).corrupt(face, 1.0, rng(0))
    np.testing.assert_array_equal(np.sort(worse.ravel()), np.sort(face.ravel()))
    cells = [(slice(r, r + 12), slice(c, c + 12)) for r in range(0, 48, 12) for c in range(0, 48, 12)]
    assert sum(not np.array_equal(worse[cell], face[cell]) for cell in cells) == 16
    half = PictureDistortion(("blocks",)).corrupt(face, 0.5, rng(0))
    assert sum(not np.array_equal(half[cell], face[cell]) for cell in cells) == 8


def test_erased_part_is_a_rectangle_of_half_the_picture() -> None:
    face = draw_face(3, 0, size=40)
    worse = PictureDistortion(("erase",)).corrupt(face, 1.0, rng(1))
    rows, columns = np.nonzero((worse != face)[..., 0])
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(tall, wide) <= 28  # 40 * sqrt(1 / 2)
    assert (worse[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == round(face.mean())).all()


def test_one_rng_draws_one_kind_at_all_strengths_and_all_kinds_occur() -> None:
    face = draw_face(0, 0, size=32)
    kinds = []
    for index in range(60):
        found = set()
        for strength in (0.3, 0.9):
            worse = PictureDistortion().corrupt(face, strength, rng(index))
            for kind in DISTORTIONS:
                draws = rng(index)
                draws.permutation(len(DISTORTIONS))
                if np.array_equal(DISTORTIONS[kind](face, strength, draws), worse):
                    found.add(kind)
        assert len(found) == 1
        kinds += found
    assert set(kinds) == set(DISTORTIONS)


def test_a_blank_picture_and_one_of_a_pixel() -> None:
    blank = np.full((16, 16, 1), 100, dtype=np.uint8)
    for kind in ("blocks", "blur", "contrast", "erase"):
        assert PictureDistortion((kind,)).corrupt(blank, 1.0, rng(0)) is None
    # Only noise changes it, whichever kind is drawn first.
    for index in range(10):
        assert PictureDistortion().corrupt(blank, 0.5, rng(index)).std() > 5
    for kind in DISTORTIONS:
        PictureDistortion((kind,)).corrupt(np.full((1, 1, 3), 9, dtype=np.uint8), 1.0, rng(0))


def test_small_digits_are_changed_at_the_lowest_level() -> None:
    pictures = decode_images(digits("test").select(range(100)), size=(8, 8), channels=1, workers=1).pixels
    for kind in DISTORTIONS:
        changed = [PictureDistortion((kind,)).corrupt(picture, 0.1, rng(i)) for i, picture in enumerate(pictures)]
        assert np.mean([picture is not None for picture in changed]) > 0.95


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"cannot assign to field 'kinds'"):
        PictureDistortion().kinds = ("blur",)  # type: ignore[misc]
