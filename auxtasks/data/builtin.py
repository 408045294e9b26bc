"""Data that needs no download, by name: drawn faces, sentences of docstrings, scikit-learn's bundled sets, rankings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import datasets
import numpy as np
import pyarrow as pa

from auxtasks.data.array_datasets import image_dataset, table_dataset
from auxtasks.data.builtin_rankings import sentence_preferences, severity
from auxtasks.data.builtin_sentences import sentence_order, sentence_topics, sentences
from auxtasks.data.drawn_faces import drawn_faces
from auxtasks.errors import DataError, did_you_mean

__all__ = ["BUILTINS", "Builtin", "digits", "features", "load_builtin"]

Option: TypeAlias = str | int | float | bool


_DIGITS: Final = {"all": slice(None), "train": slice(0, 1297), "test": slice(1297, None)}


def digits(split: str = "all") -> datasets.Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 grey: columns ``image`` and ``label``.

    Args:
        split: ``"train"``, the first 1,297, ``"test"``, the last 500, or ``"all"``.

    Raises:
        DataError: there is no such split.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.

    Example:
        >>> found = digits("test")
        >>> len(found), found.column_names
        (500, ['image', 'label'])
    """
    if split not in _DIGITS:
        hint = did_you_mean(split, _DIGITS)
        raise DataError(f"digits: there is no split {split!r}; there are {', '.join(_DIGITS)}.{hint}")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = _DIGITS[split]
    # 17 grey levels, 0 to 16.
    pictures = [(image * (255 / 16)).round().astype(np.uint8)[..., None] for image in bunch.images[rows]]
    return image_dataset(pictures, bunch.target[rows], [str(name) for name in bunch.target_names])


_TABLES: Final = ("breast_cancer", "digits", "iris", "wine")


def features(name: str = "iris") -> datasets.Dataset:
    """Return one of scikit-learn's bundled tables: columns ``features`` (float32, of fixed length) and ``label``.

    Args:
        name: ``"iris"``, ``"wine"``, ``"breast_cancer"`` or ``"digits"``.

    Raises:
        DataError: there is no such table.

    Example:
        >>> features("wine").features["features"].length
        13
    """
    if name not in _TABLES:
        hint = did_you_mean(name, _TABLES)
        raise DataError(f"features: there is no table {name!r}; there are {', '.join(_TABLES)}.{hint}")
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    values = np.asarray(bunch.data, dtype=np.float32)
    columns = datasets.Features(
        {
            "features": datasets.List(datasets.Value("float32"), length=values.shape[1]),
            "label": datasets.ClassLabel(names=[str(label) for label in bunch.target_names]),
        }
    )
    rows = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return table_dataset({"features": rows, "label": pa.array(bunch.target, pa.int64())}, columns)


@dataclasses.dataclass(frozen=True)
class Builtin:
    """A built-in data set: what makes it, and the type of each option it takes.

    Example:
        >>> entry: Builtin = BUILTINS["digits"]
        >>> len(entry.make(split="train")), list(entry.options)
        (1297, ['split'])
    """

    make: Callable[..., datasets.Dataset]
    options: Mapping[str, type]


BUILTINS: Final[Mapping[str, Builtin]] = MappingProxyType(
    {
        "digits": Builtin(digits, {"split": str}),
        "drawn_faces": Builtin(
            drawn_faces,
            {"people": int, "photos": int, "size": int, "seed": int, "first_person": int, "channels": int},
        ),
        "features": Builtin(features, {"name": str}),
        "sentence_order": Builtin(sentence_order, {"limit": int, "part": int, "split": str}),
        "sentence_preferences": Builtin(sentence_preferences, {"limit": int, "part": int}),
        "sentence_topics": Builtin(sentence_topics, {"limit": int, "part": int, "split": str}),
        "sentences": Builtin(sentences, {"limit": int, "packages": str, "part": int}),
        "severity": Builtin(severity, {"split": str}),
    }
)


def load_builtin(name: str, options: Mapping[str, Option]) -> datasets.Dataset:
    """Make a built-in data set by its name.

    Args:
        name: a key of `BUILTINS`.
        options: its arguments.

    Raises:
        DataError: there is no such built-in, or it has no such option, or an option has the wrong type.

    Example:
        >>> len(load_builtin("features", {"name": "iris"}))
        150
    """
    builtin = BUILTINS.get(name)
    if builtin is None:
        hint = did_you_mean(name, BUILTINS)
        raise DataError(f"there is no built-in data set {name!r}; there are {', '.join(BUILTINS)}.{hint}")
    for option, value in options.items():
        expected = builtin.options.get(option)
        if expected is None:
            allowed = ", ".join(builtin.options) or "none"
            hint = did_you_mean(option, builtin.options)
            raise DataError(f"builtin:{name} has no option {option!r}; allowed are {allowed}.{hint}")
        if type(value) is not expected:
            raise DataError(f"builtin:{name}: {option} must be {expected.__name__}, found {value!r}.")
    return builtin.make(**options)
