"""Target models, scorers and reports that are damaged, and items that nothing can be predicted for: told."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from auxtasks.backbones import mlp
from auxtasks.errors import CheckpointError, DataError, InputMismatchError
from transfer.heads import build_head
from transfer.model import TargetModel, load
from transfer.report import read_report
from transfer.scorer import Scorer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    backbone = mlp(width=2, hidden=[3], seed=0)
    features = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    head = build_head("prototype").fit(features, np.array([0, 1] * 4), n_classes=2)
    return TargetModel(backbone, "hidden1", "auto", False, head, ("a", "b")).save(
        tmp_path_factory.mktemp("m") / "model"
    )


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    backbone = mlp(width=2, hidden=[3], seed=0)
    return Scorer(backbone, "hidden1", "auto", np.ones(3)).save(tmp_path_factory.mktemp("s") / "scorer")


def changed(saved, tmp_path, file, **values):
    place = shutil.copytree(saved, tmp_path / "damaged")
    found = {**json.loads((place / file).read_text()), **values}
    (place / file).write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))
    return place


def with_tensors(saved, tmp_path, file, change):
    place = shutil.copytree(saved, tmp_path / "damaged")
    safetensors.torch.save_file(change(safetensors.torch.load_file(place / file)), place / file)
    return place


def test_the_models_are_whole_before_they_are_damaged(model, scorer):
    assert len(load(model).predict([[1.0, 2.0]])) == 1
    assert Scorer.load(scorer).score([[1.0, 2.0]]).shape == (1,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("layer", value) for value in (..., None, 3, "hidden2", [], {"a": 1})),
        *(("pool", value) for value in (..., None, 3, "x", [])),
        *(("mirror", value) for value in (..., None, 3, "x", [])),
        *(("head", value) for value in (..., None, 3, "x", [], {}, {"kind": "x"}, {"kind": []}, [["a"]])),
        *(("head_trained", value) for value in (None, 3, "x", [])),
        *(("class_names", value) for value in (..., None, 3, "x", [], ["a"], ["a", 3], ["a", "b", "c"], {"a": 1})),
        *(("decoded_size", value) for value in (..., 3, "x", [], [1], [0, 5], ["a", "b"], [1, 2, 3], {"a": 1})),
        *(("fit", value) for value in (..., None, 3, "x", [])),
        *(("discriminants", value) for value in (..., None, 3, "x", True)),
        *(("facts", value) for value in (..., None, 3, "x", [])),
        *(("schema", value) for value in (..., None, 2, "1", [])),
    ],
)
def test_a_target_model_of_which_a_setting_is_another_is_told(model, tmp_path, key, value):
    with pytest.raises(CheckpointError, match=r"damaged|has schema|is missing"):
        load(changed(model, tmp_path, "target.json", **{key: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {}, r"the head or the discriminants in .* are damaged"),
        (lambda state: {name: value[:, :1].contiguous() if value.ndim == 2 else value
                        for name, value in state.items()},
         r"(is of 2 classes and 1 features; target\.json names 2 classes|are damaged)"),
        (lambda state: {name: torch.full_like(value, torch.nan) for name, value in state.items()},
         r"holds NaN or infinite numbers"),
        (lambda state: {name: value.reshape(-1) for name, value in state.items()}, r"damaged"),
    ],
)  # fmt: skip
def test_a_damaged_head_is_told(model, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(with_tensors(model, tmp_path, "head.safetensors", change))


@pytest.mark.parametrize("text", ["[]", "null", "3", "", '{"schema":', "[" * 100_000])
def test_a_description_that_is_none_is_told(model, scorer, tmp_path, text):
    for saved, file, read in ((model, "target.json", load), (scorer, "scorer.json", Scorer.load)):
        place = shutil.copytree(saved, tmp_path / file)
        (place / file).write_text(text)
        with pytest.raises(CheckpointError, match=rf"{file} is damaged"):
            read(place)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("layer", value) for value in (..., None, 3, "hidden2", [], {"a": 1})),
        *(("pool", value) for value in (..., None, 3, "x", [])),
        *(("facts", value) for value in (None, 3, "x", [])),
        *(("schema", value) for value in (..., None, 2, "1")),
    ],
)
def test_a_scorer_of_which_a_setting_is_another_is_told(scorer, tmp_path, key, value):
    with pytest.raises(CheckpointError, match=r"damaged|has schema"):
        Scorer.load(changed(scorer, tmp_path, "scorer.json", **{key: value}))


@pytest.mark.parametrize("weights", [torch.ones(7), torch.full((3,), torch.nan), torch.ones(3, dtype=torch.complex64)])
def test_damaged_weights_of_a_scorer_are_told(scorer, tmp_path, weights):
    with pytest.raises(CheckpointError, match="is damaged"):
        Scorer.load(with_tensors(scorer, tmp_path, "weights.safetensors", lambda state: {"weights": weights}))


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ("abc", InputMismatchError, r"expected a list of items, found str: put it into a list"),
        (None, InputMismatchError, r"expected a list of items, found NoneType"),
        (3, InputMismatchError, r"expected a list of items, found int"),
        ([1.0, 2.0], InputMismatchError, r"an array \(N, 2\); found the shape \(2,\)"),
        ([[1.0, 2.0, 3.0]], InputMismatchError, r"found the shape \(1, 3\)"),
        ([[1.0], [1.0, 2.0]], InputMismatchError, r"takes vectors of 2 features"),
        (["a"], InputMismatchError, r"takes vectors of 2 features"),
        ([object()], InputMismatchError, r"takes vectors of 2 features"),
        ([[1.0, float("nan")]], DataError, r"row 0 holds NaN or infinite values"),
        ([[1e39, 1.0]], DataError, r"row 0 holds NaN or infinite values"),
    ],
)
def test_items_that_nothing_can_be_predicted_for_are_told(model, items, error, message):
    with pytest.raises(error, match=message):
        load(model).predict(items)


@pytest.mark.parametrize("path", ["none", "a" * 300, "a\0b"])
def test_a_path_without_a_model_is_told(tmp_path, path):
    with pytest.raises(CheckpointError, match="no target model at"):
        load(tmp_path / path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"report\.json is damaged"),
        ("[]", r"is not a report of schema 1"),
        ('{"schema": 2}', r"is not a report of schema 1:\n.*schema: "),
        ('{"schema": 1, "recipe": 3}', r"recipe: .*\(found 3\)"),
        ('{"schema": 1, "targets": {"a": []}}', r"targets\.a: "),
        ('{"schema": 1, "seed": NaN}', r"seed: "),
        ("[" * 100_000, r"report\.json is damaged"),
    ],
)
def test_a_report_that_is_none_is_told(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        read_report(tmp_path / "report.json")
