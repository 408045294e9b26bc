"""A small residual network for pictures of 24 to 128 pixels: a few minutes of two CPU cores are enough to pretrain it.

GroupNorm, not BatchNorm: its output does not depend on which pictures share a batch, so N processes compute what one
does, and a frozen layer has no statistics that could move (Wu and He, "Group Normalization", ECCV 2018).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone, check_positive, register
from auxtasks.backbones.description import Family
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.pooling import GRID, pool_layer
from auxtasks.backbones.stages import Stage
from auxtasks.errors import BackboneError

__all__ = ["ConvNet", "convnet"]

GROUPS = 8


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al., CVPR 2016), normalised by groups."""

    def __init__(self, below: int, here: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(below, here, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, here)
        self.conv2 = nn.Conv2d(here, here, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, here)
        same_shape = below == here and stride == 1
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(below, here, 1, stride, bias=False)
        # The block starts as its shortcut (Goyal et al. 2017): deep stacks then train at a high rate from step 1.
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        inner = F.relu(self.norm1(self.conv1(x)))
        output: Tensor = F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))
        return output


class ConvNet(nn.Module):
    """Stem, stages of residual blocks that halve the picture, a 3 x 3 grid of averages, embedding.

    The grid keeps where things are. With the mean over all positions instead, the same network verified faces of people
    held out of LFW at a ROC-AUC of .918; with the grid and dropout, .925 (2,400 steps of 128 photos, one seed).

    Args:
        channels: of the pictures.
        widths: channels of each stage; the first keeps the stem's resolution, each other halves it.
        blocks: residual blocks of each stage.
        embedding: width of the last layer.
        dropout: share of the grid's values that are dropped in training.

    Example:
        >>> network = ConvNet(channels=1, widths=[8, 16], blocks=[1, 1], embedding=4, dropout=0.0)
        >>> tuple(network(torch.zeros(2, 1, 16, 16)).shape)
        (2, 4)
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], embedding: int, dropout: float
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 5, stride=2, padding=2, bias=False),
            nn.GroupNorm(GROUPS, widths[0]),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        below = widths[0]
        for place, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if place == 0 else 2, *[1] * (count - 1)]
            inputs = [below, *[width] * (count - 1)]
            self.stages.append(
                nn.Sequential(*(ResidualBlock(i, width, s) for i, s in zip(inputs, strides, strict=True)))
            )
            below = width
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(below * GRID * GRID, embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to embeddings (B, D)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.embed(x)

    def embed(self, x: Tensor) -> Tensor:
        """Map the last stage's output (B, C, H, W) to embeddings (B, D)."""
        output: Tensor = self.embedding(self.dropout(pool_layer(x, "grid")))
        return output


@register("convnet")
def convnet(
    size: int = 48,
    channels: int = 1,
    widths: Sequence[int] = (32, 64, 128, 256),
    blocks: Sequence[int] = (1, 1, 1, 1),
    embedding: int = 128,
    dropout: float = 0.3,
    *,
    seed: int = 0,
) -> Backbone:
    """Build a `ConvNet` with layers ``stem``, ``stage1`` ... and ``embedding``; pictures are normalised one by one.

    Args:
        size: height and width of the pictures in pixels.
        channels: 1 for grey, 3 for colour.
        widths: channels of each stage, multiples of 8.
        blocks: residual blocks of each stage, as many entries as `widths`.
        embedding: width of the last layer.
        dropout: before the last layer, in training.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: sizes that make no network; says which.

    Example:
        >>> convnet(size=32, widths=[16, 32], blocks=[1, 1], embedding=64).layer_dims
        {'stem': 16, 'stage1': 16, 'stage2': 32, 'embedding': 64}
    """
    widths, blocks = list(widths), list(blocks)
    check_positive(size=size, channels=channels, embedding=embedding, stages=len(widths))
    if len(widths) != len(blocks):
        raise BackboneError(
            f"widths has {len(widths)} entries and blocks {len(blocks)}: give one of each for every stage."
        )
    for place, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        if width < GROUPS or width % GROUPS:
            raise BackboneError(f"widths[{place}] is {width}; GroupNorm needs a multiple of {GROUPS}.")
        check_positive(**{f"blocks[{place}]": count})
    if not 0 <= dropout < 1:
        raise BackboneError(f"dropout is a share from 0 to below 1, found {dropout}.")
    if size < 2 ** len(widths):
        raise BackboneError(
            f"size {size} is too small for {len(widths)} stages: use at least {2 ** len(widths)} pixels."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = ConvNet(channels, widths, blocks, embedding, dropout)
    stages = [
        Stage("stem", ("stem",), widths[0], _stem),
        *(
            Stage(f"stage{place + 1}", (f"stages.{place}",), width, functools.partial(_stage, place=place))
            for place, width in enumerate(widths)
        ),
        Stage("embedding", ("embedding",), embedding, _embedding),
    ]
    arguments = {
        "size": size, "channels": channels, "widths": widths, "blocks": blocks, "embedding": embedding,
        "dropout": dropout, "seed": seed,
    }  # fmt: skip
    return Backbone(module, stages, InputSpec.image(size, channels, per_image=True), Family("convnet", arguments))


def _stem(module: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = module.stem(x)  # type: ignore[operator]
    return output


def _stage(module: nn.Module, x: Tensor, *, place: int) -> Tensor:
    output: Tensor = module.stages[place](x)  # type: ignore[index,operator]
    return output


def _embedding(module: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = module.embed(x)  # type: ignore[operator]
    return output
