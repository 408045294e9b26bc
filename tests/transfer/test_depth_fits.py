"""How the fits of a depth search are computed: what they answer is tested with the search."""

import numpy as np
import pytest
import torch

from transfer import depth_fits
from transfer.choices import Candidate
from transfer.depth_fits import Cut, Fit, Fits, Setting


@pytest.mark.parametrize(("alone", "threads"), [(10_000, 1), (10, 2)])
def test_a_few_small_fits_take_one_thread_and_give_the_others_back(monkeypatch, alone, threads):
    seen, predict = [], depth_fits.batched_predictions

    def recording(*given, **options):
        seen.append(torch.get_num_threads())
        return predict(*given, **options)

    monkeypatch.setattr(depth_fits, "batched_predictions", recording)
    monkeypatch.setattr(depth_fits, "_ALONE", alone)
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    fits = Fits({"top": values}, np.array([0, 1, 0, 1, 0, 1]), 2, lambda layer: pytest.fail(layer))
    setting = Setting(Cut("top", "frozen"), "ridge", Candidate("top", "ridge", {}, both_orders=False))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fits.predict(setting, [Fit(0, np.array([0, 1, 2, 3]), np.array([4, 5]))])
        assert (seen, torch.get_num_threads()) == ([threads], 2)
    finally:
        torch.set_num_threads(before)
