"""The baselines without any network: classical classifiers on pixels, words or vectors, fitted on the support."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from auxtasks.data.augment import center
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.texts import TextTable
from auxtasks.features.batches import Table
from transfer.arms import Arm, FeatureArm, Prediction
from transfer.choices import CV_FOLDS, Candidate, Validation
from transfer.pair_arms import RankSvmArm, VectorDifferences, WordDifferences
from transfer.selection import stratified_folds
from transfer.words import word_weights

__all__ = ["PictureRawArm", "TextRawArm", "VectorRawArm", "raw_arm", "raw_features"]

Features = NDArray[np.float32]
Rows = NDArray[np.int64]

RAW_SIDE = 32  # pixels a side of the classical baseline's pictures
RAW_COMPONENTS = 50
RAW_HEADS = (
    Candidate("pixels", "logistic", {"C": 1.0, "scaling": "rms"}),
    Candidate("pixels", "logistic", {"C": 100.0, "scaling": "rms"}),
    Candidate("pixels", "prototype", {}),
    Candidate("pixels", "prototype", {"center": True}),
)
VECTOR_HEADS = tuple(dataclasses.replace(candidate, layer="vectors") for candidate in RAW_HEADS)
# Weights of the labels against the penalty; the first is used with one label a class, and wins among equals.
TEXT_STRENGTHS = (10.0, 1.0, 100.0)


def raw_arm(table: Table, n_classes: int, seed: int, validation: Validation | None = None) -> Arm:
    """Return the classical baseline for what a table holds; each says what it chooses on.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> values = np.array([[0.0, 1.0], [4.0, 0.0], [1.0, 1.0], [5.0, 0.0]], np.float32)
        >>> table = feature_table_of(values, np.array([0, 1, 0, 1]), ("low", "high"), np.arange(4))
        >>> arm = raw_arm(table, n_classes=2, seed=0)
        >>> arm.predict(np.array([0, 1]), np.array([0, 1]), np.array([2, 3]), shot=1, draw=0).classes.tolist()
        [0, 1]
    """
    match table:
        case PairTable():
            return RankSvmArm(_raw_differences(table), seed, validation)
        case TextTable():
            return TextRawArm(table.texts, n_classes, seed, validation)
        case FeatureTable():
            return VectorRawArm(table.values, n_classes, seed, validation)
        case _:
            return PictureRawArm(raw_features(table), n_classes, seed, validation)


def _raw_differences(pairs: PairTable) -> WordDifferences | VectorDifferences:
    items = pairs.items
    if isinstance(items, TextTable):
        return WordDifferences(items.texts, pairs.left, pairs.right)
    values = items.values if isinstance(items, FeatureTable) else raw_features(items)
    return VectorDifferences(values, pairs.left, pairs.right)


@dataclasses.dataclass(frozen=True)
class VectorRawArm:
    """Vectors as they are, standardised by the support, and a linear or nearest-mean classifier.

    Attributes:
        values: (N, D).
        n_classes: C.
        seed: of the folds.
        validation: see `FeatureArm`.

    Example:
        >>> arm = VectorRawArm(np.array([[0.0], [4.0], [1.0], [5.0]], np.float32), n_classes=2, seed=0)
        >>> arm.predict(np.array([0, 1]), np.array([0, 1]), np.array([2, 3]), shot=1, draw=0).classes.tolist()
        [0, 1]
    """

    values: Features
    n_classes: int
    seed: int
    validation: Validation | None = None

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Standardise by the support alone, then as `FeatureArm`."""
        seen = self.values[support].astype(np.float64)
        spread = seen.std(axis=0)
        spread[spread == 0] = 1.0  # a feature that is constant in the support
        values = ((self.values - seen.mean(axis=0)) / spread).astype(np.float32)
        arm = FeatureArm({"vectors": values}, {shot: VECTOR_HEADS}, self.n_classes, self.seed, self.validation)
        return arm.predict(support, labels, test, shot=shot, draw=draw)


