"""The run folder: whose it is, what is in it, and what it was made with."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from auxtasks.checkpoint import could_not_write, sweep, write_text_atomically
from auxtasks.errors import CheckpointError
from auxtasks.training.file_list import find_damage
from auxtasks.training.run_lock import LOCK, only_run
from recipes.config import dump_recipe, load_recipe
from recipes.result_files import Pretrained, read_result
from recipes.schema import Recipe

__all__ = ["RunFolder", "saved_backbone"]

# Keys that say how fast, how safely or how loudly a run goes, or in how much memory, not what it computes.
_WITHOUT_EFFECT = {
    "training.workers", "training.log_every", "training.trackers", "training.checkpoint_every",
    "training.keep_checkpoints", "training.gradient_checkpointing", "training.device", "description",
}  # fmt: skip

_BEFORE_ANYTHING = {"recipe.yaml", "environment.json", LOCK}

_CAPTIONS = {
    "filters.png": "Weights of the lowest layer's first units, each on a scale of its own; grey is zero",
    "reconstructions.png": "Pictures, and below each what the stack of layers makes of it, up to the top and back down",
}


class RunFolder:
    """One run's folder.

    Args:
        place: the folder; it may not exist yet.

    Example:
        >>> import tempfile
        >>> place = tempfile.TemporaryDirectory()
        >>> folder = RunFolder(Path(place.name) / "faces")
        >>> folder.claim(load_recipe("faces_demo"))
        >>> sorted(path.name for path in folder.place.iterdir())
        ['environment.json', 'recipe.yaml']
        >>> folder.recipe().training.steps, folder.finished_pretraining()
        (600, None)
        >>> (folder.place / "checkpoints").mkdir()  # until something was done, another recipe may take it over
        >>> try:
        ...     folder.claim(load_recipe("faces_demo", ["training.steps=10", "training.workers=0"]))
        ... except CheckpointError as error:
        ...     print(str(error).splitlines()[1])
          training.steps: 600 there, 10 asked
        >>> place.cleanup()
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

    def only_run(self, *, together: bool = False) -> contextlib.AbstractContextManager[None]:
        """Keep other commands that write off the folder, and clear away what killed ones have left half written.

        Of several processes the first does so; those that a command has started are on it in that command's name.

        Args:
            together: whether the command's processes have met, and shall all end where the first is refused.

        Raises:
            CheckpointError: another run is on it, and which; it cannot be written.
        """
        if "AUXTASKS_LAUNCHED" in os.environ:
            return contextlib.nullcontext()
        if together:
            from auxtasks.training.together import entered_by_first  # Accelerate, which takes its time

            return entered_by_first(self._alone())
        return self._alone() if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with only_run(self.place):
            sweep(self.place)
            if (self.place / "recipe.yaml").is_file():  # else what is below may be anybody's
                for folder in [path for path in self.place.rglob("*") if path.is_dir()]:
                    sweep(folder)
            yield

    def claim(self, recipe: Recipe) -> None:
        """Take the folder for a recipe, or find that it already is that recipe's.

        Of a run that was refused before it did anything, such as for its data, the corrected recipe takes it over.

        Raises:
            CheckpointError: it holds another run, or files that are no run's; says what differs.
        """
        written = self.place / "recipe.yaml"
        if written.is_file():
            differing = _differing(self.recipe(), recipe)
            if not differing:
                self._describe_environment()
                return
            if not all(path.name in _BEFORE_ANYTHING for path in self.place.iterdir()):
                raise CheckpointError(
                    f"{self.place} holds another run:\n{differing}\nAsk for the same to go on with it, or choose "
                    "another folder (--out). For other targets of the same backbone: auxtasks transfer."
                )
            (self.place / "environment.json").unlink(missing_ok=True)
        elif self.place.is_dir() and any(path.name != LOCK for path in self.place.iterdir()):
            raise CheckpointError(
                f"{self.place} is not empty and holds no recipe.yaml: it is not a run's folder. Choose another (--out)."
            )
        write_text_atomically(written, dump_recipe(recipe))
        self._describe_environment()

    def _describe_environment(self) -> None:
        """Write what the run is made with, unless it is there: whoever wrote the recipe may have been killed then."""
        place = self.place / "environment.json"
        if not place.is_file():
            write_text_atomically(place, json.dumps(_environment(), indent=2) + "\n")

    def recipe(self) -> Recipe:
        """Return the recipe that the folder was made for.

        Raises:
            CheckpointError: there is none, or it was cut short.
            RecipeError: it was damaged or written by another version; says what is wrong in it.
        """
        written = self.place / "recipe.yaml"
        if not written.is_file():
            raise CheckpointError(f"{self.place} holds no recipe.yaml: it is not a run's folder.")
        recipe = load_recipe(str(written))
        if not written.read_bytes().endswith(b"\n"):
            # "draws: 2" may be what is left of "draws: 20" and all that came after.
            raise CheckpointError(
                f"{written} ends in the middle of a line, as a file that was cut short. If it is whole, end its last "
                "line; else put a copy in its place, or run again into another folder."
            )
        return recipe

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
        newest = found[-1].parent
        damage = find_damage(newest, "backbone/")
        if damage is not None:
            raise CheckpointError(
                f"{damage} To go on from the checkpoint before it, remove {self.pretraining} if it is there, and "
                "pretrain again into the same folder; or put a copy of the file in its place."
            )
        return found[-1]

    def log_opening(self, event: Mapping[str, object]) -> None:
        """Append a line about a test set that is now opened, with what had been settled before."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        log = self.place / "test_openings.jsonl"
        try:
            with log.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"time": now, **event}) + "\n")
        except OSError as error:
            raise CheckpointError(could_not_write(log, error)) from error

    def finish_pretraining(self, found: Mapping[str, Any]) -> None:
        """Keep metrics and cost of the finished pretraining."""
        write_text_atomically(self.pretraining, json.dumps(found, indent=2) + "\n")

    def finished_pretraining(self) -> dict[str, Any] | None:
        """Return metrics and cost of the finished pretraining, or None while it is not finished.

        Raises:
            CheckpointError: they are damaged.
        """
        if not self.pretraining.is_file():
            return None
        remedy = "Remove it and run the same again: what was trained is read from the checkpoint."
        return read_result(self.pretraining, Pretrained, remedy)


def saved_backbone(path: Path) -> Path:
    """Return the folder of a saved backbone: the path itself, or the newest of a run.

    Raises:
        CheckpointError: there is none.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mlp(width=4, hidden=[3]).save_pretrained(Path(folder) / "network")
        ...     saved_backbone(Path(folder) / "network").name
        'network'
        >>> saved_backbone(Path("no_such_run"))
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: no_such_run is not there: expected a run's folder, or a saved backbone's.
    """
    return path if (path / "manifest.json").is_file() else RunFolder(path).backbone()


def _differing(found: Recipe, recipe: Recipe) -> str:
    """Return a line for each key that decides numbers and has two values, with both."""
    there, asked = _flat(found.model_dump(mode="json")), _flat(recipe.model_dump(mode="json"))
    return "\n".join(
        f"  {key}: {there.get(key)!r} there, {asked.get(key)!r} asked"
        for key in sorted({*there, *asked} - _WITHOUT_EFFECT)
        if there.get(key) != asked.get(key)
    )


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings into dotted keys."""
    if not isinstance(value, Mapping) or not value:
        return {prefix.removesuffix("."): value}
    return {key: item for name, inner in value.items() for key, item in _flat(inner, f"{prefix}{name}.").items()}


def _environment() -> dict[str, object]:
    from transfer.report import versions

    return {"versions": versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
