"""Only the output layer changes: every other weight stays to the bit, and an untrained head says so when loaded."""

import json
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from facenet_pytorch import InceptionResnetV1
from torch import nn

import transfer
from auxtasks.errors import TransferError
from auxtasks.features.extract import extract
from transfer.heads import build_head
from transfer.layers import Select
from transfer.model import TargetModel
from transfer.replace_output import fit_head, output_layers, replace_head, replace_output
from transfer.reuse import reuse

PICTURES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 30, "num_labels": 3}
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def inception():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, that its initialisation is slow
        return torchvision.models.inception_v3(weights=None, init_weights=False)


NETWORKS = {
    "timm resnet": (lambda: timm.create_model("test_resnet", num_classes=9), ("fc",)),
    "timm vit": (lambda: timm.create_model("test_vit", num_classes=9, img_size=64), ("head",)),
    "timm efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=9), ("classifier",)),
    "timm convnext": (lambda: timm.create_model("test_convnext", num_classes=9), ("head.fc",)),
    "torchvision squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=9), ("classifier.1",)),
    "torchvision shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=9), ("fc",)),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=9), ("classifier.3",)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_output_layer_of_a_librarys_classifier_changes(name):
    make, names = NETWORKS[name]
    network = make().eval()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    replaced = replace_output(network, 5, seed=1)
    assert (replaced.names, replaced.before, replaced.outputs) == (names, 9, 5)
    after = network.state_dict()
    assert {key for key in after if key not in before or not torch.equal(after[key], before[key])} == set(
        replaced.random
    )
    assert network(PICTURES).shape == (2, 5)
    if hasattr(network, "num_classes"):
        assert network.num_classes == 5


def test_auxiliary_classifiers_are_replaced_too():
    network = inception()
    assert replace_output(network, 5).names == ("AuxLogits.fc", "fc")
    assert network.AuxLogits.fc.out_features == 5


def test_a_distilled_model_has_two_output_layers():
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=9, img_size=64, depth=1)
    assert replace_output(network, 5).names == ("head", "head_dist")
    assert network.eval()(PICTURES).shape == (2, 5)


@pytest.mark.parametrize(("model", "name"), [("Bert", "classifier"), ("Roberta", "classifier.out_proj")])
def test_a_classifier_of_transformers_computes_its_loss_for_the_new_classes(model, name):
    config = getattr(transformers, f"{model}Config")(**SIZES, **SMALL)
    network = getattr(transformers, f"{model}ForSequenceClassification")(config)
    assert replace_output(network, 7).names == (name,)
    found = network(input_ids=torch.tensor([[4, 5], [6, 7]]), labels=torch.tensor([0, 6]))
    assert found.logits.shape == (2, 7)
    assert torch.isfinite(found.loss)
    assert (network.config.num_labels, len(network.config.id2label)) == (7, 7)


def test_facenet_pytorchs_network_classifies_after_it_only_embedded():
    network = InceptionResnetV1().eval()
    replaced = replace_output(network, 5)
    assert (replaced.names, replaced.before) == (("logits",), None)
    assert "none outputs before, 5 now" in replaced.describe()
    assert network(torch.zeros(1, 3, 80, 80)).shape == (1, 5)
    assert replace_output(network, 6).before == 5


def test_the_seed_settles_the_new_weights_and_leaves_the_global_generator():
    torch.manual_seed(3)
    networks = [nn.Sequential(nn.Linear(4, 2)) for _ in range(3)]
    state = torch.get_rng_state()
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        replace_output(network, 6, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, second, other = (network[0].weight for network in networks)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_new_layer_is_like_the_old_one():
    network = nn.Sequential(nn.Conv2d(2, 3, (3, 1), stride=2, padding=1, bias=False, dtype=torch.float64)).eval()
    replace_output(network, 5)
    new = network[0]
    assert (new.stride, new.padding, new.bias, new.weight.dtype) == ((2, 2), (1, 1), None, torch.float64)
    assert (new.weight.shape, new.training) == ((5, 2, 3, 1), False)
    assert network(torch.zeros(1, 2, 4, 4, dtype=torch.float64)).shape[1] == 5


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), {"outputs": 0}, "at least 1 output, found 0"),
        (nn.Sequential(nn.ReLU()), {}, "no output layer that could be found.* linear layers: none"),
        (nn.Sequential(nn.Linear(2, 2)), {"name": "1"}, 'has no layer "1".* Its linear layers: 0'),
        (nn.Sequential(nn.ReLU()), {"name": "0"}, 'the layer "0" is a ReLU'),
        (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), {}, "without groups"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), {"name": ""}, "ParametrizedLinear"),
    ],
)
def test_what_cannot_be_replaced_is_told(network, options, message):
    with pytest.raises(TransferError, match=message):
        replace_output(network, **{"outputs": 3, **options})


