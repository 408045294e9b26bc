"""Folders on disk that are whole or not there: tensors in safetensors, the rest in JSON, never a pickle.

A folder is written under a temporary name beside its place, every file is flushed to the disk, and only then is it
renamed. A process that is killed at any moment leaves what was there before, or the new folder, never a mixture; and
beside it what it had not finished, under a name that nothing reads, until a `sweep`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
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
    "could_not_write",
    "discard",
    "file_digest",
    "load_strictly",
    "read_json",
    "read_object",
    "read_tensors",
    "spell_bytes",
    "sweep",
    "tensors_digest",
    "write_json",
    "write_tensors",
    "write_text_atomically",
]

SCHEMA_VERSION = 1

# What a thing is called until it is whole, until it has been replaced, or until all of it is removed.
_LEFTOVER = re.compile(r"\.(?P<place>.+)\.(?P<state>writing|replaced|removing)-(?P<process>\d+)")


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
        for path in (*sorted(temporary.rglob("*")), temporary):  # last its own entries, which say what is in it
            _flush_to_disk(path)
        _replace_folder(temporary, place)
        _flush_to_disk(place.parent)
    except OSError as error:
        message = f"{could_not_write(place, error)} What was there before is unchanged."
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


def discard(place: Path) -> None:
    """Remove a folder: its name at once, what is in it as far as that can be done; `sweep` removes the rest.

    Raises:
        OSError: it cannot be renamed; it is as it was.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "result"
        >>> with atomic_folder(place) as folder:
        ...     write_json(folder / "a.json", {"value": 1})
        >>> discard(place)
        >>> list(place.parent.iterdir())
        []
    """
    aside = place.parent / f".{place.name}.removing-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def could_not_write(path: Path, error: Exception, *, needed: int | None = None) -> str:
    """Return the message of a write that failed; of a full disk it says what was needed and what is free.

    Args:
        path: what was to be written.
        error: of the operating system, or one that quotes it.
        needed: bytes of it, where they are known.

    Example:
        >>> could_not_write(Path("a/b.json"), OSError(errno.EROFS, "Read-only file system"))
        'could not write a/b.json: Read-only file system.'
    """
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = (errno.ENOSPC, errno.EDQUOT)
    if getattr(error, "errno", None) not in full and not any(os.strerror(number) in reason for number in full):
        return f"could not write {path}: {reason}."
    size = "" if needed is None else f" It takes {spell_bytes(needed)}."
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = spell_bytes(shutil.disk_usage(there).free)
    return f"could not write {path}: {reason}.{size} {free} are free on this disk: make room, and run it again."


def spell_bytes(count: float) -> str:
    """Return a number of bytes in words.

    Example:
        >>> spell_bytes(999), spell_bytes(1_250_000)
        ('999 bytes', '1.2 MB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"


def sweep(folder: Path) -> None:
    """Remove from a folder what processes that were killed had not finished writing into it.

    What a living process writes stays. A folder that was killed between stepping aside and being replaced steps back.

    Args:
        folder: it need not be there.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / ".result.writing-999999999").mkdir()
        >>> (folder / f".result.writing-{os.getppid()}").mkdir()
        >>> sweep(folder)
        >>> [path.name == f".result.writing-{os.getppid()}" for path in folder.iterdir()]
        [True]
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or _writes(int(match["process"])):
            continue
        place = folder / match["place"]
        if match["state"] == "replaced" and not place.exists():
            path.rename(place)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _writes(process: int) -> bool:
    """Whether a process may be writing. This one is not while it sweeps: its number is that of a dead one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_json(path: Path, value: object) -> None:
    """Write JSON that a person can read; NaN is refused, since it is not JSON."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_text_atomically(path: Path, text: str) -> None:
    """Replace one text file as a whole.

    Raises:
        CheckpointError: when the disk is full or cannot be written; what was at `path` is intact.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "recipe.yaml"
        ...     write_text_atomically(path, "seed: 0")
        ...     print(path.read_text(encoding="utf-8"), [found.name for found in Path(folder).iterdir()])
        seed: 0 ['recipe.yaml']
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
        raise CheckpointError(could_not_write(path, error, needed=len(text.encode()))) from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: when it is missing, cut short or damaged; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the folder {path.parent} is not complete.") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, thousands of digits or of brackets
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds names and values.

    Raises:
        CheckpointError: as `read_json`, or it holds something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.json"
        >>> write_json(path, {"step": 3})
        >>> read_object(path)
        {'step': 3}
        >>> write_json(path, [3])
        >>> try:
        ...     read_object(path)
        ... except CheckpointError as error:
        ...     print(str(error).removeprefix(str(path)))
         is damaged: expected names and values, found list.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: expected names and values, found {type(found).__name__}.")
    return found


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors; views are made contiguous, devices are left behind.

    Args:
        path: where to.
        tensors: by name.
        metadata: words for the file's header, such as ``{"format": "pt"}``, by which transformers knows its own files.

    Raises:
        CheckpointError: when the disk is full or cannot be written; names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.safetensors"
        ...     write_tensors(path, {"w": torch.ones(2, 3)})
        ...     print({name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()})
        ...     print(len(file_digest(path)))
        {'w': (2, 3)}
        64
    """
    try:
        safetensors.torch.save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            path,
            metadata=None if metadata is None else dict(metadata),
        )
    except SafetensorError as error:
        needed = sum(tensor.nbytes for tensor in tensors.values())
        raise CheckpointError(could_not_write(path, error, needed=needed)) from error


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
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    return tensors


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], place: Path) -> None:
    """Load a state dict into a module; all names and shapes must fit.

    Raises:
        CheckpointError: lists what is missing, unexpected or of another shape; the module may be half loaded.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> load_strictly(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, Path("folder"))
        >>> layer.weight.tolist()
        [[1.0, 1.0]]
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
