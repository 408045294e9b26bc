"""The run folder: whose it is, what is in it, and what it was made with."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auxtasks.checkpoint import read_json, write_json, write_text_atomically
from auxtasks.errors import CheckpointError
from recipes.config import dump_recipe, load_recipe
from recipes.schema import Recipe

__all__ = ["RunFolder", "cache_folder", "saved_backbone"]

# Keys that say how fast or how loudly a run goes, not what it computes.
_WITHOUT_EFFECT = {
    "training.workers", "training.log_every", "training.trackers", "training.keep_checkpoints", "training.device",
    "description",
}  # fmt: skip

_CAPTIONS = {
    "filters.png": "Weights of the lowest layer's first units, each on a scale of its own; grey is zero",
    "reconstructions.png": "Pictures, and below each what the stack of layers makes of it, up to the top and back down",
}


def cache_folder() -> Path:
    """Return where decoded pictures and features are kept: AUXTASKS_CACHE, or ``auxtasks`` in the user's cache."""
    given = os.environ.get("AUXTASKS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "auxtasks"


class RunFolder:
    """One run's folder.

    Args:
        place: the folder; it may not exist yet.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    @property
    def report(self) -> Path:
        """The report of the few-shot evaluation."""
        return self.place / "transfer" / "report.json"

    @property
    def pretraining(self) -> Path:
        """Metrics and cost of the finished pretraining."""
        return self.place / "pretrain.json"

    @property
    def ranking(self) -> Path:
        """The test of a ranking task: means, intervals and paired differences."""
        return self.place / "ranking.json"

    @property
    def pictures(self) -> Path:
        """Pictures of what was learnt, such as filters."""
        return self.place / "pictures"

    def copy_pictures(self, report: Path) -> dict[str, str]:
        """Put this run's pictures beside a report; return what each shows, with its file's name."""
        found = {caption: name for name, caption in _CAPTIONS.items() if (self.pictures / name).is_file()}
        report.mkdir(parents=True, exist_ok=True)
        for name in found.values():
            shutil.copyfile(self.pictures / name, report / name)
        return found

    def model(self, target: str) -> Path:
        """Return where a target's model is kept."""
        return self.place / "transfer" / "model" / target

    def claim(self, recipe: Recipe) -> None:
        """Take the folder for a recipe, or find that it already is that recipe's.

        Raises:
            CheckpointError: it holds another run, or files that are no run's; says what differs.
        """
        written = self.place / "recipe.yaml"
        if written.is_file():
            self._refuse_another(self.recipe(), recipe)
            return
        if self.place.is_dir() and any(self.place.iterdir()):
            raise CheckpointError(
                f"{self.place} is not empty and holds no recipe.yaml: it is not a run's folder. Choose another (--out)."
            )
        write_text_atomically(written, dump_recipe(recipe))
        write_json(self.place / "environment.json", _environment())

    def _refuse_another(self, found: Recipe, recipe: Recipe) -> None:
        there, asked = _flat(found.model_dump(mode="json")), _flat(recipe.model_dump(mode="json"))
        differing = [
            f"  {key}: {there.get(key)!r} there, {asked.get(key)!r} asked"
            for key in sorted({*there, *asked} - _WITHOUT_EFFECT)
            if there.get(key) != asked.get(key)
        ]
        if differing:
            lines = "\n".join(differing)
            raise CheckpointError(
                f"{self.place} holds another run:\n{lines}\nAsk for the same to go on with it, or choose another "
                "folder (--out). For other targets of the same backbone: auxtasks transfer."
            )

    def recipe(self) -> Recipe:
        """Return the recipe that the folder was made for.

        Raises:
            CheckpointError: there is none.
            RecipeError: it was damaged or written by another version; says what is wrong in it.
        """
        written = self.place / "recipe.yaml"
        if not written.is_file():
            raise CheckpointError(f"{self.place} holds no recipe.yaml: it is not a run's folder.")
        return load_recipe(str(written))

    def backbone(self) -> Path:
        """Return the folder of the newest checkpoint's backbone.

        Raises:
            CheckpointError: nothing was pretrained here yet.
        """
        if not self.place.is_dir():
            raise CheckpointError(f"{self.place} is not there: expected a run's folder, or a saved backbone's.")
        found = sorted((self.place / "checkpoints").glob("step-*/backbone"))
        if not found:
            raise CheckpointError(f"{self.place} has no checkpoint: pretrain first, with auxtasks pretrain or run.")
        return found[-1]

    def log_opening(self, event: Mapping[str, object]) -> None:
        """Append a line about a test set that is now opened, with what had been settled before."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with (self.place / "test_openings.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"time": now, **event}) + "\n")

    def finish_pretraining(self, found: Mapping[str, Any]) -> None:
        """Keep metrics and cost of the finished pretraining."""
        write_text_atomically(self.pretraining, json.dumps(found, indent=2) + "\n")

    def finished_pretraining(self) -> dict[str, Any] | None:
        """Return metrics and cost of the finished pretraining, or None while it is not finished."""
        if not self.pretraining.is_file():
            return None
        found: dict[str, Any] = read_json(self.pretraining)
        return found


def saved_backbone(path: Path) -> Path:
    """Return the folder of a saved backbone: the path itself, or the newest of a run.

    Raises:
        CheckpointError: there is none.
    """
    return path if (path / "manifest.json").is_file() else RunFolder(path).backbone()


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings into dotted keys."""
    if not isinstance(value, Mapping) or not value:
        return {prefix.removesuffix("."): value}
    return {key: item for name, inner in value.items() for key, item in _flat(inner, f"{prefix}{name}.").items()}


def _environment() -> dict[str, object]:
    from transfer.report import versions

    return {"versions": versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
