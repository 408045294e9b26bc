"""Folders on disk that are whole or not there: tensors in safetensors, the rest in JSON, never a pickle.

A folder is written under a temporary name beside its place, every file is flushed to the disk, and only then is it
renamed. A process that is killed at any moment leaves what was there before, or the new folder, never a mixture.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from auxtasks.errors import CheckpointError

__all__ = [
    "SCHEMA_VERSION",
    "atomic_folder",
    "file_digest",
    "load_strictly",
    "read_json",
    "read_tensors",
    "tensors_digest",
    "write_json",
    "write_tensors",
    "write_text_atomically",
]

SCHEMA_VERSION = 1


def _flush_to_disk(path: Path) -> None:
    """Ask the kernel to put a file or a folder's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `place` when the block ends well, and vanishes when it does not.

    Raises:
        CheckpointError: when the disk is full or cannot be written; what was at `place` is intact.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "result"
        >>> with atomic_folder(place) as folder:
        ...     write_json(folder / "a.json", {"value": 1})
        >>> read_json(place / "a.json")
        {'value': 1}
    """
    temporary = place.parent / f".{place.name}.writing-{os.getpid()}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for path in sorted(temporary.rglob("*")):
            _flush_to_disk(path)
        _replace_folder(temporary, place)
        _flush_to_disk(place.parent)
    except OSError as error:
        message = f"could not write {place}: {error.strerror or error}. What was there before is unchanged."
        raise CheckpointError(message) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(temporary: Path, place: Path) -> None:
    """Rename `temporary` to `place`; a folder already there steps aside first, since a rename cannot replace it."""
    if not place.exists():
        temporary.rename(place)
        return
    aside = place.parent / f".{place.name}.replaced-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    try:
        temporary.rename(place)
    except OSError:
        aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)  # the new folder is in place: a leftover is no failure


def write_json(path: Path, value: object) -> None:
    """Write JSON that a person can read; NaN is refused, since it is not JSON."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_text_atomically(path: Path, text: str) -> None:
    """Replace one text file as a whole.

    Raises:
        CheckpointError: when the disk is full or cannot be written; what was at `path` is intact.
    """
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        _flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"could not write {path}: {error.strerror or error}.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: when it is missing or cut short; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the folder {path.parent} is not complete.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors; views are made contiguous, devices are left behind.

    Args:
        path: where to.
        tensors: by name.
        metadata: words for the file's header, such as ``{"format": "pt"}``, by which transformers knows its own files.

    Raises:
        CheckpointError: when the disk is full or cannot be written; names the file.
    """
    try:
        safetensors.torch.save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            path,
            metadata=None if metadata is None else dict(metadata),
        )
    except SafetensorError as error:
        raise CheckpointError(f"could not write {path}: {error}.") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        CheckpointError: when the file is missing or cut short; names the file.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the folder {path.parent} is not complete.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}.") from error
    return tensors


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], place: Path) -> None:
    """Load a state dict into a module; all names and shapes must fit.

    Raises:
        CheckpointError: lists what is missing, unexpected or of another shape; the module may be half loaded.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {place} do not fit this module: {error}") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and values, in hexadecimal.

    Example:
        >>> import torch
        >>> tensors_digest({"w": torch.zeros(2)}) == tensors_digest({"w": torch.zeros(2)})
        True
        >>> tensors_digest({"w": torch.zeros(2)}) == tensors_digest({"w": torch.zeros(1, 2)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # Through bytes, since NumPy has no bfloat16.
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
