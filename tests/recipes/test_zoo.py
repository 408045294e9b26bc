"""`auxtasks zoo`, and names of zoos in recipes."""

import pytest
import torch

from auxtasks.backbones import torchvision_backbone
from auxtasks.backbones.catalogue import catalogue
from auxtasks.errors import BackboneError
from recipes.build import make_backbone
from recipes.config import load_recipe
from recipes.zoo import describe_zoo


def test_the_table_shows_input_size_licence_and_whether_it_can_be_cut():
    lines = describe_zoo(["test_resnet"], count=True).splitlines()
    assert lines[0].split() == ["name", "input", "parameters", "licence", "of", "weights", "cut", "weights"]
    row = "timm/test_resnet.r160_in1k 3 x 160 x 160 0.4M apache-2.0 yes published"
    assert lines[1].split() == row.split()
    assert lines[3] == "1 model: 1 of timm."
    assert lines[4] == ("weights: https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors")
    assert lines[5] == "in a recipe: backbone: {name: timm/test_resnet.r160_in1k, arguments: {pretrained: true}}"


def test_columns_are_aligned():
    header, *rows = describe_zoo(["resnet18"]).split("\n\n")[0].splitlines()
    start, end = header.index("parameters"), header.index("licence")
    assert len(rows) == len(catalogue("resnet18")) > 5
    assert {row[start - 2 : start] for row in rows} == {"  "}
    assert {row[end - 2 : end] for row in rows} == {"  "}
    assert any(row[start:end].strip() == "11.7M" for row in rows)  # torchvision tells, timm does not
    assert any(row[start:end].strip() == "-" for row in rows)


def test_the_whole_list_counts_each_zoo():
    text = describe_zoo()
    total = len(catalogue())
    assert len(text.split("\n\n")[0].splitlines()) == total + 1
    assert f"{total:,} models: " in text
    assert "13 of hf, 2 of facenet." in text
    assert "any BERT, RoBERTa, DistilBERT, ModernBERT or ViT of the Hugging Face Hub works by its name" in text


@pytest.mark.parametrize(
    ("words", "use"),
    [
        (["bert-large-uncased"], "in a recipe: backbone: {name: hf/google-bert/bert-large-uncased}"),
        (["facenet/vggface2"], "in a recipe: backbone: {name: facenet/vggface2}"),
        (["seresnet18.untrained", "timm/seresnet18"], "in a recipe: backbone: {name: timm/seresnet18.untrained}"),
    ],
)
def test_a_single_one_is_shown_with_its_use(words, use):
    assert use in describe_zoo(words).splitlines()


def test_nothing_found_is_an_error():
    with pytest.raises(BackboneError, match='no model of timm, torchvision, transformers or facenet-pytorch has "zzz"'):
        describe_zoo(["zzz"])


def test_a_recipe_begins_with_a_model_of_a_zoo(tmp_path):
    path = tmp_path / "model.pt"
    state = torchvision_backbone("squeezenet1_1", size=32, seed=9).module.state_dict()
    torch.save(state, path)
    overrides = ["backbone.name=torchvision/squeezenet1_1", f"backbone.arguments={{size: 32, weights: {path}}}"]
    backbone = make_backbone(load_recipe("faces_demo", overrides))
    assert all(torch.equal(tensor, state[key]) for key, tensor in backbone.module.state_dict().items())
    assert backbone.family.name == "torchvision"


def test_the_recipe_s_seed_is_that_of_random_weights():
    overrides = ["backbone.name=torchvision/squeezenet1_1", "backbone.arguments={size: 32}", "seed=7"]
    backbone = make_backbone(load_recipe("faces_demo", overrides))
    twin = torchvision_backbone("squeezenet1_1", size=32, seed=7)
    assert torch.equal(backbone.module.features[0].weight, twin.module.features[0].weight)
