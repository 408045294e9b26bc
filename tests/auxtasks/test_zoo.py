"""Model zoos: their names work as a backbone's, what is told of them is true, and files put by hand are found."""

import json
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from facenet_pytorch import InceptionResnetV1
from torch import nn
from torchvision import models
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
    ViTConfig,
    ViTModel,
)

from auxtasks.backbones import build, facenet, timm_backbone, torchvision_backbone
from auxtasks.backbones.catalogue import HUB, Entry, catalogue, counted
from auxtasks.backbones.facenet import PUBLISHED
from auxtasks.backbones.transformers_stages import ENCODERS
from auxtasks.backbones.zoo import ZOOS
from auxtasks.errors import BackboneError

VIT = ViTConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Point the folders of fetched files at empty ones, and make any use of the network fail."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def no_network(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    return tmp_path / "torch" / "hub" / "checkpoints"


def entry(name: str) -> Entry:
    [found] = [entry for entry in catalogue(name) if entry.name == name]
    return found


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


# Names


def test_a_name_of_a_zoo_is_its_family_and_an_argument(offline):
    by_name, by_argument = build("torchvision/resnet18", size=32), torchvision_backbone("resnet18", size=32)
    assert by_name.family == by_argument.family
    assert same(by_name.module, by_argument.module)
    by_name, by_argument = build("timm/test_resnet", size=32, seed=4), timm_backbone("test_resnet", size=32, seed=4)
    assert by_name.family == by_argument.family
    assert same(by_name.module, by_argument.module)


def test_a_name_of_the_hub_is_a_folder_that_was_put_by_hand(offline):
    model = ViTModel(VIT, add_pooling_layer=False)
    model.save_pretrained(offline / "hf" / "somebody" / "small-vit")
    backbone = build("hf/somebody/small-vit")
    assert same(backbone.module, model)
    assert backbone.input.shape == (3, 16, 16)
    assert backbone.provenance == {"pretrained_on": "transformers/somebody/small-vit"}
    assert backbone.family.name == "transformers"
    with pytest.raises(BackboneError, match="give exactly one of config=MAPPING"):
        build("hf/somebody/small-vit", config={"model_type": "vit"})


def test_published_faces_are_named_by_their_data(offline):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        published = InceptionResnetV1(classify=True, num_classes=13).state_dict()
    path = offline.parents[1] / "checkpoints" / PUBLISHED["vggface2"].rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(published, path)
    backbone = build("facenet/vggface2", size=80)
    assert same(backbone.module, facenet("vggface2", size=80).module)
    assert torch.equal(backbone.module.last_linear.weight, published["last_linear.weight"])
    assert backbone.provenance == {"pretrained_on": "vggface2"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "torchvison/resnet18",
            {},
            r'no backbone "torchvison/resnet18"\. Allowed: convnet, .*, timm/NAME, torchvision/N',
        ),
        ("torchvision/resnt18", {}, r'torchvision has no model "resnt18"\. .*Did you mean "resnet18"'),
        ("torchvision/", {}, r'torchvision has no model ""'),
        ("torchvision/resnet18", {"name": "vgg11"}, r'named twice: "torchvision/resnet18" and name=\'vgg11\''),
        ("torchvision/resnet18", {"channels": 1}, r'torchvision: no argument "channels"\. Allowed: name, pretrained'),
        ("torchvision/resnet18", {"pretrained": 1}, r"torchvision: pretrained must be bool, found 1"),
        ("facenet/vggface", {}, r'no "facenet/vggface"\. Allowed: .*\. Did you mean "facenet/vggface2"\?'),
        ("facenet/vggface2", {"weights": "x.pt"}, r"named twice: \"facenet/vggface2\" and weights='x.pt'"),
        ("hf/", {}, r'"hf/" names no model on the Hugging Face Hub: write hf/OWNER/NAME'),
        ("hf/../../etc", {}, r'"hf/\.\./\.\./etc" names no model'),
        ("hf/https://example.org/model", {}, "names no model on the Hugging Face Hub"),
        ("hf/owner/model@revision", {}, "names no model on the Hugging Face Hub"),
        ("hf/owner/model/part", {}, "names no model on the Hugging Face Hub"),
        ("os/system", {}, r'no backbone "os/system"'),
    ],
)
def test_names_are_a_closed_table(name, arguments, message, offline):
    with pytest.raises(BackboneError, match=message):
        build(name, **arguments)


