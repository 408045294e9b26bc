"""Pretrain layer by layer in as many processes as there are; keep every gradient, and the weights.

Called with the folder for all that it leaves; see test_distributed_layers.py.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from auxtasks import checkpoint
from auxtasks.backbones import mlp
from auxtasks.features.cache import FeatureCache
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.tasks import LayerAutoencoder, LayerRBM
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from trust.launched import keeps_gradients, parts

# Name, number of micro-batches, task, options. A chain that begins at the data draws in each process for itself: so
# that the rest can be compared, those of the runs "divergence" do not draw but take what is likelier. Weights are not
# small: hidden units that are all near a half have a gradient that is the difference of two sums a thousand times it.
RUNS = (
    ("autoencoder", 1, LayerAutoencoder, {"noise": None, "contraction": 0.1}),
    ("autoencoder_accumulated", 4, LayerAutoencoder, {"noise": None, "contraction": 0.1}),
    ("untied", 1, LayerAutoencoder, {"noise": None, "tied": False, "loss": "squared_error"}),
    ("untied_accumulated", 4, LayerAutoencoder, {"noise": None, "tied": False, "loss": "squared_error"}),
    ("machine", 1, LayerRBM, {"persistent": True, "chains": 5, "gibbs_steps": 2, "initial_scale": 1.0}),
    ("sparse", 1, LayerRBM, {"persistent": True, "chains": 5, "sparsity_cost": 0.5, "initial_scale": 1.0}),
    ("divergence", 1, LayerRBM, {"gibbs_steps": 2, "initial_scale": None}),
    ("divergence_accumulated", 4, LayerRBM, {"gibbs_steps": 2, "initial_scale": None}),
)


class Made:
    """Makes tasks, and remembers them: their gradients are kept, those of the joint training as well."""

    def __init__(self, kind, options):
        self.kind, self.options, self.tasks = kind, options, []

    def __call__(self, backbone, layer):
        self.tasks.append(self.kind(backbone, layer, **self.options))
        return self.tasks[-1]


def likelier(means, generator=None):
    return (means > 0.5).to(means.dtype)


def run(out, name, accumulation, kind, options, gradients):
    draw = np.random.default_rng(0)
    values, held_out = (draw.random((items, 8), dtype=np.float32) for items in (64, 30))
    backbone = mlp(width=8, hidden=[6, 4], activation="sigmoid")
    made = Made(kind, options)
    with pytest.MonkeyPatch.context() as patched, keeps_gradients(made.tasks, name, gradients):
        if name.startswith("divergence"):
            patched.setattr("auxtasks.tasks.rbm.draw_bits", likelier)
            patched.setattr("auxtasks.tasks.visible_units.draw_bits", likelier)
        return pretrain_layerwise(
            backbone, values, made, steps=8, batch_size=16, validation=held_out, unrolled_steps=8, folder=out / name,
            optimizer=OptimizerSettings(name="sgd", learning_rate=0.05), cache=FeatureCache(out / "cache" / name),
            loop=LoopSettings(log_every=1, checkpoint_every=5, show_progress=False, accumulation=accumulation),
        )  # fmt: skip


def main():
    out, rank = Path(sys.argv[1]), int(os.environ.get("RANK", 0))
    gradients = {}
    for name, accumulation, kind, options in RUNS:
        result = run(out, name, accumulation, kind, options, gradients)
        checkpoint.write_tensors(out / f"{name}-{rank}.safetensors", result.stack.state_dict())
        (out / f"{name}-{rank}.json").write_text(json.dumps(dict(result.as_one().metrics)))
    checkpoint.write_tensors(out / f"gradients-{rank}.safetensors", gradients)
    parts()


if __name__ == "__main__":
    main()
