"""Intervals against formulas, loops, and simulated experiments whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from auxtasks.errors import TransferError
from transfer import statistics
from transfer.statistics import corrected_resampled_interval, interval, paired_difference, pigeonhole_bootstrap


def two_way(rng, draws, units, by_draw, by_unit, noise):
    """A table with mean 0 whose draws, units and cells vary with the given standard deviations."""
    return (
        by_draw * rng.normal(size=(draws, 1))
        + by_unit * rng.normal(size=(1, units))
        + noise * rng.normal(size=(draws, units))
    )


def coverage(draws, units, by_draw, by_unit, noise, experiments=400):
    rng = np.random.default_rng(0)
    intervals = [
        pigeonhole_bootstrap(two_way(rng, draws, units, by_draw, by_unit, noise), resamples=500, seed=experiment)
        for experiment in range(experiments)
    ]
    return np.mean([low <= 0 <= high for low, high in intervals])


# 400 experiments know a coverage of 95 % to about 1.1 points.
@pytest.mark.parametrize(
    ("draws", "units", "by_draw", "by_unit", "noise"),
    [
        (10, 20, 1.0, 1.0, 1.0),
        (5, 10, 1.0, 0.2, 0.5),  # few draws that matter most: the plain percentiles cover 88 %
        (5, 10, 0.3, 1.0, 0.5),
        (3, 10, 1.0, 0.1, 0.1),  # three draws: the plain percentiles cover 80 %
        (5, 200, 0.3, 0.1, 1.0),  # units are test items
    ],
)
def test_the_95_percent_interval_covers_the_truth(draws, units, by_draw, by_unit, noise):
    assert coverage(draws, units, by_draw, by_unit, noise) >= 0.925


def test_without_the_small_sample_stretch_it_would_not_cover(monkeypatch):
    monkeypatch.setattr(statistics, "_small_sample_stretch", lambda table, tail: 1.0)
    assert coverage(5, 10, 1.0, 0.2, 0.5) < 0.91


def test_resampling_units_alone_would_not_cover():
    rng = np.random.default_rng(0)
    covered = []
    for experiment in range(200):
        table = two_way(rng, 10, 50, 1.0, 0.3, 0.5)
        low, high = pigeonhole_bootstrap(table.mean(axis=0, keepdims=True), resamples=500, seed=experiment)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < 0.5


def test_negative_control_two_equal_arms_differ_by_zero_about_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    contains_zero = []
    for experiment in range(400):
        hard = two_way(rng, 8, 12, 1.0, 1.0, 0.0)  # shared: what makes a draw or a class hard
        a = hard + two_way(rng, 8, 12, 0.3, 0.3, 0.3)
        b = hard + two_way(rng, 8, 12, 0.3, 0.3, 0.3)
        low, high = paired_difference(a, b, resamples=500, seed=experiment).ci95
        contains_zero.append(low <= 0 <= high)
    assert 0.925 <= np.mean(contains_zero) <= 0.995


def test_a_real_difference_is_found_although_the_arms_own_intervals_overlap():
    rng = np.random.default_rng(0)
    hard = two_way(rng, 10, 20, 1.0, 1.0, 0.0)
    a, b = hard + 0.3 + two_way(rng, 10, 20, 0, 0, 0.3), hard + two_way(rng, 10, 20, 0, 0, 0.3)
    assert paired_difference(a, b).ci95[0] > 0
    assert interval(a).ci95[0] < interval(b).ci95[1]


def test_resampled_means_by_loops():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 6))
    table[1, 2] = table[3, 5] = np.nan
    means = np.concatenate(list(statistics._resampled_means(table, 50, seed=3)))
    rows = [statistics.generator(3, "pigeonhole-bootstrap", index=axis) for axis in (0, 1)]
    drawn = [generator.integers(size, size=(50, size)) for generator, size in zip(rows, table.shape, strict=True)]
    for resample in range(50):
        cells = [table[i, j] for i in drawn[0][resample] for j in drawn[1][resample]]
        measured = [cell for cell in cells if not math.isnan(cell)]
        assert means[resample] == pytest.approx(sum(measured) / len(measured))


def test_blocks_do_not_change_the_result(monkeypatch):
    table = np.random.default_rng(0).normal(size=(5, 7))
    whole = pigeonhole_bootstrap(table, resamples=300)
    monkeypatch.setattr(statistics, "_BLOCK_CELLS", 70)
    assert pigeonhole_bootstrap(table, resamples=300) == pytest.approx(whole, abs=1e-12)


def test_one_sample_agrees_with_students_interval():
    values = np.random.default_rng(0).normal(size=(1, 200))
    low, high = pigeonhole_bootstrap(values, resamples=20_000)
    expected = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values[0]))
    np.testing.assert_allclose([low, high], expected, atol=0.01)


def test_three_axes_resample_seeds_too():
    rng = np.random.default_rng(0)
    covered = []
    for experiment in range(200):
        table = rng.normal(size=(3, 1, 1)) + 0.3 * two_way(rng, 5, 10, 1.0, 1.0, 1.0)
        low, high = pigeonhole_bootstrap(table, resamples=500, seed=experiment)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.91
    estimate = interval(np.arange(12.0).reshape(2, 3, 2))
    assert estimate.values == (0.5, 2.5, 4.5, 6.5, 8.5, 10.5)


def test_the_same_seed_gives_the_same_interval_and_the_global_generator_is_untouched():
    table = np.random.default_rng(0).normal(size=(5, 7))
    state = np.random.get_state()[1].copy()  # noqa: NPY002  # the global generator is what must not move
    first = pigeonhole_bootstrap(table, seed=1)
    assert first == pigeonhole_bootstrap(table, seed=1)
    assert first != pigeonhole_bootstrap(table, seed=2)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_nan_cells_are_left_out():
    table = np.array([[0.5, np.nan], [0.7, 0.9], [0.6, 0.8]])
    estimate = interval(table)
    assert estimate.mean == pytest.approx(np.mean([0.5, 0.7, 0.9, 0.6, 0.8]))
    assert estimate.values == pytest.approx((0.5, 0.8, 0.7))
    assert all(math.isfinite(end) for end in estimate.ci95)
    difference = paired_difference(table, np.zeros((3, 2)))
    assert difference.mean == pytest.approx(estimate.mean)


def test_limits_end_the_interval():
    table = np.array([[1.0, 1.0, 0.9], [0.8, 1.0, 1.0]])
    assert interval(table).ci95[1] > 1
    assert interval(table, limits=(0, 1)).ci95[1] == 1


def test_equal_cells_have_an_interval_of_no_width():
    assert interval(np.full((4, 3), 0.5)).ci95 == (0.5, 0.5)


def test_a_single_cell_has_no_interval():
    assert interval([[0.5]]).ci95 is None
    with pytest.raises(TransferError, match="says nothing about spread"):
        pigeonhole_bootstrap([[0.5]])


def test_bad_tables_are_refused():
    with pytest.raises(TransferError, match=r"found shapes \(2, 3\) and \(2, 4\)"):
        paired_difference(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(TransferError, match=r"\(draws, units\), found shape \(3,\)"):
        interval([0.1, 0.2, 0.3])
    with pytest.raises(TransferError, match="nothing was measured"):
        interval(np.full((2, 2), np.nan))
    with pytest.raises(TransferError, match="draw 1 has no measured unit"):
        interval([[0.1, 0.2], [np.nan, np.nan]])
    with pytest.raises(TransferError, match="infinite"):
        interval([[0.1, np.inf]])
    with pytest.raises(TransferError, match="resamples is 10"):
        pigeonhole_bootstrap(np.zeros((2, 2)), resamples=10)


def test_corrected_interval_from_the_formula():
    values = np.random.default_rng(0).normal(size=50)
    variance = sum((value - values.mean()) ** 2 for value in values) / 49
    reach = stats.t.ppf(0.975, 49) * math.sqrt((1 / 50 + 20 / 80) * variance)
    expected = (values.mean() - reach, values.mean() + reach)
    assert corrected_resampled_interval(values, n_train=80, n_test=20) == pytest.approx(expected)


def test_corrected_interval_does_not_vanish_with_more_splits():
    rng = np.random.default_rng(0)
    width = {}
    for splits in (10, 10_000):
        low, high = corrected_resampled_interval(rng.normal(size=splits), n_train=40, n_test=20)
        width[splits] = high - low
    assert width[10_000] > 0.5 * width[10]


def test_corrected_interval_refuses_bad_input():
    with pytest.raises(TransferError, match=r"k of at least 2, found shape \(1,\)"):
        corrected_resampled_interval([0.1], 10, 10)
    with pytest.raises(TransferError, match="n_train is 0"):
        corrected_resampled_interval([0.1, 0.2], 0, 10)