def test_code_that_comes_with_a_model_never_runs(offline, tmp_path):
    folder = offline / "hf" / "somebody" / "model"
    ViTModel(VIT, add_pooling_layer=False).save_pretrained(folder)
    proof = tmp_path / "it-ran"
    (folder / "modeling.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": names}))
    build("hf/somebody/model")  # of a known type: transformers' own class is taken
    assert not proof.exists()
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "my-own", "auto_map": names}))
    with pytest.raises(BackboneError, match="code of its own that would have to be run, which is never done here"):
        build("hf/somebody/model")
    assert not proof.exists()


# Without a network


def test_without_a_network_timm_s_file_is_found_where_the_error_says(offline):
    with pytest.raises(BackboneError, match="could not load the published weights") as raised:
        build("timm/test_resnet.r160_in1k", pretrained=True)
    place = offline / "timm" / "test_resnet.r160_in1k.safetensors"
    url = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert f"curl -L -O {url}\nand put it at {place}, or pass its path as weights=PATH" in str(raised.value)

    place.parent.mkdir(parents=True)
    published = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(published, place)
    for name in ("timm/test_resnet.r160_in1k", "timm/test_resnet"):
        backbone = build(name, pretrained=True, size=64)
        state = backbone.module.state_dict()
        assert all(torch.equal(tensor, published[key]) for key, tensor in state.items())
        assert backbone.provenance == {"pretrained_on": "timm/test_resnet.r160_in1k"}

    place.write_bytes(place.read_bytes()[:999])
    with pytest.raises(BackboneError, match=r"test_resnet\.r160_in1k\.safetensors is damaged or cut short"):
        build("timm/test_resnet", pretrained=True)


def test_without_a_network_the_error_says_what_to_fetch_from_the_hub(offline):
    with pytest.raises(BackboneError, match='"somebody/nothing" is no folder here') as raised:
        build("hf/somebody/nothing")
    message = str(raised.value)
    assert "hf download somebody/nothing --local-dir FOLDER" in message
    assert "https://huggingface.co/somebody/nothing/tree/main" in message
    assert f"copy the folder to {offline / 'hf' / 'somebody' / 'nothing'}" in message


# The catalogue


def test_the_catalogue_has_all_of_all_zoos_and_asks_no_network(offline):
    entries = catalogue()
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == set(ZOOS)
    plain = {name.partition("/")[2].partition(".")[0] for name in names if name.startswith("timm/")}
    assert plain == set(timm.list_models())
    plain = {name.partition("/")[2].partition(".")[0] for name in names if name.startswith("torchvision/")}
    without_table = {"mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"}
    assert plain == set(models.list_models(models)) - without_table
    assert {name for name in names if name.startswith("facenet/")} == {f"facenet/{weights}" for weights in PUBLISHED}
    assert not offline.exists()


def test_words_of_a_search_must_all_occur():
    names = {entry.name for entry in catalogue("ResNet18 IMAGENET")}
    assert names == {"torchvision/resnet18.IMAGENET1K_V1"}
    assert names == {entry.name for entry in catalogue(["imagenet1k", "resnet18"])}
    with pytest.raises(
        BackboneError, match=r'has "resnt18" in its name\. Did you mean "resnet18"\? .* as hf/OWNER/NAME'
    ):
        catalogue("resnt18")


def test_licences_and_sizes_are_those_of_the_weights():
    settings = timm.get_pretrained_cfg("resnet18.fb_swsl_ig1b_ft_in1k")
    found = entry("timm/resnet18.fb_swsl_ig1b_ft_in1k")
    assert (found.licence, found.input_size, found.kind) == (settings.license, tuple(settings.input_size), "image")
    assert found.licence == "cc-by-nc-4.0"
    assert found.source == ("https://huggingface.co/timm/resnet18.fb_swsl_ig1b_ft_in1k/resolve/main/model.safetensors")
    assert entry("torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1").licence == "cc-by-nc-4.0"
    assert entry("torchvision/vit_b_16.IMAGENET1K_V1").licence == "bsd-3-clause (code)"
    untrained = entry("timm/seresnet18.untrained")
    assert (untrained.source, untrained.licence) == (None, None)
    assert entry("hf/answerdotai/ModernBERT-base").size == "8192 tokens"


