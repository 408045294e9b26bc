"""Pairs of pictures: people kept apart, as many of one kind as of the other, files that are checked."""

import numpy as np
import pytest

from auxtasks.data import balanced_pairs, hold_out, load_pairs, load_source
from auxtasks.data.pairs import refuse_trained_people
from auxtasks.errors import ColumnError, DataError, LeakError

LABELS = np.random.default_rng(0).permutation([*np.repeat(range(10), range(1, 11)), *[-1] * 5])


@pytest.mark.parametrize(("share", "people"), [(0.0, 0), (0.1, 1), (0.3, 3), (0.25, 2), (1.0, 10)])
def test_people_are_held_out_whole(share, people):
    trained, held = hold_out(LABELS, share, seed=0)
    assert sorted([*trained, *held]) == list(range(len(LABELS)))
    assert len(np.unique(LABELS[held])) == people
    assert not set(LABELS[trained]) & set(LABELS[held])
    assert (LABELS[held] >= 0).all()


def test_the_seed_says_who_is_held_out():
    drawn = [tuple(hold_out(LABELS, 0.5, seed)[1]) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_pairs_are_balanced_and_say_the_truth():
    pairs = balanced_pairs(LABELS, seed=0)
    assert len(pairs) == 2 * pairs.same.sum()
    assert ((LABELS[pairs.left] == LABELS[pairs.right]) == pairs.same).all()
    assert (pairs.left != pairs.right).all()
    assert (LABELS[pairs.rows] >= 0).all()
    same = {frozenset(pair) for pair in zip(pairs.left[pairs.same == 1], pairs.right[pairs.same == 1], strict=True)}
    # At most 5 photos a person: 1 + 3 + 6 + 6 * 10 pairs of people with 2, 3, 4 and 5 or more; none twice.
    assert len(same) == pairs.same.sum() == 70


def test_pairs_can_be_limited():
    pairs = balanced_pairs(LABELS, seed=0, photos=3, limit=10)
    assert pairs.same.tolist() == [1] * 10 + [0] * 10


def test_pairs_are_a_function_of_the_seed():
    a, b, c = (balanced_pairs(LABELS, seed) for seed in (0, 0, 1))
    assert a.left.tolist() == b.left.tolist()
    assert a.left.tolist() != c.left.tolist()


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 0, 0], "3 labelled photos of 1 people, of whom 1 have two or more"),
        ([0, 1, 2], "3 labelled photos of 3 people, of whom 0 have two or more"),
        ([-1, -1], "0 labelled photos of 0 people, of whom 0 have two or more"),
        ([0, 0, -1, -1], "2 labelled photos of 1 people, of whom 1 have two or more"),
    ],
)
def test_labels_that_make_no_pairs_are_refused_and_counted(labels, found):
    with pytest.raises(DataError, match=f"needs two people, one of them with two photos; found {found}"):
        balanced_pairs(labels, seed=0)


@pytest.fixture
def pictures():
    return load_source(
        {"image": [np.zeros((4, 4), np.uint8)] * 4, "label": list("aabb"), "file": [f"{n}.png" for n in range(4)]},
        columns={"image": "image", "label": "label"},
    )


def write(path, text):
    path.write_text(text)
    return path


def test_a_file_of_pairs_is_read_as_rows(tmp_path, pictures):
    path = write(tmp_path / "pairs.csv", "left,right,same,fold\n1.png,0.png,1,0\n3.png,1.png,0,1\n2.png,3.png,1,1\n")
    pairs = load_pairs(path, pictures)
    assert pairs.left.tolist() == [1, 3, 2]
    assert pairs.right.tolist() == [0, 1, 3]
    assert pairs.same.tolist() == [1, 0, 1]
    assert pairs.folds.tolist() == [0, 1, 1]
    assert pairs.rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fold", ["", ",fold"])
def test_without_folds_or_with_a_single_one_there_are_none(tmp_path, pictures, fold):
    end = ",-1" if fold else ""
    path = write(tmp_path / "pairs.csv", f"left,right,same{fold}\n1.png,0.png,1{end}\n3.png,1.png,0{end}\n")
    assert load_pairs(path, pictures).folds is None


def test_a_protocol_is_picked(tmp_path, pictures):
    path = write(tmp_path / "pairs.csv", "left,right,same,protocol\n1.png,0.png,1,dev\n3.png,1.png,0,test\n")
    assert load_pairs(path, pictures, protocol="test").left.tolist() == [3]


def test_pictures_that_are_not_there_are_counted_and_named(tmp_path, pictures):
    path = write(tmp_path / "pairs.csv", "left,right,same\n1.png,9.png,1\n8.png,9.png,0\n")
    with pytest.raises(DataError, match=r"2 pictures of the pairs file are not among the 4 pictures, such as '8\.png'"):
        load_pairs(path, pictures)


def test_columns_that_are_not_there_are_named(tmp_path, pictures):
    with pytest.raises(ColumnError, match="right"):
        load_pairs(write(tmp_path / "pairs.csv", "left,same\n1.png,1\n"), pictures)
    path = write(tmp_path / "other.csv", "left,right,same\n1.png,0.png,1\n")
    with pytest.raises(DataError, match='by a column "name", which the pictures do not have; their columns: image'):
        load_pairs(path, pictures, key="name")


def test_people_that_were_trained_on_are_refused():
    refuse_trained_people(["c", "d"], ["a", "b"])  # strangers pass
    with pytest.raises(LeakError, match="2 of the 3 people in the pairs were trained on, such as 'b'"):
        refuse_trained_people(["d", "c", "b", "b"], ["a", "b", "c"])
