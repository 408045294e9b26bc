"""Decoders: the layer's own weights turned round, or weights of their own, in the shape of what the layer takes."""

import functools

import pytest
import torch
from torch import nn

from auxtasks.backbones import Backbone, InputSpec, mlp
from auxtasks.backbones.description import Family
from auxtasks.backbones.linear_map import linear_map
from auxtasks.backbones.stages import Stage, apply_in_turn
from auxtasks.tasks.decoders import TiedDecoder, untied_decoder


def conv_backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Sigmoid())
    stage = Stage("only", ("0", "1"), 3, functools.partial(apply_in_turn, paths=("0", "1")))
    return Backbone(module, [stage], InputSpec.image((7, 6), 2), Family("by hand", {}))


def tied(backbone, layer):
    return TiedDecoder(linear_map(backbone, layer), backbone.input.shape)


def test_a_tied_dense_decoder_is_the_transpose_and_a_bias():
    backbone = mlp(size=2, channels=3, hidden=[5], activation="sigmoid")
    decoder = tied(backbone, "hidden1")
    decoder.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    h = torch.rand(2, 5)
    weight = backbone.module[0][0].weight
    found = decoder(h)
    assert found.shape == (2, 3, 2, 2)
    for item in range(2):
        for place, value in enumerate(found[item].flatten()):
            expected = decoder.bias[place] + sum(weight[j, place] * h[item, j] for j in range(5))
            assert value.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_tied_convolution_is_the_gradient_of_the_layer_and_a_bias_a_channel():
    backbone = conv_backbone()
    decoder = tied(backbone, "only")
    decoder.bias.data.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1))
    v, h = torch.rand(2, 2, 7, 6, requires_grad=True), torch.rand(2, 3, 4, 3)
    (transposed,) = torch.autograd.grad((backbone.module[0](v) * h).sum(), v)
    torch.testing.assert_close(decoder(h) - transposed, torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(2, 2, 7, 6))


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_tied_weights_are_not_held_twice_and_move_with_the_layer(kind):
    backbone, layer = (mlp(width=4, hidden=[3]), "hidden1") if kind == "dense" else (conv_backbone(), "only")
    decoder = tied(backbone, layer)
    assert list(decoder.state_dict()) == ["bias"]
    assert [name for name, _ in decoder.named_parameters()] == ["bias"]
    hidden = torch.ones(1, 3) if kind == "dense" else torch.ones(1, 3, 4, 3)
    before = decoder(hidden)
    for parameter in backbone.parameters():
        parameter.data.mul_(2)
    torch.testing.assert_close(decoder(hidden), 2 * before)
    decoder(hidden).sum().backward()
    assert next(backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("below", "above"), [((4,), (3,)), ((2, 7, 5), (4, 4, 3)), ((1, 6, 6), (5,)), ((2, 3, 3), (2, 3, 3))]
)
def test_an_untied_decoder_gives_the_shape_of_what_the_layer_takes(below, above):
    decoder = untied_decoder(below, above, seed=0)
    assert decoder(torch.rand(2, *above)).shape == (2, *below)
    assert set(decoder.state_dict()) == {"map.weight", "bias"}


def test_an_untied_decoder_of_pictures_enlarges_and_convolves():
    decoder = untied_decoder((2, 4, 4), (3, 2, 2), seed=0)
    decoder.bias.data.copy_(torch.tensor([0.5, -0.5]).view(2, 1, 1))
    h = torch.rand(1, 3, 2, 2)
    large = torch.zeros(3, 6, 6)  # a border of zeros around
    for row in range(4):
        for column in range(4):
            large[:, 1 + row, 1 + column] = h[0, :, row // 2, column // 2]
    for channel in range(2):
        for row in range(4):
            for column in range(4):
                window = large[:, row : row + 3, column : column + 3]
                expected = (decoder.map.weight[channel] * window).sum() + decoder.bias[channel, 0, 0]
                found = decoder(h)[0, channel, row, column]
                assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_seed_makes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (untied_decoder((4,), (3,), seed=seed).map.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_bias_begins_with_what_it_is_told():
    values = torch.arange(6.0)
    dense = untied_decoder((6,), (3,), seed=0)
    dense.begin_with(values, as_logits=False)
    assert torch.equal(dense.bias, values)
    picture = torch.rand(2, 7, 6)
    for decoder in (tied(conv_backbone(), "only"), untied_decoder((2, 7, 6), (3, 4, 3), seed=0)):
        decoder.begin_with(picture, as_logits=False)
        assert decoder.bias.flatten().tolist() == pytest.approx([picture[0].mean().item(), picture[1].mean().item()])
    pixels = tied(mlp(size=2, channels=3, hidden=[5]), "hidden1")
    pixels.begin_with(torch.arange(12.0).view(3, 2, 2), as_logits=False)
    assert torch.equal(pixels.bias, torch.arange(12.0))
    dot = untied_decoder((3, 1, 1), (2, 1, 1), seed=0)  # pictures of one pixel: a channel is a feature
    dot.begin_with(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), as_logits=False)
    assert dot.bias.flatten().tolist() == [1.0, 2.0, 3.0]
    for decoder, hidden in ((dense, (3,)), (pixels, (5,)), (dot, (2, 1, 1))):
        assert torch.equal(decoder(torch.zeros(1, *hidden)).flatten(), decoder.bias.flatten())
