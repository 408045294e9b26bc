"""Filters and reconstructions as pictures."""

import numpy as np
import pytest
from PIL import Image

from auxtasks.errors import CheckpointError, TransferError
from transfer.picture_grid import filter_grid, reconstruction_grid, save_picture


def test_a_filter_is_scaled_by_its_own_largest_weight_around_grey():
    filters = np.zeros((2, 1, 2, 2), np.float32)
    filters[0, 0] = [[4, -4], [0, 2]]
    filters[1, 0] = [[0.1, 0], [0, -0.05]]
    canvas = filter_grid(filters, columns=2)
    assert canvas.shape == (4, 7, 3)
    assert canvas[1:3, 1:3, 0].tolist() == [[255, 0], [128, 191]]
    assert canvas[1:3, 4:6, 1].tolist() == [[255, 128], [128, 64]]
    assert (canvas[:, 3] == 255).all()  # the gap


def test_a_dead_filter_is_grey_and_colours_stay_colours():
    filters = np.zeros((1, 3, 1, 1), np.float32)
    assert filter_grid(filters)[1, 1].tolist() == [128, 128, 128]
    filters[0, :, 0, 0] = [1, 0, -1]
    assert filter_grid(filters)[1, 1].tolist() == [255, 128, 0]


def test_reconstructions_stand_below_their_inputs_on_the_inputs_scale():
    inputs = np.array([0.0, 2.0], np.float32).reshape(2, 1, 1, 1)
    canvas = reconstruction_grid(inputs, np.array([1.0, 3.0], np.float32).reshape(2, 1, 1, 1))
    assert canvas[1, [1, 3], 0].tolist() == [0, 255]
    assert canvas[3, [1, 3], 0].tolist() == [128, 255]  # what is beyond the scale is cut


def test_what_makes_no_picture_is_refused(tmp_path):
    with pytest.raises(TransferError, match="no pictures"):
        filter_grid(np.zeros((0, 1, 2, 2), np.float32))
    with pytest.raises(TransferError, match=r"of shape \(1, 1, 2, 2\), their reconstructions of \(1, 1, 2, 3\)"):
        reconstruction_grid(np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 1, 2, 3), np.float32))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not write"):
        save_picture(np.zeros((4, 4, 3), np.uint8), tmp_path / "file" / "a.png")


def test_a_saved_picture_is_enlarged_by_whole_pixels(tmp_path):
    canvas = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    save_picture(canvas, tmp_path / "deep" / "a.png")
    with Image.open(tmp_path / "deep" / "a.png") as picture:
        found = np.asarray(picture)
    assert found.shape == (800, 1200, 3)
    assert (found[::400, ::400] == canvas).all()
