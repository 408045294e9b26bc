"""A layer of a pretrained backbone as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.augment import with_room
from auxtasks.data.decoding import Fit
from auxtasks.features.extract import extract, feature_widths
from transfer.model import PredictedItem, table_of_items

__all__ = ["FrozenFeatures"]


class FrozenFeatures(TransformerMixin, BaseEstimator):
    """Turns pictures, texts or vectors into the features of one layer; learns nothing from them.

    Args:
        backbone: pretrained.
        layer: its name; the last one if None.
        pool: see `auxtasks.backbones.pool_layer`.
        mirror: average a picture's features with its mirror image's; for pictures.
        fit_mode: how pictures of another shape are fitted, see `auxtasks.data.decode_images`.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from auxtasks.backbones import convnet
        >>> pictures = list(np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8))
        >>> pipeline = make_pipeline(FrozenFeatures(convnet(size=32), layer="stage3"), LogisticRegression())
        >>> pipeline.fit(pictures, [0, 0, 0, 1, 1, 1]).predict(pictures).shape
        (6,)
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: str | None = None,
        pool: Pool = "auto",
        mirror: bool = False,
        fit_mode: Fit = "stretch",
    ) -> None:
        self.backbone = backbone
        self.layer = layer
        self.pool: Pool = pool
        self.mirror = mirror
        self.fit_mode: Fit = fit_mode

    def fit(self, items: Sequence[PredictedItem] | NDArray[Any], labels: Any = None) -> Self:
        """Do nothing: a pretrained layer is already fitted."""
        del items, labels
        return self

    def transform(self, items: Sequence[PredictedItem] | NDArray[Any]) -> NDArray[np.float32]:
        """Return features (N, D) of items.

        Args:
            items: texts; vectors, as an array; or pictures as paths, PIL images, encoded bytes or uint8 arrays.

        Raises:
            ImageError: a picture cannot be read; names it.
            DataError: a text is empty, or a vector not finite; says which.
            InputMismatchError: items of another kind or width than the backbone takes.
        """
        spec = self.backbone.input
        name = self.layer or self.backbone.layer_names[-1]
        if not len(items):
            return np.empty((0, feature_widths(self.backbone, {name: self.pool})[name]), dtype=np.float32)
        size = with_room(spec.size) if spec.size else None
        table = table_of_items(self.backbone, items, size, self.fit_mode)
        return extract(self.backbone, table, {name: self.pool}, mirror=self.mirror)[name]

    def __sklearn_is_fitted__(self) -> bool:
        return True
