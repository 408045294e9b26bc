"""Every command of the command line, on miniature data, in an order in which each finds what it needs."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save_file

from trust.miniature import FACES, TEXTS, write_lines

__all__ = ["command_lines", "run_here"]

TRAINING = {"steps": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 2}
TRANSFER: dict[str, Any] = {
    "shots": [1, 2], "draws": 2, "arms": ["scratch", "raw", "frozen"],
    "heads": [{"name": "prototype"}, {"name": "ridge"}],
    "tuning": {"stages": [{"steps": 2}], "batch_size": 8},
    "scratch": {"stages": [{"steps": 2}], "batch_size": 8},
}  # fmt: skip
STRANGERS = {"people": 3, "photos": 5, "size": 20, "first_person": 100}


def _draw_photos(folder: Path) -> Path:
    """Write a folder of three people's photos: each person is a brightness, on noise."""
    rng = np.random.default_rng(0)
    for person in range(3):
        (folder / f"person{person}").mkdir(parents=True)
        for photo in range(4):
            pixels = rng.integers(0, 60, (24, 24), dtype=np.uint8) + np.uint8(60 * person)
            Image.fromarray(pixels).save(folder / f"person{person}" / f"{photo}.png")
    return folder


def _write_texts(folder: Path) -> tuple[Path, Path]:
    """Write a corpus, a sentence a line, and a table of labelled sentences."""
    corpus, table = write_lines(folder / "corpus.txt"), folder / "table.csv"
    labelled = write_lines(folder / "labelled.txt", 40).read_text(encoding="utf-8").splitlines()
    rows = [f'"{line}",{"odd" if number % 2 else "even"}' for number, line in enumerate(labelled)]
    table.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return corpus, table


def _write_vectors(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    place = folder / "patients.svm"
    rows = [[f"{column}:{value:.3f}" for column, value in enumerate(rng.normal(size=10), 1)] for _ in range(5)]
    lines = [" ".join(["0 qid:1", *row]) for row in rows]
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def command_lines(folder: Path, out: Path) -> list[list[str]]:
    """Write miniature data and recipes into a folder; return the arguments of all commands, which write below `out`."""
    folder.mkdir(parents=True)
    photos, (corpus, table), vectors = _draw_photos(folder / "photos"), _write_texts(folder), _write_vectors(folder)
    save_file({"0.weight": np.ones((3, 4), np.float32), "0.bias": np.zeros(3, np.float32)}, folder / "w.safetensors")
    recipes = {
        "faces": {
            **FACES,
            "training": {**TRAINING, "workers": 1},
            "transfer": TRANSFER,
            "targets": {"strangers": {"path": "builtin:drawn_faces", "options": STRANGERS}},
        },
        "texts": {
            **TEXTS,
            "data": {"path": str(corpus), "holdout": 0.2},
            "training": {**TRAINING, "workers": 0},
            "transfer": {**TRANSFER, "arms": ["raw", "frozen"], "discriminants": None},
            "targets": {"parity": {"path": str(table)}},
        },
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    held_out = folder / "held_out.txt"
    held_out.write_text("The dog chases a cat.\nA ship sees the plane.\n" * 8, encoding="utf-8")
    faces, streamed = out / "faces", ["data.streaming=true", f"data.validation.path={held_out}", "targets.parity=null"]
    commands: list[list[object]] = [
        ["list"],
        ["show", "faces_demo"],
        ["validate", folder / "faces.yaml"],
        ["run", folder / "faces.yaml", "--out", faces],
        ["run", folder / "texts.yaml", "--out", out / "texts"],
        ["pretrain", folder / "texts.yaml", *streamed, "--out", out / "streamed"],
        ["run", "ranking_demo", "training.steps=20", "training.validate_every=10", "--out", out / "ranking"],
        ["transfer", faces, "targets.strangers=null", f"targets.mine.path={photos}", "transfer.arms=[raw, frozen]",
         "--out", out / "transferred"],
        ["finetune", faces, "--target", "strangers", "--out", out / "tuned"],
        ["depth", faces, "--target", "strangers", "--out", out / "depth", "--folds", "2", "--modes", "frozen"],
        ["episodes", faces, "--target", "strangers", "--way", "2", "--shot", "1", "--queries", "2", "--episodes", "5"],
        ["predict", faces, photos],
        ["predict", out / "texts", corpus],
        ["score", out / "ranking", vectors],
        ["import", folder / "w.safetensors", "mlp", "width=4", "hidden=[3]", "--rename", r"(.*)=0.\1",
         "--out", out / "imported"],
        ["inspect", faces],
        ["report", faces],
        ["zoo", "resnet18"],
        ["cache", "list"],
        ["cache", "clear"],
    ]  # fmt: skip
    return [[str(argument) for argument in command] for command in commands]


def run_here(arguments: Sequence[str]) -> int:
    """Call the command line's entry point in this process; return the exit code."""
    from recipes.cli import main

    sys.argv = ["auxtasks", *arguments]
    try:
        main()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


def _run_all(commands: Sequence[Sequence[str]]) -> list[int]:
    """Run commands one after the other, each whatever became of the one before."""
    codes = []
    for command in commands:
        print(f"$ auxtasks {' '.join(command)}", file=sys.stderr, flush=True)
        try:
            codes.append(run_here(command))
        except Exception:  # printed whole, for who reads the failure; the other commands are tried all the same
            traceback.print_exc()
            codes.append(-1)
    return codes


if __name__ == "__main__":
    _, commands_file, codes_file = sys.argv
    found = _run_all(json.loads(Path(commands_file).read_text(encoding="utf-8")))
    Path(codes_file).write_text(json.dumps(found), encoding="utf-8")
