"""Using what a run left: predictions for files, and a look at its backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from auxtasks.backbones import Backbone
from auxtasks.data.folders import IMAGE_SUFFIXES
from auxtasks.data.sources import load_source
from auxtasks.errors import DataError, ImageError
from recipes.folder import saved_backbone
from transfer.model import PREDICTED_AT_A_TIME, TargetModel, load

__all__ = ["describe_backbone", "picture_paths", "predict_files", "refuse_absent"]

TEXTS_AT_A_TIME = 10_000
TABLE_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"})


def predict_files(
    run: Path, inputs: Sequence[Path], target: str | None, *, column: str = "text"
) -> Iterator[tuple[str, str, float]]:
    """Yield (path of a picture or text, likeliest class, its probability), in order.

    Args:
        run: a run folder, or a target model's.
        inputs: for a model of pictures, pictures and folders of them; for one of texts, text files (a text a line;
            blank lines are none), and parquet, CSV or JSON lines files.
        target: which target model, where the run has several.
        column: of the texts in parquet, CSV and JSON lines files.

    Raises:
        CheckpointError: no target model, or several and no choice.
        DataError: an input that is not there or of the other kind, a folder without pictures, a row without text.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.images import decode_images
        >>> from auxtasks.features.extract import extract
        >>> from transfer.heads import build_head
        >>> people = {"people": 2, "photos": 3, "size": 16}
        >>> source = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"}, options=people)
        >>> faces = decode_images(source, size=(16, 16), channels=1)
        >>> network = mlp(size=16, hidden=[64])
        >>> features = extract(network, faces, {"hidden1": "auto"})["hidden1"]
        >>> head = build_head("ridge").fit(features, faces.labels, n_classes=2)
        >>> model = TargetModel(network, "hidden1", "auto", False, head, faces.class_names, (16, 16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save(Path(folder) / "model")
        ...     photo = Path(folder) / "someone.png"
        ...     Image.fromarray(faces.pixels[5, :, :, 0]).save(photo)
        ...     for path, person, probability in predict_files(Path(folder) / "model", [photo], None):
        ...         Path(path).name, person, probability > 0.5
        ('someone.png', 'person00001', True)
        >>> faces.class_names[faces.labels[5]]
        'person00001'
    """
    model = load(run, target)
    if model.backbone.input.kind == "text":
        # A text may hold tabs and line breaks, which would break what is printed a line each.
        yield from _predict_texts(model, [text for given in inputs for text in _texts(given, column)])
    else:
        yield from _predict_pictures(model, [path for given in inputs for path in picture_paths(given)])


def _predict_texts(model: TargetModel, texts: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        some = texts[start : start + TEXTS_AT_A_TIME]
        for text, row in zip(some, model.predict_proba(some), strict=True):
            yield " ".join(text.split()), model.class_names[int(row.argmax())], float(row.max())


def _predict_pictures(model: TargetModel, paths: Sequence[Path]) -> Iterator[tuple[str, str, float]]:
    for start in range(0, len(paths), PREDICTED_AT_A_TIME):
        some = paths[start : start + PREDICTED_AT_A_TIME]
        for path, row in zip(some, model.predict_proba(some), strict=True):
            yield str(path), model.class_names[int(row.argmax())], float(row.max())


def _texts(given: Path, column: str) -> list[str]:
    refuse_absent(given)
    if given.suffix.lower() in IMAGE_SUFFIXES or (given.is_dir() and not any(given.glob("*.parquet"))):
        raise DataError(
            f"{given} is {'a folder' if given.is_dir() else 'a picture'}, and this model takes texts: name a text file "
            f"(a text a line), or a parquet, CSV or JSON lines file with a column {column!r}."
        )
    of_lines = given.name.lower().removesuffix(".gz").endswith(".txt")
    found = load_source(given, columns={"text": "text" if of_lines else column})
    texts: list[str] = list(found["text"])
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        raise DataError(f"{given}: row {empty[0]} holds an empty text ({len(empty)} of {len(texts)} rows do).")
    return texts


def picture_paths(given: Path) -> list[Path]:
    """Return a picture, or all pictures in a folder.

    Raises:
        DataError: there is none, or it is another file.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg"):
        ...         Image.new("L", (8, 8)).save(Path(folder) / name)
        ...     [path.name for path in picture_paths(Path(folder))]
        ['a.jpg', 'b.png']
    """
    refuse_absent(given)
    if given.is_dir():
        found = sorted(path for path in given.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{given} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        return found
    if given.suffix.lower() in TABLE_SUFFIXES:
        raise ImageError(f"{given} is no picture, and this model takes pictures: name some, or a folder of them.")
    return [given]


def refuse_absent(given: Path) -> None:
    """Raise where nothing is at a path.

    Example:
        >>> refuse_absent(Path("no_such_photo.png"))
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: no_such_photo.png is not there.
    """
    if not given.exists():
        raise DataError(f"{given} is not there.")


def describe_backbone(path: Path) -> str:
    """Return a backbone's layers, widths, input and origin as text.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mlp(width=4, hidden=[8, 3]).save_pretrained(Path(folder))
        ...     described = describe_backbone(Path(folder))
        >>> for line in described.splitlines()[1:5]:
        ...     print(line)
        family mlp, input features (4,)
        layers from the input up, with their widths:
          hidden1          8
          hidden2          3
    """
    place = saved_backbone(path)
    backbone = Backbone.from_pretrained(place)
    layers = "\n".join(f"  {name:<16} {dim}" for name, dim in backbone.layer_dims.items())
    origin = "\n".join(f"  {name}: {value}" for name, value in backbone.provenance.items())
    return (
        f"{place}\nfamily {backbone.family.name}, input {backbone.input.kind} {backbone.input.shape}\n"
        f"layers from the input up, with their widths:\n{layers}\norigin:\n{origin}"
    )
