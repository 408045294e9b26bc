"""Keras's ``.keras`` archives, read without Keras: a zip file with the weights and a description of the layers.

Of the description only the layers' classes, names and a few switches are read, to tell which array is which: nothing in
it is built, and the code of a Lambda layer stays text.

Reference: Keras, `saving_lib.py`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from auxtasks.errors import CheckpointError
from transfer.foreign.archives import check_sizes
from transfer.foreign.hdf5 import BROKEN, Layer, named_variables, open_hdf5, unique

__all__ = ["layers_of", "read_keras_archive"]

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def read_keras_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a ``.keras`` file, by layer and name: ``stem/kernel``.

    Raises:
        CheckpointError: no such file, no archive of Keras, cut short or damaged.

    Example:
        >>> read_keras_archive(Path("no_such.keras"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.keras...
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive, path)
            config, weights = archive.read(CONFIG), archive.read(WEIGHTS)
    except KeyError as error:
        raise CheckpointError(f"{path} is no archive of Keras: {error.args[0]}") from error
    except (OSError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: a password
        raise CheckpointError(f"{path} is missing, no zip file, damaged or cut short: {error}") from error
    try:
        layers = dict(layers_of(json.loads(config)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {CONFIG} does not describe a model: {error!r}") from error
    with open_hdf5(io.BytesIO(weights), path) as file:
        try:
            return unique(named_variables(file, layers), path)
        except BROKEN as error:
            raise CheckpointError(f"{path} is damaged: {WEIGHTS}: {error}") from error


def layers_of(described: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield each layer of a described model by its path among the weights.

    A path counts the layers of a class in the order of the model: ``/layers/conv2d``, ``/layers/conv2d_1``.

    Example:
        >>> layers = [{"class_name": "Conv2D", "config": {"name": name}} for name in ("stem", "head")]
        >>> [(path, layer.name) for path, layer in layers_of({"class_name": "Model", "config": {"layers": layers}})]
        [('/layers/conv2d', 'stem'), ('/layers/conv2d_1', 'head')]
    """
    seen: dict[str, int] = {}
    for layer in described["config"].get("layers", []):
        kind = _snake_case(layer["class_name"])
        count = seen[kind] = seen.get(kind, -1) + 1
        path = f"{above}/layers/{kind}_{count}" if count else f"{above}/layers/{kind}"
        settings = layer["config"]
        yield path, Layer(settings.get("name", kind), kind, settings)
        yield from layers_of(layer, path)


def _snake_case(name: str) -> str:
    """Return a class's name as Keras writes it into a path: Conv2D -> conv2d, ReLU -> re_lu."""
    apart = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", apart).lower()
