"""NumPy's ``.npz``: what JAX projects such as big_vision publish their weights as."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.errors import CheckpointError
from transfer.foreign.archives import check_sizes

__all__ = ["read_npz"]


def read_npz(path: Path) -> dict[str, NDArray[Any] | Tensor]:
    """Read all arrays of an ``.npz`` by their names; a name's parts are joined by slashes, as big_vision has them.

    An array of objects is a pickle that could run code, and is refused. NumPy knows no bfloat16: it writes such arrays
    as two bytes without a meaning ("V2"), and they come back as tensors of bfloat16, as big_vision reads them too.

    Raises:
        CheckpointError: the file is missing, damaged or cut short, or an array holds objects; names it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, **{"head/kernel": np.ones((2, 3), np.float32)})
        >>> {name: array.shape for name, array in read_npz(path).items()}
        {'head/kernel': (2, 3)}
    """
    try:
        with path.open("rb") as file:  # NumPy itself would leave a damaged one open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CheckpointError(f"{path} holds a single array without a name (.npy), no .npz of named ones.")
            with archive:
                if archive.zip is not None:  # it is, as long as it is open
                    check_sizes(archive.zip, path)
                return {name: _array(archive, name, path) for name in archive.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}.") from error
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short, or no .npz: {error}.") from error


def _array(archive: Any, name: str, path: Path) -> NDArray[Any] | Tensor:
    try:
        array: NDArray[Any] = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise CheckpointError(f"{path}: the array {name!r} is damaged: {error}.") from error
        raise CheckpointError(
            f"{path}: {name!r} is an array of Python objects, that is a pickle, which could run code when read. Only "
            "arrays of numbers are read here: write the file anew without it."
        ) from error
    except (
        zipfile.BadZipFile, zlib.error, RuntimeError, SyntaxError, EOFError, OSError, MemoryError, OverflowError,
    ) as error:  # fmt: skip  # RuntimeError: a password is asked for
        raise CheckpointError(f"{path}: the array {name!r} is damaged or cut short: {error}.") from error
    if not isinstance(array, np.ndarray):  # NumPy hands over a member that is no array as its bytes
        raise CheckpointError(f"{path}: {name!r} is no array, but another file in the archive.")
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return array
