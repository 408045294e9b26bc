"""Randomness as a pure function of (seed, purpose, epoch, index).

Nothing here has state: two processes, or a run and its resumed twin, that ask for the same four values get
the same numbers. A new consumer takes a new purpose and shifts nobody else's numbers.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a counter-based generator: its key is
hashed from (seed, purpose), and its counter is set to (epoch, index), so making one costs microseconds, not a replay.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

__all__ = ["generator", "torch_seed"]


@functools.lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    """Hash (seed, purpose) into Philox's 128-bit key."""
    digest = hashlib.sha256(f"{seed}\0{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def generator(seed: int, purpose: str, epoch: int = 0, index: int = 0) -> np.random.Generator:
    """Return the NumPy generator that belongs to (seed, purpose, epoch, index).

    The counter's lowest word is left to the generator itself: 2^64 blocks before two streams could meet.

    Args:
        seed: the run's seed, any integer.
        purpose: what the numbers are for, such as ``"augment"``.
        epoch: pass over the data, not negative.
        index: global index of the item or step, not negative.

    Example:
        >>> a = generator(0, "augment", epoch=3, index=7).random()
        >>> b = generator(0, "augment", epoch=3, index=7).random()
        >>> c = generator(0, "augment", epoch=3, index=8).random()
        >>> (a == b, a == c)
        (True, False)
    """
    counter = np.array([0, 0, index, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array(_key(seed, purpose), dtype=np.uint64), counter=counter))


def torch_seed(seed: int, purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for `torch.manual_seed`, a hash of all arguments.

    Example:
        >>> torch_seed(0, "init") == torch_seed(0, "init")
        True
        >>> torch_seed(0, "dropout", 5, 0) == torch_seed(0, "dropout", 5, 1)
        False
    """
    text = "\0".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
