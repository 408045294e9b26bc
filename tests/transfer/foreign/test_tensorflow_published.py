"""The rules for FaceNet, ResNet-50 and BERT: complete against the real networks, and the same outputs."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from auxtasks.errors import TransferError
from transfer.foreign.rules_tensorflow import RULES
from transfer.foreign.slim_resnet import halve_as_slim
from transfer.foreign.tensorflow_bundle import read_tensorflow_bundle
from transfer.rename import apply_rules

FIXTURES = Path(__file__).parent / "fixtures" / "tensorflow"
BY_NAME = runpy.run_path(str(FIXTURES.parent / "weights_by_name.py"))


def named_weights(file):
    """Return a network's weights as the script that asked TensorFlow made them: they follow from names."""
    lines = [line.split(" ") for line in (FIXTURES / file).read_text(encoding="utf-8").split("\n")[:-1]]
    shapes = {name: tuple(int(size) for size in shape.split("x")) for name, shape in lines}
    return {name: BY_NAME["weight"](name, shape) for name, shape in shapes.items()}


def load_completely(network, tensors, rules):
    """Load a network whose state dict must be met name by name, shape by shape; return what was left out."""
    renamed = apply_rules(rules.prepare(tensors), rules.rules)
    assert renamed.unmatched == ()
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    assert renamed.tensors.keys() == network.state_dict().keys() - counters
    network.load_state_dict(renamed.tensors, strict=False)
    return renamed.left_out


def expected(name):
    with np.load(FIXTURES / "outputs.npz") as file:
        return file[name]


def largest_difference(network, pictures, wanted):
    """Return it as a share of the largest output."""
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(pictures).permute(0, 3, 1, 2)).numpy()
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def test_facenet_is_met_completely_and_gives_the_embedding_of_tensorflow():
    from facenet_pytorch import InceptionResnetV1

    network, wanted, picture = InceptionResnetV1(), expected("facenet"), BY_NAME["picture"](80)
    assert largest_difference(network, picture, wanted) > 0.1
    tensors = named_weights("facenet.txt")
    tensors["Logits/weights"] = np.zeros((512, 3), np.float32)
    tensors["InceptionResnetV1/Bottleneck/weights/ExponentialMovingAverage"] = tensors["Logits/weights"]
    left_out = load_completely(network, tensors, RULES["facenet-tensorflow"])
    assert set(left_out) == {"Logits/weights", "InceptionResnetV1/Bottleneck/weights/ExponentialMovingAverage"}
    assert largest_difference(network, picture, wanted) < 1e-5


def test_a_scale_of_one_replaces_what_a_trained_network_had():
    from facenet_pytorch import InceptionResnetV1

    network = InceptionResnetV1()
    with torch.no_grad():
        network.last_bn.weight.fill_(3)
    load_completely(network, named_weights("facenet.txt"), RULES["facenet-tensorflow"])
    assert network.last_bn.weight.unique().tolist() == [1.0]


def test_resnet_50_of_slim_is_met_completely_and_gives_the_logits_of_tensorflow():
    import timm

    network, wanted, picture = timm.create_model("resnet50"), expected("resnet50_slim"), BY_NAME["picture"](64)
    tensors = {**named_weights("resnet50_slim.txt"), "global_step": np.asarray(3), "mean_rgb": np.zeros(3, np.float32)}
    assert load_completely(network, tensors, RULES["resnet50-slim"]) == ("global_step", "mean_rgb")
    # The weights fit, yet the network is another until it halves its pictures where TF-slim does.
    assert largest_difference(network, picture, wanted) > 0.01
    assert largest_difference(halve_as_slim(network), picture, wanted) < 1e-5


def test_a_network_that_is_no_resnet_cannot_halve_as_slim():
    with pytest.raises(TransferError, match="Linear is no ResNet as timm and torchvision build it: it has no layer1"):
        halve_as_slim(torch.nn.Linear(2, 2))