def test_every_licence_of_torchvision_has_a_name():
    licences = {entry.licence for entry in catalogue("torchvision/")}
    assert licences == {"bsd-3-clause (code)", "cc-by-nc-4.0"}


@pytest.mark.parametrize(
    "name",
    [
        "timm/test_convnext.r160_in1k", "timm/test_efficientnet.r160_in1k", "timm/test_vit.r160_in1k",
        "timm/test_mambaout", "timm/resnet18.a3_in1k", "timm/deit_tiny_patch16_224.fb_in1k",
        "timm/deit_tiny_distilled_patch16_224.fb_in1k", "timm/vit_tiny_r_s16_p8_224.augreg_in21k",
    ],
)  # fmt: skip
def test_what_is_told_of_timm_is_what_is_built(name):
    told = counted(entry(name))
    backbone = build(name)
    assert told.can_be_cut == backbone.can_be_cut
    assert told.input_size == backbone.input.shape
    assert told.parameters == sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_what_is_told_of_torchvision_is_what_is_built(name):
    told = entry(f"torchvision/{name}.IMAGENET1K_V1")
    backbone = build(told.name)
    assert backbone.can_be_cut
    assert told.input_size == backbone.input.shape
    whole = models.get_model(name)
    assert told.parameters == sum(parameter.numel() for parameter in whole.parameters())


def test_counting_leaves_the_generator_and_what_is_known_alone():
    known = entry("facenet/vggface2")
    assert known.parameters == sum(parameter.numel() for parameter in InceptionResnetV1().parameters())
    state = torch.random.get_rng_state()
    assert counted(known) is known
    counted(entry("timm/test_resnet.r160_in1k"))
    assert torch.equal(torch.random.get_rng_state(), state)


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
CONFIGS = {
    "google-bert/bert-base-uncased": BertConfig(vocab_size=30522),
    "google-bert/bert-base-cased": BertConfig(vocab_size=28996),
    "google-bert/bert-large-uncased": BertConfig(vocab_size=30522, **LARGE),
    "google-bert/bert-base-multilingual-cased": BertConfig(vocab_size=119547),
    "FacebookAI/roberta-base": RobertaConfig(**ROBERTA),
    "FacebookAI/roberta-large": RobertaConfig(**ROBERTA, **LARGE),
    "distilbert/distilbert-base-uncased": DistilBertConfig(vocab_size=30522),
    "distilbert/distilroberta-base": RobertaConfig(**ROBERTA, num_hidden_layers=6),
    "answerdotai/ModernBERT-base": ModernBertConfig(vocab_size=50368),
    "answerdotai/ModernBERT-large": ModernBertConfig(
        vocab_size=50368, hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
    ),
    "sentence-transformers/all-MiniLM-L6-v2": BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "google/vit-base-patch16-224-in21k": ViTConfig(),
    "google/vit-large-patch16-224-in21k": ViTConfig(**LARGE),
}


@pytest.mark.parametrize("model", HUB, ids=lambda model: model.name)
def test_what_is_written_down_of_the_hub_follows_from_the_published_sizes(model):
    config: AutoConfig = CONFIGS[model.name]
    assert config.model_type == model.model_type
    pooler = {"add_pooling_layer": False} if ENCODERS[model.model_type].has_pooler else {}
    with torch.device("meta"):
        module = AutoModel.from_config(config, **pooler)
    assert model.parameters == sum(parameter.numel() for parameter in module.parameters())
    kind = ENCODERS[model.model_type].kind
    size = (
        (3, config.image_size, config.image_size) if kind == "image" else (ENCODERS[model.model_type].length(config),)
    )
    assert model.input_size == size
    assert entry(f"hf/{model.name}").kind == kind


def test_nearly_all_of_timm_says_whether_it_can_be_cut():
    told = [entry.can_be_cut for entry in catalogue("timm/")]
    assert told.count(None) < 0.02 * len(told)
    assert told.count(True) > 300


def test_a_path_is_no_name(tmp_path, offline):
    ViTModel(VIT, add_pooling_layer=False).save_pretrained(tmp_path / "mine")
    assert build("transformers", name=str(tmp_path / "mine")).input.shape == (3, 16, 16)
    with pytest.raises(BackboneError, match="of a folder, transformers with name=FOLDER"):
        build(f"hf/{Path(tmp_path / 'mine')}")
