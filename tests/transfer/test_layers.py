"""Selecting layers and tensors, against lists written by hand."""

import pytest
from torch import nn

from auxtasks.backbones import build, mlp
from auxtasks.errors import LayerError, TransferError
from transfer.layers import Select, matching_layers, select_layers, select_tensors, tensor_layers

CONVNET = ("stem", "stage1", "stage2", "embedding")


def deep_mlp():
    return mlp(width=2, hidden=[2] * 11)


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (Select(), CONVNET),
        (Select(layers=["embedding", "stem"]), ("stem", "embedding")),
        (Select(up_to="stage1"), CONVNET[:2]),
        (Select(first=3), CONVNET[:3]),
        (Select(last=1), CONVNET[3:]),
        (Select(last=3, up_to="stage2"), CONVNET[1:3]),
        (Select(pattern="stages.0"), ("stage1",)),
        (Select(pattern="stage[12]/"), CONVNET[1:3]),
        (Select(pattern=".*norm1", last=2), ("stage2",)),
    ],
)
def test_layers_are_selected_in_order(backbone, select, expected):
    assert select_layers(backbone, select) == expected


def test_a_pattern_matches_as_tensorflows_scopes_do():
    assert matching_layers(deep_mlp(), "hidden[123]") == ("hidden1", "hidden2", "hidden3", "hidden10", "hidden11")
    assert matching_layers(deep_mlp(), "hidden[123]/") == ("hidden1", "hidden2", "hidden3")
    assert select_tensors(mlp(width=2, hidden=[2, 2]), Select("hidden2/.*bias")) == ("1.0.bias",)


def test_every_tensor_of_real_networks_has_the_layer_that_owns_it():
    for name in ("timm/test_resnet", "timm/test_vit", "timm/test_convnext"):
        network = build(name)
        found = tensor_layers(network)
        assert set(found) == set(network.module.state_dict())
        for layer in network.layer_names:
            owned = {parameter for parameter, _ in network.parameters_of(layer)}
            assert owned == {key for key, owner in found.items() if owner == layer} & owned


def test_tensors_of_selected_layers(backbone):
    found = select_tensors(backbone, Select(layers=["stem"]))
    assert found == ("stem.0.weight", "stem.1.weight", "stem.1.bias")
    assert select_tensors(backbone, Select("stem.0|embedding", first=1)) == ("stem.0.weight",)
    assert select_tensors(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)), Select("1.running")) == (
        "1.running_mean", "1.running_var",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("select", "error", "message"),
    [
        (Select(layers=["stam"]), LayerError, 'no layer "stam".* Did you mean "stem"'),
        (Select(up_to="top"), LayerError, 'no layer "top"'),
        (Select(first=5), TransferError, "first=5: the network has 4 layers"),
        (Select(pattern="hidden"), TransferError, "'hidden' matches none of 18 names.*from the beginning"),
        (Select(first=1, last=1), TransferError, "no layer is selected by first 1 layers, last 1 layers"),
    ],
)
def test_what_is_not_there_is_told(backbone, select, error, message):
    with pytest.raises(error, match=message):
        select_layers(backbone, select)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "hidden[12"}, r"'hidden\[12' is no regular expression"),
        ({"layers": []}, "layers is an empty list"),
        ({"layers": "stem"}, "layers is a list of names, found 'stem'"),
        ({"last": 0}, "last is a number of layers, at least 1; found 0"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused_when_it_is_made(options, message):
    with pytest.raises(TransferError, match=message):
        Select(**options)


def test_only_a_backbone_has_layers(backbone):
    with pytest.raises(TransferError, match="Linear is no backbone and has no table of layers"):
        select_tensors(nn.Linear(1, 1), Select(first=1))
    with pytest.raises(TransferError, match="nothing is selected by layers pooled: these layers hold no tensors"):
        select_tensors(build("timm/test_resnet"), Select(layers=["pooled"]))
    assert Select().describe() == "everything"
    assert Select(layers=["a"], first=2, last=1).describe() == "layers a, first 2 layers, last 1 layers"
