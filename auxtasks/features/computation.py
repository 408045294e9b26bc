"""What is to be kept and how it is computed, block by block, so that an interrupted computation can go on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone

__all__ = ["Computation", "evaluating"]

Block = Mapping[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Computation:
    """Arrays that are computed in blocks; each block fills the same rows of all arrays.

    Attributes:
        blocks: how many there are.
        rows: a block's number to the rows of the first axis that it fills.
        values: a block's number to what goes there, by array.
        what: is computed, for messages.

    Example:
        >>> halves = Computation(
        ...     2, lambda block: np.arange(3) + 3 * block, lambda block: {"double": np.full((3, 1), 2 * block)}, "toy"
        ... )
        >>> halves.in_memory(6)["double"].ravel().tolist()
        [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]
    """

    blocks: int
    rows: Callable[[int], NDArray[np.int64]]
    values: Callable[[int], Block]
    what: str

    def in_memory(self, length: int) -> dict[str, NDArray[np.float32]]:
        """Compute all blocks into new arrays of so many rows."""
        arrays: dict[str, NDArray[np.float32]] = {}
        for block in range(self.blocks):
            rows = self.rows(block)
            for name, values in self.values(block).items():
                # Filled in place: a list of batches and their concatenation would take the memory twice.
                arrays.setdefault(name, np.empty((length, *values.shape[1:]), np.float32))[rows] = values
        return arrays


@contextlib.contextmanager
def evaluating(backbone: Backbone) -> Iterator[None]:
    """Compute without dropout and without gradients; the training mode is restored afterwards.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> network = mlp(width=3, hidden=[4]).train()
        >>> with evaluating(network):
        ...     print(network.training, torch.is_inference_mode_enabled())
        False True
        >>> network.training
        True
    """
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        backbone.train(was_training)
