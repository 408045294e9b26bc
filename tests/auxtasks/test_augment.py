"""A picture and its random numbers decide what comes out, and each option decides its own part only."""

import dataclasses

import numpy as np
import pytest

from auxtasks.data.augment import Augment, center, with_room
from auxtasks.seeding import generator

OFF = {"shift": 0, "scale": 0, "stretch": 0, "rotate": 0, "flip": 0, "gamma": 0, "gradient": 0, "blur": 0, "erase": 0}


def noise(height=20, width=20, channels=1):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width, channels=1):
    """Waves that are much longer than a pixel: resampling hardly matters."""
    v, u = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [127 + 60 * np.sin(3 * u + 2 * v + c) + 50 * np.cos(4 * v - u) for c in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


def rng(index=0):
    return generator(0, "augment", index=index)


class Fixed:
    """Random numbers that are what the test says."""

    def __init__(self, **places):
        self.values = np.full(15, 0.5)
        for place, value in places.items():
            self.values[int(place[1:])] = value

    def random(self, count):
        assert count == 15
        return self.values.copy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (24, 12)])
def test_the_result_is_uint8_of_the_size_asked_for_and_a_pure_function(channels, size):
    picture = noise(20, 20, channels)
    before = picture.copy()
    augment = Augment(size=size, blur=1.0, erase=1.0, stretch=0.1)
    results = [augment(picture, rng(index)) for index in range(20)]
    for index, result in enumerate(results):
        assert result.shape == (*size, channels)
        assert result.dtype == np.uint8
        assert (augment(picture, rng(index)) == result).all()
    assert len({result.tobytes() for result in results}) == 20
    assert (picture == before).all()


def test_nothing_asked_for_changes_nothing():
    picture = noise(16, 16, 3)
    assert (Augment(size=(16, 16), **OFF)(picture, rng()) == picture).all()


def test_nothing_asked_for_is_the_centre_up_to_resampling():
    picture = smooth(40, 40, 3)
    found = Augment(size=(32, 32), **OFF)(picture, rng()).astype(int)
    assert np.abs(found - center(picture, (32, 32))).max() <= 4
    assert found.std() > 20


def test_a_mirror_image_and_nothing_else():
    picture = noise(16, 16, 3)
    assert (Augment(size=(16, 16), **{**OFF, "flip": 1.0})(picture, rng()) == picture[:, ::-1]).all()
    room = smooth(20, 20)
    plain, flipped = (Augment(size=(16, 16), **{**OFF, "flip": flip})(room, rng()) for flip in (0.0, 1.0))
    assert np.abs(flipped.astype(int) - plain[:, ::-1]).max() <= 1


def test_half_of_all_pictures_are_mirrored():
    picture = noise(8, 8)
    augment = Augment(size=(8, 8), **{**OFF, "flip": 0.5})
    flipped = sum((augment(picture, rng(index)) == picture[:, ::-1]).all() for index in range(400))
    assert 160 <= flipped <= 240  # 4 standard deviations


@pytest.mark.parametrize("option", [name for name in OFF if name != "blur"])
def test_an_option_shifts_no_other_s_numbers(option):
    # With all options on, taking one away must be the same as giving its own numbers their neutral value.
    # u: 0 angle, 1 zoom, 2 aspect, 3 mirror, 4 and 5 shift, 6 and 7 blur, 8 gamma, 9 gradient, 10 to 14 erase.
    neutral = {
        "rotate": {"u0": 0.5}, "scale": {"u1": 0.5}, "stretch": {"u2": 0.5}, "flip": {"u3": 1.0},
        "shift": {"u4": 0.5, "u5": 0.5}, "gamma": {"u8": 0.5}, "gradient": {"u9": 0.5}, "erase": {"u10": 1.0},
    }  # fmt: skip
    on = Augment(size=(16, 16), stretch=0.2, flip=0.9, erase=0.9, blur=0.0)
    without = dataclasses.replace(on, **{option: 0.0})
    picture = smooth(20, 20, 3)
    drawn = {f"u{place}": value for place, value in enumerate(rng().random(15))} | {"u3": 0.1, "u10": 0.1}
    expected = on(picture, Fixed(**{**drawn, **neutral[option]}))
    found = without(picture, Fixed(**drawn))
    assert np.abs(found.astype(int) - expected).max() <= 1  # another border moves the sum by an ulp
    assert (on(picture, Fixed(**drawn)) != found).any()