def test_a_network_without_classes_is_told(backbone):
    with pytest.raises(TransferError, match="a backbone has no output layer"):
        replace_output(backbone, 3)
    with pytest.raises(TransferError, match=r'the layer "fc" is a Identity.* built without classes'):
        replace_output(timm.create_model("test_resnet", num_classes=0), 3)
    with pytest.raises(TransferError, match="BertModel has no output layer"):
        output_layers(transformers.BertModel(transformers.BertConfig(**SIZES, **SMALL)))


@pytest.fixture
def model(backbone, portraits):
    features = extract(backbone, portraits, {"stage2": "mean"})["stage2"]
    head = build_head("ridge").fit(features, portraits.labels, len(portraits.class_names))
    return TargetModel(backbone, "stage2", "mean", False, head, portraits.class_names, portraits.pixels.shape[1:3])


def test_a_target_model_for_other_classes_warns_when_it_is_loaded_until_its_head_is_fitted(model, quadrants, tmp_path):
    other = replace_head(model, quadrants.class_names, seed=3)
    assert other.backbone is model.backbone
    place = other.save(tmp_path / "model")
    assert "Its head is random" in (place / "README.md").read_text(encoding="utf-8")
    with pytest.warns(UserWarning, match=r"the head of this model, for 4 classes, was never trained.*fit_head"):
        again = transfer.load(place)
    items = [picture[:, :, 0] for picture in quadrants.pixels]
    np.testing.assert_array_equal(again.predict_proba(items), other.predict_proba(items))
    fitted = fit_head(again, quadrants)
    trained = transfer.load(fitted.save(tmp_path / "trained"))  # a warning would be an error
    names = [quadrants.class_names[label] for label in quadrants.labels]
    found = trained.predict(items)
    assert np.mean([a == b for a, b in zip(found, names, strict=True)]) > 0.9
    # Not an empty test: the random head knows nothing.
    assert np.mean([a == b for a, b in zip(again.predict(items), names, strict=True)]) < 0.7
    assert "fitted on" in trained.facts
    assert "Its head is random" not in (tmp_path / "trained/README.md").read_text(encoding="utf-8")


def test_a_model_that_was_saved_before_heads_could_be_untrained_is_loaded_without_a_warning(model, tmp_path):
    place = model.save(tmp_path / "model")
    written = json.loads((place / "target.json").read_text(encoding="utf-8"))
    del written["head_trained"]
    (place / "target.json").write_text(json.dumps(written), encoding="utf-8")
    assert transfer.load(place).head_trained


def test_layers_that_are_random_are_on_the_models_card(model, tiny_convnet, tmp_path):
    reuse(tiny_convnet(seed=9), model.backbone, select=Select(up_to="stem"))
    card = (model.save(tmp_path / "model") / "README.md").read_text(encoding="utf-8")
    assert "layers that are random: stage1, stage2, embedding" in card
    assert transfer.load(tmp_path / "model").backbone.provenance["random"] == ["stage1", "stage2", "embedding"]


def test_fitting_a_head_is_what_the_head_itself_fits(model, portraits):
    again = fit_head(model, portraits, build_head("ridge"))
    np.testing.assert_array_equal(again.head.to_state()[0]["weight"], model.head.to_state()[0]["weight"])


def test_a_head_for_other_classes_is_checked(model, quadrants):
    with pytest.raises(TransferError, match="at least two different names, found 'ab'"):
        replace_head(model, "ab")
    with pytest.raises(TransferError, match="two different names"):
        replace_head(model, ["a", "a"])
    with pytest.raises(TransferError, match=r"class0, class1.* are not the model's.*replace_head"):
        fit_head(model, quadrants)
