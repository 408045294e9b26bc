"""What every backbone promises: cut, read, freeze, save and build, on the smallest model of each family."""

import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.backbones import (
    Backbone,
    InputSpec,
    build,
    builders,
    convnet,
    facenet,
    mlp,
    pool_layer,
    timm_backbone,
    transformers,
)
from auxtasks.backbones import __all__ as public_names
from auxtasks.backbones.text import TokenBatch
from auxtasks.data import train_tokenizer
from auxtasks.errors import BackboneError, CheckpointError, InputMismatchError, LayerError

SMALL: dict[str, Callable[..., Backbone]] = {
    "convnet": lambda seed=0: convnet(size=24, widths=[8, 16], blocks=[1, 2], embedding=12, seed=seed),
    "mlp": lambda seed=0: mlp(width=6, hidden=[8, 5], seed=seed),
    "facenet": lambda seed=0: facenet(size=80, seed=seed),
    "resnet": lambda seed=0: timm_backbone("test_resnet", size=64, seed=seed),
    "convnext": lambda seed=0: timm_backbone("test_convnext", size=64, channels=1, seed=seed),
    "vit": lambda seed=0: timm_backbone("test_vit", size=64, seed=seed),  # class token, norm before pooling
    "vit_registers": lambda seed=0: timm_backbone("test_vit3", size=64, seed=seed),  # registers, attention pooling
    "vit_mean": lambda seed=0: timm_backbone("test_vit2", size=64, seed=seed),  # norm after pooling
}
READ_ONLY: dict[str, Callable[..., Backbone]] = {
    "efficientnet": lambda seed=0: timm_backbone("test_efficientnet", size=64, seed=seed),
}
cuttable = pytest.mark.parametrize("family", SMALL)
every = pytest.mark.parametrize("family", [*SMALL, *READ_ONLY])


def small(family: str, seed: int = 0) -> Backbone:
    return {**SMALL, **READ_ONLY}[family](seed=seed)


