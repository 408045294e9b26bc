"""Inputs of layers: equal to a pass through all layers below, computed once, kept under a key that misses nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from auxtasks.backbones import convnet, mlp
from auxtasks.errors import DataError, InputMismatchError, LayerError
from auxtasks.features.batches import model_batch
from auxtasks.features.cache import FeatureCache
from auxtasks.features.layer_inputs import InputSummary, LayerInputs, read_rows, summarize

ITEMS = 50


def vectors(items=ITEMS, width=6, seed=0):
    return np.random.default_rng(seed).random((items, width), dtype=np.float32)


def network(seed=0):
    return mlp(width=6, hidden=[5, 4, 3], activation="sigmoid", seed=seed)


def small_convnet():
    return convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.4)


def count(backbone):
    """Make a backbone write down how many items pass each stage; an example, which measures a shape, does not count."""
    passed = []

    def counted(stage):
        def apply(module, x):
            if len(x) > 1:
                passed.append((stage.name, len(x)))
            return stage.apply(module, x)

        return dataclasses.replace(stage, apply=apply)

    backbone.stages = tuple(counted(stage) for stage in backbone.stages)
    return passed


@pytest.mark.parametrize("batch_size", [7, 1024])
def test_inputs_of_vectors_are_what_the_layers_below_give(batch_size):
    backbone, source = network(), vectors()
    inputs = LayerInputs(backbone, source, batch_size=batch_size)
    assert np.array_equal(inputs.of("hidden1"), source)
    expected = backbone.forward_layers(torch.from_numpy(source), ["hidden1", "hidden2"])
    for layer, below in (("hidden3", "hidden2"), ("hidden2", "hidden1")):
        found = inputs.of(layer)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[below].detach().numpy(), atol=1e-6)
    assert len(inputs) == ITEMS
    assert found.std() > 0.01


@pytest.mark.parametrize("folder", [True, False])
def test_inputs_of_pictures_are_bytes_and_then_what_the_layers_below_give(face_table, tmp_path, folder):
    backbone = small_convnet().train()  # dropout has to be off all the same
    inputs = LayerInputs(backbone, face_table, FeatureCache(tmp_path) if folder else None, batch_size=5)
    pixels = inputs.of("stem")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(face_table), 1, 16, 16)
    with torch.no_grad():
        normalized = backbone.input.normalize(torch.from_numpy(pixels.copy()))
        # The same pictures as features are computed from.
        assert torch.equal(normalized, model_batch(backbone, face_table, range(len(face_table))))
        expected = backbone.eval().forward_layers(normalized, backbone.layer_names)
    backbone.train()
    for below, layer in zip(backbone.layer_names[:-1], backbone.layer_names[1:], strict=True):
        np.testing.assert_allclose(inputs.of(layer), expected[below], atol=1e-5)
    assert backbone.training


def test_inputs_are_computed_once_from_one_layer_below():
    backbone = network()
    inputs = LayerInputs(backbone, vectors(), batch_size=20)
    passed = count(backbone)
    first = inputs.of("hidden2")
    assert passed == [("hidden1", 20), ("hidden1", 20), ("hidden1", 10)]
    assert inputs.of("hidden2") is first
    assert len(passed) == 3
    inputs.of("hidden3")  # from those of hidden2, which are there
    assert passed[3:] == [("hidden2", 20), ("hidden2", 20), ("hidden2", 10)]
    inputs.of("hidden3")
    inputs.of("hidden1")
    assert len(passed) == 6


@pytest.mark.parametrize("folder", [True, False])
def test_weights_above_change_nothing_and_weights_below_do(tmp_path, folder):
    backbone = network()
    inputs = LayerInputs(backbone, vectors(), FeatureCache(tmp_path) if folder else None)
    passed = count(backbone)
    before = np.array(inputs.of("hidden2"))
    for layer in ("hidden2", "hidden3"):
        next(p for _, p in backbone.parameters_of(layer)).data.add_(1)
    assert np.array_equal(inputs.of("hidden2"), before)
    assert len(passed) == 1
    next(p for _, p in backbone.parameters_of("hidden1")).data.add_(1)
    after = inputs.of("hidden2")
    assert len(passed) == 2
    np.testing.assert_allclose(after, backbone.lower("hidden1")(torch.from_numpy(vectors())).detach(), atol=1e-6)
    assert not np.allclose(after, before)


def test_a_folder_keeps_them_for_another_run_and_maps_them(tmp_path):
    cache = FeatureCache(tmp_path)
    first = LayerInputs(network(), vectors(), cache).of("hidden3")
    assert isinstance(first, np.memmap)
    assert first.flags.writeable is False
    backbone = network()
    passed = count(backbone)
    inputs = LayerInputs(backbone, vectors(), cache)
    assert np.array_equal(inputs.of("hidden3"), first)
    assert passed == []
    batch = read_rows(inputs.of("hidden3"), np.array([4, 2]))
    np.testing.assert_array_equal(batch, first[[4, 2]])
    batch.zero_()  # a copy of its own
    assert first[4].sum() != 0
    assert len(list(tmp_path.iterdir())) == 2  # of hidden2 and hidden3


def test_other_items_another_network_and_another_layer_are_other_inputs(tmp_path):
    cache = FeatureCache(tmp_path)
    LayerInputs(network(), vectors(), cache).of("hidden2")
    for backbone, source in (
        (network(), vectors(seed=1)),
        (network(seed=1), vectors()),
        (network(), vectors(items=40)),
    ):
        passed = count(backbone)
        found = LayerInputs(backbone, source, cache).of("hidden2")
        assert passed == [("hidden1", len(source))]
        np.testing.assert_allclose(found, backbone.lower("hidden1")(torch.from_numpy(source)).detach(), atol=1e-6)


def test_too_much_is_refused_before_anything_is_computed(tmp_path):
    backbone = network()
    passed = count(backbone)
    inputs = LayerInputs(backbone, vectors(), FeatureCache(tmp_path, limit_bytes=100))
    with pytest.raises(DataError, match=r"the inputs of hidden2 would take 0 MB"):
        inputs.of("hidden2")
    assert passed == []


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((0, 6), np.float32), DataError, "the source holds no items: there is nothing to learn from"),
        (np.zeros((3, 5), np.float32), InputMismatchError, r"float32 items of shape \(6,\).* of shape \(5,\)"),
        (np.zeros((3, 6)), InputMismatchError, r"the array holds float64 items of shape \(6,\)"),
        (np.zeros((3, 6), np.uint8), InputMismatchError, "the array holds uint8 items"),
    ],
)
def test_sources_that_do_not_fit_are_refused(source, error, message):
    with pytest.raises(error, match=message):
        LayerInputs(network(), source)


def test_pictures_of_other_channels_are_refused(face_table):
    with pytest.raises(InputMismatchError, match=r"takes image items of shape \(3, 16, 16\).*pictures with 1 channels"):
        LayerInputs(mlp(size=16, channels=3), face_table)
    with pytest.raises(InputMismatchError, match="takes features items"):
        LayerInputs(network(), face_table)


def test_a_wrong_layer_is_refused():
    with pytest.raises(LayerError, match=r'no layer "hiden2".*Did you mean "hidden2"'):
        LayerInputs(network(), vectors()).of("hiden2")


# Summaries


def test_a_summary_is_numpy_s():
    values = np.random.default_rng(0).normal(1e4, 2.0, size=(2500, 6)).astype(np.float32)  # more than two blocks
    values[:, 2] = 0.1  # float32 has no 0.1: sums of it are not exact
    values[:, 4] = -3e4
    values[7, 5] = 9e4
    found = summarize(network(), "hidden1", values)
    assert isinstance(found, InputSummary)
    assert found.items == 2500
    assert (found.lowest, found.highest) == (-3e4, 9e4)
    np.testing.assert_allclose(found.mean, values.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std[[0, 1, 3, 5]], values.astype(np.float64).std(axis=0)[[0, 1, 3, 5]], rtol=1e-5)
    assert found.std[[2, 4]].tolist() == [0.0, 0.0]
    assert found.constant.tolist() == [2, 4]
    assert found.mean.dtype == found.std.dtype == torch.float32


def test_a_feature_that_hardly_changes_is_not_constant():
    values = np.ones((2000, 6), np.float32)
    values[1234, 3] = np.nextafter(np.float32(1), np.float32(2))
    found = summarize(network(), "hidden1", values)
    assert found.constant.tolist() == [0, 1, 2, 4, 5]
    assert 0 < found.std[3] < 1e-6


def test_a_summary_of_pictures_is_on_the_scale_of_the_layer(face_table):
    backbone = mlp(size=16, hidden=[4])
    pixels = LayerInputs(backbone, face_table).of("hidden1")
    found = summarize(backbone, "hidden1", pixels)
    assert found.mean.shape == (1, 16, 16)
    np.testing.assert_allclose(found.mean, (pixels / 255).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.std, (pixels / 255).std(axis=0), atol=1e-6)
    assert 0 <= found.lowest < found.highest <= 1
    by_picture = summarize(small_convnet(), "stem", pixels)  # normalised picture by picture
    assert by_picture.lowest < -0.5
    assert abs(by_picture.mean.mean().item()) < 1e-5


def test_rows_that_are_not_finite_are_named():
    values = vectors(items=1500)
    values[1030, 2], values[1100, 0] = np.nan, np.inf
    with pytest.raises(
        DataError, match="row 1030 of the inputs of hidden1 holds a value that is NaN or infinite, as do 1"
    ):
        summarize(network(), "hidden1", values)