def bert_names(layers, width, vocabulary, positions, inner):
    """Return names and shapes of google-research's BERT, from its structure."""
    dense = {"attention/self/query": (width, width), "attention/self/key": (width, width),
             "attention/self/value": (width, width), "attention/output/dense": (width, width),
             "intermediate/dense": (width, inner), "output/dense": (inner, width)}  # fmt: skip
    shapes = {
        "bert/embeddings/word_embeddings": (vocabulary, width),
        "bert/embeddings/position_embeddings": (positions, width),
        "bert/embeddings/token_type_embeddings": (2, width),
        "bert/embeddings/LayerNorm/gamma": (width,),
        "bert/embeddings/LayerNorm/beta": (width,),
        "bert/pooler/dense/kernel": (width, width),
        "bert/pooler/dense/bias": (width,),
        "cls/predictions/output_bias": (vocabulary,),
        "cls/predictions/transform/dense/kernel": (width, width),
        "cls/predictions/transform/dense/bias": (width,),
        "cls/predictions/transform/LayerNorm/gamma": (width,),
        "cls/predictions/transform/LayerNorm/beta": (width,),
        "cls/seq_relationship/output_weights": (2, width),
        "cls/seq_relationship/output_bias": (2,),
    }
    for layer in range(layers):
        here = f"bert/encoder/layer_{layer}"
        for name, shape in dense.items():
            shapes |= {f"{here}/{name}/kernel": shape, f"{here}/{name}/bias": shape[-1:]}
        for norm in ("attention/output", "output"):
            shapes |= {f"{here}/{norm}/LayerNorm/{kind}": (width,) for kind in ("gamma", "beta")}
    return shapes


def test_bert_base_is_met_completely():
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in BertModel(BertConfig()).state_dict().items()}
    shapes = bert_names(12, 768, 30522, 512, 3072)
    shapes |= {f"{name}/adam_m": shape for name, shape in shapes.items()} | {"global_step": ()}
    one = np.zeros((), np.float32)  # spread over the shape without its memory
    renamed = apply_rules({n: np.broadcast_to(one, s) for n, s in shapes.items()}, RULES["bert-tensorflow"].rules)
    assert renamed.unmatched == ()
    assert {name: tuple(tensor.shape) for name, tensor in renamed.tensors.items()} == wanted
    assert all(name.startswith("cls/") or name.endswith(("adam_m", "global_step")) for name in renamed.left_out)


def test_a_tiny_bert_of_tensorflow_gives_the_same_hidden_states():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, hidden_act="gelu_new",
    )  # fmt: skip
    network = BertModel(config).eval()
    tensors = read_tensorflow_bundle(FIXTURES / "bert.ckpt")
    assert {name for name in tensors if name.startswith("bert/")} == {
        name for name in bert_names(2, 8, 20, 12, 16) if name.startswith("bert/")
    }
    left_out = load_completely(network, tensors, RULES["bert-tensorflow"])
    assert "global_step" in left_out
    with torch.no_grad():
        found = network(input_ids=torch.from_numpy(expected("bert_tokens")).long())
    np.testing.assert_allclose(found.last_hidden_state, expected("bert_hidden"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.pooler_output, expected("bert_pooled"), rtol=0, atol=1e-5)


def test_a_backbone_takes_a_checkpoint_by_the_name_of_its_rules():
    from auxtasks.backbones import transformers
    from auxtasks.backbones.text import TokenBatch
    from transfer.foreign.load import load_foreign

    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 12, "hidden_act": "gelu_new"}  # fmt: skip
    backbone = transformers({"model_type": "bert", **sizes}, length=12).eval()
    plan = load_foreign(FIXTURES / "bert.ckpt", backbone, "bert-tensorflow", least_share=1.0)
    assert plan.missing == plan.other_shape == ()
    assert len(plan.unexpected) == 2  # a backbone has no pooler
    ids = torch.from_numpy(expected("bert_tokens")).long()
    with torch.no_grad():
        hidden = backbone(TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))).hidden
    np.testing.assert_allclose(hidden, expected("bert_hidden"), rtol=0, atol=1e-5)
