"""Small classifiers on frozen features, by name: the part of a target model that the few labels train.

What all have in common is in `transfer.head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from torch import Tensor

from auxtasks.errors import CheckpointError, TransferError, did_you_mean
from transfer.head import FittedHead, Head, Option
from transfer.instance_heads import FittedNeighbors, FittedPrototype, KNeighbors, NearestPrototype
from transfer.linear_heads import FittedLinear, LogisticHead, RidgeHead

__all__ = ["HEADS", "build_head", "head_from_state"]

HEADS: dict[str, type[Head]] = {
    "prototype": NearestPrototype,
    "logistic": LogisticHead,
    "ridge": RidgeHead,
    "neighbors": KNeighbors,
}

_FITTED: dict[str, type[FittedHead]] = {
    "prototype": FittedPrototype,
    "linear": FittedLinear,
    "neighbors": FittedNeighbors,
}


def build_head(name: str, **options: Option) -> Head:
    """Return the head of that name.

    Raises:
        TransferError: an unknown name or option, or a value out of range; shows what is allowed.

    Example:
        >>> build_head("ridge", alpha=10.0)
        RidgeHead(alpha=10.0, scaling='rms', temperature=0.25)
    """
    if name not in HEADS:
        raise TransferError(f'unknown head "{name}".{did_you_mean(name, HEADS)} There are: {", ".join(HEADS)}.')
    head = HEADS[name]
    allowed = [field.name for field in fields(head)]  # type: ignore[arg-type]  # every entry is a dataclass
    unknown = [option for option in options if option not in allowed]
    if unknown:
        hints = "".join(did_you_mean(option, allowed) for option in unknown)
        raise TransferError(f"head {name} has no option {', '.join(unknown)}.{hints} It has: {', '.join(allowed)}.")
    return head(**options)


def head_from_state(tensors: Mapping[str, Tensor], config: Mapping[str, Option]) -> FittedHead:
    """Return the fitted head that `to_state` described; it predicts the same to the bit.

    Raises:
        CheckpointError: an unknown kind, or tensors and settings other than that kind has; names them.

    Example:
        >>> head = RidgeHead().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], n_classes=2)
        >>> head_from_state(*head.to_state()).predict([[1.0, 0.0]])
        array([1])
    """
    settings = dict(config)
    kind = str(settings.pop("kind", ""))
    if kind not in _FITTED:
        raise CheckpointError(f'unknown kind of head "{kind}", there are: {", ".join(_FITTED)}.')
    expected = {field.name for field in fields(_FITTED[kind])}  # type: ignore[arg-type]
    found = {*tensors, *settings}
    if found != expected:
        raise CheckpointError(
            f"the saved {kind} head does not fit: missing {sorted(expected - found)}, unexpected "
            f"{sorted(found - expected)}."
        )
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    return _FITTED[kind](**arrays, **settings)
