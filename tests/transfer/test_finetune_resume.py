"""Fine-tuning goes on with the same settings only, and is the same for any number of loader workers."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import numpy as np
import pytest
import torch

from auxtasks.data.augment import Augment
from auxtasks.data.loaders import Feed
from auxtasks.errors import CheckpointError
from auxtasks.features.cache import FeatureCache
from auxtasks.training.settings import LoopSettings
from transfer import finetune
from transfer.finetune import fine_tune
from transfer.freezing import Stage, Tuning

AUGMENT = Augment(size=(16, 16))
TUNING = Tuning(stages=(Stage(1, 1), Stage(1)), learning_rate=1e-2, batch_size=8)
LOOP = LoopSettings(log_every=1, validate_every=1, keep_best="accuracy", show_progress=False)


@pytest.fixture
def arguments(backbone, quadrants):
    """Arguments of a run of two steps."""
    return {"backbone": backbone, "layer": "stage2", "pool": "grid", "table": quadrants, "labels": quadrants.labels,
            "n_classes": 4, "tuning": TUNING, "augment": AUGMENT, "seed": 0, "loop": LOOP,
            "validation": quadrants.subset(range(0, 32, 2))}  # fmt: skip


def other_tunings():
    stages = TUNING.stages
    return {
        "stages": (stages[0], Stage(1, 2)),
        "learning_rate": 2e-2,
        "depth_decay": 0.5,
        "batch_size": 4,
        "weight_decay": 0.1,
        "most_epochs": None,  # is counted in steps before anything else
        "rates": {"stem": 0.1},
    }


def other_stages():
    return {"steps": 2, "top_layers": 2, "layers": ("stage1",), "rate": 0.5}


def others(arguments, width, tiny_convnet, folder):
    """Another value of each argument, and what is listed for it."""
    table = arguments["table"]
    fewer = table.subset(range(31))
    return {
        "backbone": ({"backbone": tiny_convnet(seed=1)}, "backbone weights: "),
        "layer": ({"layer": "embedding"}, "layer: "),
        "pool": ({"pool": "mean"}, "pool: "),
        "table": ({"table": fewer, "labels": fewer.labels}, "data: "),
        "labels": ({"labels": np.roll(table.labels, 1)}, "labels: "),
        "n_classes": ({"n_classes": 5}, "classes: 4 there, 5 asked"),
        "tuning": ({"tuning": dataclasses.replace(TUNING, depth_decay=0.5)}, "depth_decay: "),
        "start": ({"start": (torch.zeros(4, width), torch.zeros(4))}, "start: None there, "),
        "augment": ({"augment": dataclasses.replace(AUGMENT, flip=0.0)}, "augment: "),
        "seed": ({"seed": 1}, "seed: 0 there, 1 asked"),
        "loop": ({"loop": dataclasses.replace(LOOP, accumulation=2)}, "accumulation: 1 there, 2 asked"),
        "cache": ({"cache": FeatureCache(folder / "kept"), "views": 2}, "kept: False there, True asked"),
        "views": ({"cache": FeatureCache(folder / "kept"), "views": 2}, "views: None there, 2 asked"),
        "validation": ({"validation": table.subset(range(5))}, "validation data: "),
    }


def test_other_arguments_are_refused_and_listed(arguments, tiny_convnet, tmp_path):
    tuned = fine_tune(folder=tmp_path / "run", **arguments)
    changes = others(arguments, tuned.head.weight.shape[1], tiny_convnet, tmp_path)
    assert set(inspect.signature(fine_tune).parameters) == {*changes, "folder"}
    for changed, message in changes.values():
        with pytest.raises(CheckpointError, match=rf"was written with other settings: .*{message}"):
            fine_tune(folder=tmp_path / "run", **{**arguments, **changed})
    assert fine_tune(folder=tmp_path / "run", **arguments).best_step is not None


def test_other_tuning_is_refused_and_listed(arguments, tmp_path):
    fine_tune(folder=tmp_path, **arguments)
    tunings, stages = other_tunings(), other_stages()
    assert {field.name for field in dataclasses.fields(Tuning)} == set(tunings)
    assert {field.name for field in dataclasses.fields(Stage)} == set(stages)
    asked = [dataclasses.replace(TUNING, **{name: value}) for name, value in tunings.items() if value is not None]
    for name, value in stages.items():
        fixed = {"top_layers": None} if name == "layers" else {}
        first = dataclasses.replace(TUNING.stages[0], **{**fixed, name: value})
        asked.append(dataclasses.replace(TUNING, stages=(first, TUNING.stages[1])))
    for tuning in asked:
        with pytest.raises(CheckpointError, match="was written with other settings: "):
            fine_tune(folder=tmp_path, **{**arguments, "tuning": tuning})


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_the_number_of_workers_changes_no_bit(arguments, monkeypatch):
    ended, fed = {}, []
    for workers in (0, 1, 3):

        def feed(workers, **options):
            fed.append(workers)
            return Feed(workers=workers, **options)

        monkeypatch.setattr(finetune, "Feed", functools.partial(feed, workers))
        tuned = fine_tune(**arguments)
        ended[workers] = tuned.head.weight, tuned.training_accuracy
    assert fed == [0, 1, 3]
    for workers in (1, 3):
        np.testing.assert_array_equal(ended[workers][0], ended[0][0])
        assert ended[workers][1] == ended[0][1]
