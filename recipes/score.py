"""Scoring files with what a ranking run left: part by part, so that a file may be of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from datasets import Dataset

from auxtasks.data.feature_columns import encode_features
from auxtasks.data.opening import Kind
from auxtasks.data.prompted_texts import encode_prompted
from auxtasks.data.sources import load_source
from auxtasks.errors import CheckpointError, DataError, did_you_mean
from recipes.folder import RunFolder
from recipes.predict import picture_paths, refuse_absent
from recipes.schema import MaxMarginRanking
from transfer.scorer import Scorer

__all__ = ["load_scorer", "score_files"]

SCORED_AT_A_TIME = 4096
SVMLIGHT_SUFFIXES = frozenset({".svm", ".svmlight", ".libsvm", ".letor"})  # as `load_source` knows them


def load_scorer(path: Path, target: str | None = None) -> Scorer:
    """Read a scorer.

    Args:
        path: a ranking run's folder or one of its checkpoints; a run's with targets of pairs; or a saved scorer's.
        target: which target's scorer, where a run has such.

    Raises:
        CheckpointError: there is none.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> scorer = Scorer(mlp(width=2, hidden=[]), "input", "auto", np.array([1.0, -1.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = scorer.save(Path(folder) / "scorer")
        ...     load_scorer(Path(folder) / "scorer").score(np.array([[3.0, 1.0]])).tolist()
        [2.0]
    """
    if target is None and any((path / mark).is_file() for mark in ("scorer.json", "task/config.json")):
        return Scorer.load(path)
    folder = RunFolder(path)
    of_targets = sorted(place.parent.name for place in folder.model("x").parent.glob("*/scorer.json"))
    if target is not None:
        if target not in of_targets:
            hint = did_you_mean(target, of_targets)
            raise CheckpointError(
                f'{path} has no scorer of a target "{target}"; there are {", ".join(of_targets) or "none"}.{hint}'
            )
        return Scorer.load(folder.model(target))
    if isinstance(folder.recipe().task, MaxMarginRanking):
        return Scorer.load(folder.backbone().parent)
    if len(of_targets) == 1:
        return Scorer.load(folder.model(of_targets[0]))
    raise CheckpointError(
        f"{path} is not of a ranking task, and has {len(of_targets)} scorers of targets of pairs"
        + (f": choose one with --target, of {', '.join(of_targets)}." if of_targets else ".")
    )


def score_files(
    run: Path,
    inputs: Sequence[Path],
    target: str | None = None,
    *,
    column: str | None = None,
    prompt: str | None = None,
    kind: str = "auto",
) -> Iterator[tuple[float, str]]:
    """Yield (score, item) in order: a text on one line, the path of a picture, or the number of a row of vectors.

    Args:
        run, target: see `load_scorer`.
        inputs: for a scorer of texts, text files (a text a line) and tables; for one of vectors, tables and svmlight
            files; for one of pictures, pictures and folders of them.
        column: of the texts or vectors in a table; ``text`` and ``features`` by default.
        prompt: column of what each text answers.
        kind: what the files are, see `load_source`.

    Raises:
        CheckpointError: no scorer.
        DataError: an input that is not there, of another kind, or with a row that cannot be read.

    Example:
        >>> import json
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> scorer = Scorer(mlp(width=2, hidden=[]), "input", "auto", np.array([1.0, -1.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = scorer.save(Path(folder) / "scorer")
        ...     file = Path(folder) / "items.json"
        ...     _ = file.write_text(json.dumps([{"features": [3.0, 1.0]}, {"features": [0.0, 2.0]}]))
        ...     list(score_files(Path(folder) / "scorer", [file]))
        [(2.0, '0'), (-2.0, '1')]
    """
    if kind not in get_args(Kind):
        raise DataError(
            f'kind is one of {", ".join(get_args(Kind))}, found "{kind}".{did_you_mean(kind, get_args(Kind))}'
        )
    scorer = load_scorer(run, target)
    for given in inputs:
        refuse_absent(given)
        if scorer.backbone.input.kind == "image":
            paths = picture_paths(given)
            yield from _zipped(scorer, [str(path) for path in paths])
        elif scorer.backbone.input.kind == "text":
            yield from _texts(scorer, given, column or "text", prompt, _kind(kind))
        else:
            options = _options_of_vectors(run, scorer) if _is_svmlight(given, kind) else None
            yield from _vectors(scorer, given, column or "features", _kind(kind), options)


def _kind(name: str) -> Kind:
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    return kinds[name]


def _zipped(scorer: Scorer, paths: Sequence[str]) -> Iterator[tuple[float, str]]:
    for start in range(0, len(paths), SCORED_AT_A_TIME):
        some = paths[start : start + SCORED_AT_A_TIME]
        yield from zip(scorer.score(some).tolist(), some, strict=True)


def _texts(scorer: Scorer, given: Path, column: str, prompt: str | None, kind: Kind) -> Iterator[tuple[float, str]]:
    of_lines = given.name.lower().removesuffix(".gz").endswith(".txt")
    columns = {"text": "text" if of_lines else column} | ({} if prompt is None else {"prompt": prompt})
    tokenizer, length = scorer.backbone.text_settings
    for start, rows in _parts(load_source(given, kind=kind, columns=columns)):
        texts = [text or "" for text in rows["text"]]
        empty = [start + place for place, text in enumerate(texts) if not text.strip()]
        if empty:
            raise DataError(f"{given}: row {empty[0]} holds an empty text: leave it out.")
        prompts = [None] * len(texts) if prompt is None else list(rows["prompt"])
        items = list(zip(prompts, texts, strict=True))
        table = encode_prompted(items, np.arange(len(items)), tokenizer, length)
        # A text may hold tabs and line breaks, which would break what is printed a line each.
        yield from zip(scorer.score_table(table).tolist(), (" ".join(text.split()) for text in texts), strict=True)


def _is_svmlight(given: Path, kind: str) -> bool:
    suffixes = [suffix.lower() for suffix in given.suffixes if suffix.lower() not in (".gz", ".bz2")]
    return kind == "svmlight" or (kind == "auto" and bool(suffixes) and suffixes[-1] in SVMLIGHT_SUFFIXES)


def _options_of_vectors(run: Path, scorer: Scorer) -> dict[str, str | int | float | bool]:
    """Return what a file in svmlight format does not tell of itself: its width, and where the run's files count from.

    Without them a file that lacks the last features would be of another width, and one that counts from 0 shifted.
    """
    written = RunFolder(run).recipe().data.options if (run / "recipe.yaml").is_file() else None
    zero_based = {key: value for key, value in (written or {}).items() if key == "zero_based"}
    width = scorer.backbone.input.width
    return zero_based if width is None else {**zero_based, "width": width}


def _vectors(
    scorer: Scorer, given: Path, column: str, kind: Kind, options: Mapping[str, str | int | float | bool] | None
) -> Iterator[tuple[float, str]]:
    for start, rows in _parts(load_source(given, kind=kind, columns={"features": column}, options=options)):
        table = encode_features(rows, width=scorer.backbone.input.width)
        names = (str(start + place) for place in range(len(table)))
        yield from zip(scorer.score_table(table).tolist(), names, strict=True)


def _parts(rows: Dataset) -> Iterator[tuple[int, Dataset]]:
    """Yield the rows, some at a time, with the number of the first: only these are read from the disk."""
    for start in range(0, len(rows), SCORED_AT_A_TIME):
        yield start, rows.select(range(start, min(start + SCORED_AT_A_TIME, len(rows))))
