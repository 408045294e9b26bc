"""A named set of rename rules: from one published way of naming weights into one network here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from transfer.rename import Rule, to_tensor

__all__ = ["Implied", "RuleSet"]


@dataclasses.dataclass(frozen=True)
class Implied:
    r"""A tensor that a framework does not store, since it is the same number everywhere: a normalisation's scale of 1.

    Without it the target's would stay what it was, which is right only in a network that was never trained.

    Attributes:
        pattern: matches the whole name of a stored tensor of the same shape (a normalisation's offset).
        name: what the implied tensor would be called, with ``\1`` for groups of the pattern; one that is stored wins.
        value: of all its elements.
    """

    pattern: str
    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class RuleSet:
    """How the weights of one published network are named, and which network here takes them.

    Attributes:
        name: what it is chosen by, as in ``auxtasks import SOURCE INTO --rules NAME``.
        source: whose files these are, in words.
        into: the backbone that takes them, as `auxtasks.backbones.build` names it (``"facenet"``).
        rules: tried in turn on each source name; the first that matches wins. Target names are those of the library's
            own state dict.
        reference: where the names come from.
        preprocessing: what the network was trained on (order of channels, scale, tokenizer), in words: weights that are
            copied right and fed wrong give wrong outputs without an error.
        implied: what the source leaves out; see `prepare`.
        bgr: patterns of kernels, channels last (..., 3, O), whose input is blue, green, red; see `prepare`.
        pointwise: patterns of convolutions of 1 x 1, (1, 1, in, out), that are dense layers, (in, out), in the target.
        mean, std: of `preprocessing`, as `InputSpec` has them: one a channel, on the scale [0, 1]; empty of texts.

    Example:
        >>> rules = (Rule("w", "layers.0.weight", "linear"),)
        >>> toy = RuleSet("toy", "TensorFlow, by hand", "mlp", rules, reference="", preprocessing="")
        >>> toy.into, toy.implied
        ('mlp', ())
    """

    name: str
    source: str
    into: str
    rules: tuple[Rule, ...]
    reference: str
    preprocessing: str
    implied: tuple[Implied, ...] = ()
    bgr: tuple[str, ...] = ()
    pointwise: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def prepare(self, tensors: Mapping[str, Tensor | NDArray[Any]]) -> dict[str, Tensor | NDArray[Any]]:
        """Return the source's tensors as `rules` take them: with what is implied, and in their order of channels.

        Example:
            >>> import numpy as np
            >>> ones = Implied("(.*)/beta", r"\\1/gamma", 1.0)
            >>> toy = RuleSet("toy", "", "mlp", (), "", "", implied=(ones,))
            >>> toy.prepare({"norm/beta": np.zeros(2, np.float32)})["norm/gamma"]
            tensor([1., 1.])
        """
        ready = dict(tensors)
        for name, value in tensors.items():
            if any(re.fullmatch(pattern, name) for pattern in self.bgr):
                ready[name] = to_tensor(value, name).flip(-2)
            if any(re.fullmatch(pattern, name) for pattern in self.pointwise):
                ready[name] = to_tensor(value, name).flatten(0, -2)
            for implied in self.implied:
                found = re.fullmatch(implied.pattern, name)
                if found is not None:
                    like = to_tensor(value, name)
                    ready.setdefault(found.expand(implied.name), like.new_full(like.shape, implied.value))
        return ready
