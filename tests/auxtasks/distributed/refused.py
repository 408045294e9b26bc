"""Ask for what cannot be the same however it is split; leave what was said, and what was left on disk.

Called with the folder for what it leaves; see test_distributed.py.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from auxtasks.backbones import build, convnet, mlp
from auxtasks.data import load_source
from auxtasks.errors import TrainingError
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, LayerRBM
from auxtasks.training.processes import join_processes
from auxtasks.training.settings import LoopSettings
from trust.launched import parts


def face_pairs(network, loop, folder):
    columns = {"image": "image", "label": "label"}
    faces = load_source("builtin:drawn_faces", columns=columns, options={"people": 8, "photos": 4, "size": 20})
    pretrain(FacePairs(network, photos=2), faces, steps=2, batch_size=16, loop=loop, folder=folder)


def machine(options, loop, folder):
    values = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    backbone = mlp(width=8, hidden=[6], activation="sigmoid")
    pretrain_layerwise(backbone, values, lambda *of: LayerRBM(*of, **options), steps=2, batch_size=16, loop=loop,
                       folder=folder)  # fmt: skip


def main():
    out, rank = Path(sys.argv[1]), int(os.environ.get("RANK", 0))
    join_processes()
    whole, split = (LoopSettings(show_progress=False, accumulation=parts) for parts in (1, 4))
    small = {"size": 16, "widths": [8], "blocks": [1], "embedding": 8}
    asked = {
        "face pairs in parts": lambda folder: face_pairs(convnet(**small), split, folder),
        "persistent chains in parts": lambda folder: machine({"persistent": True, "chains": 5}, split, folder),
        "sparsity in parts": lambda folder: machine({"sparsity_cost": 0.5}, split, folder),
        "face pairs on statistics": lambda folder: face_pairs(
            build("timm/test_resnet", size=32, channels=1), whole, folder
        ),
    }
    said = {}
    for name, ask in asked.items():
        folder = out / f"{name} {rank}"
        try:
            ask(folder)
            said[name] = "done"
        except TrainingError as error:
            said[name] = str(error)
        left = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        said[f"left of {name}"] = [path for path in left if "checkpoints" in path or "metrics" in path]
    (out / f"said-{rank}.json").write_text(json.dumps(said))
    parts()


if __name__ == "__main__":
    main()
