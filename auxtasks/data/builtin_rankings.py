"""Rankings that need no download: patients by how their disease went on, and sentences above their own corruptions."""

from __future__ import annotations

from typing import Final

import datasets
import numpy as np
import pyarrow as pa

from auxtasks.data.array_datasets import table_dataset
from auxtasks.data.builtin_sentences import sentences
from auxtasks.data.corruptions import ORDER_ONLY, Mixture, corrupt
from auxtasks.errors import DataError, did_you_mean
from auxtasks.seeding import generator

__all__ = ["sentence_preferences", "severity"]

_CLINICS: Final = 40
_SPLITS: Final = {
    "all": range(_CLINICS),
    "train": range(24),
    "validation": range(24, 32),
    "test": range(32, _CLINICS),
}


def severity(split: str = "all") -> datasets.Dataset:
    """Return scikit-learn's 442 diabetes patients, to be ranked within clinics by how far their disease went on.

    The patients are real, and dealt at random, always the same way, to 40 made-up clinics of 11 or 12: columns ``qid``,
    the clinic, ``grade``, in which fifth of all patients the disease's progression after a year lies, from 0, the
    least, to 4, and ``features``, 10 measurements in units of their own (age, sex, body mass index, blood pressure, six
    of blood serum; float32, of fixed length).

    Args:
        split: ``"train"``, 24 clinics, ``"validation"`` or ``"test"``, 8 each, or ``"all"``. No patient is in two.

    Raises:
        DataError: there is no such split.

    Example:
        >>> table = severity("test")
        >>> len(table), table[0]["qid"], sorted(set(table["grade"]))
        (88, 32, [0.0, 1.0, 2.0, 3.0, 4.0])

    Reference: Efron et al., "Least Angle Regression", Annals of Statistics 2004.
    """
    if split not in _SPLITS:
        hint = did_you_mean(split, _SPLITS)
        raise DataError(f"severity: there is no split {split!r}; there are {', '.join(_SPLITS)}.{hint}")
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    fifths = np.quantile(bunch.target, (0.2, 0.4, 0.6, 0.8))
    grades = np.searchsorted(fifths, bunch.target, side="right").astype(np.float32)
    clinics = np.array_split(generator(0, "severity").permutation(len(grades)), _CLINICS)
    patients = np.concatenate([clinics[clinic] for clinic in _SPLITS[split]])
    queries = np.repeat(_SPLITS[split], [len(clinics[clinic]) for clinic in _SPLITS[split]])
    values = bunch.data[patients].astype(np.float32)
    columns = datasets.Features(
        {
            "qid": datasets.Value("int64"),
            "grade": datasets.Value("float32"),
            "features": datasets.List(datasets.Value("float32"), length=values.shape[1]),
        }
    )
    arrays = {
        "qid": pa.array(queries, pa.int64()),
        "grade": pa.array(grades[patients]),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
    }
    return table_dataset(arrays, columns)


def sentence_preferences(limit: int = 0, part: int = -1) -> datasets.Dataset:
    """Return pairs of a sentence of a docstring and the same words in a worse order: columns ``chosen``, ``rejected``.

    First word and closing punctuation stay, so that capitals and points tell nothing. A sentence is corrupted in one
    way, always the same of its place, each of `ORDER_ONLY` as likely. Sentences without another order are left out.

    Args:
        limit: most sentences, spread evenly over all; 0 for all.
        part: 0 or 1 for either half of the sentences, as of `sentences`; -1 for both. No sentence is in two halves.

    Raises:
        DataError: an option is out of range.

    Example:
        >>> pair = sentence_preferences(limit=1)[0]
        >>> len(pair["chosen"]) == len(pair["rejected"]), pair["chosen"] == pair["rejected"]
        (True, False)
    """
    mixture = Mixture(dict.fromkeys(ORDER_ONLY, 1.0))
    pairs = [
        (text, worse)
        for place, text in enumerate(sentences(limit=limit, part=part)["text"])
        if (worse := _worse(text, place, mixture)) is not None
    ]
    columns = datasets.Features({name: datasets.Value("string") for name in ("chosen", "rejected")})
    chosen, rejected = (pa.array([pair[side] for pair in pairs], pa.string()) for side in (0, 1))
    return table_dataset({"chosen": chosen, "rejected": rejected}, columns)


def _worse(sentence: str, place: int, mixture: Mixture) -> str | None:
    """Put the words between the first one and the closing punctuation into another order."""
    body = sentence.rstrip(".!?")
    first, *between = body.split()
    words = np.array(between, dtype=np.str_)
    found = corrupt(words, generator(0, "sentence preferences", index=place), mixture, lambda _rng, _count: words[:0])
    return None if found is None else " ".join([first, *found[1].words.tolist()]) + sentence[len(body) :]
