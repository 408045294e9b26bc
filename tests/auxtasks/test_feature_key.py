"""A change of anything that outputs depend on, one by one, is another key; a change of anything else is not."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from auxtasks.backbones import convnet, mlp
from auxtasks.backbones.transformers import transformers
from auxtasks.data import load_source
from auxtasks.data.texts import encode_texts
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.features import key as key_module
from auxtasks.features.cache import FeatureCache, feature_bytes
from auxtasks.features.extract import extract
from auxtasks.features.key import feature_key, prefix_parts

LAYERS = {"stage1": "grid"}


def small(**changed):
    return convnet(**{"size": 16, "widths": [8, 16], "blocks": [1, 1], "embedding": 8, **changed})


def key(backbone, table, layers=None, *, mirror=False, dtype="float32"):
    return feature_key(backbone, table, layers or LAYERS, mirror=mirror, dtype=dtype)


def weight(backbone, table, _):
    next(parameter for _, parameter in backbone.parameters_of("stem")).data.view(-1)[0] += 1e-6


def preprocessing(backbone, table, _):
    backbone.input = dataclasses.replace(backbone.input, mean=(0.1,))


def activation(backbone, table, _):
    for parent in backbone.module.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.GELU())
                return
    raise AssertionError("no ReLU: the test would change nothing")


def epsilon(backbone, table, _):
    norm = next(module for module in backbone.module.modules() if isinstance(module, nn.GroupNorm))
    norm.eps = 1e-3


def version(backbone, table, monkeypatch):
    monkeypatch.setattr(key_module, "EXTRACTION_VERSION", key_module.EXTRACTION_VERSION + 1)


def library(backbone, table, monkeypatch):
    monkeypatch.setattr(key_module, "_library_versions", lambda: {"torch": "999"})


@pytest.mark.parametrize("change", [weight, preprocessing, activation, epsilon, version, library])
def test_another_network_is_another_key(face_table, monkeypatch, change):
    backbone = small()
    before = key(backbone, face_table)
    assert key(small(), face_table) == before
    change(backbone, face_table, monkeypatch)
    assert key(backbone, face_table) != before


@pytest.mark.parametrize(
    "asked",
    [
        {"layers": {"stage2": "grid"}},
        {"layers": {"stage1": "mean"}},
        {"layers": {"stage1": "grid", "stem": "mean"}},
        {"mirror": True},
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
    ],
)
def test_another_question_is_another_key(face_table, asked):
    assert key(small(), face_table, **asked) != key(small(), face_table)


def test_other_data_is_another_key(face_table):
    tables = [
        face_table,
        face_table.subset(range(31)),
        face_table.subset([*range(1, 32), 0]),
        dataclasses.replace(face_table, fingerprint="another"),
    ]
    assert len({key(small(), table) for table in tables}) == 4


def test_what_changes_nothing_is_the_same_key(face_table):
    backbone = small()
    before = key(backbone, face_table)
    for _, parameter in backbone.parameters_of("stage2"):  # above the layer
        parameter.data.add_(1)
    backbone.train().freeze(["stem"])
    backbone.provenance = {"pretrained_on": "something"}
    assert key(backbone, face_table) == before
    assert key(copy.deepcopy(backbone), face_table) == before


def test_another_tokenizer_is_another_key_and_its_use_is_not():
    lines = ["the cat sat on the mat", "a dog ran", "the red dog sat"]
    tokenizer, other = train_tokenizer(lines, size=60), train_tokenizer(lines, size=60, lowercase=False)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    backbone = transformers({"model_type": "bert", **sizes}, length=16, tokenizer=tokenizer)
    table = encode_texts(load_source({"text": lines}, columns={"text": "text"}), tokenizer, length=16)
    before = key(backbone, table, {"block1": "mean"})
    tokenizer(lines, truncation=True, max_length=3, padding=True)  # the tokenizer keeps these settings
    assert key(backbone, table, {"block1": "mean"}) == before
    backbone.tokenizer = other
    assert key(backbone, table, {"block1": "mean"}) != before


PRINTED = """
from auxtasks.backbones import mlp
from auxtasks.features.key import key_of, prefix_parts
print(key_of(prefix_parts(mlp(width=3, hidden=[4], activation="relu"), "hidden1")))
"""


@pytest.mark.processes
def test_another_process_has_the_same_key():
    found = {
        subprocess.run([sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def test_a_function_that_prints_its_address_does_not_change_the_key():
    class Applied(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

        def extra_repr(self):
            return repr(self.function)

    def make():
        return lambda x: x

    backbone = mlp(width=3, hidden=[4])
    found = []
    kept_alive = [make(), make()]
    assert repr(kept_alive[0]) != repr(kept_alive[1])
    for function in kept_alive:
        backbone.module[0][1] = Applied(function)
        found.append(prefix_parts(backbone, "hidden1")["structure"])
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_features_of_half_the_bytes_are_rounded_to_the_nearest(tmp_path, face_table, dtype):
    layers = {"stage1": "grid", "embedding": "auto"}
    exact = extract(small(), face_table, layers)
    for folder in (tmp_path, tmp_path, None):
        found = FeatureCache(folder, dtype=dtype).features(small(), face_table, layers)
        for name, values in exact.items():
            expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], expected)
            assert (expected != values).any()
    (place,) = tmp_path.iterdir()
    kept = sum(np.load(place / f"{name}.npy").nbytes for name in layers)
    assert kept == feature_bytes(small(), face_table, layers, dtype)
    assert kept * 2 == feature_bytes(small(), face_table, layers)
