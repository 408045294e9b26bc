"""timm: any model can be read, three families can be cut, and no layer stays random without a word."""

import copy
import warnings

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import nn

from auxtasks.backbones import Backbone, timm_backbone
from auxtasks.errors import BackboneError, LayerError

READ_ONLY = ["test_efficientnet", "test_byobnet", "test_mambaout", "test_nfnet", "test_vit_relpos"]


def seeded(name: str, **options: object) -> nn.Module:
    """Build a timm model whose every weight is random, with its classifier unless told otherwise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(21)
        model = timm.create_model(name, **options)
        for tensor in model.parameters():
            nn.init.normal_(tensor, std=0.05)
    return model.eval()


def picture(backbone: Backbone, items: int = 1) -> torch.Tensor:
    shape = (items, *backbone.input.shape)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


# The three families with a table


def test_layers_of_a_resnet():
    backbone = timm_backbone("resnet18", size=64)
    assert backbone.layer_names == ("stem", "layer1", "layer2", "layer3", "layer4", "pooled")
    assert backbone.output_dim == 512
    assert backbone.prefix_tokens == 0


def test_layers_of_a_convnext():
    backbone = timm_backbone("convnext_atto", size=64)
    assert backbone.layer_names == ("stem", "stage1", "stage2", "stage3", "stage4", "pooled")
    assert backbone.layer_dims["stem"] == 40


def test_layers_of_a_vision_transformer():
    backbone = timm_backbone("vit_tiny_patch16_224", size=64)
    blocks = tuple(f"block{place}" for place in range(1, 13))
    assert backbone.layer_names == ("embeddings", *blocks, "norm", "pooled")
    assert backbone.prefix_tokens == 1
    tokens = backbone.forward_layers(picture(backbone), ["embeddings"])["embeddings"]
    assert tokens.shape == (1, 1 + 16, 192)
    assert {"cls_token", "pos_embed"} <= {name for name, _ in backbone.parameters_of("embeddings")}


def test_registers_and_class_token_belong_to_the_embeddings():
    backbone = timm_backbone("test_vit3", size=64)
    module = backbone.module
    assert module.num_reg_tokens > 0
    assert backbone.prefix_tokens == module.num_prefix_tokens
    assert "reg_token" in {name for name, _ in backbone.parameters_of("embeddings")}
    assert any(name.startswith("attn_pool.") for name, _ in backbone.parameters_of("pooled"))


def test_a_norm_after_pooling_belongs_to_the_last_layer():
    backbone = timm_backbone("test_vit2", size=64)
    assert "norm" not in backbone.layer_names
    assert {name for name, _ in backbone.parameters_of("pooled")} == {"fc_norm.weight", "fc_norm.bias"}


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_real_models_can_be_cut_learn_everywhere_and_load_back(name):
    size = {"img_size": 64} if name.startswith("vit") else {}
    backbone = timm_backbone(name, size=64)
    backbone(picture(backbone, items=2)).square().sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []

    library = timm.create_model(name, num_classes=0, **size).eval()
    library.load_state_dict(backbone.module.state_dict(), strict=True)
    backbone.eval()
    x = picture(backbone)
    with torch.no_grad():
        assert torch.equal(backbone(x), library(x))
        for layer in backbone.layer_names:
            assert torch.equal(backbone.upper(layer)(backbone.lower(layer)(x)), library(x)), layer


# Models without a table


@pytest.mark.parametrize("name", READ_ONLY)
def test_models_without_a_table_are_read_as_timm_computes_them(name):
    backbone = timm_backbone(name, size=None if name == "test_vit_relpos" else 64).eval()
    x = picture(backbone)
    with torch.no_grad():
        expected = backbone.module(x)
        _, intermediates = backbone.module.forward_intermediates(x)
        read = backbone.forward_layers(x, backbone.layer_names)
    assert torch.equal(backbone(x), expected)
    assert len(intermediates) + 1 == len(read)
    for found, wanted in zip(read.values(), [*intermediates, expected], strict=True):
        assert torch.equal(found, wanted)
        assert found.abs().sum() > 0


@pytest.mark.parametrize("name", READ_ONLY)
def test_layers_of_a_read_only_model_own_all_parameters_once(name):
    backbone = timm_backbone(name, size=None if name == "test_vit_relpos" else 64)
    owned = [key for layer in backbone.layer_names for key, _ in backbone.parameters_of(layer)]
    assert sorted(owned) == sorted(key for key, _ in backbone.module.named_parameters())


def test_a_layer_owns_what_it_depends_on_and_no_lower_layer_does():
    backbone = timm_backbone("test_efficientnet", size=64)
    owners = {key: layer for layer in backbone.layer_names for key, _ in backbone.parameters_of(layer)}
    assert owners["conv_stem.weight"] == "blocks.0"
    assert owners["conv_head.weight"] == "pooled"
    assert all(owner == key[: len("blocks.0")] for key, owner in owners.items() if key.startswith("blocks."))


def test_a_parameter_that_only_eval_mode_caches_is_found():
    # LeViT's attention biases are read through a cache without gradient in eval mode.
    backbone = timm_backbone("levit_128s")
    owned = {key for layer in backbone.layer_names for key, _ in backbone.parameters_of(layer)}
    assert any("attention_biases" in key for key in owned)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_a_read_only_model_cannot_be_cut():
    backbone = timm_backbone("test_efficientnet", size=64)
    assert not backbone.can_be_cut
    with pytest.raises(LayerError, match=r"can be read layer by layer .* but not"):
        backbone.lower("blocks.0")


def count_blocks(backbone: Backbone) -> list[int]:
    ran: list[int] = []
    for place, block in enumerate(backbone.module.blocks):
        block.register_forward_hook(lambda *_, place=place: ran.append(place))
    return ran


def test_reading_without_a_table_stops_at_the_deepest_layer():
    backbone = timm_backbone("test_efficientnet", size=64).eval()
    ran = count_blocks(backbone)
    backbone.forward_layers(picture(backbone), ["blocks.2", "blocks.0"])
    assert ran == [0, 1, 2]


@pytest.fixture
def by_hooks(monkeypatch):
    """Return a model as an older timm has it: without forward_intermediates."""
    expected = timm_backbone("test_efficientnet", size=64).eval()
    with monkeypatch.context() as patch:
        patch.delattr(EfficientNet, "forward_intermediates")
        yield expected, timm_backbone("test_efficientnet", size=64).eval()


def test_a_model_without_forward_intermediates_is_read_by_hooks(by_hooks):
    expected, backbone = by_hooks
    x = picture(backbone)
    read = backbone.forward_layers(x, ["blocks.1", "blocks.3", "pooled"])
    hooks = sum(len(module._forward_hooks) for module in backbone.module.modules())
    assert hooks == 0
    for layer, output in read.items():
        assert torch.equal(output, backbone.forward_layers(x, [layer])[layer])
        assert output.shape[1] == backbone.layer_dims[layer]
    assert torch.equal(read["pooled"], expected.module(x))
    assert backbone.layer_dims == expected.layer_dims
    assert [stage.owns for stage in backbone.stages] == [stage.owns for stage in expected.stages]


def test_hooks_stop_at_the_deepest_layer_and_a_copy_reads_its_own_weights(by_hooks):
    _, backbone = by_hooks
    x = picture(backbone)
    twin = copy.deepcopy(backbone)
    nn.init.zeros_(twin.module.conv_stem.weight)
    assert not torch.equal(*(b.forward_layers(x, ["blocks.0"])["blocks.0"] for b in (backbone, twin)))
    ran = count_blocks(backbone)
    backbone.forward_layers(x, ["blocks.1"])
    assert ran == [0, 1]


def test_a_model_that_cannot_be_read_is_an_error(monkeypatch):
    monkeypatch.delattr(EfficientNet, "forward_intermediates")
    original = EfficientNet.__init__

    def without_features(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.feature_info = []

    monkeypatch.setattr(EfficientNet, "__init__", without_features)
    with pytest.raises(BackboneError, match=r"cannot be read: intermediates: .* no forward_intermediates; hooks: "):
        timm_backbone("test_efficientnet", size=64)


# Input


def test_the_input_is_that_of_the_pretrained_weights():
    spec = timm_backbone("vit_tiny_patch16_224").input
    settings = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    assert spec.shape == (3, 224, 224)
    assert (spec.mean, spec.std) == (tuple(settings.mean), tuple(settings.std))


def test_size_and_channels_are_honoured():
    backbone = timm_backbone("test_vit", size=32, channels=1)
    assert backbone.input.shape == (1, 32, 32)
    mean = timm.get_pretrained_cfg("test_vit").mean
    assert backbone.input.mean == pytest.approx((sum(mean) / 3,))
    assert backbone(picture(backbone)).shape == (1, backbone.output_dim)


def test_a_size_that_is_no_whole_number_of_patches_is_an_error():
    with pytest.raises(BackboneError, match=r"size \(40, 40\) is no whole number of patches of \(16, 16\) pixels"):
        timm_backbone("test_vit", size=40)


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", r'timm has no model "resnt18"\. Did you mean "resnet18"\?'),
        (
            "resnet18.a1_in2k",
            r'timm has no weights "a1_in2k" for resnet18\. It has: .*Did you mean "resnet18\.a1_in1k"\?',
        ),
        ("hf-hub:timm/resnet18.a1_in1k", r'timm has no model "hf-hub:timm/resnet18\.a1_in1k"'),
        ("local-dir:somewhere", r'timm has no model "local-dir:somewhere"'),
    ],
)
def test_an_unknown_name_is_an_error_with_a_hint(name, message):
    with pytest.raises(BackboneError, match=message):
        timm_backbone(name)


# Weights


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_without_a_network_the_error_says_how_to_fetch_the_file(no_network):
    with pytest.raises(BackboneError, match=r'could not load the published weights of "test_resnet"') as raised:
        timm_backbone("test_resnet", pretrained=True)
    message = str(raised.value)
    assert "curl -L -O https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors" in message
    assert "weights=PATH" in message


def test_a_model_without_published_weights_is_an_error():
    with pytest.raises(BackboneError, match=r'timm publishes no weights for "test_mambaout"'):
        timm_backbone("test_mambaout", pretrained=True)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
def test_published_weights_are_loaded_without_their_classifier(name, monkeypatch, tmp_path, no_network):
    published = seeded(name).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(published))
    backbone = timm_backbone(name, pretrained=True)
    state = backbone.module.state_dict()
    assert state.keys() < published.keys()
    assert all(torch.equal(tensor, published[key]) for key, tensor in state.items())
    assert backbone.provenance == {"pretrained_on": f"timm/{name}.r160_in1k"}

    monkeypatch.undo()  # what was saved is read without the weights' source
    backbone.save_pretrained(tmp_path / "backbone")
    again = Backbone.from_pretrained(tmp_path / "backbone")
    assert all(torch.equal(tensor, published[key]) for key, tensor in again.module.state_dict().items())
    assert again.provenance == backbone.provenance


@pytest.mark.parametrize("classes", [1000, 7, 0])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_a_file_of_weights_is_loaded_whatever_its_classifier(name, classes, tmp_path):
    source = seeded(name, num_classes=classes)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    backbone = timm_backbone(name, weights=str(path))
    state = backbone.module.state_dict()
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in state.items())
    assert backbone.provenance == {"pretrained_on": "weights file model.safetensors"}
    assert backbone.family.arguments["weights"] is None


def test_weights_are_adapted_to_grey_pictures_of_another_size(tmp_path):
    source = seeded("test_vit")
    path = tmp_path / "vit.pt"
    torch.save(source.state_dict(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = timm_backbone("test_vit", weights=str(path), size=64, channels=1)
    found, kernel = backbone.module.state_dict(), source.state_dict()["patch_embed.proj.weight"]
    assert torch.allclose(found["patch_embed.proj.weight"], kernel.sum(dim=1, keepdim=True), atol=1e-6)
    assert found["pos_embed"].shape == (1, 17, 64)
    assert torch.equal(found["blocks.0.mlp.fc1.weight"], source.state_dict()["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_weights_that_leave_a_layer_random_are_refused(damage, tmp_path):
    state = seeded("test_resnet").state_dict()
    if damage == "missing":
        del state["layer2.0.conv1.weight"]
    elif damage == "unexpected":
        state["layer9.weight"] = torch.zeros(2)
    else:
        state["layer2.0.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    path = tmp_path / "damaged.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(BackboneError, match=r"does not fit timm's \"test_resnet\": [\s\S]*layer[29]"):
        timm_backbone("test_resnet", weights=str(path))


def test_published_weights_that_leave_a_layer_random_are_refused(monkeypatch, no_network):
    published = seeded("test_resnet").state_dict()
    del published["layer2.0.conv1.weight"]
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(published))
    with pytest.raises(BackboneError, match=r"could not load [\s\S]*Missing key.*layer2"):
        timm_backbone("test_resnet", pretrained=True)


def test_two_sources_of_weights_are_an_error(tmp_path):
    with pytest.raises(BackboneError, match="pretrained=True and weights=PATH exclude each other"):
        timm_backbone("test_resnet", pretrained=True, weights="x.pt")
    with pytest.raises(BackboneError, match=r"there is no file .*nothing\.pt"):
        timm_backbone("test_resnet", weights=str(tmp_path / "nothing.pt"))