@dataclasses.dataclass(frozen=True)
class PictureRawArm:
    """Pixels, principal components of the support, and a linear or nearest-mean classifier.

    Attributes:
        pixels: (N, D), see `raw_features`.
        n_classes: C.
        seed: of the folds.
        validation: see `FeatureArm`.

    Example:
        >>> pixels = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
        >>> arm = PictureRawArm(pixels, n_classes=2, seed=0)
        >>> arm.predict(np.array([0, 1]), np.array([0, 1]), np.array([0, 1]), shot=1, draw=0).classes.tolist()
        [0, 1]
    """

    pixels: Features
    n_classes: int
    seed: int
    validation: Validation | None = None

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Fit the components on the support alone, then as `FeatureArm`."""
        components = min(RAW_COMPONENTS, len(support) - 1)
        pca = PCA(components, svd_solver="full").fit(self.pixels[support])
        reduced = pca.transform(self.pixels).astype(np.float32)
        arm = FeatureArm({"pixels": reduced}, {shot: RAW_HEADS}, self.n_classes, self.seed, self.validation)
        return arm.predict(support, labels, test, shot=shot, draw=draw)


def raw_features(table: ImageTable, side: int = RAW_SIDE) -> Features:
    """Return pictures as vectors (N, side * side * C), each with mean 0 and standard deviation 1.

    Normalised one by one, since the baseline shall not lose to a change of exposure alone.

    Example:
        >>> from auxtasks.data import decode_images, load_source
        >>> source = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 1})
        >>> features = raw_features(decode_images(source, size=(32, 32), channels=1), side=8)
        >>> features.shape, bool(np.abs(features.mean(axis=1)).max() < 1e-5)
        ((2, 64), True)
    """
    small = np.stack([center(table.record(row)["image"], (side, side)) for row in range(len(table))])
    flat: Features = small.reshape(len(table), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= flat.std(axis=1, keepdims=True) + np.float32(1e-3)
    return flat


@dataclasses.dataclass(frozen=True)
class TextRawArm:
    """Words and pairs of neighbouring words, weighed by TF-IDF, and logistic regression.

    Vocabulary and weights come from the support alone. The regression's strength is chosen on the validation set or,
    without one and with two or more shots, by cross-validation inside the support, with a vocabulary of its own in each
    fold.

    Attributes:
        texts: the N texts as they were read.
        n_classes: C.
        seed: of the folds.
        validation: what strengths are compared on; None cross-validates.

    Example:
        >>> arm = TextRawArm(["a good film", "a bad film", "good", "so bad"], n_classes=2, seed=0)
        >>> arm.predict(np.array([0, 1]), np.array([1, 0]), np.array([2, 3]), shot=1, draw=0).classes.tolist()
        [1, 0]

    Reference:
        Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988; Wang and Manning, "Baselines
        and bigrams: simple, good sentiment and topic classification", ACL 2012, on how strong such a baseline is.
    """

    texts: Sequence[str]
    n_classes: int
    seed: int
    validation: Validation | None = None

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Choose a strength, fit and predict."""
        del draw
        strength = TEXT_STRENGTHS[0]
        if self.validation is None and shot > 1:
            strength = self._choose(support, labels)
        words, inside = self._weigh(support)

        def fit(strength: float) -> LogisticRegression:
            return _regression(strength, inside, labels)

        def classify(model: LogisticRegression, rows: Rows) -> Rows:
            return np.asarray(model.predict(words.transform(self._at(rows))), dtype=np.int64)

        model = fit(strength) if self.validation is None else self.validation.best(TEXT_STRENGTHS, fit, classify)
        return Prediction(classify(model, test))

    def _choose(self, support: Rows, labels: Rows) -> float:
        fold_of = stratified_folds(labels, CV_FOLDS, self.seed)
        right = dict.fromkeys(TEXT_STRENGTHS, 0)
        for fold in range(int(fold_of.max()) + 1):
            held_out = fold_of == fold
            words, inside = self._weigh(support[~held_out])
            outside = words.transform(self._at(support[held_out]))
            for strength in TEXT_STRENGTHS:
                model = _regression(strength, inside, labels[~held_out])
                right[strength] += int(np.sum(model.predict(outside) == labels[held_out]))
        return max(TEXT_STRENGTHS, key=right.__getitem__)

    def _weigh(self, rows: Rows) -> tuple[TfidfVectorizer, sparse.csr_matrix]:
        words = word_weights()
        return words, words.fit_transform(self._at(rows))

    def _at(self, rows: Rows) -> list[str]:
        return [self.texts[row] for row in rows]


def _regression(strength: float, values: sparse.csr_matrix, labels: Rows) -> LogisticRegression:
    with warnings.catch_warnings():
        # One item a class is what few-shot means; scikit-learn wonders whether that is a regression.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        return LogisticRegression(C=strength, max_iter=1000).fit(values, labels)
