"""Using what a run left: predictions for files, and a look at its backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from auxtasks.backbones import Backbone
from auxtasks.data.folders import IMAGE_SUFFIXES
from auxtasks.errors import DataError
from recipes.folder import RunFolder
from transfer.model import PREDICTED_AT_A_TIME, load

__all__ = ["describe_backbone", "predict_files"]


def predict_files(run: Path, inputs: Sequence[Path], target: str | None) -> Iterator[tuple[Path, str, float]]:
    """Yield (path, likeliest class, its probability) for pictures and all pictures in folders.

    Raises:
        CheckpointError: no target model, or several and no choice.
        DataError: an input that is not there, or a folder without pictures.
    """
    model = load(run, target)
    paths = [path for given in inputs for path in _pictures(given)]
    for start in range(0, len(paths), PREDICTED_AT_A_TIME):
        some = paths[start : start + PREDICTED_AT_A_TIME]
        for path, row in zip(some, model.predict_proba(some), strict=True):
            yield path, model.class_names[int(row.argmax())], float(row.max())


def _pictures(given: Path) -> list[Path]:
    if given.is_dir():
        found = sorted(path for path in given.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{given} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        return found
    if not given.exists():
        raise DataError(f"{given} is not there.")
    return [given]


def describe_backbone(path: Path) -> str:
    """Return a backbone's layers, widths, input and origin as text."""
    place = path if (path / "manifest.json").is_file() else RunFolder(path).backbone()
    backbone = Backbone.from_pretrained(place)
    layers = "\n".join(f"  {name:<16} {dim}" for name, dim in backbone.layer_dims.items())
    origin = "\n".join(f"  {name}: {value}" for name, value in backbone.provenance.items())
    return (
        f"{place}\nfamily {backbone.family.name}, input {backbone.input.kind} {backbone.input.shape}\n"
        f"layers from the input up, with their widths:\n{layers}\norigin:\n{origin}"
    )
