"""Face verification by a protocol: scores of given pairs, a threshold from other people, or from other folds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from auxtasks import metrics
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.images import ImageTable
from auxtasks.data.pairs import Pairs, balanced_pairs
from auxtasks.errors import DataError
from auxtasks.features.extract import extract

__all__ = ["FALSE_ACCEPT_RATES", "held_out_threshold", "pair_scores", "verify"]

FALSE_ACCEPT_RATES = (0.1, 0.01, 0.001)


def pair_scores(
    backbone: Backbone,
    table: ImageTable,
    pairs: Pairs,
    *,
    layer: str | None = None,
    pool: Pool = "auto",
    mirror: bool = True,
) -> NDArray[np.float64]:
    """Return the cosine of the two embeddings of each pair, (N,).

    Args:
        backbone: pretrained.
        table: pictures; `pairs` holds rows of the source that the table was decoded from.
        pairs: N pairs.
        layer: whose output is the embedding; the last one if None.
        pool: see `pool_layer`.
        mirror: average a picture's embedding with its mirror image's.

    Raises:
        DataError: a pair's picture was skipped because it could not be read; says how many.
    """
    place_of = {int(row): place for place, row in enumerate(table.rows)}
    lost = [row for row in pairs.rows.tolist() if row not in place_of]
    if lost:
        raise DataError(f"{len(lost)} pictures of the pairs could not be read, such as row {lost[0]} of the source.")
    needed = table.subset([place_of[int(row)] for row in pairs.rows])
    name = layer or backbone.layer_names[-1]
    embeddings = extract(backbone, needed, {name: pool}, mirror=mirror)[name].astype(np.float64)
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    left, right = (np.searchsorted(pairs.rows, rows) for rows in (pairs.left, pairs.right))
    cosine: NDArray[np.float64] = np.sum(unit[left] * unit[right], axis=1)
    return cosine


def held_out_threshold(backbone: Backbone, held_out: ImageTable, *, seed: int = 0, mirror: bool = True) -> float:
    """Return the best threshold among people whom pretraining did not see.

    One picked on people that were trained on is too strict: their photos are closer to each other than strangers' are.

    Raises:
        DataError: too few people are held out.
    """
    pairs = balanced_pairs(held_out.labels, seed)
    by_source = dataclasses.replace(pairs, left=held_out.rows[pairs.left], right=held_out.rows[pairs.right])
    return metrics.best_threshold(pair_scores(backbone, held_out, by_source, mirror=mirror), pairs.same)


def verify(
    backbone: Backbone, table: ImageTable, pairs: Pairs, *, threshold: float | None = None, mirror: bool = True
) -> dict[str, float]:
    """Evaluate a backbone on pairs of people that it never saw.

    With folds (Huang et al., "Labeled faces in the wild", 2007, View 2) accuracy is the mean over folds, each with the
    threshold that is best on the others. Without folds it needs a threshold from elsewhere, see `held_out_threshold`.

    Returns:
        ``roc_auc``, ``equal_error_rate``, ``tar_at_far_0.1`` and so on; ``accuracy`` where it can be had, and with
        folds its standard deviation over them.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import decode_images, load_source
        >>> columns, options = {"image": "image", "label": "label"}, {"people": 6, "photos": 4}
        >>> source = load_source("builtin:drawn_faces", columns=columns, options=options)
        >>> table = decode_images(source, size=(32, 32), channels=1)
        >>> left, right = np.array([0, 0, 4, 8]), np.array([1, 4, 5, 12])
        >>> pairs = Pairs(left, right, np.array([True, False, True, False]))
        >>> network = convnet(size=32, widths=[8], blocks=[1], embedding=8)
        >>> pair_scores(network, table, pairs).shape
        (4,)
        >>> threshold = held_out_threshold(network, table)
        >>> sorted(verify(network, table, pairs, threshold=threshold))[:2]
        ['accuracy', 'equal_error_rate']
    """
    scores = pair_scores(backbone, table, pairs, mirror=mirror)
    found = {
        "pairs": float(len(pairs)),
        "roc_auc": metrics.roc_auc(scores, pairs.same),
        "equal_error_rate": metrics.equal_error_rate(scores, pairs.same),
        **{f"tar_at_far_{far:g}": metrics.tar_at_far(scores, pairs.same, far) for far in FALSE_ACCEPT_RATES},
    }
    if pairs.folds is not None:
        accuracies = metrics.verification_accuracy_folds(scores, pairs.same, pairs.folds)
        found |= {"accuracy": float(np.mean(accuracies)), "accuracy_fold_std": float(np.std(accuracies, ddof=1))}
    elif threshold is not None:
        found |= {"accuracy": float(np.mean((scores >= threshold) == pairs.same)), "threshold": threshold}
    return found
