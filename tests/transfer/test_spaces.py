"""The spaces that heads may use: which are there, and what happens when the pretraining data is too small for them."""

from __future__ import annotations

import numpy as np

from auxtasks.backbones import convnet
from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.features.cache import FeatureCache
from transfer.spaces import Metric, Pretrained, default_pools, feature_spaces


def faces(people: int, photos: int, first: int = 0) -> ImageTable:
    source = load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": people, "photos": photos, "size": 20, "first_person": first},
    )
    return decode_images(source, size=(20, 20), channels=1)


def backbone():
    return convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, seed=0)


def spaces_of(pretrained: Pretrained | None, metric: Metric | None):
    network = backbone()
    layers = default_pools(network)
    return feature_spaces(
        network, faces(3, 3, 90), layers, FeatureCache(), mirror=False, pretrained=pretrained, metric=metric
    )


def test_every_layer_stands_alone_and_as_discriminants():
    found = spaces_of(Pretrained(faces(6, 3), faces(4, 3, 50)), Metric(components=4))
    layers = ["stem", "stage1", "stage2", "embedding"]
    assert list(found.target) == [*layers, *(f"{layer}+discriminants" for layer in layers)]
    assert found.target["stage2"].shape == (9, 16 * 9)  # a grid of 3 x 3 cells
    assert found.target["stage2+discriminants"].shape == (9, 4)
    assert found.proxy is not None
    assert set(found.proxy.features) == set(found.target)
    assert not found.notes


def test_too_few_people_with_two_photos_leave_the_layers_and_a_note():
    found = spaces_of(Pretrained(faces(2, 3), faces(4, 3, 50)), Metric())
    assert list(found.target) == ["stem", "stage1", "stage2", "embedding"]
    assert found.notes == ("no discriminants: fewer than 3 people of the pretraining data have two pictures.",)


def test_without_pretraining_data_there_is_no_proxy():
    found = spaces_of(None, Metric())
    assert found.proxy is None
    assert not found.discriminants


def test_discriminants_are_fitted_on_whole_people_within_the_limit():
    pretrained = Pretrained(faces(8, 3), faces(4, 3, 50))
    few, all_people = (spaces_of(pretrained, Metric(components=7, pictures=pictures)) for pictures in (12, 1000))
    # 12 pictures are 4 people, who span 3 directions; 8 people span 7.
    assert few.target["stage2+discriminants"].shape[1] == 3
    assert all_people.target["stage2+discriminants"].shape[1] == 7
    assert np.isfinite(few.target["stage2+discriminants"]).all()
