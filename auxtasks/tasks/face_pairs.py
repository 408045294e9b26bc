"""Face-pair verification: are these two photos of the same person? The labels cost nothing where photos are grouped.

A siamese network without a second tower: one pass over all photos of a batch, then every pair of the batch, over all
processes, is one term of the loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn

from auxtasks import losses, metrics
from auxtasks.backbones.base import Backbone
from auxtasks.data.augment import Augment, center, stack_pictures, with_room
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.loaders import Records
from auxtasks.data.pairs import balanced_pairs
from auxtasks.data.plan import IdentityPlan
from auxtasks.errors import BackboneError, DataError, did_you_mean
from auxtasks.tasks.base import AuxTask
from auxtasks.training.health import TrivialLevel
from auxtasks.training.objective import StepOutput

__all__ = ["FaceBatch", "FacePairs", "PairLoss"]

PairLoss = Literal["logistic", "contrastive", "triplet"]

logger = logging.getLogger("auxtasks")

COLLAPSED_SPREAD = 0.1  # untrained networks have .5 and more
COLLAPSED_RANK = 2.0
CHANCE = 0.52  # of an area under the curve that is a half by chance
LOGGED_ITEMS = 256  # the AUC of a batch sorts all its pairs: of so many items at most


class FaceBatch(NamedTuple):
    """Photos (B, C, H, W) as uint8, and whose they are (B,)."""

    images: Tensor
    identities: Tensor


class FaceItem(NamedTuple):
    """One photo (H, W, C) as uint8, and whose it is."""

    image: np.ndarray[Any, np.dtype[np.uint8]]
    identity: int


class FacePairs(AuxTask):
    """Learn embeddings in which photos of the same person are close.

    Args:
        backbone: takes images; its last layer is the embedding.
        loss: ``"logistic"`` on the scaled cosine (scale and threshold are learned), ``"contrastive"`` with a margin, or
            ``"triplet"`` with the hardest partners in the batch. See `auxtasks.losses`.
        photos: K, photos of a person in a batch; the batch size over K is P, the people.
        hardness: how much more a hard pair weighs than an easy one; 0 weighs all alike.
        margin: for contrastive (1.0 when None) and triplet (a softplus without a margin when None).
        scale: where the learned scale of the logistic loss begins.
        single_share: share of the people in a batch that have a single photo or no label: two augmentations of it are
            then a pair of the same person.
        favour: how much more often people with many photos come up, see `IdentityPlan`.
        augment: what a camera may change; None takes the defaults at the backbone's size.
        fit: how pictures of another shape are fitted, see `decode_images`.
        on_error: what to do about a picture that cannot be read: ``"raise"``, or ``"skip"`` it with a count.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> task = FacePairs(convnet(size=32))
        >>> batch = FaceBatch(torch.zeros(4, 1, 32, 32, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
        >>> task(batch).weight
        tensor(4.)
    """

    compares_items: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        loss: PairLoss = "logistic",
        photos: int = 4,
        hardness: float = 0.0,
        margin: float | None = None,
        scale: float = 10.0,
        single_share: float = 0.0,
        favour: float = 0.0,
        augment: Augment | None = None,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(backbone)
        if backbone.input.kind != "image" or backbone.input.size is None:
            raise BackboneError(f"face pairs need a backbone that takes images; this one takes {backbone.input.kind}.")
        if loss not in get_args(PairLoss):
            hint = did_you_mean(loss, get_args(PairLoss))
            raise DataError(f'loss="{loss}" is not one of {", ".join(get_args(PairLoss))}.{hint}')
        self.loss = loss
        self.photos = photos
        self.hardness = hardness
        self.margin = margin
        self.scale = scale
        self.single_share = single_share
        self.favour = favour
        self.size = backbone.input.size
        self.augment = augment or Augment(size=self.size)
        self.fit = fit
        self.on_error = on_error
        self.told_of_collapse = False
        if loss == "logistic":
            # In logarithm, so that it stays positive; only for this loss, since an unused parameter makes DDP raise.
            self.log_scale = nn.Parameter(torch.tensor(float(np.log(scale))))
            self.threshold = nn.Parameter(torch.tensor(0.3))

    @property
    def description(self) -> str:
        """What a backbone from here was pretrained on."""
        return f"face pairs ({self.loss} loss)"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        return {
            **super().settings,
            "loss": self.loss,
            "photos": self.photos,
            "hardness": self.hardness,
            "margin": self.margin,
            "scale": self.scale,
            "single_share": self.single_share,
            "favour": self.favour,
            "augment": dataclasses.asdict(self.augment),
        }

    def prepare(self, dataset: Dataset, *, cache: Path | None = None) -> ImageTable:
        """Decode and resize all pictures, once, a quarter larger than the network's input."""
        channels = self.backbone.input.shape[0]
        return decode_images(
            dataset, size=with_room(self.size), channels=channels, fit=self.fit, on_error=self.on_error, cache=cache
        )

    def plan(self, records: Records, batch_size: int, seed: int) -> IdentityPlan:
        """Return batches of P people with K photos.

        Raises:
            DataError: the batch size is no multiple of K, or there is one person only.
        """
        if batch_size % self.photos:
            raise DataError(
                f"a batch of {batch_size} photos cannot hold {self.photos} photos of each person: make the batch size "
                f"a multiple of {self.photos}, or change `photos`."
            )
        labels = _table(records).labels
        return IdentityPlan(
            labels, batch_size // self.photos, self.photos, seed, single_share=self.single_share, favour=self.favour
        )

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> FaceItem:
        """Augment one photo."""
        return FaceItem(self.augment(record["image"], rng), _identity(record))

    def view(self, record: Mapping[str, Any]) -> FaceItem:
        """Show one photo as it is."""
        return FaceItem(center(record["image"], self.size), _identity(record))

    @staticmethod
    def collate(items: Sequence[FaceItem]) -> FaceBatch:
        """Stack photos into (B, C, H, W)."""
        images = stack_pictures([item.image for item in items])
        return FaceBatch(images, torch.tensor([item.identity for item in items]))

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D) of raw photos (B, C, H, W)."""
        embeddings: Tensor = self.backbone(self.backbone.input.normalize(images))
        return embeddings

    def forward(self, batch: FaceBatch) -> StepOutput:
        """Compute the loss over all pairs of the global batch; every process gets the same one."""
        embeddings = gather_with_gradient(self.embed(batch.images))
        identities = gather_with_gradient(batch.identities)
        cosine = losses.cosines(embeddings)
        masks = losses.pair_masks(identities)
        loss = self._pair_loss(cosine, masks)
        weight = loss.new_tensor(float(len(identities)))
        # Where training diverges, the loop says at which step: better than a metric that complains of a NaN.
        logged = self._metrics(embeddings, cosine, masks) if self.log_metrics and embeddings.isfinite().all() else {}
        return StepOutput(loss * weight, weight, logged)

    def _pair_loss(self, cosine: Tensor, masks: losses.PairMasks) -> Tensor:
        if self.loss == "logistic":
            return losses.pair_logistic(cosine, masks, self.log_scale.exp(), self.threshold, hardness=self.hardness)
        if self.loss == "contrastive":
            margin = 1.0 if self.margin is None else self.margin
            return losses.contrastive(cosine, masks, margin=margin, hardness=self.hardness)
        return losses.batch_hard_triplet(cosine, masks, margin=self.margin)

    @torch.no_grad()
    def _metrics(self, embeddings: Tensor, cosine: Tensor, masks: losses.PairMasks) -> dict[str, Tensor]:
        few = slice(0, LOGGED_ITEMS)
        same, different = cosine[few, few][masks.same[few, few]], cosine[few, few][masks.different[few, few]]
        named = _collapse_measures(embeddings)
        if len(same) and len(different):
            scores = torch.cat([same, different])
            labels = torch.cat([torch.ones_like(same), torch.zeros_like(different)])
            named["roc_auc"] = metrics.roc_auc(scores, labels)
        if self.loss == "logistic":
            kept, refused = same > self.threshold, different <= self.threshold
            named["pair_accuracy"] = float(kept.float().mean() + refused.float().mean()) / 2
        return {name: cosine.new_tensor(value) for name, value in named.items()}

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """Embeddings that all look alike, or lie along a line; and photos that are told apart by chance alone.

        Reference:
            The spread is that of Chen and He, "Exploring simple siamese representation learning", CVPR 2021; the rank
            that of Roy and Vetterli, "The effective rank", EUSIPCO 2007.
        """
        chance = TrivialLevel("roc_auc", CHANCE, "below", "photos of one person are no closer than those of two people")
        if self.backbone.output_dim <= 2:
            return [chance]
        return [
            chance,
            TrivialLevel("spread", COLLAPSED_SPREAD, "below", "all embeddings look alike", at_once=True),
            TrivialLevel("effective_rank", COLLAPSED_RANK, "below", "all embeddings lie along a line", at_once=True),
        ]

    def evaluator(self) -> FacePairEvaluator:
        """Return a fresh evaluator of verification over held-out people."""
        return FacePairEvaluator(self)


class FacePairEvaluator:
    """Verification among held-out photos: as many pairs of the same person as of two people."""

    def __init__(self, task: FacePairs) -> None:
        self._task = task
        self._kept: list[tuple[int, np.ndarray[Any, np.dtype[np.float32]]]] = []

    def update(self, batch: FaceBatch) -> None:
        """Embed one batch of this process's share."""
        embeddings = self._task.embed(batch.images).float().cpu().numpy()
        self._kept.extend(zip(batch.identities.tolist(), embeddings, strict=True))

    def compute(self) -> dict[str, float]:
        """Return ROC-AUC, accuracy at the best threshold, that threshold, EER, spread and effective rank."""
        shares = gather_object([self._kept]) if dist.is_initialized() else [self._kept]
        # In the order before `evaluate` dealt them out, so that the pairs do not depend on the number of processes.
        kept = [photo for turn in itertools.zip_longest(*shares) for photo in turn if photo is not None]
        labels = np.array([identity for identity, _ in kept])
        embeddings = torch.from_numpy(np.stack([embedding for _, embedding in kept]))
        pairs = balanced_pairs(labels, seed=0)
        unit = nn.functional.normalize(embeddings, dim=1).numpy()
        scores = np.sum(unit[pairs.left] * unit[pairs.right], axis=1)
        threshold = metrics.best_threshold(scores, pairs.same)
        return {
            "roc_auc": metrics.roc_auc(scores, pairs.same),
            "accuracy": float(np.mean((scores >= threshold) == pairs.same)),
            "threshold": threshold,
            "equal_error_rate": metrics.equal_error_rate(scores, pairs.same),
            **self._collapse(embeddings),
        }

    def _collapse(self, embeddings: Tensor) -> dict[str, float]:
        """Return what shows a collapse; of each task it is told once."""
        found = _collapse_measures(embeddings) if self._task.told_of_collapse else monitor_collapse(embeddings)
        self._task.told_of_collapse |= _has_collapsed(found, embeddings)
        return found


def monitor_collapse(embeddings: Tensor) -> dict[str, float]:
    """Return spread and effective rank of embeddings (B, D); log a warning when they say that all look alike.

    An untrained network spreads its embeddings; a loss that has collapsed maps every photo to one direction, or to a
    line. Few items or dimensions cannot show it, and are not judged.
    """
    found = _collapse_measures(embeddings)
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    if is_first and _has_collapsed(found, embeddings):
        logger.warning(
            "the embeddings have collapsed: spread %.3f (healthy: near 1), effective rank %.2f of %d. Lower the "
            "learning rate, lengthen the warm-up, or check that the labels tell people apart.",
            found["spread"],
            found["effective_rank"],
            min(embeddings.shape),
        )
    return found


def _collapse_measures(embeddings: Tensor) -> dict[str, float]:
    values = embeddings.float()
    return {"spread": metrics.embedding_spread(values), "effective_rank": metrics.effective_rank(values)}


def _has_collapsed(found: Mapping[str, float], embeddings: Tensor) -> bool:
    collapsed = found["spread"] < COLLAPSED_SPREAD or found["effective_rank"] < COLLAPSED_RANK
    return collapsed and min(embeddings.shape) > 2


def gather_with_gradient(local: Tensor) -> Tensor:
    """Concatenate the tensors of all processes along dimension 0, in order of rank; gradients flow back to each.

    The backward pass sums what all processes send to a slice. As each computes the same global loss, that is N times
    its gradient, and DDP's mean over processes makes it right: nothing is to be multiplied here.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local
    if not local.is_floating_point():
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local)
        return torch.cat(parts)
    gathered: Tensor = _AllGather.apply(local)
    return gathered


class _AllGather(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients of all processes; torch's own is deprecated."""

    @staticmethod
    def forward(_context: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def _identity(record: Mapping[str, Any]) -> int:
    """Return a label, or for an unlabelled row a negative number of its own."""
    label = int(record["label"])
    return label if label >= 0 else -2 - int(record["row"])


def _table(records: Records) -> ImageTable:
    if not isinstance(records, ImageTable):
        raise DataError(f"face pairs read an ImageTable, found {type(records).__name__}; make one with task.prepare().")
    return records
