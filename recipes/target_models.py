"""What the user takes away from a target: the best layer and head by the protocol, fitted on all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones import Backbone
from auxtasks.data.decoding import Fit
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.features.batches import Table, item_noun
from auxtasks.seeding import generator
from transfer.both_orders import scoring_weight
from transfer.choices import Candidate, cross_validated
from transfer.discriminants import base_layer
from transfer.fewshot import FewShot, Outcome
from transfer.model import TargetModel
from transfer.scorer import Scorer

__all__ = ["save_target_model"]

Features = NDArray[np.float32]

CHOOSE_ON = 5000  # items that layer and head are chosen on: more would choose no better


def save_target_model(
    backbone: Backbone, table: Table, settings: FewShot, outcome: Outcome, seed: int, *, fit: Fit, place: Path
) -> None:
    """Fit what the user takes away on all labels, and save it: a model that names classes or, of pairs, a scorer.

    Args:
        backbone: what was reused.
        table: what labels were drawn from.
        settings: of the evaluation.
        outcome: what the evaluation has computed, and how it ranked layers and heads.
        seed: of the choice of layer and head.
        fit: how pictures of other shapes are fitted.
        place: folder to write.

    Raises:
        TransferError: a head that gives single items of pairs no score.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import encode_features
        >>> from auxtasks.data.sources import load_source
        >>> from recipes.build import make_few_shot
        >>> from recipes.config import load_recipe
        >>> from transfer.fewshot import evaluate_target
        >>> from transfer.model import load
        >>> iris = encode_features(load_source("builtin:features", columns={"features": "features", "label": "label"}))
        >>> network = mlp(width=4, hidden=[3])
        >>> few = ["transfer.shots=[5]", "transfer.draws=2", "transfer.arms=[raw, frozen]"]
        >>> recipe = load_recipe("ready_made", ["targets.mine.path=builtin:features", *few])
        >>> settings = make_few_shot(recipe, network)
        >>> outcome = evaluate_target(network, iris, settings, seed=0, show_progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_target_model(network, iris, settings, outcome, 0, fit="stretch", place=Path(folder) / "model")
        ...     model = load(Path(folder) / "model")
        >>> model.class_names, model.facts["fitted on"].partition(";")[0]
        (('setosa', 'versicolor', 'virginica'), 'all 150 labelled vectors')
    """
    features = outcome.spaces.target
    most = max(settings.protocol.shots)
    rarest = int(np.bincount(table.labels).min())
    ranked = outcome.ranked[most]
    # With one item of a class nothing can be held out: then what was settled in advance stands.
    chosen = _choose(features, table.labels, ranked, seed) if rarest > 1 else ranked[0]
    layer = base_layer(chosen.layer)
    pool = outcome.pools[layer]
    head = chosen.build().fit(features[chosen.layer], table.labels, len(table.class_names))
    facts = {
        "fitted on": f"all {len(table)} labelled {item_noun(table)}; the report's scores are for {most} and fewer "
        "a class",
        "head": chosen.head,
        "backbone": str(backbone.provenance.get("pretrained_on", "random weights")),
    }
    if isinstance(table, PairTable):
        Scorer(backbone, layer, pool, scoring_weight(head), facts).save(place)
        return
    TargetModel(
        backbone=backbone,
        layer=layer,
        pool=pool,
        mirror=settings.mirror,
        head=head,
        class_names=table.class_names,
        decoded_size=(table.pixels.shape[1], table.pixels.shape[2]) if isinstance(table, ImageTable) else None,
        fit=fit,
        discriminants=outcome.spaces.discriminants[layer] if layer != chosen.layer else None,
        facts=facts,
    ).save(place)


def _choose(
    features: Mapping[str, Features], labels: NDArray[np.int64], ranked: Sequence[Candidate], seed: int
) -> Candidate:
    """Choose layer and head by cross-validation, on some of the items where there are many."""
    if len(ranked) == 1:
        return ranked[0]
    order = generator(seed, "items to choose on").permutation(len(labels))
    # Some of each class first: cross-validation needs them.
    few = np.concatenate([order[labels[order] == label][:2] for label in np.unique(labels)])
    rows = np.unique(np.concatenate([few, order[: max(0, CHOOSE_ON - len(few))]]))
    inside = {name: values[rows] for name, values in features.items()}
    return cross_validated(inside, labels[rows], ranked, seed)
