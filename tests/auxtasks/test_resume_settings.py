"""Every setting that decides what is computed is part of what a run goes on with; the tables name each there is."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import numpy as np
import pytest

from auxtasks.backbones import convnet, mlp
from auxtasks.data import Mixture
from auxtasks.data.augment import Augment
from auxtasks.errors import CheckpointError
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.noise import Noise
from auxtasks.pretrain import pretrain
from auxtasks.tasks import (
    CorruptedItems,
    CorruptedSentences,
    FacePairs,
    LabelledQueries,
    LayerAutoencoder,
    LayerRBM,
    MaxMarginRanking,
    ShuffledSentences,
)
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from trust import small_runs

LOOP = LoopSettings(show_progress=False, validate_every=1, keep_best="ndcg@10")


def pixels():
    return convnet(size=16, widths=[8], blocks=[1], embedding=8)


def sigmoids():
    return mlp(width=4, hidden=[3], activation="sigmoid")


@pytest.fixture(scope="module")
def encoder():
    return small_runs.encoder()


# What a task is made with, and another value of each; "data" is what the data's fingerprint says, or what is refused.
ITEMS = {
    "strengths": (0.5, 1.0),
    "noise": "masking",
    "amount": 0.5,
    "distortions": ("blur",),
}
SOURCE = {
    "mixture": Mixture({"shuffle": 1.0}),
    "corruptions": 2,
    "keep_initial": True,
    "window": 8,
    "batch_tokens": 900,
}
AUGMENT = {
    field.name: (20, 20) if field.name == "size" else 0.01 for field in dataclasses.fields(Augment)
}  # of any camera
MIXTURE = {"weights": {"swap": 1.0}, "easy": {"swap": 1.0}, "curriculum_steps": 7}
NOISE = {"kind": "gaussian", "amount": 0.1}
TASKS = {
    "face pairs": (
        lambda encoder: functools.partial(FacePairs, pixels()),
        {"loss": "triplet", "photos": 2, "hardness": 1.0, "margin": 0.5, "scale": 5.0, "single_share": 0.5,
         "favour": 1.0, "augment": Augment(size=(16, 16), shift=0.0)},
        {"backbone", "fit", "on_error"},  # the data's fingerprint changes with how pictures are fitted and left out
    ),
    "shuffled sentences": (
        lambda encoder: functools.partial(ShuffledSentences, encoder),
        {**{name: value for name, value in SOURCE.items() if name != "corruptions"}, "losses": {"pair": 1.0},
         "seed": 1},
        {"backbone", "most_left_out"},
    ),
    "ranking": (
        lambda encoder: functools.partial(MaxMarginRanking, mlp(width=3)),
        {"queries": LabelledQueries(list_size=4), "loss": "logistic", "margin": 2.0, "margin_per_grade": True,
         "weighting": "ndcg", "average": "pair", "pool": "mean", "l2": 0.1, "dropout": 0.1, "initial_scale": 0.1,
         "seed": 1},
        {"backbone", "top"},  # `top` needs another weighting: below
    ),
    "top of a ranking": (
        lambda encoder: lambda top=None: MaxMarginRanking(mlp(width=3), weighting="ndcg", top=top),
        {"top": 3},
        set(),
    ),
    "labelled queries": (
        lambda encoder: _queries(LabelledQueries),
        {"list_size": 5},
        set(),
    ),
    "corrupted items": (lambda encoder: _queries(CorruptedItems), ITEMS, set()),
    "corrupted sentences": (
        lambda encoder: _sentences(encoder),
        SOURCE,
        {"backbone", "most_left_out"},
    ),
    "autoencoder": (
        lambda encoder: functools.partial(LayerAutoencoder, sigmoids(), "hidden1"),
        {"noise": None, "contraction": 0.1, "tied": False, "loss": "squared_error"},
        {"backbone", "layer", "seed"},  # a tied decoder has no weights to draw: below
    ),
    "decoder": (
        lambda encoder: lambda seed=0: LayerAutoencoder(sigmoids(), "hidden1", tied=False, seed=seed),
        {"seed": 1},
        set(),
    ),
    "Boltzmann machine": (
        lambda encoder: functools.partial(LayerRBM, sigmoids(), "hidden1"),
        {"visible": "gaussian", "gibbs_steps": 2, "persistent": True, "sample_visible": False,
         "sparsity_target": 0.2, "sparsity_cost": 0.1, "initial_scale": None, "seed": 1},
        {"backbone", "layer", "chains"},  # without persistent chains their number is nothing: below
    ),
    "chains": (
        lambda encoder: lambda chains=100: LayerRBM(sigmoids(), "hidden1", persistent=True, chains=chains),
        {"chains": 7},
        set(),
    ),
    "augmentation": (
        lambda encoder: _of(Augment, lambda made: FacePairs(pixels(), augment=made), size=(16, 16)),
        AUGMENT,
        set(),
    ),
    "mixture": (
        lambda encoder: _of(Mixture, lambda made: ShuffledSentences(encoder, mixture=made), easy={"drop": 1.0},
                            curriculum_steps=3),
        MIXTURE,
        set(),
    ),
    "noise": (
        lambda encoder: _of(Noise, lambda made: LayerAutoencoder(sigmoids(), "hidden1", noise=made)),
        NOISE,
        set(),
    ),
}  # fmt: skip


def _of(kind, task_with, **fixed):
    """Make a task with something of a kind, whose fields are the settings."""

    def make(**changed):
        return task_with(kind(**{**fixed, **changed}))

    make.__signature__ = inspect.signature(kind)
    return make


def _queries(kind):
    return _of(kind, lambda made: MaxMarginRanking(mlp(width=3), made))


def _sentences(encoder):
    def make(**changed):
        return MaxMarginRanking(encoder, CorruptedSentences(SentenceSource(encoder, **changed)))

    make.__signature__ = inspect.signature(SentenceSource)
    return make


@pytest.mark.parametrize("name", TASKS)
def test_every_setting_of_a_task_is_part_of_what_it_is(encoder, name, record_property):
    make, changed, elsewhere = TASKS[name]
    build = make(encoder)
    positional = {"backbone", "layer"}  # given already
    assert set(inspect.signature(build).parameters) - positional == set(changed) | (elsewhere - positional), name
    settings = build().settings
    for setting, value in changed.items():
        assert build(**{setting: value}).settings != settings, setting
    record_property("inputs", len(changed))


# Whole runs


@pytest.fixture(scope="module")
def ranking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    rank(folder)
    return folder


def rank(folder, *, task=None, data=0, held_out=1, **changed):
    options = {
        "steps": 1,
        "batch_size": 4,
        "seed": 0,
        "loop": LOOP,
        "validation": small_runs.lists(8, held_out),
        **changed,
    }
    task = task or MaxMarginRanking(mlp(width=4, hidden=[6]))
    return pretrain(task, small_runs.lists(16, data), folder=folder, **options)


PRETRAIN = {
    "task": (MaxMarginRanking(mlp(width=4, hidden=[5])), "backbone arguments: "),
    "data": (2, "data: "),
    "steps": (2, r"steps: \[1\] there, \[2\] asked"),
    "batch_size": (8, "batch_size: 4 there, 8 asked"),
    "validation": (3, "validation data: "),
    "seed": (1, "seed: 0 there, 1 asked"),
    "optimizer": (OptimizerSettings(learning_rate=0.5), "optimizer: "),
    "loop": (dataclasses.replace(LOOP, mixed_precision="bf16"), "mixed_precision: "),
}
NOT_ASKED = {"workers", "folder", "cache", "described_as"}  # of pretraining


def test_every_argument_of_pretraining_is_one_that_must_be_the_same_or_changes_nothing():
    assert set(inspect.signature(pretrain).parameters) == {*PRETRAIN, *NOT_ASKED}


@pytest.mark.parametrize("name", PRETRAIN)
def test_other_arguments_of_pretraining_are_refused_and_listed(ranking, name):
    value, message = PRETRAIN[name]
    with pytest.raises(CheckpointError, match=rf"was written with other settings: {message}"):
        rank(ranking, **{"held_out" if name == "validation" else name: value})


def test_arguments_of_pretraining_that_change_nothing_may_be_others(tmp_path, ranking):
    result = rank(ranking, workers=1, cache=tmp_path, described_as="other words")
    assert result.steps == 1


def test_held_out_data_that_chooses_nothing_may_be_others(tmp_path):
    loop = dataclasses.replace(LOOP, keep_best=None)
    for held_out in (1, 2):
        assert rank(tmp_path, held_out=held_out, loop=loop).steps == 1


SHARES = np.random.default_rng(0).random((20, 4), dtype=np.float32)
LAYERWISE = {
    "backbone": (mlp(width=4, hidden=[2], activation="sigmoid"), "backbone arguments: "),
    "source": (SHARES[:19], "data: "),
    "make_task": (LayerRBM, "task: 'LayerAutoencoder' there, 'LayerRBM' asked"),
    "batch_size": (5, "batch_size: 4 there, 5 asked"),
    "validation": (SHARES[:7], "validation data: "),
    "seed": (1, "seed: "),
    "optimizer": (OptimizerSettings(learning_rate=0.5), "optimizer: "),
    "loop": (LoopSettings(show_progress=False, mixed_precision="bf16", validate_every=1, keep_best="loss",
                          best_is="lowest"), "mixed_precision: "),
    "keep_inputs": (False, "keep_inputs: None there, False asked"),
}  # fmt: skip
STAGES = {"layers", "steps", "unrolled_steps"}  # refused before, with the stages: see the tests of layer-wise runs


def layer_by_layer(folder, **changed):
    loop = LoopSettings(show_progress=False, validate_every=1, keep_best="loss", best_is="lowest")
    options = {"backbone": sigmoids(), "source": SHARES, "make_task": LayerAutoencoder, "steps": 1, "batch_size": 4,
               "validation": SHARES[:5], "loop": loop, **changed}  # fmt: skip
    return pretrain_layerwise(folder=folder, **options)


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    layer_by_layer(folder)
    return folder


def test_every_argument_of_layer_wise_pretraining_is_one_that_must_be_the_same_or_changes_nothing():
    changes_nothing = {"folder", "cache", "described_as"}
    assert set(inspect.signature(pretrain_layerwise).parameters) == {*LAYERWISE, *STAGES, *changes_nothing}


@pytest.mark.parametrize("name", LAYERWISE)
def test_other_arguments_of_layer_wise_pretraining_are_refused_and_listed(layers, name):
    value, message = LAYERWISE[name]
    with pytest.raises(CheckpointError, match=rf"was written with other settings: .*({message})"):
        layer_by_layer(layers, **{name: value})
