"""Planted leaks are found, and nothing else."""

import numpy as np
import pytest

from auxtasks.errors import LeakError, TransferError
from transfer.leaks import find_leaks


def pictures(count, seed, size=6):
    return np.random.default_rng(seed).integers(256, size=(count, size, size, 3), dtype=np.uint8)


def test_nothing_shared_is_no_leak():
    leaks = find_leaks(pictures(20, 0), pictures(10, 1), support=pictures(5, 2))
    assert not leaks
    leaks.raise_if_any()
    assert "0 of 10 test pictures" in leaks.describe()
    assert "pictures in support and test: 0" in leaks.describe()
    assert "not compared" in leaks.describe()


def test_planted_duplicates_are_found_and_named():
    seen, test, support = pictures(20, 0), pictures(10, 1), pictures(5, 2)
    test[[2, 7]] = seen[[4, 11]]
    seen[15] = seen[4]
    test[9] = support[3]
    leaks = find_leaks(seen, test, support=support)
    assert leaks.pretraining.test_rows == (2, 7)
    assert leaks.pretraining.seen_rows == (4, 11, 15)
    assert leaks.pretraining.examples == ((4, 2), (11, 7))
    assert leaks.support.test_rows == (9,)
    assert leaks.support.seen_rows == (3,)
    assert "2 of 10 test pictures (pretraining row 4 = test row 2, pretraining row 11 = test row 7)" in leaks.describe()
    assert "support row 3 = test row 9" in leaks.describe()


def test_one_pixel_or_another_shape_is_another_picture():
    seen = pictures(1, 0)
    other = seen.copy()
    other[0, 0, 0, 0] ^= 1
    assert not find_leaks(seen, other)
    assert not find_leaks([np.zeros((2, 8, 3), np.uint8)], [np.zeros((4, 4, 3), np.uint8)])


def test_pictures_may_come_one_by_one_in_any_memory_order_and_size():
    seen = pictures(4, 0)
    test = [pictures(1, 1, size=9)[0], np.asfortranarray(seen[2])]
    assert find_leaks((picture for picture in seen), iter(test)).pretraining.examples == ((2, 1),)


def test_names_match_whatever_their_spelling():
    leaks = find_leaks(
        pictures(1, 0),
        pictures(1, 1),
        pretraining_names=["Gerhard_Schröder", "Ada  Lovelace", "Grace Hopper"],
        target_names=["gerhard schroder", "ADA_LOVELACE", "Alan_Turing"],
    )
    assert leaks.identities == ("ADA_LOVELACE", "gerhard schroder")
    assert "identities in pretraining and target: 2 (ADA_LOVELACE, gerhard schroder)" in leaks.describe()
    with pytest.raises(LeakError, match="remove what is shared from pretraining"):
        leaks.raise_if_any()


def test_names_of_one_side_are_not_compared():
    leaks = find_leaks(pictures(1, 0), pictures(1, 1), pretraining_names=["Ada"])
    assert leaks.identities is None
    assert not leaks


def test_the_error_says_what_to_do_for_each_kind():
    seen, test = pictures(20, 0), pictures(10, 1)
    test[:7] = seen[:7]
    with pytest.raises(LeakError, match=r"7 of 10 test pictures .*test row 4, \.\.\.\)") as raised:
        find_leaks(seen, test).raise_if_any()
    assert "pretrain again" in str(raised.value)
    assert "pool" not in str(raised.value)
    with pytest.raises(LeakError, match="remove the duplicates from the pool that labels are drawn from"):
        find_leaks(pictures(3, 5), test, support=test[:1]).raise_if_any()


def test_normalised_pictures_are_refused():
    with pytest.raises(TransferError, match="picture 0 is float64: decoded pixels are uint8"):
        find_leaks(pictures(2, 0), pictures(2, 1) / 255)


def test_a_validation_set_is_compared_with_the_test_and_with_the_labels():
    seen, test, support, held = pictures(20, 0), pictures(10, 1), pictures(5, 2), pictures(6, 3)
    held[2] = support[4]
    told = find_leaks(seen, test, support=support, validation=held)
    assert not told  # choices are worse for it, the test is not
    assert "pictures in support and validation: 1 (support row 4 = validation row 2)" in told.describe()
    assert "pictures in validation and test: 0" in told.describe()
    test[9] = held[0]
    leaks = find_leaks(seen, test, support=support, validation=held)
    assert leaks.validation.examples == ((0, 9),)
    with pytest.raises(LeakError, match="and from the validation set"):
        leaks.raise_if_any()
