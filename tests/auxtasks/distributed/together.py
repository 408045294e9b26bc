"""Fail in one process of several, in each of the ways that all have to hear of; see test_together.py."""

import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from auxtasks.backbones import mlp
from auxtasks.errors import CheckpointError, RecipeError
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.tasks import LayerAutoencoder
from auxtasks.training.processes import PATIENCE, join_processes
from auxtasks.training.run_lock import only_run
from auxtasks.training.settings import LoopSettings
from auxtasks.training.together import all_or_none, first_process_first
from trust.launched import parts

out, rank = Path(sys.argv[1]), int(os.environ["RANK"])
join_processes("cpu")


def the_second_fails():
    with all_or_none():
        if rank == 1:
            raise RecipeError(["one: wrong.", "two: wrong."])


def another_library_fails():
    with all_or_none():
        if rank == 0:
            raise KeyError("x")


def all_fail():
    with all_or_none():
        raise CheckpointError("the same")


def the_first_fails_first():
    with first_process_first():
        if rank == 1:
            (out / "was here").touch()
        raise CheckpointError("refused before the others came")


def the_second_fails_behind_the_first():
    with first_process_first():
        if rank == 1:
            assert (out / "left by the first").exists()
            raise CheckpointError("not found")
        (out / "left by the first").touch()


def train_layers(folder):
    backbone = mlp(width=4, hidden=[3], activation="sigmoid")
    values = np.random.default_rng(0).random((16, 4), dtype=np.float32)
    loop = LoopSettings(show_progress=False, device="cpu", checkpoint_every=1)
    pretrain_layerwise(backbone, values, LayerAutoencoder, steps=2, batch_size=8, loop=loop, folder=folder)


def the_folder_is_taken():
    if rank == 0:
        with only_run(out / "taken" / "layers"):
            train_layers(out / "taken")
    else:
        train_layers(out / "taken")


def the_layer_is_taken():
    if rank == 0:
        with only_run(out / "half taken" / "layers" / "hidden1" / "checkpoints"):
            train_layers(out / "half taken")
    else:
        train_layers(out / "half taken")


def the_disk_takes(most):
    """Train where the first process can write no file of more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        train_layers(out / f"{most} bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def the_disk_takes_nothing():
    the_disk_takes(0)


def the_disk_takes_no_checkpoint():
    the_disk_takes(1000)


def nobody_gives_up_on_the_first():
    assert dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout == PATIENCE


def nobody_fails():
    train_layers(out / "well")


said = {}
for ask in (the_second_fails, another_library_fails, all_fail, the_first_fails_first, the_second_fails_behind_the_first,
            the_folder_is_taken, the_layer_is_taken, the_disk_takes_nothing,
            the_disk_takes_no_checkpoint, nobody_gives_up_on_the_first, nobody_fails):  # fmt: skip
    try:
        ask()
        said[ask.__name__] = None
    except Exception as error:  # that which the test looks at
        said[ask.__name__] = [type(error).__name__, str(error), getattr(error, "told", None)]
(out / f"said-{rank}.json").write_text(json.dumps(said))
parts()
