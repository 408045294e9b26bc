"""torchvision: every class but one can be cut, equal to the library to the bit; published files as they really are."""

import io
import os
import re
import urllib.error
from email.message import Message
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from auxtasks.backbones import Backbone, build, torchvision_backbone
from auxtasks.backbones.torchvision_stages import ARCHITECTURES
from auxtasks.errors import BackboneError

# One of each class, and of each class's variants that compute in another way, at the least size that suits it.
EACH = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 32,
    "vit_b_32": 64,
}
LIGHT = ["densenet121", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]
INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": False}


def library(name: str, size: int, *, headless: bool = True, **options: object) -> nn.Module:
    """Build the library's own model with random weights, and for `headless` an identity as its last dense layer."""
    if name in ("googlenet", "inception_v3"):
        options = {**INCEPTION, **options}
    if name.startswith("vit"):
        options["image_size"] = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = getattr(models, name)(weights=None, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # else all statistics are those of no data
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    if headless:
        classifiers = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
        # SqueezeNet's only one is a convolution.
        model.set_submodule(classifiers[-1] if classifiers else "classifier.1", nn.Identity())
    return model.eval()


def picture(size: int, items: int = 1) -> torch.Tensor:
    return torch.rand((items, 3, size, size), generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Point PyTorch's files at an empty folder and make any use of the network fail."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    return tmp_path / "torch" / "hub" / "checkpoints"


def put(cache: Path, name: str, state: object) -> Path:
    """Put a file where torchvision puts its default weights of a model."""
    url = models.get_model_weights(name).DEFAULT.url
    cache.mkdir(parents=True)
    torch.save(state, cache / url.rpartition("/")[2])
    return cache / url.rpartition("/")[2]


# Tables of stages


@pytest.mark.parametrize("name", EACH)
def test_a_model_is_cut_at_every_layer_as_the_library_computes_it(name):
    backbone = torchvision_backbone(name, size=EACH[name]).eval()
    model = library(name, EACH[name])
    backbone.module.load_state_dict(model.state_dict(), strict=True)
    owned = [key for layer in backbone.layer_names for key, _ in backbone.parameters_of(layer)]
    assert sorted(owned) == sorted(key for key, _ in backbone.module.named_parameters())
    x = picture(EACH[name])
    with torch.no_grad():
        expected = model(x)
        kept = backbone.forward_layers(x, backbone.layer_names)
        assert torch.equal(backbone(x), expected)
        assert expected.std() > 0
        for layer in backbone.layer_names:
            below = backbone.lower(layer)(x)
            # Else a later layer has worked in place on a kept one.
            assert torch.equal(kept[layer], below), layer
            assert below.shape[1 if below.ndim == 4 else -1] == backbone.layer_dims[layer]
            assert torch.equal(backbone.upper(layer)(below.clone(memory_format=torch.contiguous_format)), expected)


# MaxViT takes pictures of 224 pixels, and VGG has the table of AlexNet: too slow for what the others show.
@pytest.mark.parametrize("name", [name for name in EACH if name not in ("maxvit_t", "vgg11")])
def test_every_layer_learns(name):
    backbone = torchvision_backbone(name, size=EACH[name])
    backbone(picture(EACH[name], items=2)).square().sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_every_class_but_one_has_a_table():
    classes = {models.get_model_builder(name).__annotations__["return"].__name__ for name in models.list_models(models)}
    assert classes - set(ARCHITECTURES) == {"MNASNet"}
    built = {models.get_model_builder(name).__annotations__["return"].__name__ for name in EACH}
    assert built == set(ARCHITECTURES)


def test_layers_bear_names_that_a_reader_knows():
    assert torchvision_backbone("resnet18").layer_names == ("stem", "layer1", "layer2", "layer3", "layer4", "pooled")
    vgg = torchvision_backbone("vgg11", size=32)
    assert vgg.layer_names == ("block1", "block2", "block3", "block4", "block5", "fc6", "fc7")
    assert (vgg.output_dim, vgg.layer_dims["block5"]) == (4096, 512)
    assert torchvision_backbone("densenet121", size=32).layer_dims == {
        "stem": 64, "block1": 128, "block2": 256, "block3": 512, "block4": 1024, "pooled": 1024,
    }  # fmt: skip


def test_layers_of_a_vision_transformer_are_tokens_behind_the_class_token():
    backbone = torchvision_backbone("vit_b_32", size=64)
    blocks = tuple(f"block{place}" for place in range(1, 13))
    assert backbone.layer_names == ("embeddings", *blocks, "norm", "pooled")
    assert backbone.prefix_tokens == 1
    outputs = backbone.eval().forward_layers(picture(64), ["embeddings", "norm", "pooled"])
    assert outputs["embeddings"].shape == (1, 1 + 4, 768)
    assert torch.equal(outputs["pooled"], outputs["norm"][:, 0])


def test_layers_of_a_swin_transformer_are_channels_first():
    backbone = torchvision_backbone("swin_t", size=64).eval()
    x = picture(64)
    with torch.no_grad():
        expected = backbone.module.features[:3](x)  # (B, H, W, C) in the library
        expected = backbone.module.features[3](expected)
        assert expected.shape == (1, 8, 8, 192)
        found = backbone.forward_layers(x, ["stage2"])["stage2"]
        mean = backbone.forward_layers(x, ["stage2"], pool="mean")["stage2"]
    for row in range(8):
        for column in range(8):
            assert torch.equal(found[0, :, row, column], expected[0, row, column])
    assert torch.allclose(mean, expected.mean(dim=(1, 2)), atol=1e-6)


def test_freezing_keeps_the_statistics_of_frozen_layers():
    backbone = torchvision_backbone("resnet18", size=32).freeze(["stem", "layer1"]).train()
    before = {key: tensor.clone() for key, tensor in backbone.module.state_dict().items()}
    backbone(picture(32, items=4))
    moved = {key for key, tensor in backbone.module.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved
    assert {key.split(".")[0] for key in moved} == {"layer2", "layer3", "layer4"}


# Random weights


def test_random_weights_follow_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first, again, other = (torchvision_backbone("squeezenet1_1", size=32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    kernel = "features.0.weight"
    assert torch.equal(first.module.state_dict()[kernel], again.module.state_dict()[kernel])
    assert not torch.equal(first.module.state_dict()[kernel], other.module.state_dict()[kernel])
    assert torch.equal(first.untrained(seed=2).module.state_dict()[kernel], other.module.state_dict()[kernel])
    assert first.provenance == {}


@pytest.mark.parametrize("name", ["googlenet", "resnet18"])
def test_a_saved_folder_is_read_without_a_network(name, cache, tmp_path):
    backbone = torchvision_backbone(name, size=64, seed=3).eval()
    again = Backbone.from_pretrained(backbone.save_pretrained(tmp_path / "backbone")).eval()
    assert (again.family, again.input, again.layer_dims) == (backbone.family, backbone.input, backbone.layer_dims)
    assert torch.equal(again(picture(64)), backbone(picture(64)))
    loaded = safetensors.torch.load_file(tmp_path / "backbone" / "model.safetensors")
    library(name, 64).load_state_dict(loaded, strict=True)


# Input


def test_the_input_is_that_of_the_published_weights():
    for name, size in (("resnet18", 224), ("swin_v2_t", 256), ("efficientnet_b1", 240)):
        spec = torchvision_backbone(name).input
        preset = models.get_model_weights(name).DEFAULT.transforms()
        assert spec.shape == (3, size, size)
        assert (spec.mean, spec.std) == (tuple(preset.mean), tuple(preset.std))


def test_a_name_of_weights_settles_the_input():
    first = torchvision_backbone("vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    assert first.input.shape == (3, 384, 384)
    assert first.module.encoder.pos_embedding.shape == (1, 1 + 24 * 24, 768)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("alexnet", 16, r"size 16 is too small for alexnet: "),
        ("vit_b_32", 40, r"size 40 makes no vit_b_32: .*indivisible by patch size"),
        ("maxvit_t", 100, r"size 100 makes no maxvit_t: .*not divisible by partition size"),
        ("resnet18", 0, "size must be at least 1, found 0"),
    ],
)
def test_a_size_that_the_network_cannot_take_is_an_error(name, size, message):
    with pytest.raises(BackboneError, match=message):
        torchvision_backbone(name, size=size)


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", r'torchvision has no model "resnt18"\. It has: alexnet, .*Did you mean "resnet18"\?'),
        ("fasterrcnn_resnet50_fpn", r'torchvision has no model "fasterrcnn_resnet50_fpn"'),
        ("_resnet", r'torchvision has no model "_resnet"'),
        (
            "resnet50.IMAGENET1K_V3",
            r'no weights "IMAGENET1K_V3" for resnet50\. It has: resnet50\.IMAGENET1K_V1, resnet50',
        ),
        (
            "mnasnet1_0",
            r"mnasnet1_0 is of the class MNASNet, which has no table of stages\. Classes that have one: AlexN",
        ),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known(name, message):
    with pytest.raises(BackboneError, match=message):
        torchvision_backbone(name)


# Published weights


@pytest.mark.parametrize("name", LIGHT)
def test_published_weights_are_found_in_the_library_s_cache(name, cache, tmp_path):
    published = library(name, 32, headless=False).state_dict()
    path = put(cache, name, published)
    backbone = torchvision_backbone(name, size=32, pretrained=True)
    state = backbone.module.state_dict()
    assert state.keys() < published.keys()
    assert all(torch.equal(tensor, published[key]) for key, tensor in state.items())
    tag = models.get_model_weights(name).DEFAULT.name
    assert backbone.provenance == {"pretrained_on": f"torchvision/{name}.{tag}"}

    saved = backbone.save_pretrained(tmp_path / "backbone")
    path.unlink()  # what was saved is read without the weights' source
    again = Backbone.from_pretrained(saved)
    assert again.provenance == backbone.provenance
    assert all(torch.equal(tensor, published[key]) for key, tensor in again.module.state_dict().items())


def test_published_densenets_have_the_names_of_an_older_pytorch(cache):
    published = library("densenet121", 32, headless=False).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in published.items()}
    # Nor had batch norms a count of batches then.
    old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    put(cache, "densenet121", old)
    state = torchvision_backbone("densenet121", size=32, pretrained=True).module.state_dict()
    compared = [key for key in state if not key.endswith("num_batches_tracked")]
    assert len(compared) == len(old) - 2  # the classifier's weight and bias
    assert all(torch.equal(state[key], published[key]) for key in compared)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_heads_beside_the_trunk_are_left_out(name, cache):
    model = library(name, 75, headless=False, aux_logits=True)
    put(cache, name, model.state_dict())
    backbone = torchvision_backbone(name, size=75, pretrained=True).eval()
    assert not [key for key in backbone.module.state_dict() if key.lower().startswith("aux")]
    model.fc = nn.Identity()
    assert torch.equal(backbone(picture(75)), model(picture(75)))


def test_positions_are_resampled_to_another_size(tmp_path):
    state = library("vit_b_32", 64, headless=False).state_dict()
    torch.save(state, tmp_path / "vit.pt")
    backbone = torchvision_backbone("vit_b_32", size=96, weights=str(tmp_path / "vit.pt"))
    positions, found = state["encoder.pos_embedding"], backbone.module.encoder.pos_embedding
    assert found.shape == (1, 1 + 9, 768)
    assert torch.equal(found[:, 0], positions[:, 0])
    # The grid's corners stay where they are, and its middle is the mean of the four there were.
    assert torch.allclose(found[0, [1, 3, 7, 9]], positions[0, [1, 2, 3, 4]], atol=1e-6)
    assert torch.allclose(found[0, 5], positions[0, 1:].mean(dim=0), atol=1e-6)
    torch.save({"encoder.pos_embedding": torch.zeros(1, 1 + 5, 768)}, tmp_path / "odd.pt")
    with pytest.raises(BackboneError, match=r"position embeddings cannot be resampled: .*perfect square"):
        torchvision_backbone("vit_b_32", size=64, weights=str(tmp_path / "odd.pt"))


def test_without_a_network_the_error_says_what_to_put_where(cache):
    with pytest.raises(BackboneError, match=r"could not download https://download\.pytorch\.org/") as raised:
        torchvision_backbone("resnet18", pretrained=True)
    place = cache / "resnet18-f37072fd.pth"
    message = str(raised.value)
    assert "curl -L -o resnet18-f37072fd.pth https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert f"put it at {place}, or pass its path as weights=PATH" in message
    assert list(cache.iterdir()) == []
    # What it says works.
    cache.rmdir()
    assert put(cache, "resnet18", library("resnet18", 32, headless=False).state_dict()) == place
    assert torchvision_backbone("resnet18", pretrained=True).provenance


class Answer(io.BytesIO):
    """What a server answers, without a length."""

    def info(self):
        return Message()


def test_a_download_that_is_not_what_was_published_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: Answer(b"Sign in to the hotel's network"))
    with pytest.raises(BackboneError, match=r'could not download .*invalid hash value \(expected "f37072fd"'):
        torchvision_backbone("resnet18", pretrained=True)
    assert list(cache.iterdir()) == []


# Files of weights


@pytest.mark.parametrize("classes", [1000, 7, None])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_weights_is_loaded_whatever_its_classifier(suffix, classes, tmp_path):
    options = {} if classes is None else {"num_classes": classes}
    state = library("shufflenet_v2_x0_5", 32, headless=classes is None, **options).state_dict()
    path = tmp_path / f"mine{suffix}"
    torch.save({"state_dict": state}, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
    backbone = torchvision_backbone("shufflenet_v2_x0_5", size=32, weights=str(path))
    assert all(torch.equal(tensor, state[key]) for key, tensor in backbone.module.state_dict().items())
    assert backbone.provenance == {"pretrained_on": f"weights file {path.name}"}
    assert backbone.family.arguments["weights"] is None


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_weights_that_leave_a_layer_random_are_refused(damage, tmp_path):
    state = library("resnet18", 32).state_dict()
    if damage == "missing":
        del state["layer2.0.conv1.weight"]
    elif damage == "unexpected":
        state["layer9.weight"] = torch.zeros(2)
    else:
        state["layer2.0.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(BackboneError, match=r"damaged\.pt does not fit torchvision's \"resnet18\": [\s\S]*layer[29]"):
        torchvision_backbone("resnet18", weights=str(tmp_path / "damaged.pt"))


def test_two_sources_of_weights_a_missing_file_and_a_pickle_are_errors(cache, tmp_path):
    with pytest.raises(BackboneError, match="pretrained=True and weights=PATH exclude each other"):
        torchvision_backbone("resnet18", pretrained=True, weights="x.pt")
    with pytest.raises(BackboneError, match=r"there is no file .*nothing\.pt"):
        torchvision_backbone("resnet18", weights=str(tmp_path / "nothing.pt"))
    proof = tmp_path / "it-ran"

    class Runs:
        def __reduce__(self):
            return (os.system, (f"touch {proof}",))

    put(cache, "resnet18", {"x": Runs()})
    with pytest.raises(BackboneError, match="a pickle that would run code when read"):
        torchvision_backbone("resnet18", pretrained=True)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/test_resnet"])
def test_pictures_on_another_scale_are_kept_with_the_network(name, tmp_path):
    backbone = build(name, size=64, mean=[0.1, 0.2, 0.3], std=[1 / 255, 1 / 255, 1])
    again = Backbone.from_pretrained(backbone.save_pretrained(tmp_path / "saved"))
    for network in (backbone, again, again.untrained(seed=1)):
        assert network.input.mean == (0.1, 0.2, 0.3)
        assert network.input.std == (1 / 255, 1 / 255, 1.0)
    assert build(name, size=64, std=[1, 1, 1]).input.mean == build(name, size=64).input.mean
    with pytest.raises(BackboneError, match=r"mean holds a finite value for each of the 3 channels .* found \[0.5\]"):
        build(name, size=64, mean=[0.5])
    with pytest.raises(BackboneError, match=r"std holds a finite value above 0 for each of the 3 channels"):
        build(name, size=64, std=[1, 0, 1])