def test_blur_changes_focus_alone():
    picture = noise(20, 20)
    plain, blurred = (Augment(size=(16, 16), **{**OFF, "blur": blur})(picture, rng()) for blur in (0.0, 1.0))
    roughness = [np.abs(np.diff(found.astype(int), axis=1)).mean() for found in (plain, blurred)]
    assert roughness[1] < 0.7 * roughness[0]
    assert blurred.mean() == pytest.approx(plain.mean(), abs=3)


@pytest.mark.parametrize("gradient", [0.3, 1.0, 1.8])
@pytest.mark.parametrize("side", [0.0, 1.0])
def test_brightness_never_wraps_around(gradient, side):
    light, dark = np.full((8, 9, 1), 250, np.uint8), np.full((8, 9, 1), 3, np.uint8)
    augment = Augment(size=(8, 9), **{**OFF, "gamma": 0.5, "gradient": gradient})
    for gamma in (0.0, 0.5, 1.0):
        for picture in (light, dark):
            row = augment(picture, Fixed(u8=gamma, u9=side))[0, :, 0].astype(int)
            rising = row if side else row[::-1]
            assert (np.diff(rising) >= 0).all()  # a wrapped value would be a step down


def test_gamma_keeps_black_and_white_and_moves_what_lies_between():
    picture = np.array([0, 100, 255], np.uint8).reshape(1, 3, 1)
    augment = Augment(size=(1, 3), **{**OFF, "gamma": 0.5})
    lighter, darker = (augment(picture, Fixed(u8=u))[0, :, 0].tolist() for u in (0.0, 1.0))
    assert lighter == [0, int(255 * (100 / 255) ** np.exp(-0.5)), 255]
    assert darker == [0, int(255 * (100 / 255) ** np.exp(0.5)), 255]


@pytest.mark.parametrize("size", [48, 160])
def test_what_comes_in_from_outside_is_not_black(size):
    picture = np.full((*with_room((size, size)), 1), 200, np.uint8)
    augment = Augment(size=(size, size), **{**OFF, "shift": 0.1, "scale": 0.18, "rotate": 11.0, "flip": 0.5})
    for corner in range(16):
        extreme = {f"u{place}": (corner >> bit) & 1 for bit, place in enumerate((0, 3, 4, 5))}
        assert (augment(picture, Fixed(u1=1.0, **extreme)) == 200).all()


def test_a_rectangle_is_covered_within_the_picture():
    picture = np.full((20, 30, 1), 255, np.uint8)
    augment = Augment(size=(20, 30), **{**OFF, "erase": 1.0})
    for index in range(50):
        covered = augment(picture, rng(index))[:, :, 0] != 255
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        assert covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.1 * 20 <= len(rows) <= 0.34 * 20
        assert 0.1 * 30 <= len(columns) <= 0.34 * 30


def test_a_shift_moves_the_picture_and_a_zoom_scales_it():
    picture = np.zeros((20, 20, 1), np.uint8)
    picture[10:12, 10:12] = 255
    augment = Augment(size=(20, 20), **{**OFF, "shift": 0.2, "scale": np.log(2.0)})
    assert np.argwhere(augment(picture, Fixed(u4=1.0))[:, :, 0] == 255).tolist() == [
        [10, 6], [10, 7], [11, 6], [11, 7],
    ]  # fmt: skip
    areas = [augment(picture, Fixed(u1=u)).astype(int).sum() for u in (0.0, 0.5, 1.0)]
    assert areas[0] == pytest.approx(4 * areas[1], rel=0.05)
    assert areas[2] == pytest.approx(areas[1] / 4, rel=0.05)


def test_the_centre_of_a_picture_of_the_right_size_is_the_picture():
    picture = noise(16, 16)
    assert center(picture, (16, 16)) is picture
    assert center(noise(20, 20, 3), (16, 12)).shape == (16, 12, 3)
