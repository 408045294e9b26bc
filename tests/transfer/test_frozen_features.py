"""Frozen features as scikit-learn expects a transformer."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from auxtasks.backbones import mlp
from auxtasks.errors import ImageError, InputMismatchError, LayerError
from auxtasks.features.extract import extract
from transfer.frozen_features import FrozenFeatures


@pytest.fixture
def pictures(quadrants):
    return list(quadrants.pixels)


def test_features_are_those_of_the_table(backbone, quadrants, pictures):
    for layer, pool, mirror in [("stage1", "grid", True), ("stage2", "mean", False), ("embedding", "auto", False)]:
        expected = extract(backbone, quadrants, {layer: pool}, mirror=mirror)[layer]
        found = FrozenFeatures(backbone, layer, pool, mirror=mirror).fit(pictures).transform(pictures)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_the_last_layer_is_the_default(backbone, pictures):
    found = FrozenFeatures(backbone).transform(pictures[:3])
    np.testing.assert_array_equal(found, FrozenFeatures(backbone, "embedding").transform(pictures[:3]))
    assert found.shape == (3, 8)


def test_any_kind_of_picture_gives_the_same_features(backbone, pictures, tmp_path):
    image = Image.fromarray(pictures[0][:, :, 0])
    image.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    found = FrozenFeatures(backbone).transform([pictures[0], image, tmp_path / "a.png", buffer.getvalue()])
    assert (found == found[0]).all()


def test_a_pipeline_learns_and_shuffled_labels_do_not(backbone, quadrants, pictures):
    pipeline = make_pipeline(FrozenFeatures(backbone, "stage1", "grid"), LogisticRegression(max_iter=1000))
    labels = quadrants.labels
    assert cross_val_score(pipeline, pictures, labels, cv=4).mean() == 1.0
    shuffled = np.random.default_rng(0).permutation(labels)
    assert cross_val_score(pipeline, pictures, shuffled, cv=4).mean() < 0.5


def test_a_clone_is_independent_and_gives_the_same(backbone, pictures):
    original = FrozenFeatures(backbone, "stage1", "mean", mirror=True, fit_mode="crop")
    copy = clone(original)
    assert copy.get_params() | {"backbone": None} == original.get_params() | {"backbone": None}
    assert copy.backbone is not backbone
    expected = original.transform(pictures)
    np.testing.assert_array_equal(copy.transform(pictures), expected)
    for parameter in backbone.parameters():
        parameter.data.zero_()
    np.testing.assert_array_equal(copy.transform(pictures), expected)
    assert not np.array_equal(original.transform(pictures), expected)


def test_the_layer_can_be_searched_for(backbone, quadrants, pictures):
    pipeline = make_pipeline(FrozenFeatures(backbone), LogisticRegression(max_iter=1000))
    assert pipeline.get_params()["frozenfeatures__pool"] == "auto"
    grid = {"frozenfeatures__layer": ["embedding", "stage1"], "frozenfeatures__pool": ["grid"]}
    grid["frozenfeatures__layer"] = ["stem", "stage1"]
    search = GridSearchCV(pipeline, grid, cv=2).fit(pictures, quadrants.labels)
    assert search.best_params_["frozenfeatures__layer"] in {"stem", "stage1"}
    assert search.score(pictures, quadrants.labels) == 1.0


def test_the_backbone_keeps_its_mode(backbone, pictures):
    backbone.train()
    FrozenFeatures(backbone).transform(pictures[:2])
    assert backbone.training


def test_wrong_things_are_refused(backbone, pictures, tmp_path):
    with pytest.raises(LayerError, match=r'no layer "stage9"'):
        FrozenFeatures(backbone, "stage9").transform(pictures)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        FrozenFeatures(backbone).transform([tmp_path / "broken.png"])
    with pytest.raises(InputMismatchError, match=r"takes vectors of 4 features, .*found the shape \(32, 20, 20, 1\)"):
        FrozenFeatures(mlp(width=4, hidden=[3])).transform(pictures)


def test_no_picture_gives_no_row(backbone):
    assert FrozenFeatures(backbone, "stage1", "grid").transform([]).shape == (0, 72)
