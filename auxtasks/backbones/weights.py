"""Weights files of other people: tensors are read, code is never run."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from auxtasks.errors import BackboneError

__all__ = ["read_weights"]

# What PyTorch's reader of pickles raises where a byte is another: a name that is no text, a place that does not exist.
BROKEN = (
    EOFError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, MemoryError, struct.error,
)  # fmt: skip

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the state dict


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file, or from one that `torch.save` wrote.

    A state dict under the key ``state_dict`` or ``model`` is found too.

    Raises:
        BackboneError: the file is missing, damaged, holds something else, or is a pickle that wants to run code.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
        >>> torch.save({"state_dict": {"bias": torch.zeros(2)}}, path)
        >>> read_weights(path)
        {'bias': tensor([0., 0.])}
    """
    place = Path(path).expanduser()
    if not os.path.isfile(place):  # noqa: PTH113 - unlike a Path, it takes a name that is too long for none
        raise BackboneError(f"weights: there is no file {place}.")
    content = _read_safetensors(place) if place.suffix == ".safetensors" else _read_pickle(place)
    return _only_tensors(_unwrap(content), place)


def _read_safetensors(place: Path) -> object:
    try:
        return safetensors.torch.load_file(place)
    except (SafetensorError, OSError) as error:
        raise BackboneError(f"weights: {place} is damaged or cut short: {error}.") from error


def _read_pickle(place: Path) -> object:
    """Unpickle tensors and plain containers; everything else could run code, so PyTorch is told to refuse it."""
    try:
        return torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"weights: {place} is not a plain file of tensors: it is damaged, or a pickle that would run code when "
            "read, which is never done here. If you trust where it comes from, convert it to .safetensors yourself. "
            f"PyTorch says: {_reason(error)}"
        ) from error
    except BROKEN as error:
        raise BackboneError(f"weights: {place} is damaged or cut short: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what went wrong, without PyTorch's advice to switch its protection off."""
    told = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return told[0] if told else type(error).__name__


def _unwrap(content: object) -> object:
    """Return the state dict inside what a training script saved."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return content[key]
    return content


def _only_tensors(content: object, place: Path) -> dict[str, Tensor]:
    """Check that every entry is a tensor under a name."""
    if not isinstance(content, Mapping) or not content:
        raise BackboneError(f"weights: {place} holds no state dict, but a {type(content).__name__}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BackboneError(f"weights: {place}: under {name!r} it holds no tensor but {type(value).__name__}.")
    return dict(content)
