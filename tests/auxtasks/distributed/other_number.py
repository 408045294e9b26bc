"""Train with a stop on the way, or go on with what was stopped; tell which rows each step saw.

Called with the folder for what it leaves and one of "straight", "begin" and "go on"; see test_distributed_resume.py.
"""

import dataclasses
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np

from auxtasks import checkpoint, layerwise
from auxtasks.backbones import convnet, mlp, transformers
from auxtasks.data import Mixture, load_source, train_tokenizer
from auxtasks.data.row_feed import RowFeed
from auxtasks.features.cache import FeatureCache
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, LayerRBM, MaxMarginRanking, ShuffledSentences
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from trust.launched import parts

STEPS, STOP_AT, EVERY = 12, 8, 3  # stopped in the ninth step: three checkpoints, the last after the sixth
WORDS = ["the", "a", "old", "young", "dog", "cat", "bird", "saw", "heard", "chased", "and", ",", "quickly"]
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


def sentences():
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=size)) + "." for size in draw.integers(5, 14, size=90)]
    corpora = [load_source({"text": part}, columns={"text": "text"}) for part in (texts[:60], texts[60:])]
    # Without a bias of the keys: it changes nothing, and its gradient is nothing but rounding.
    config = {"model_type": "modernbert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 24, "max_position_embeddings": 32, "initializer_range": 0.3}  # fmt: skip
    network = transformers(config, tokenizer=train_tokenizer(texts, size=90), length=32)
    mixture = Mixture(easy={"shuffle": 1.0}, curriculum_steps=STEPS)  # an item depends on its step as well
    return watched(ShuffledSentences)(network, mixture=mixture, window=2), corpora, {"accumulation": 2}


# How each is made, and the metric that tells its best weights.
TASKS = {"faces": (face_pairs, "roc_auc"), "ranking": (ranking, "ndcg@10"), "sentences": (sentences, "pair_accuracy")}


def train(name, out, stops):
    make, keep_best = TASKS[name]
    task, (data, held_out), options = make()
    forwards[0] = 0
    task.stops_after = STOP_AT * options.get("accumulation", 1) if stops else None
    loop = LoopSettings(log_every=1, checkpoint_every=EVERY, show_progress=False, keep_best=keep_best, validate_every=2,
                        **options)  # fmt: skip
    optimizer = OptimizerSettings(learning_rate=1e-3, schedule="cosine", warmup_steps=3)
    pretrain(task, data, validation=held_out, steps=STEPS, batch_size=16, seed=3, optimizer=optimizer, loop=loop,
             folder=out / name)  # fmt: skip
    return task


@dataclasses.dataclass(frozen=True)
class WatchedRows(RowFeed):
    """Rows of a layer's inputs; tells which are read. Steps are counted on from layer to layer."""

    steps_before: int = dataclasses.field(default_factory=itertools.count(0, STEPS).__next__)

    def batches(self, start, stop, shard):
        for step in range(start, stop):

            def tell(own, step=step):
                rows.extend([self.steps_before + step, row] for row in own.tolist())
                return self.read(own)

            yield from RowFeed(tell, self.plan).batches(step, step + 1, shard)


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
    layerwise.RowFeed = WatchedRows
    Machine.__name__ = "LayerRBM"
    Machine.stops_after = STEPS + STOP_AT if stops else None  # in the second layer
    make = lambda *of: Machine(*of, persistent=True, chains=5, sparsity_cost=0.5)  # noqa: E731
    loop = LoopSettings(log_every=1, checkpoint_every=EVERY, show_progress=False)
    found = layerwise.pretrain_layerwise(
        mlp(width=8, hidden=[6, 4], activation="sigmoid"), values, make, steps=STEPS, batch_size=16, seed=3, loop=loop,
        unrolled_steps=STEPS, optimizer=OptimizerSettings(name="sgd", learning_rate=0.05), folder=out / "layers",
        cache=FeatureCache(out / "cache"),
    )  # fmt: skip
    return found.stack


def main():
    out, mode, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ.get("RANK", 0))
    for name in (*TASKS, "layers"):
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
