"""Layers as linear maps: an exact transpose where there is one, and None where a layer is more than that."""

import functools

import pytest
import torch
from torch import nn

from auxtasks.backbones import Backbone, InputSpec, convnet, mlp, timm_backbone, transformers
from auxtasks.backbones.description import Family
from auxtasks.backbones.linear_map import input_shape, linear_map
from auxtasks.backbones.stages import Stage, apply_in_turn
from auxtasks.errors import LayerError


def by_hand(*parts, shape=(2, 7, 6), apply=None, owns=None):
    """Make a backbone of one layer."""
    paths = tuple(str(place) for place in range(len(parts)))
    stage = Stage("only", owns or paths, 3, apply or functools.partial(apply_in_turn, paths=paths))
    spec = InputSpec.features(*shape) if len(shape) == 1 else InputSpec.image(shape[1:], shape[0])
    return Backbone(nn.Sequential(*parts), [stage], spec, Family("by hand", {}))


CONVOLUTIONS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 4, "stride": 3, "padding": 2},
    {"kernel_size": (3, 2), "stride": (2, 3), "padding": (0, 1)},
    {"kernel_size": 2, "stride": 4},
    {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "groups": 2, "padding": 1},
    {"kernel_size": 3, "bias": False},
]


@pytest.mark.parametrize("size", [(7, 6), (9, 11), (8, 8)])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_down_is_the_transpose_of_a_convolution(options, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, **options).double()
    layer = linear_map(by_hand(conv.float(), nn.Sigmoid(), shape=(2, *size)), "only")
    conv.double()
    v = torch.randn(3, 2, *size, dtype=torch.float64)
    sent = layer.up(v) - (0 if conv.bias is None else conv.bias.view(-1, 1, 1))
    h = torch.randn_like(sent)
    back = layer.down(h)
    assert back.shape == v.shape
    for item in range(3):
        assert (sent[item] * h[item]).sum().item() == pytest.approx((v[item] * back[item]).sum().item(), abs=1e-9)
    assert back.abs().sum() > 0


@pytest.mark.parametrize("arguments", [{"width": 6}, {"size": 3, "channels": 2}])
def test_down_is_the_transpose_of_a_dense_layer(arguments):
    backbone = mlp(**arguments, hidden=[5, 4], activation="sigmoid")
    torch.manual_seed(0)
    for name in backbone.layer_names:
        layer = linear_map(backbone, name)
        v, h = torch.randn(3, *input_shape(backbone, name)), torch.randn(3, backbone.layer_dims[name])
        sent, back = layer.up(v) - layer.module.bias, layer.down(h)
        assert back.shape == (3, *layer.shape)
        torch.testing.assert_close((sent * h).sum(dim=1), (v.flatten(1) * back).sum(dim=1))


@pytest.mark.parametrize(
    ("activation", "name"), [(nn.Sigmoid, "sigmoid"), (nn.ReLU, "relu"), (nn.Tanh, "tanh"), (None, "identity")]
)
def test_the_layer_is_its_activation_of_up(activation, name):
    torch.manual_seed(0)
    backbone = by_hand(nn.Conv2d(2, 3, 3), *([activation()] if activation else []))
    layer = linear_map(backbone, "only")
    v = torch.randn(2, 2, 7, 6)
    assert layer.activation == name
    assert layer.shape == (2, 7, 6)
    assert torch.equal(layer.activate(layer.up(v)), backbone(v))


def test_it_shares_the_backbone_s_weights():
    backbone = mlp(width=3, hidden=[4, 2])
    layer = linear_map(backbone, "hidden2")
    backbone.module[1][0].weight.data.zero_()
    assert layer.down(torch.ones(1, 2)).tolist() == [[0.0] * 4]


class Scaled(nn.Module):
    """A linear map and a gain that begins as 1: at first the same as without it."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(5, 3)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.gain * self.map(x)


def twice(module, x):
    return 2 * module[0](x)


def skipped(module, x):
    return module[0](x) + x


def normalized(module, x):
    return nn.functional.layer_norm(module[0](x), (3,))


def dropped(module, x):
    return nn.functional.dropout(module[0](x), 0.5, training=module.training)


MORE = {
    "norm": lambda: by_hand(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sigmoid()),
    "two maps": lambda: by_hand(nn.Linear(5, 3), nn.Linear(3, 3), shape=(5,)),
    "two activations": lambda: by_hand(nn.Linear(5, 3), nn.ReLU(), nn.Sigmoid(), shape=(5,)),
    "activation first": lambda: by_hand(nn.Sigmoid(), nn.Linear(5, 3), shape=(5,)),
    "other activation": lambda: by_hand(nn.Linear(5, 3), nn.GELU(), shape=(5,)),
    "no map": lambda: by_hand(nn.Sigmoid(), shape=(5,)),
    "padding in words": lambda: by_hand(nn.Conv2d(2, 3, 3, padding="same"), nn.Sigmoid()),
    "other padding": lambda: by_hand(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Sigmoid()),
    "gain": lambda: by_hand(Scaled(), shape=(5,)),
    "twice": lambda: by_hand(nn.Linear(5, 3), shape=(5,), apply=twice),
    "skip": lambda: by_hand(nn.Linear(3, 3), shape=(3,), apply=skipped),
    "functional norm": lambda: by_hand(nn.Linear(5, 3), shape=(5,), apply=normalized),
    "functional dropout": lambda: by_hand(nn.Linear(5, 3), shape=(5,), apply=dropped),
}


@pytest.mark.parametrize("name", MORE)
def test_a_layer_that_does_more_is_none(name):
    torch.manual_seed(0)
    assert linear_map(MORE[name](), "only") is None


def test_layers_of_the_families_are_none():
    backbone = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8)
    assert [name for name in backbone.layer_names if linear_map(backbone, name) is not None] == []
    vision = timm_backbone("test_vit", size=32)
    assert [name for name in vision.layer_names if linear_map(vision, name) is not None] == []
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 8, "max_position_embeddings": 16, "vocab_size": 30}  # fmt: skip
    text = transformers(config, length=16)
    assert [name for name in text.layer_names if linear_map(text, name) is not None] == []


def test_looking_changes_nothing():
    backbone = by_hand(nn.Linear(5, 3), shape=(5,), apply=dropped)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    linear_map(backbone, "only")
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_what_goes_into_a_layer():
    backbone = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8)
    assert [input_shape(backbone, name) for name in backbone.layer_names] == [
        (1, 16, 16), (8, 8, 8), (8, 8, 8), (16, 4, 4)
    ]  # fmt: skip
    assert backbone.training
    with pytest.raises(LayerError, match=r'no layer "stage9"\. Layers from the input up: stem, '):
        input_shape(backbone, "stage9")
    with pytest.raises(LayerError, match="can be read layer by layer"):
        input_shape(timm_backbone("test_efficientnet", size=64), "blocks.0")


def test_what_goes_into_a_layer_above_one_without_parameters():
    flatten = Stage("flat", ("0",), 12, functools.partial(apply_in_turn, paths=("0",)))
    squash = Stage("squash", ("1",), 12, functools.partial(apply_in_turn, paths=("1",)))
    backbone = Backbone(
        nn.Sequential(nn.Flatten(), nn.Sigmoid()), [flatten, squash], InputSpec.image((3, 4), 1), Family("by hand", {})
    )
    assert input_shape(backbone, "squash") == (12,)
