"""Verification by a protocol: scores as cosines, metrics against scikit-learn, thresholds from elsewhere."""

import dataclasses

import numpy as np
import pytest
from datasets import Image
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.data.pairs import Pairs, balanced_pairs
from auxtasks.errors import DataError
from auxtasks.features.extract import extract
from auxtasks.metrics import best_threshold
from auxtasks.tasks.verification import held_out_threshold, pair_scores, verify


@pytest.fixture
def pairs(face_table):
    return balanced_pairs(face_table.labels, seed=0)


@pytest.fixture
def backbone(tiny_convnet):
    return tiny_convnet()


@pytest.mark.parametrize("mirror", [True, False])
def test_scores_are_cosines_of_the_two_embeddings(backbone, face_table, pairs, mirror):
    embeddings = extract(backbone, face_table, ["embedding"], mirror=mirror)["embedding"].astype(float)
    expected = [
        float(embeddings[a] @ embeddings[b] / np.linalg.norm(embeddings[a]) / np.linalg.norm(embeddings[b]))
        for a, b in zip(pairs.left, pairs.right, strict=True)
    ]
    found = pair_scores(backbone, face_table, pairs, mirror=mirror)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 0.1


def test_another_layer_can_be_the_embedding(backbone, face_table, pairs):
    found = pair_scores(backbone, face_table, pairs, layer="stage1", pool="grid")
    assert np.abs(found - pair_scores(backbone, face_table, pairs)).max() > 0.01


def test_metrics_equal_scikit_learn_s(backbone, face_table, pairs):
    scores = pair_scores(backbone, face_table, pairs)
    found = verify(backbone, face_table, pairs)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(pairs.same, scores))
    far, tar, _ = roc_curve(pairs.same, scores, drop_intermediate=False)
    for rate in (0.1, 0.01, 0.001):
        assert found[f"tar_at_far_{rate:g}"] == pytest.approx(tar[far <= rate].max())
    # Where the curve, joined by straight lines, has as many false accepts as false rejects.
    places = np.arange(len(far))
    crossing = brentq(lambda t: np.interp(t, places, far) - np.interp(t, places, 1 - tar), 0, len(far) - 1)
    assert found["equal_error_rate"] == pytest.approx(np.interp(crossing, places, far))
    assert found["pairs"] == len(pairs) == 96
    assert "accuracy" not in found  # there is no threshold from elsewhere


def test_a_threshold_from_elsewhere_gives_an_accuracy(backbone, face_table, pairs):
    scores = pair_scores(backbone, face_table, pairs)
    threshold = float(np.median(scores))
    found = verify(backbone, face_table, pairs, threshold=threshold)
    right = sum((score >= threshold) == bool(same) for score, same in zip(scores, pairs.same, strict=True))
    assert found["accuracy"] == right / len(pairs)
    assert found["threshold"] == threshold


def test_each_fold_is_judged_by_the_threshold_of_the_others(backbone, face_table, pairs):
    folds = np.arange(len(pairs)) % 4
    found = verify(backbone, face_table, dataclasses.replace(pairs, folds=folds), threshold=99.0)
    scores = pair_scores(backbone, face_table, pairs)
    accuracies = []
    for fold in range(4):
        others = folds != fold
        # The slow way: try every score of the other folds as the threshold.
        candidates = np.unique(scores[others])
        middles = [candidates[0], *((candidates[:-1] + candidates[1:]) / 2), candidates[-1] + 1]
        best = max(np.mean((scores[others] >= t) == pairs.same[others]) for t in middles)
        threshold = best_threshold(scores[others], pairs.same[others])
        assert np.mean((scores[others] >= threshold) == pairs.same[others]) == best
        accuracies.append(np.mean((scores[~others] >= threshold) == pairs.same[~others]))
    assert found["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["accuracy_fold_std"] == pytest.approx(np.std(accuracies, ddof=1))


def test_the_held_out_threshold_is_the_best_one_on_the_held_out_people(backbone, strangers):
    held_out = decode_images(strangers, size=(20, 20), channels=1)
    pairs = balanced_pairs(held_out.labels, seed=0)
    scores = pair_scores(backbone, held_out, pairs)
    threshold = held_out_threshold(backbone, held_out)
    right = np.mean((scores >= threshold) == pairs.same)
    assert right == max(np.mean((scores >= t) == pairs.same) for t in [*scores, 2.0])
    # Rows of a part count from the source, not from the part.
    part = held_out.subset(range(8, 24))
    assert held_out_threshold(backbone, part) == held_out_threshold(
        backbone, dataclasses.replace(part, rows=np.arange(16))
    )


def test_too_few_held_out_people_are_an_error(backbone, face_table):
    with pytest.raises(DataError, match=r"found 4 labelled photos of 1 people, .* Hold out more people"):
        held_out_threshold(backbone, face_table.subset(range(4)))


@pytest.fixture
def with_a_broken_picture(faces) -> ImageTable:
    stored = [item["bytes"] for item in faces.cast_column("image", Image(decode=False))["image"]]
    stored[5] = b"no picture"
    source = load_source({"image": stored}, columns={"image": "image"})
    return decode_images(source, size=(20, 20), channels=1, on_error="skip")


def test_a_skipped_picture_shifts_no_other(backbone, face_table, with_a_broken_picture, pairs):
    assert len(with_a_broken_picture) == 31
    keep = (pairs.left != 5) & (pairs.right != 5)
    assert 0 < keep.sum() < len(pairs)
    whole = Pairs(left=pairs.left[keep], right=pairs.right[keep], same=pairs.same[keep])
    np.testing.assert_allclose(
        pair_scores(backbone, with_a_broken_picture, whole), pair_scores(backbone, face_table, whole), atol=1e-6
    )


def test_a_pair_of_a_skipped_picture_is_an_error(backbone, with_a_broken_picture, pairs):
    with pytest.raises(DataError, match="1 pictures of the pairs could not be read, such as row 5 of the source"):
        pair_scores(backbone, with_a_broken_picture, pairs)