def stir(backbone: Backbone) -> Backbone:
    """Move every weight and statistic: a zero-initialised branch would make two different networks agree."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*backbone.parameters(), *backbone.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.02 * (torch.rand(tensor.shape, generator=generator) - 0.5))
    return backbone


def batch(backbone: Backbone, items: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return backbone.input.normalize(torch.rand(items, *backbone.input.shape, generator=generator))


def count_stages(backbone: Backbone) -> list[str]:
    """Make the backbone write down each stage that it computes."""
    computed: list[str] = []

    def counted(stage):
        def apply(module: nn.Module, x: Tensor) -> Tensor:
            computed.append(stage.name)
            return stage.apply(module, x)

        return dataclasses.replace(stage, apply=apply)

    backbone.stages = tuple(counted(stage) for stage in backbone.stages)
    return computed


# Cuts


@cuttable
def test_lower_and_upper_make_the_library_s_own_forward(family):
    backbone = stir(small(family)).eval()
    x = batch(backbone)
    with torch.no_grad():
        expected = backbone.module(x)
        assert expected.abs().sum() > 0
        assert torch.equal(backbone(x), expected)
        for name in backbone.layer_names:
            assert torch.equal(backbone.upper(name)(backbone.lower(name)(x)), expected), name


@cuttable
def test_no_parameter_is_without_a_stage_and_none_has_two(family):
    backbone = small(family)
    owned = [name for layer in backbone.layer_names for name, _ in backbone.parameters_of(layer)]
    assert sorted(owned) == sorted(name for name, _ in backbone.module.named_parameters())


@every
def test_every_parameter_learns(family):
    # Otherwise DistributedDataParallel raises at the second step.
    backbone = stir(small(family)).train()
    output = backbone(batch(backbone, items=4))
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@cuttable
def test_a_part_has_the_parameters_of_its_stages_and_only_those(family):
    backbone = small(family)
    middle = backbone.layer_names[(len(backbone.layer_names) - 1) // 2]
    below = [parameter for layer in backbone.layer_names for _, parameter in backbone.parameters_of(layer)]
    count = sum(
        len(list(backbone.parameters_of(layer))) for layer in backbone.layer_names[: backbone.position(middle) + 1]
    )
    assert {id(p) for p in backbone.lower(middle).parameters()} == {id(p) for p in below[:count]}
    assert {id(p) for p in backbone.upper(middle).parameters()} == {id(p) for p in below[count:]}
    assert 0 < count < len(below)


@every
def test_layers_have_the_stated_width_and_equal_those_of_a_full_pass(family):
    backbone = stir(small(family)).eval()
    x = batch(backbone)
    with torch.no_grad():
        together = backbone.forward_layers(x, backbone.layer_names)
        for name, dim in backbone.layer_dims.items():
            alone = backbone.forward_layers(x, [name])[name]
            assert torch.equal(alone, together[name]), name
            assert alone.shape[1 if alone.ndim == 4 else -1] == dim, name
    assert together[backbone.layer_names[-1]].shape == (2, backbone.output_dim)


@cuttable
def test_reading_stops_at_the_deepest_layer_and_computes_each_once(family):
    backbone = small(family).eval()
    names = backbone.layer_names
    computed = count_stages(backbone)
    backbone.forward_layers(batch(backbone), [names[1], names[0]])
    assert computed == [*names[:2]]


def test_layers_come_in_the_order_asked_for():
    assert list(small("mlp").forward_layers(torch.ones(1, 6), ["hidden2", "hidden1"])) == ["hidden2", "hidden1"]


@every
def test_a_deep_copy_computes_with_its_own_weights(family):
    backbone = small(family).eval()
    x = batch(backbone)
    with torch.no_grad():
        before = backbone(x)
        twin = copy.deepcopy(backbone)
        stir(twin)
        assert not torch.equal(twin(x), before)
        assert torch.equal(backbone(x), before)


def test_a_wrong_layer_name_is_an_error_with_a_hint():
    with pytest.raises(LayerError, match=r'no layer "hiden1".*hidden1, hidden2\. Did you mean "hidden1"\?'):
        small("mlp").lower("hiden1")


@every
def test_asking_for_no_layer_is_an_error_that_lists_them(family):
    backbone = small(family)
    with pytest.raises(
        LayerError, match=rf"no layer was asked for\. Layers from the input up: {backbone.layer_names[0]}, "
    ):
        backbone.forward_layers(batch(backbone), [])


# Weights and seeds


@every
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(family):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = small(family, seed=1), small(family, seed=1), small(family, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    digests = [checkpoint.tensors_digest(backbone.module.state_dict()) for backbone in (first, again, other)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


@every
def test_building_moves_no_statistics_and_leaves_the_module_in_training_mode(family):
    backbone = small(family)
    assert all(module.training for module in backbone.modules())
    counters = [buffer for name, buffer in backbone.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(counter == 0 for counter in counters)


# Folders


@every
def test_a_saved_backbone_is_read_back_to_the_bit(family, tmp_path):
    backbone = stir(small(family, seed=4)).eval()
    backbone.save_pretrained(tmp_path / "backbone", pretrained_on="noise", seed=9)
    again = Backbone.from_pretrained(tmp_path / "backbone").eval()
    x = batch(backbone)
    with torch.no_grad():
        assert torch.equal(again(x), backbone(x))
    assert again.layer_dims == backbone.layer_dims
    assert again.input == backbone.input
    assert again.family == backbone.family
    assert again.provenance == {"pretrained_on": "noise", "seed": 9}
    assert "noise" in (tmp_path / "backbone" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]  # no temporary folder is left


def test_a_failed_save_leaves_the_older_folder_whole(tmp_path, monkeypatch):
    place = tmp_path / "backbone"
    old = small("mlp", seed=1)
    old.save_pretrained(place)

    def full_disk(path, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", full_disk)
        with pytest.raises(CheckpointError, match=r"No space left on device\. .* free .* there before is unchanged"):
            small("mlp", seed=2).save_pretrained(place)
    x = torch.ones(1, 6)
    assert torch.equal(Backbone.from_pretrained(place)(x), old(x))
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]


@pytest.fixture
def saved(tmp_path):
    return small("mlp").save_pretrained(tmp_path / "backbone")


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "config.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing: the folder .* is not complete"):
        Backbone.from_pretrained(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "config.json"])
def test_a_file_cut_short_is_named(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        Backbone.from_pretrained(saved)


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_of_a_newer_schema_is_refused(saved):
    edit(saved / "manifest.json", schema=2)
    with pytest.raises(CheckpointError, match="has schema 2; this version of auxtasks reads schema 1"):
        Backbone.from_pretrained(saved)


def test_a_folder_of_an_unknown_family_is_refused(saved):
    edit(saved / "config.json", family="os.system")
    with pytest.raises(CheckpointError, match=r"holds family 'os\.system'; known are convnet"):
        Backbone.from_pretrained(saved)


def test_changed_weights_are_refused(saved):
    tensors = checkpoint.read_tensors(saved / "model.safetensors")
    checkpoint.write_tensors(saved / "model.safetensors", {name: tensor + 1 for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"does not match the digest in manifest\.json: it was changed"):
        Backbone.from_pretrained(saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 6, "hiden": [8, 5]}, "got an unexpected keyword argument 'hiden'"),
        ({"hidden": [8, 5]}, "give one, found width=None, size=None"),
        ({"size": 6, "hidden": []}, "hidden is empty"),
    ],
)
def test_arguments_that_the_builder_does_not_take_are_refused(saved, arguments, message):
    edit(saved / "config.json", arguments=arguments)
    with pytest.raises(CheckpointError, match=rf"config\.json does not describe a mlp: .*{message}"):
        Backbone.from_pretrained(saved)


def test_a_description_without_arguments_is_refused(saved):
    (saved / "config.json").write_text('{"family": "mlp"}')
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a mlp: 'arguments'"):
        Backbone.from_pretrained(saved)


def test_weights_without_a_digest_are_refused(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["weights_digest"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: it has no weights_digest"):
        Backbone.from_pretrained(saved)


def test_weights_that_do_not_fit_are_refused(saved):
    edit(saved / "config.json", arguments={"width": 7, "hidden": [8, 5]})
    with pytest.raises(CheckpointError, match=r"the weights in .* do not fit [\s\S]*size mismatch"):
        Backbone.from_pretrained(saved)


def test_a_place_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a folder\. A backbone is a folder with config\.json"):
        Backbone.from_pretrained(tmp_path / "nowhere")


# Freezing


@pytest.mark.parametrize("family", ["resnet", "facenet", "efficientnet"])
def test_frozen_statistics_stand_still_and_the_others_move(family):
    backbone = small(family)
    frozen = backbone.layer_names[:2]
    backbone.freeze(frozen).train()
    owned = {name for layer in frozen for name, _ in backbone.parameters_of(layer)}

    def is_frozen(buffer):
        return any(name.rpartition(".")[0] == buffer.rpartition(".")[0] for name in owned)

    before = {name: buffer.clone() for name, buffer in backbone.module.named_buffers()}
    backbone(batch(backbone, items=4))
    moved = {name for name, buffer in backbone.module.named_buffers() if not torch.equal(buffer, before[name])}
    still = before.keys() - moved
    assert moved
    assert still
    assert {name for name in before if is_frozen(name)} == still


@every
def test_freeze_stops_the_named_layers_and_only_those(family):
    backbone = small(family)
    frozen = backbone.layer_names[:-1][-1]
    assert backbone.freeze([frozen]).frozen == (frozen,)
    names = {name for name, _ in backbone.parameters_of(frozen)}
    assert names
    assert {name for name, p in backbone.module.named_parameters() if not p.requires_grad} == names
    backbone.freeze([])
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_a_frozen_layer_stays_in_eval_mode_whatever_its_owner_is_told():
    backbone = small("resnet").freeze(["layer1"])
    task = nn.Sequential(backbone, nn.Linear(backbone.output_dim, 2))
    task.eval()
    task.train()
    assert not any(module.training for module in backbone.module.layer1.modules())
    assert all(module.training for module in backbone.module.layer2.modules())


def test_freezing_a_wrong_name_changes_nothing():
    backbone = small("mlp").freeze(["hidden1"])
    with pytest.raises(LayerError, match='Did you mean "hidden2"'):
        backbone.freeze(["hiden2"])
    assert backbone.frozen == ("hidden1",)
    assert not next(backbone.parameters()).requires_grad


# Input and pooling


def test_normalize_subtracts_and_divides_by_channel():
    spec = InputSpec.image(2, channels=3, mean=[0.5, 0.4, 0.1], std=[0.5, 0.2, 0.25])
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2) * 10
    found = spec.normalize(images)
    for item in range(2):
        for channel in range(3):
            for row in range(2):
                for column in range(2):
                    value = int(images[item, channel, row, column]) / 255
                    expected = (value - spec.mean[channel]) / spec.std[channel]
                    assert found[item, channel, row, column].item() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(spec.normalize(images.float() / 255), found)


def test_normalize_by_image_ignores_exposure_and_survives_a_flat_picture():
    spec = InputSpec.image(4, channels=1, per_image=True)
    picture = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    values = picture.flatten().double()
    expected = (values - values.mean()) / (values.std() + 0.05)
    assert torch.allclose(spec.normalize(picture).flatten().double(), expected, atol=1e-5)
    assert torch.allclose(spec.normalize(picture * 0.5 + 0.3).mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.equal(spec.normalize(torch.full((1, 1, 4, 4), 0.5)), torch.zeros(1, 1, 4, 4))


def test_a_batch_of_another_shape_shows_both_shapes():
    with pytest.raises(InputMismatchError, match=r"\(3, 8, 8\).*\(1, 8, 8\)"):
        InputSpec.image(8, channels=3).normalize(torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputMismatchError, match=r"features items of shape \(4,\).*\(5,\)"):
        InputSpec.features(4).normalize(torch.zeros(2, 5))


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec.image((4, 6), channels=3, mean=[0.1] * 3, std=[2.0] * 3),
        InputSpec.features(7),
        InputSpec.features(2, mean=[0.1, -3], std=[1e-4, 7]),
    ],
)
def test_an_input_spec_survives_json(spec):
    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_pooling_an_image_layer():
    output = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([[output[b, c].mean() for c in range(4)] for b in range(2)])
    cells = [
        [
            output[b, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
            for c in range(4)
            for i in range(3)
            for j in range(3)
        ]
        for b in range(2)
    ]
    assert torch.allclose(pool_layer(output, "mean"), mean)
    assert torch.equal(pool_layer(output, "auto"), pool_layer(output, "mean"))
    assert torch.equal(
        pool_layer(output, "max"), torch.tensor([[output[b, c].max() for c in range(4)] for b in range(2)])
    )
    assert torch.allclose(pool_layer(output, "grid"), torch.tensor(cells))
    assert torch.equal(pool_layer(output, "flatten"), output.reshape(2, -1))
    assert pool_layer(output, "none") is output
    smallest = output[:, :, :3, :3]  # a cell a value: nothing is averaged
    assert torch.equal(pool_layer(smallest, "grid"), smallest.flatten(1))
    assert torch.equal(
        pool_layer(output[:, :, :3], "grid"), torch.nn.functional.adaptive_avg_pool2d(output[:, :, :3], 3).flatten(1)
    )


def test_pooling_tokens_leaves_the_prefix_out():
    output = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([sum(output[b, t] for t in range(2, 5)) / 3 for b in range(2)])
    assert torch.allclose(pool_layer(output, "mean", prefix_tokens=2), mean)
    assert torch.equal(pool_layer(output, "max", prefix_tokens=2), output[:, 2:].max(dim=1).values)
    assert torch.equal(pool_layer(output, "token", prefix_tokens=2), output[:, 0])
    assert torch.equal(pool_layer(output, "flatten"), output.reshape(2, 15))


def test_vectors_are_left_as_they_are():
    output = torch.rand(2, 5)
    for pool in ("none", "auto", "mean", "max", "grid", "flatten", "token"):
        assert torch.equal(pool_layer(output, pool), output)


def test_pooling_that_does_not_fit_is_an_error():
    with pytest.raises(LayerError, match=r"needs tokens \(B, T, D\); this layer gives \(2, 4, 6, 6\)"):
        pool_layer(torch.zeros(2, 4, 6, 6), "token")
    with pytest.raises(LayerError, match=r"needs an image layer \(B, C, H, W\); this layer gives \(2, 5, 3\)"):
        pool_layer(torch.zeros(2, 5, 3), "grid")
    with pytest.raises(LayerError, match=r'pool="men" is not one of.*Did you mean "mean"'):
        pool_layer(torch.zeros(2, 5, 3), "men")


# Builders and the zoo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [8, 16], "blocks": [1]}, "widths has 2 entries and blocks 1"),
        ({"widths": [12], "blocks": [1]}, r"widths\[0\] is 12; GroupNorm needs a multiple of 8"),
        ({"widths": [8], "blocks": [0]}, r"blocks\[0\] must be at least 1, found 0"),
        ({"size": 3, "widths": [8, 8], "blocks": [1, 1]}, "size 3 is too small for 2 stages: use at least 4"),
        ({"channels": 0}, "channels must be at least 1, found 0"),
    ],
)
def test_sizes_that_make_no_convnet_are_refused(arguments, message):
    with pytest.raises(BackboneError, match=message):
        convnet(**arguments)


def test_sizes_that_make_no_mlp_are_refused():
    with pytest.raises(BackboneError, match="hidden is empty: an mlp of pictures needs at least one layer"):
        mlp(size=3, hidden=[])
    with pytest.raises(BackboneError, match=r"hidden\[1\] must be at least 1, found 0"):
        mlp(width=3, hidden=[4, 0])
    for sizes, found in (({}, "width=None, size=None"), ({"width": 3, "size": 2}, "width=3, size=2")):
        with pytest.raises(BackboneError, match=f"vectors of a width or pictures of a size: give one, found {found}"):
            mlp(**sizes)
    with pytest.raises(BackboneError, match='activation is one of relu, sigmoid, tanh, found "gelu"'):
        mlp(width=3, activation="gelu")
    for sizes, name in (({"size": 0}, "size"), ({"size": 2, "channels": 0}, "channels"), ({"width": 0}, "width")):
        with pytest.raises(BackboneError, match=f"{name} must be at least 1, found 0"):
            mlp(**sizes)


ACTIVATIONS = {"relu": lambda x: x.clamp(min=0), "sigmoid": lambda x: 1 / (1 + (-x).exp()), "tanh": torch.tanh}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [{"width": 12}, {"size": 2, "channels": 3}])
def test_an_mlp_of_vectors_or_of_pictures_is_matrices_and_activations(sizes, activation, tmp_path):
    backbone = stir(mlp(**sizes, hidden=[5, 4], activation=activation, seed=3))
    assert backbone.input.kind == ("features" if "width" in sizes else "image")
    x = batch(backbone, items=6)
    expected = x.reshape(6, 12)
    for dense in backbone.module:
        expected = ACTIVATIONS[activation](expected @ dense[0].weight.T + dense[0].bias)
    torch.testing.assert_close(backbone(x), expected)
    assert expected.shape == (6, 4)
    assert expected.std() > 1e-3
    assert torch.equal(backbone.upper("hidden1")(backbone.lower("hidden1")(x)), backbone(x))
    loaded = Backbone.from_pretrained(backbone.save_pretrained(tmp_path / "backbone"))
    assert loaded.family == backbone.family
    assert loaded.input == backbone.input
    assert torch.equal(loaded(x), backbone(x))


def test_an_mlp_takes_pictures_as_bytes_from_0_to_1():
    backbone = mlp(size=2, hidden=[3])
    pixels = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert backbone.input.normalize(pixels).flatten().tolist() == pytest.approx([0.0, 0.2, 0.4, 1.0])
    with pytest.raises(InputMismatchError, match=r"\(1, 2, 2\).*\(1, 3, 3\)"):
        backbone.input.normalize(torch.zeros(1, 1, 3, 3))


def test_without_hidden_layers_vectors_stay_as_they_are(tmp_path):
    backbone = mlp(width=4, hidden=[])
    x = batch(backbone, items=3)
    assert backbone.layer_dims == {"input": 4}
    assert isinstance(backbone.module[0], nn.Identity)
    assert not list(backbone.parameters())
    assert torch.equal(backbone(x), x)
    assert torch.equal(backbone.upper("input")(backbone.lower("input")(x)), x)
    assert backbone.device == torch.device("cpu")
    assert backbone.freeze(["input"]).frozen == ("input",)
    loaded = Backbone.from_pretrained(backbone.save_pretrained(tmp_path / "backbone"))
    assert (loaded.family, loaded.input, loaded.layer_names) == (backbone.family, backbone.input, ("input",))
    assert torch.equal(loaded.untrained(seed=3)(x), x)


def test_the_device_is_that_of_the_first_parameter_or_buffer():
    backbone = mlp(width=4, hidden=[3])
    assert backbone.device == next(backbone.parameters()).device
    assert backbone.to("meta").device == torch.device("meta")
    without = mlp(width=4, hidden=[])
    without.module.register_buffer("kept", torch.zeros(1, device="meta"))
    assert without.device == torch.device("meta")


@pytest.mark.parametrize("given", [("mean", "std"), ("mean",), ("std",)])
def test_an_mlp_standardises_vectors_on_their_way_in(given, tmp_path):
    values = {"mean": [1.0, -2.0, 0.5], "std": [2.0, 1.0, 0.25]}
    backbone = mlp(width=3, hidden=[2], seed=1, **{name: values[name] for name in given})
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor(values["mean"]) if "mean" in given else torch.zeros(3)
    std = torch.tensor(values["std"]) if "std" in given else torch.ones(3)
    torch.testing.assert_close(backbone.input.normalize(x), (x - mean) / std)
    assert backbone.input.normalizes
    loaded = Backbone.from_pretrained(backbone.save_pretrained(tmp_path / "backbone"))
    assert (loaded.family, loaded.input) == (backbone.family, backbone.input)
    assert backbone.untrained(seed=5).input == backbone.input


def test_an_mlp_with_neither_is_what_it_was():
    backbone = mlp(width=3, hidden=[2])
    assert backbone.family.arguments == {"width": 3, "hidden": [2], "activation": "relu", "seed": 0}
    assert (backbone.input.mean, backbone.input.std, backbone.input.normalizes) == ((), (), False)
    assert torch.equal(backbone.input.normalize(torch.ones(1, 3)), torch.ones(1, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 2, "mean": [1.0]}, "mean holds 1 values, the vectors have 2 features: give one a feature"),
        ({"width": 2, "std": [1.0, 1.0, 1.0]}, "std holds 3 values, the vectors have 2 features"),
        ({"width": 2, "std": [1.0, 0.0]}, r"std\[1\] is 0.0, it must be finite and above 0"),
        ({"width": 2, "std": [float("inf"), 1.0]}, r"std\[0\] is inf, it must be finite and above 0"),
        ({"width": 2, "mean": [0.0, float("nan")]}, r"mean\[1\] is nan, it must be finite"),
        ({"size": 2, "absent": 0.0}, r"mean, std and absent are for vectors \(width\)"),
        ({"size": 2, "mean": [0.0]}, r"mean, std and absent are for vectors \(width\)"),
    ],
)
def test_scales_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(BackboneError, match=message):
        mlp(**arguments)


def test_the_zoo_builds_by_name():
    assert build("mlp", width=6, hidden=[8, 5]).layer_dims == small("mlp").layer_dims
    assert build("convnet", size=24, widths=[8], blocks=[1]).layer_names == ("stem", "stage1", "embedding")
    by_shorthand, by_argument = build("timm/test_vit", size=64), build("timm", name="test_vit", size=64)
    assert by_shorthand.family == by_argument.family


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("convnt", {}, r'no backbone "convnt"\. Allowed: convnet, .*facenet/NAME\. Did you mean "convnet"\?'),
        ("torchvision.models.resnet18", {}, r'no backbone "torchvision\.models\.resnet18"'),
        ("timm.models.resnet.resnet18", {}, r'no backbone "timm\.models\.resnet\.resnet18"'),
        ("auxtasks.backbones.mlp:mlp", {"width": 3}, 'no backbone "auxtasks.backbones.mlp:mlp"'),
        (
            "mlp",
            {"width": 3, "hiden": [4]},
            r'mlp: no argument "hiden"\. Allowed: width, hidden, size, channels, .*\. Did you mean "hidden"\?',
        ),
        ("mlp", {"hidden": [4]}, r"vectors of a width or pictures of a size: give one, found width=None, size=None"),
        ("mlp", {"width": 4, "size": 2}, r"give one, found width=4, size=2"),
        ("mlp", {"width": 4, "activation": "gelu"}, r'activation must be "relu" or "sigmoid" or "tanh", found'),
        ("timm", {}, r'timm: the argument "name" is missing'),
        ("mlp", {"width": "3"}, r"mlp: width must be int or nothing, found '3'"),
        ("mlp", {"width": True}, r"mlp: width must be int or nothing, found True"),
        ("mlp", {"width": 3, "hidden": 4}, r"mlp: hidden must be a list of int, found 4"),
        ("mlp", {"width": 3, "hidden": ["4"]}, r"mlp: hidden must be a list of int, found \['4'\]"),
        ("facenet", {"weights": 7}, r"facenet: weights must be str or nothing, found 7"),
        ("timm/test_vit", {"pretrained": "yes"}, r"timm: pretrained must be bool, found 'yes'"),
        ("timm/test_vit", {"name": "test_resnet"}, r"the model is named twice"),
        ("timm/os.system", {}, r'timm has no model "os\.system"'),
    ],
)
def test_what_the_zoo_refuses(name, arguments, message):
    with pytest.raises(BackboneError, match=message):
        build(name, **arguments)


def test_the_zoo_tells_all_problems_at_once():
    with pytest.raises(
        BackboneError,
        match=r"width must be int or nothing[\s\S]*hidden must be a list of int[\s\S]*no argument \"sed\"",
    ):
        build("mlp", width="a", hidden="b", sed=1)


def test_public_names_are_sorted_and_families_known():
    assert list(public_names) == sorted(public_names)
    assert {"convnet", "mlp", "facenet", "timm"} <= builders().keys()


def test_importing_the_backbones_imports_neither_timm_nor_facenet():
    code = "import sys, auxtasks.backbones; print([m for m in ('timm', 'facenet_pytorch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- features that may be absent, texts of another length -------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
def test_of_absent_features_the_network_sees_that_they_are_not_there(scaled, tmp_path):
    scale = {"mean": [1.0, -2.0, 0.5], "std": [2.0, 1.0, 0.25]} if scaled else {}
    backbone = mlp(width=3, hidden=[4], absent=-1.0, seed=1, **scale)
    x = torch.tensor([[3.0, -1.0, 0.0], [-1.0, -1.0, -1.0]])
    expected = torch.zeros(2, 6)
    for row, values in enumerate(x.tolist()):
        for place, value in enumerate(values):
            if value != -1.0:
                mean, std = (scale[name][place] for name in ("mean", "std")) if scaled else (0.0, 1.0)
                expected[row, place], expected[row, 3 + place] = (value - mean) / std, 1.0
    assert torch.equal(backbone.input.normalize(x), expected)
    assert (backbone.input.width, backbone.input.seen_width, backbone.input.normalizes) == (3, 6, True)
    assert backbone.module[0][0].in_features == 6
    assert backbone.input.example(2).shape == (2, 6)
    loaded = Backbone.from_pretrained(backbone.save_pretrained(tmp_path / "backbone"))
    assert (loaded.family, loaded.input) == (backbone.family, backbone.input)
    assert torch.equal(loaded(loaded.input.normalize(x)), backbone(expected))
    assert loaded.untrained(seed=3).input == backbone.input
    with pytest.raises(InputMismatchError, match=r"\(3,\)"):
        backbone.input.normalize(expected)  # what comes in is as wide as the data


def test_a_network_that_knows_of_nothing_absent_is_as_wide_as_its_vectors():
    assert mlp(width=3, hidden=[4]).input.seen_width == 3
    assert "absent" not in mlp(width=3, hidden=[4]).family.arguments
    assert mlp(width=2, hidden=[], absent=0.0).layer_dims == {"input": 4}


def text_backbone(**changes):
    tokenizer = train_tokenizer(["the cat sees a dog", "a dog hears"], size=40)
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 8, "max_position_embeddings": 20}  # fmt: skip
    return transformers(config, length=8, tokenizer=tokenizer, **changes)


def test_another_length_is_another_network_with_the_same_weights(tmp_path):
    backbone = stir(text_backbone()).eval()
    backbone.provenance["pretrained_on"] = "something"
    longer = backbone.with_length(16).eval()
    assert (backbone.input.length, longer.input.length) == (8, 16)
    assert longer.text_settings == (backbone.tokenizer, 16)
    assert (longer.provenance, longer.layer_names) == (backbone.provenance, backbone.layer_names)
    for name, values in backbone.state_dict().items():
        assert torch.equal(longer.state_dict()[name], values)
    short = backbone.input.example(2)
    assert torch.equal(longer(short).hidden, backbone(short).hidden)
    ids = torch.ones(1, 12, dtype=torch.long)
    tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    longer.input.check(tokens)
    with pytest.raises(InputMismatchError, match="12"):
        backbone.input.check(tokens)
    with torch.no_grad():  # its own weights
        next(longer.parameters()).add_(1)
    assert not torch.equal(next(longer.parameters()), next(backbone.parameters()))
    loaded = Backbone.from_pretrained(longer.save_pretrained(tmp_path / "backbone"))
    assert (loaded.input.length, loaded.family) == (16, longer.family)


def test_a_length_that_a_network_cannot_have_is_refused():
    with pytest.raises(BackboneError, match="21"):
        text_backbone().with_length(21)
    with pytest.raises(BackboneError, match="length must be at least 1, found 0"):
        text_backbone().with_length(0)
    for backbone, kind in ((mlp(width=3), "features"), (convnet(size=24, widths=[8], blocks=[1]), "image")):
        with pytest.raises(BackboneError, match=f"the backbone takes {kind}, which have no length in tokens"):
            backbone.with_length(9)
        with pytest.raises(BackboneError, match="the backbone has no tokenizer: build it with tokenizer="):
            _ = backbone.text_settings
