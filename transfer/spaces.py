"""The feature spaces that a head can be put on: a backbone's layers, as they are and as discriminants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.cache import FeatureCache
from auxtasks.features.extract import layer_shapes
from auxtasks.seeding import generator
from transfer.choices import Proxy
from transfer.discriminants import FEWEST_IDENTITIES, Discriminants, fit_discriminants, with_discriminants

__all__ = ["Metric", "Pretrained", "Spaces", "default_pools", "feature_spaces"]

Features = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Items of the pretraining data that may serve a target without costing one of its labels.

    A corpus whose texts belong to no identities has none to offer: pass no `Pretrained` at all.

    Attributes:
        trained: what the backbone was trained on; discriminants are fitted on it.
        held_out: people that it was not trained on; choices are made on them.
    """

    trained: Table
    held_out: Table


@dataclasses.dataclass(frozen=True)
class Metric:
    """How discriminants are fitted.

    Attributes:
        components, shrinkage: see `fit_discriminants`.
        pictures: about so many of the pretraining data are enough; features of millions would not fit.

    Example:
        >>> Metric(components=64).shrinkage
        1.0
    """

    components: int = 256
    shrinkage: float = 1.0
    pictures: int = 10_000


@dataclasses.dataclass(frozen=True)
class Spaces:
    """Features of one backbone.

    Attributes:
        target: space to (N, D) features of the target's items.
        proxy: the held-out pretraining items in the same spaces, or None.
        discriminants: by layer.
        notes: for the reader of the report.
    """

    target: Mapping[str, Features]
    proxy: Proxy | None
    discriminants: Mapping[str, Discriminants]
    notes: tuple[str, ...] = ()


def default_pools(backbone: Backbone) -> dict[str, Pool]:
    """Return all layers with a pooling: a 3 x 3 grid for image layers, the mean for tokens, vectors as they are."""
    shapes = layer_shapes(backbone)
    return {name: "grid" if len(shape) == 3 else "auto" for name, shape in shapes.items()}


def feature_spaces(
    backbone: Backbone,
    table: Table,
    layers: Mapping[str, Pool],
    cache: FeatureCache,
    *,
    mirror: bool,
    pretrained: Pretrained | None,
    metric: Metric | None,
) -> Spaces:
    """Compute every space, each set of items in one pass.

    Args:
        backbone: pretrained, or an untrained one of the same kind, which then gets the same help.
        table: the target's items.
        layers: layers with their pooling.
        cache: keeps what was computed.
        mirror: see `extract`.
        pretrained: see `Pretrained`; None leaves proxy and discriminants out.
        metric: None leaves the discriminants out.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((6, 3), np.float32), np.arange(6) % 2, ("low", "high"), np.arange(6))
        >>> network = mlp(width=3, hidden=[4, 5])
        >>> offered = Pretrained(trained=table, held_out=table)
        >>> pools, cache = default_pools(network), FeatureCache()
        >>> found: Spaces = feature_spaces(network, table, pools, cache, mirror=False, pretrained=offered, metric=None)
        >>> {name: values.shape for name, values in found.target.items()}, found.proxy is not None
        ({'hidden1': (6, 4), 'hidden2': (6, 5)}, True)
    """
    found: dict[str, Discriminants] = {}
    notes: list[str] = []
    telling = _telling_items(pretrained.trained, metric.pictures) if metric and pretrained else None
    if telling is not None and len(np.unique(telling.labels)) < FEWEST_IDENTITIES:
        notes.append(
            f"no discriminants: fewer than {FEWEST_IDENTITIES} {_members(telling)} of the pretraining data have two "
            f"{item_noun(telling)}."
        )
    elif metric is not None and telling is not None:
        found = {
            layer: fit_discriminants(values, telling.labels, components=metric.components, shrinkage=metric.shrinkage)
            for layer, values in cache.features(backbone, telling, layers, mirror=mirror).items()
        }
    target = with_discriminants(cache.features(backbone, table, layers, mirror=mirror), found)
    proxy = None
    if pretrained is not None and len(pretrained.held_out):
        held_out = with_discriminants(cache.features(backbone, pretrained.held_out, layers, mirror=mirror), found)
        proxy = Proxy(held_out, pretrained.held_out.labels)
    return Spaces(target, proxy, found, tuple(notes))


def _telling_items(table: Table, limit: int) -> Table:
    """Return the items of identities that have two or more, as many whole identities as fit the limit."""
    names, counts = np.unique(table.labels[table.labels >= 0], return_counts=True)
    several = generator(0, "telling pictures").permutation(names[counts > 1])
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    total = np.cumsum([sizes[int(name)] for name in several]) if len(several) else np.zeros(0)
    kept = several[: max(FEWEST_IDENTITIES, int(np.searchsorted(total, limit, side="right")))]
    return table.subset(np.flatnonzero(np.isin(table.labels, kept)))


def _members(table: Table) -> str:
    return "people" if item_noun(table) == "pictures" else "identities"
