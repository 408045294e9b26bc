"""Train on face pairs: first as they are, where the second process holds more memory; then one photo breaks a layer.

Called with the folder for all that it leaves, what each process says; see test_distributed_health.py.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from auxtasks.backbones import convnet
from auxtasks.data import load_source
from auxtasks.errors import NonFiniteError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs
from auxtasks.training.memory import WorkerMemory, own_peak_memory
from auxtasks.training.settings import LoopSettings
from trust.launched import parts

RANK = os.environ["RANK"]
STEP = 2  # counted from 1


class Breaks(nn.Module):
    """Divides by zero for the third item of this process's share, in one step of the second process."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.passes += 1
        broken = torch.zeros(len(x), 1)
        broken[2] = float(RANK == "1" and int(self.passes) >= STEP)
        return x / (1 - broken)


class Broken(FacePairs):
    """Breaks its embeddings."""

    def embed(self, images):
        return self.backbone.module.breaks(super().embed(images))


def network():
    return convnet(size=16, widths=[8], blocks=[1], embedding=8)


def keep(name, said):
    (Path(sys.argv[1]) / f"{name}-{RANK}.json").write_text(json.dumps(said))


options = {"people": 8, "photos": 4, "size": 20}
faces = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"}, options=options)
loop = LoopSettings(show_progress=False, device="cpu", log_every=1)

looked = []
look = WorkerMemory.look


def look_and_keep(self):
    look(self)
    looked[:] = [self.largest]


WorkerMemory.look = look_and_keep
held = np.ones(int(RANK) * 40 * 2**20)  # 320 MB
result = pretrain(FacePairs(network(), photos=2), faces, steps=2, batch_size=8, workers=1, loop=loop)
keep("memory", {"run": dataclasses.astuple(result.memory), "own": own_peak_memory().largest, "workers": looked[0]})

task = Broken(network(), photos=2)
task.backbone.module.add_module("breaks", Breaks())
rows = [pick.row for pick in task.plan(task.prepare(faces), 8, 0).batch(STEP - 1)]
try:
    pretrain(task, faces, steps=4, batch_size=8, loop=loop)
except NonFiniteError as error:
    keep("error", {"said": str(error), "at": [error.step, error.rows, error.layer], "wanted": rows[4 + 2]})
parts()
