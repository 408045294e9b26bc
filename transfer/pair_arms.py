"""The baselines on pairs without any network: a ranking SVM on raw differences, and the longer of two texts."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol as Interface
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from auxtasks.data.pair_table import LEFT, RIGHT, PairTable, distinct_items
from auxtasks.data.texts import TextTable
from auxtasks.errors import TransferError
from auxtasks.features.batches import Table, item_noun
from transfer.arms import Prediction
from transfer.choices import CV_FOLDS, Validation
from transfer.selection import stratified_folds
from transfer.words import word_weights

__all__ = ["LongerArm", "RankSvmArm", "VectorDifferences", "WordDifferences", "longer_arm"]

Rows = NDArray[np.int64]
Matrix: TypeAlias = NDArray[np.float64] | sparse.csr_matrix  # (rows, D)

# Weights of the labels against the penalty; the first is used with one label a class, and wins among equals.
PAIR_STRENGTHS = (1.0, 0.1, 10.0)
_MAX_ITER = 10_000


class Differences(Interface):
    """What is known of pairs without any network."""

    def weighed_on(self, support: Rows) -> Callable[[Rows], Matrix]:
        """Return what gives pairs (M,) as left minus right (M, D), weighed by what the support holds alone."""
        ...


@dataclasses.dataclass(frozen=True)
class WordDifferences:
    """TF-IDF of the left text minus that of the right one; see `word_weights`.

    Attributes:
        texts: of the items.
        left, right: (N,) items of each pair.

    Example:
        >>> texts = ["good film", "bad film", "good plot"]
        >>> differences = WordDifferences(texts, left=np.array([0, 1]), right=np.array([1, 2]))
        >>> differences.weighed_on(np.array([0]))(np.array([0, 1])).shape
        (2, 5)
    """

    texts: Sequence[str]
    left: Rows
    right: Rows

    def weighed_on(self, support: Rows) -> Callable[[Rows], Matrix]:
        """Take vocabulary and weights from the support's texts, each counted once."""
        needed, _, _ = distinct_items(self.left[support], self.right[support])
        words = word_weights().fit(self._at(needed))

        def differences(rows: Rows) -> sparse.csr_matrix:
            needed, left, right = distinct_items(self.left[rows], self.right[rows])
            weights = words.transform(self._at(needed)).tocsr()
            return weights[left] - weights[right]

        return differences

    def _at(self, items: Rows) -> list[str]:
        return [self.texts[item] for item in items]


