"""Train with a stop on the way, or go on with what was stopped; tell which rows each step saw.

Called with the folder for what it leaves and one of "straight", "begin" and "go on"; see test_distributed_resume.py.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from auxtasks import checkpoint
from auxtasks.backbones import convnet, mlp
from auxtasks.data import load_source
from auxtasks.features.cache import FeatureCache
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, LayerRBM, MaxMarginRanking
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from trust.launched import parts

STEPS, STOP_AT, EVERY = 12, 8, 3  # stopped in the ninth step: three checkpoints, the last after the sixth
rows, forwards = [], [0]


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def watched(kind):
    """Return a task that tells which rows it reads, and that can be stopped."""

    class Watched(kind):
        stops_after = None

        def transform(self, record, rng):
            rows.append([record["step"], record["row"]])
            return super().transform(record, rng)

        def forward(self, batch):
            if self.training:
                forwards[0] += 1
            if self.stops_after is not None and forwards[0] > self.stops_after:
                raise StoppedError
            return super().forward(batch)

    Watched.__name__ = kind.__name__  # the name of a task is part of what a run is
    return Watched


def face_pairs():
    columns = {"image": "image", "label": "label"}
    faces = [load_source("builtin:drawn_faces", columns=columns,
                         options={"people": people, "photos": 4, "size": 20, "first_person": first})
             for people, first in ((14, 0), (7, 1000))]  # fmt: skip
    network = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)
    return watched(FacePairs)(network, photos=2), faces, {}


def ranking():
    draw = np.random.default_rng(0)
    sizes = draw.integers(2, 8, size=60)
    columns = {"qid": np.arange(60).repeat(sizes), "grade": draw.integers(4, size=sizes.sum()),
               "features": draw.normal(size=(sizes.sum(), 5))}  # fmt: skip
    table = load_source({k: v.tolist() for k, v in columns.items()}, columns={name: name for name in columns})
    return watched(MaxMarginRanking)(mlp(width=5, hidden=[6])), (table, table), {"accumulation": 2}


def train(name, out, stops):
    task, (data, held_out), options = {"faces": face_pairs, "ranking": ranking}[name]()
    forwards[0] = 0
    task.stops_after = STOP_AT * options.get("accumulation", 1) if stops else None
    best = {"keep_best": "roc_auc" if name == "faces" else "ndcg@10", "validate_every": 2}
    loop = LoopSettings(log_every=1, checkpoint_every=EVERY, show_progress=False, **best, **options)
    optimizer = OptimizerSettings(learning_rate=1e-3, schedule="cosine", warmup_steps=3)
    pretrain(task, data, validation=held_out, steps=STEPS, batch_size=16, seed=3, optimizer=optimizer, loop=loop,
             folder=out / name)  # fmt: skip
    return task


class Machine(LayerRBM):
    stops_after = None

    def forward(self, batch):
        if self.training:
            forwards[0] += 1
        if self.stops_after is not None and forwards[0] > self.stops_after:
            raise StoppedError
        return super().forward(batch)


def train_layers(out, stops):
    values = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    forwards[0] = 0
    Machine.__name__ = "LayerRBM"
    Machine.stops_after = STEPS + STOP_AT if stops else None  # in the second layer
    make = lambda *of: Machine(*of, persistent=True, chains=5, sparsity_cost=0.5)  # noqa: E731
    loop = LoopSettings(log_every=1, checkpoint_every=EVERY, show_progress=False)
    found = pretrain_layerwise(
        mlp(width=8, hidden=[6, 4], activation="sigmoid"), values, make, steps=STEPS, batch_size=16, seed=3, loop=loop,
        unrolled_steps=STEPS, optimizer=OptimizerSettings(name="sgd", learning_rate=0.05), folder=out / "layers",
        cache=FeatureCache(out / "cache"),
    )  # fmt: skip
    return found.stack


def main():
    out, mode, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ.get("RANK", 0))
    for name in ("faces", "ranking", "layers"):
        rows.clear()
        try:
            trained = train_layers(out, mode == "begin") if name == "layers" else train(name, out, mode == "begin")
            assert mode != "begin", f"{name} was not stopped"
            checkpoint.write_tensors(out / f"{name}-{rank}.safetensors", trained.state_dict())
        except StoppedError:
            assert mode == "begin"
        (out / f"rows-{name}-{mode}-{rank}.json").write_text(json.dumps(rows))
    parts()


if __name__ == "__main__":
    main()
