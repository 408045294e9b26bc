"""Fine-tuning in stages under one process and under two, whole and on kept outputs: the same weights, and the time.

The global batches are the same, so the weights are, but for rounding; each stage prepares anew, so that what it
unfreezes is synchronised. Faces of AT&T when AUXTASKS_DATA names the real data, drawn ones else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from auxtasks import checkpoint
from auxtasks.backbones import Backbone, convnet
from auxtasks.data import ImageTable, decode_images, load_source
from auxtasks.features.cache import FeatureCache
from auxtasks.training.processes import join_processes
from auxtasks.training.settings import LoopSettings
from transfer.finetune import fine_tune
from transfer.freezing import Tuning, gradual

SIZE = 48
LAYERS = ("stage4", "stage3", "stage2")  # in the order in which they are unfrozen


def pictures() -> ImageTable:
    real = Path(os.environ.get("AUXTASKS_DATA", "")) / "faces" / "att.parquet"
    if os.environ.get("AUXTASKS_DATA") and real.is_file():
        faces = load_source(real, columns={"image": "image", "label": "identity"})
    else:
        columns, options = {"image": "image", "label": "label"}, {"people": 40, "photos": 10, "size": 60}
        faces = load_source("builtin:drawn_faces", columns=columns, options=options)
    return decode_images(faces, size=(SIZE, SIZE), channels=1)


def network() -> Backbone:
    return convnet(size=SIZE, dropout=0.0, seed=0)


def work(out: Path, steps_each: int) -> None:
    """Fine-tune both ways in this process, alone or as one of several; the first one writes weights and seconds."""
    rank = join_processes("cpu").process_index
    table = pictures()
    tuning = Tuning(stages=gradual(len(LAYERS), steps_each), batch_size=32, learning_rate=1e-4)
    seconds = {}
    for how in ("whole", "kept"):
        began = time.perf_counter()
        tuned = fine_tune(
            network(),
            LAYERS[0],
            "mean",
            table,
            table.labels,
            n_classes=len(table.class_names),
            tuning=tuning,
            loop=LoopSettings(show_progress=False, device="cpu"),
            cache=FeatureCache(out / "cache") if how == "kept" else None,
        )
        seconds[how] = time.perf_counter() - began
        if rank == 0:
            head, _ = tuned.head.to_state()
            checkpoint.write_tensors(out / f"{how}.safetensors", {**tuned.backbone.module.state_dict(), **head})
    if rank == 0:
        (out / "seconds.json").write_text(json.dumps(seconds))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def launch(processes: int, out: Path, steps_each: int) -> dict[str, float]:
    """Do it in so many processes, each with one thread; return seconds by how it was done."""
    out.mkdir(parents=True)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", "benchmarks.staged_unfreezing", "--worker", str(out)]
    subprocess.run([*command, "--steps-each", str(steps_each)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, float] = json.loads((out / "seconds.json").read_text())
    return found


def largest_difference(first: Path, second: Path) -> float:
    one, other = checkpoint.read_tensors(first), checkpoint.read_tensors(second)
    return max(float((other[name].double() - value.double()).abs().max()) for name, value in one.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps-each", type=int, default=20, help="steps of each of the four stages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        torch.set_num_threads(1)
        work(given.worker, given.steps_each)
        return
    speed_up, kept, differences, moved = [], [], {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            places = {processes: Path(folder) / f"{number}-{processes}" for processes in (1, 2)}
            seconds = {processes: launch(processes, place, given.steps_each) for processes, place in places.items()}
            speed_up.append(seconds[1]["whole"] / seconds[2]["whole"])
            kept.append(seconds[1]["whole"] / seconds[1]["kept"])
            one, two = places[1], places[2]
            pairs = {
                "1 process against 2, whole network": (one / "whole.safetensors", two / "whole.safetensors"),
                "1 process against 2, on kept outputs": (one / "kept.safetensors", two / "kept.safetensors"),
                "whole network against kept outputs, 1 process": (one / "whole.safetensors", one / "kept.safetensors"),
            }
            differences = {what: largest_difference(*files) for what, files in pairs.items()}
            tuned = checkpoint.read_tensors(one / "whole.safetensors")
            moved = max(
                float((tuned[name] - value).abs().max()) for name, value in network().module.state_dict().items()
            )
            print(f"round {number + 1}: {seconds}", flush=True)
    print(f"the head, then {', '.join(LAYERS)} from the top, {given.steps_each} steps each")
    print(f"largest way that a weight of the network went: {moved:.1e}")
    for what, difference in differences.items():
        print(f"largest difference of weights, {what}: {difference:.1e}")
    print(f"seconds of 1 process / of 2: median {statistics.median(speed_up):.2f}")
    print(f"seconds of the whole network / on kept outputs: median {statistics.median(kept):.2f}")


if __name__ == "__main__":
    main()