@dataclasses.dataclass(frozen=True)
class VectorDifferences:
    """The left vector minus the right one, each feature on the scale of the support's differences.

    Attributes:
        values: (items, D).
        left, right: (N,) items of each pair.
    """

    values: NDArray[np.float32]
    left: Rows
    right: Rows

    def weighed_on(self, support: Rows) -> Callable[[Rows], Matrix]:
        """Divide by the root mean square over the support: of both orders of its pairs, that is the deviation."""
        scale = np.sqrt(np.mean(self._plain(support) ** 2, axis=0))
        scale[scale == 0] = 1.0
        return lambda rows: self._plain(rows) / scale

    def _plain(self, rows: Rows) -> NDArray[np.float64]:
        values = self.values
        return values[self.left[rows]].astype(np.float64) - values[self.right[rows]].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class RankSvmArm:
    """A ranking SVM: a linear SVM without an intercept on differences, so that swapping a pair swaps the answer.

    Its strength is chosen on the validation set or, without one and with two or more shots, by cross-validation inside
    the support, where each fold weighs what it is fitted on anew. A difference of zero is answered with the right side.

    Attributes:
        differences: of all pairs.
        seed: of the folds, and of the solver's order.
        validation: what strengths are compared on; None cross-validates.

    Example:
        >>> values = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
        >>> left, right = np.array([0, 3, 1, 2]), np.array([1, 2, 3, 0])
        >>> arm = RankSvmArm(VectorDifferences(values, left, right), seed=0)
        >>> arm.predict(np.array([0, 1]), np.array([1, 0]), np.array([2, 3]), shot=1, draw=0).classes.tolist()
        [1, 0]

    Reference:
        Joachims, "Optimizing search engines using clickthrough data", KDD 2002.
    """

    differences: Differences
    seed: int
    validation: Validation | None = None

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Choose a strength, fit and predict."""
        del draw
        strength = PAIR_STRENGTHS[0]
        if self.validation is None and shot > 1:
            strength = self._choose(support, labels)
        weigh = self.differences.weighed_on(support)
        inside = weigh(support)

        def fit(strength: float) -> LinearSVC:
            return self._fit(strength, inside, labels)

        def classify(model: LinearSVC, rows: Rows) -> Rows:
            return np.asarray(model.predict(weigh(rows)), dtype=np.int64)

        model = fit(strength) if self.validation is None else self.validation.best(PAIR_STRENGTHS, fit, classify)
        return Prediction(classify(model, test))

    def _choose(self, support: Rows, labels: Rows) -> float:
        fold_of = stratified_folds(labels, CV_FOLDS, self.seed)
        right = dict.fromkeys(PAIR_STRENGTHS, 0)
        for fold in range(int(fold_of.max()) + 1):
            held_out = fold_of == fold
            weigh = self.differences.weighed_on(support[~held_out])
            inside, outside = weigh(support[~held_out]), weigh(support[held_out])
            for strength in PAIR_STRENGTHS:
                model = self._fit(strength, inside, labels[~held_out])
                right[strength] += int(np.sum(model.predict(outside) == labels[held_out]))
        return max(PAIR_STRENGTHS, key=right.__getitem__)

    def _fit(self, strength: float, values: Matrix, labels: Rows) -> LinearSVC:
        model = LinearSVC(
            C=strength, loss="hinge", fit_intercept=False, dual=True, random_state=self.seed, max_iter=_MAX_ITER
        )
        with warnings.catch_warnings():
            # Where a strength is too great for the solver, what it has reached competes with the others.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(values, labels)


@dataclasses.dataclass(frozen=True)
class LongerArm:
    """The text with more characters wins; of two that are as long the right one. No label is used.

    Sides are drawn by chance, so of equally long texts half of the answers are expected to be right.

    Attributes:
        lengths: (items,) characters of each text.
        left, right: (N,) items of each pair.

    Example:
        >>> arm = LongerArm(np.array([4, 9, 2]), left=np.array([0, 1]), right=np.array([1, 2]))
        >>> nothing = np.array([], np.int64)
        >>> arm.predict(nothing, nothing, np.array([0, 1]), shot=1, draw=0).classes.tolist()
        [0, 1]
    """

    lengths: Rows
    left: Rows
    right: Rows

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Compare the lengths of the test's texts."""
        del support, labels, shot, draw
        longer = self.lengths[self.left[test]] > self.lengths[self.right[test]]
        return Prediction(np.where(longer, LEFT, RIGHT).astype(np.int64))


def longer_arm(table: Table) -> LongerArm:
    """Return the arm that prefers the longer text.

    Raises:
        TransferError: a table of anything else than pairs of texts.

    Example:
        >>> import datasets
        >>> from auxtasks.data.pair_table import pair_table
        >>> from auxtasks.data.ranking_sources import read_text_pairs
        >>> from auxtasks.data.tokenizers import train_tokenizer
        >>> pairs = datasets.Dataset.from_dict({"chosen": ["a b c", "b"], "rejected": ["b", "a a"]})
        >>> queries = read_text_pairs(pairs, train_tokenizer(["a b c"], size=20), length=8)
        >>> longer_arm(pair_table(queries, seed=0)).lengths.tolist()
        [5, 1, 3]
    """
    if not isinstance(table, PairTable) or not isinstance(table.items, TextTable):
        of = f" of {item_noun(table.items)}" if isinstance(table, PairTable) else ""
        raise TransferError(
            f'the arm "longer" compares the lengths of texts, the target holds {item_noun(table)}{of}: leave it out.'
        )
    lengths = np.array([len(text) for text in table.items.texts], dtype=np.int64)
    return LongerArm(lengths, table.left, table.right)
