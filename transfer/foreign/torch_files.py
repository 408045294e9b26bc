"""What PyTorch and safetensors write: one file, or several with an index that says which tensor is in which."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from auxtasks import checkpoint
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import BackboneError, CheckpointError

__all__ = ["read_safetensors", "read_sharded", "read_torch"]


def read_torch(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file of `torch.save`, see `auxtasks.backbones.weights.read_weights`.

    Raises:
        CheckpointError: missing, damaged or cut short, without tensors, or a pickle that wants to run code.

    Example:
        >>> import tempfile
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.pt"
        ...     torch.save({"fc.weight": torch.ones(2, 3)}, path)
        ...     print({name: tuple(tensor.shape) for name, tensor in read_torch(path).items()})
        {'fc.weight': (2, 3)}
    """
    try:
        with warnings.catch_warnings():
            # Of a pickle that PyTorch did not write; it is read or refused all the same.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return read_weights(path)
    except BackboneError as error:
        raise CheckpointError(str(error)) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, whatever its suffix.

    Raises:
        CheckpointError: missing, damaged or cut short.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.safetensors"
        ...     save_file({"fc.weight": torch.ones(2, 3)}, path)
        ...     print({name: tuple(tensor.shape) for name, tensor in read_safetensors(path).items()})
        {'fc.weight': (2, 3)}
    """
    try:
        return dict(safetensors.torch.load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}.") from error


def read_sharded(path: Path) -> dict[str, Tensor]:
    """Read weights that are split over several files, from the index beside them (``*.index.json``).

    Every tensor of the index must be in the file that the index names, and nothing else may be there: a shard of
    another download would mix two networks.

    Raises:
        CheckpointError: no such index, a shard that is missing, damaged or outside the index's folder, or tensors that
            are not where the index says; names them.

    Example:
        >>> import json, tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> torch.save({"bias": torch.ones(2)}, folder / "pytorch_model-00001-of-00001.bin")
        >>> index = folder / "pytorch_model.bin.index.json"
        >>> _ = index.write_text(json.dumps({"weight_map": {"bias": "pytorch_model-00001-of-00001.bin"}}))
        >>> read_sharded(index)
        {'bias': tensor([1., 1.])}
    """
    shards = _shards(path)
    tensors: dict[str, Tensor] = {}
    for file, names in shards.items():
        shard = path.parent / file
        found = read_safetensors(shard) if shard.suffix == ".safetensors" else read_torch(shard)
        if found.keys() != names:
            raise CheckpointError(
                f"{path}: the shard {file} does not hold what the index says. Missing: "
                f"{_listed(names - found.keys())}; not in the index: {_listed(found.keys() - names)}. "
                "Are the files of one download?"
            )
        tensors |= found
    return tensors


def _shards(path: Path) -> dict[str, set[str]]:
    """Return the files that an index names, each with the names of its tensors."""
    weight_map = checkpoint.read_object(path).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f'{path} is no index of weights: it has no "weight_map" from tensors to files.')
    shards: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".."):
            raise CheckpointError(
                f"{path}: {name!r} is said to be in {file!r}; a shard is a file beside the index, in no other folder."
            )
        shards.setdefault(file, set()).add(name)
    return shards


def _listed(names: set[str], most: int = 3) -> str:
    shown = ", ".join(sorted(names)[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
