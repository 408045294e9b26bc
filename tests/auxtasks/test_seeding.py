"""Random numbers are a function of what they are for, and of nothing that happened before."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from auxtasks.seeding import generator, torch_seed

ARGUMENTS = [(seed, purpose, epoch, index) for seed in (0, 1) for purpose in ("a", "b") for epoch in (0, 1)
             for index in (0, 1)]  # fmt: skip


def test_the_order_of_asking_changes_nothing():
    forwards = {arguments: generator(*arguments).random(5).tolist() for arguments in ARGUMENTS}
    backwards = {arguments: generator(*arguments).random(5).tolist() for arguments in reversed(ARGUMENTS)}
    assert forwards == backwards


def test_each_argument_alone_changes_the_numbers():
    streams = [generator(*arguments).random(1000) for arguments in ARGUMENTS]
    for a, b in itertools.combinations(streams, 2):
        # Independent streams: 1000 pairs correlate by .03 as a rule, and share no number.
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
        assert not np.intersect1d(a, b).size


def test_neighbouring_streams_do_not_run_into_each_other():
    # A counter that began at `index` would make stream 1 the rest of stream 0.
    long = generator(0, "a", 0, 0).random(4096)
    assert not np.isin(generator(0, "a", 0, 1).random(16), long).any()
    assert not np.isin(generator(0, "a", 1, 0).random(16), long).any()


def test_numbers_are_uniform_over_indices():
    # Each item draws its first number: over items these must be as random as one long stream.
    firsts = np.array([generator(3, "augment", 0, index).random() for index in range(2000)])
    counts = np.histogram(firsts, bins=10, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = .001


def test_a_large_seed_and_index_are_taken():
    large = generator(2**80, "a", 2**40, 2**60).random()
    assert large != generator(2**80 + 1, "a", 2**40, 2**60).random()
    assert large != generator(2**80, "a", 2**40, 2**60 + 1).random()


def test_a_negative_index_is_refused():
    with pytest.raises(OverflowError, match="out of bounds"):
        generator(0, "a", 0, -1)


def test_global_generators_are_left_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global generator is the point
    generator(0, "a").random()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_torch_seeds_fit_and_differ():
    seeds = {torch_seed(seed, purpose, step, rank) for seed in (0, 1) for purpose in ("a", "b") for step in range(20)
             for rank in (0, 1)}  # fmt: skip
    assert len(seeds) == 160
    assert all(0 <= seed < 2**63 for seed in seeds)
    # (1, 23) and (12, 3) would be one text without a separator.
    assert torch_seed(0, "a", 1, 23) != torch_seed(0, "a", 12, 3)


def test_another_process_gets_the_same_numbers():
    code = "from auxtasks.seeding import *; print(repr(float(generator(5, 'a', 1, 2).random())), torch_seed(5, 'a', 1))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [repr(float(generator(5, "a", 1, 2).random())), str(torch_seed(5, "a", 1))]
