"""Discriminants against scikit-learn's LDA, and what they are for: nuisance that people share is turned down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from auxtasks.errors import TransferError
from transfer.discriminants import base_layer, fit_discriminants, with_discriminants


def people_and_light(people: int, photos: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Six features: two tell people apart, four are light, ten times as strong."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), photos)
    who = rng.normal(size=(people, 2))[labels] + 0.2 * rng.normal(size=(people * photos, 2))
    light = 10 * rng.normal(size=(people * photos, 4))
    mix = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    return (np.hstack([who, light]) @ mix).astype(np.float32), labels


def test_without_shrinkage_the_directions_are_those_of_linear_discriminant_analysis():
    features, labels = people_and_light(people=30, photos=6, seed=0)
    found = fit_discriminants(features, labels, components=2, shrinkage=1e-9)
    theirs = LinearDiscriminantAnalysis(solver="eigen", n_components=2).fit(features, labels).scalings_[:, :2]
    ours_span = np.linalg.qr(found.matrix)[0]
    theirs_span = np.linalg.qr(theirs)[0]
    # The same plane: the cosines of its principal angles are 1.
    np.testing.assert_allclose(np.linalg.svd(ours_span.T @ theirs_span)[1], 1.0, atol=1e-4)


def test_within_covariance_becomes_the_identity():
    features, labels = people_and_light(people=50, photos=8, seed=1)
    projected = fit_discriminants(features, labels, components=6, shrinkage=1e-9)(features)
    means = np.stack([projected[labels == person].mean(axis=0) for person in range(50)])
    within = projected - means[labels]
    np.testing.assert_allclose(within.T @ within / (len(labels) - 50), np.eye(projected.shape[1]), atol=1e-2)


def test_strangers_are_told_apart_where_pixels_see_the_light():
    features, labels = people_and_light(people=60, photos=5, seed=2)
    rng = np.random.default_rng(2)  # the same numbers again: who it is, before the light was mixed in
    who = rng.normal(size=(60, 2))[labels] + 0.2 * rng.normal(size=(300, 2))
    known, strangers = labels < 40, labels >= 40
    found = fit_discriminants(features[known], labels[known], components=2, shrinkage=1e-3)

    def nearest_is_same(space: np.ndarray) -> float:
        distance = np.linalg.norm(space[:, None] - space[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        return float(np.mean(labels[strangers][distance.argmin(axis=1)] == labels[strangers]))

    best = nearest_is_same(who[strangers])
    assert nearest_is_same(features[strangers]) < best / 2
    assert nearest_is_same(found(features[strangers])) > best - 0.05


def test_shuffled_identities_give_nothing():
    features, labels = people_and_light(people=60, photos=5, seed=3)
    shuffled = np.random.default_rng(0).permutation(labels)
    found = fit_discriminants(features, shuffled, components=2, shrinkage=1e-3)
    spread = found(features)
    means = np.stack([spread[labels == person].mean(axis=0) for person in range(60)])
    between = means.var(axis=0).sum() / spread.var(axis=0).sum()
    true = fit_discriminants(features, labels, components=2, shrinkage=1e-3)(features)
    true_means = np.stack([true[labels == person].mean(axis=0) for person in range(60)])
    assert between < 0.5 < true_means.var(axis=0).sum() / true.var(axis=0).sum()


def test_unlabelled_pictures_and_single_photos_change_nothing():
    features, labels = people_and_light(people=10, photos=4, seed=4)
    alone = fit_discriminants(features, labels, components=3)
    extra = np.vstack([features, np.full((3, 6), 1e3, np.float32)])
    with_extra = fit_discriminants(extra, np.append(labels, [-1, -1, 77]), components=3)
    np.testing.assert_array_equal(alone.matrix, with_extra.matrix)
    np.testing.assert_array_equal(alone.shift, with_extra.shift)


def test_a_linear_head_on_discriminants_is_a_linear_head_on_the_layer():
    features, labels = people_and_light(people=10, photos=4, seed=5)
    found = fit_discriminants(features, labels, components=3)
    weight, bias = torch.randn(4, 3), torch.randn(4)
    on_layer, shifted = found.unfold(weight, bias)
    expected = torch.from_numpy(found(features)) @ weight.T + bias
    torch.testing.assert_close(torch.from_numpy(features) @ on_layer.T + shifted, expected, rtol=1e-4, atol=1e-3)


def test_too_few_people_are_refused():
    with pytest.raises(TransferError, match="three identities with two pictures each, found 1 among 3"):
        fit_discriminants(np.zeros((3, 2), np.float32), np.array([0, 0, 1]))


def test_names_of_spaces_lead_back_to_their_layers():
    features, labels = people_and_light(people=5, photos=4, seed=6)
    spaces = with_discriminants({"low": features}, {"low": fit_discriminants(features, labels, components=2)})
    assert list(spaces) == ["low", "low+discriminants"]
    assert {base_layer(name) for name in spaces} == {"low"}
    assert spaces["low+discriminants"].shape == (20, 2)
