"""Weights files of any framework: what kind a file is, found from its contents, and its tensors by name.

The readers are a closed table; none of them runs code from a file, and none needs the framework that wrote it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

from auxtasks.errors import CheckpointError, did_you_mean

__all__ = ["KINDS", "ForeignWeights", "Kind", "find_kind", "read_foreign"]

Tensors: TypeAlias = Mapping[str, NDArray[Any] | Tensor]


@dataclasses.dataclass(frozen=True)
class ForeignWeights:
    """What a file or folder of another framework holds.

    Attributes:
        tensors: by the names and with the axes of that framework.
        kind: of file, a key of `KINDS`.
        path: of the file that was read; inside the folder that was given, if one was.

    Example:
        >>> import numpy as np
        >>> read = ForeignWeights({"fc1/kernel": np.ones((4, 2))}, kind="keras", path=Path("model.h5"))
        >>> list(read.tensors), read.kind
        (['fc1/kernel'], 'keras')
    """

    tensors: Tensors
    kind: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of weights file.

    Attributes:
        what: in words.
        suffixes: that such files have; used where the contents do not tell.
        module: of `transfer.foreign`, imported when a file is read: some need an extra package.
        function: in it: from a path to tensors by name.

    Example:
        >>> kind: Kind = KINDS["npz"]
        >>> kind.suffixes, kind.function
        (('.npz',), 'read_npz')
    """

    what: str
    suffixes: tuple[str, ...]
    module: str
    function: str


KINDS: Mapping[str, Kind] = {
    "torch": Kind("PyTorch (torch.save), weights only", (".pt", ".pth", ".bin", ".ckpt"), "torch_files", "read_torch"),
    "safetensors": Kind("safetensors", (".safetensors",), "torch_files", "read_safetensors"),
    "sharded": Kind("PyTorch or safetensors in several files", (".index.json",), "torch_files", "read_sharded"),
    "npz": Kind("NumPy, as JAX's big_vision publishes", (".npz",), "npz", "read_npz"),
    "keras-h5": Kind("Keras, weights or a whole model in HDF5", (".h5", ".hdf5", ".keras.h5"), "hdf5", "read_hdf5"),
    "keras": Kind("Keras 3's archive", (".keras",), "keras_archive", "read_keras_archive"),
    "tensorflow": Kind(
        "TensorFlow's checkpoint of version 2, or a SavedModel", (".index",), "tensorflow_bundle",
        "read_tensorflow_bundle",
    ),
    "tensorflow-v1": Kind("TensorFlow's checkpoint of version 1", (), "tensorflow_v1", "read_tensorflow_v1"),
    "onnx": Kind("ONNX, the initializers", (".onnx",), "onnx", "read_onnx"),
    "flax-msgpack": Kind("Flax's msgpack", (".msgpack",), "flax_msgpack", "read_flax_msgpack"),
    "caffe": Kind("Caffe", (".caffemodel",), "caffe", "read_caffe"),
}  # fmt: skip

# What a folder of one model holds, in the order in which it is looked for.
IN_FOLDERS = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
    "flax_model.msgpack",
)  # fmt: skip

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
HEADER_LENGTH = 8  # bytes before a safetensors file's header, which is JSON


def read_foreign(path: str | Path, kind: str | None = None) -> ForeignWeights:
    """Read the tensors of a weights file, or of a folder that holds one, of any framework in `KINDS`.

    Args:
        path: a file; a SavedModel's folder, one that transformers wrote, or TensorFlow's with a file ``checkpoint``; or
            what the files of a TensorFlow checkpoint have in common as their name.
        kind: a key of `KINDS`; None finds it from the contents, and else from the suffix.

    Raises:
        CheckpointError: nothing there, no kind that is known (lists all), a file that is damaged, cut short, without
            tensors, or wants to run code.

    Example:
        >>> import tempfile, numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, **{"head/bias": np.zeros(3)})
        >>> read_foreign(path).kind, list(read_foreign(path).tensors)
        ('npz', ['head/bias'])
    """
    place = Path(path).expanduser()
    if kind is not None and kind not in KINDS:
        raise CheckpointError(f'no kind "{kind}" of weights file.{did_you_mean(kind, KINDS)} {_listed()}')
    if os.path.exists(place) and not place.is_dir() and not place.is_file():  # noqa: PTH110 - see find_kind
        raise CheckpointError(f"{place} is a pipe, a socket or a device, which may never end: expected a file.")
    file = _inside(place) if os.path.isdir(place) else place  # noqa: PTH112
    found = kind or find_kind(file)
    tensors = _reader(KINDS[found])(file)
    if not tensors:
        raise CheckpointError(f"{file} ({KINDS[found].what}) holds no tensors.")
    return ForeignWeights(tensors=tensors, kind=found, path=file)


def find_kind(path: Path) -> str:
    """Return which kind of weights file is at a path: by its contents where they tell, else by its suffix.

    Raises:
        CheckpointError: nothing there, or no kind that is known; lists all.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/weights.npz", kernel=np.ones((2, 3)))
        ...     print(find_kind(Path(folder) / "weights.npz"))
        npz
    """
    # Late: the readers of TensorFlow's files are needed only where one is looked for.
    from transfer.foreign.tensorflow_bundle import bundle_prefix
    from transfer.foreign.tensorflow_v1 import is_tensorflow_v1

    # Functions of os.path take a name that is too long for one that is not there; a Path raises.
    by_contents = _kind_of_contents(path) if os.path.isfile(path) else None  # noqa: PTH113
    # Of a TensorFlow checkpoint there may be no file of that very name, only model.ckpt.index and its like.
    if by_contents is None and bundle_prefix(path) is not None:
        return "tensorflow"
    if not os.path.exists(path):  # noqa: PTH110
        raise CheckpointError(f"there is no file or folder {path}.")
    if path.is_dir():
        raise CheckpointError(
            f"{path} holds no weights that are known: expected one of {', '.join(IN_FOLDERS)}, a SavedModel's "
            "variables/variables.index, or a TensorFlow checkpoint (NAME.index). Name the file itself."
        )
    by_suffix = next((name for name, kind in KINDS.items() if path.name.endswith(kind.suffixes or ("\0",))), None)
    if by_contents is None and is_tensorflow_v1(path):
        return "tensorflow-v1"
    found = by_contents or by_suffix
    if found is None:
        raise CheckpointError(
            f'{path} is no weights file of a known kind, neither by its contents nor by its suffix "{path.suffix}". '
            f"{_listed()}"
        )
    return found


def _kind_of_contents(path: Path) -> str | None:
    """Return what the first bytes say; None where they say nothing, as protocol buffers and msgpack do not."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if head.startswith(HDF5_MAGIC):
        return "keras-h5"
    if head.startswith(ZIP_MAGIC):
        return _kind_of_archive(path)
    if head.startswith(PICKLE_MAGIC):
        return "torch"
    if head[HEADER_LENGTH : HEADER_LENGTH + 1] == b"{" and int.from_bytes(head[:HEADER_LENGTH], "little") < 1 << 32:
        return "safetensors"
    return None


def _kind_of_archive(path: Path) -> str | None:
    """Return whose zip file it is; None of one that is cut short (its table of contents is at the end)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None
    if "model.weights.h5" in names:
        return "keras"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    return "npz" if names and all(name.endswith(".npy") for name in names) else None


def _inside(folder: Path) -> Path:
    """Return the weights file in a folder of transformers', or the folder itself."""
    return next((folder / name for name in IN_FOLDERS if (folder / name).is_file()), folder)


def _reader(kind: Kind) -> Callable[[Path], Tensors]:
    """Import a kind's reader: a name of the closed table, never one from a file."""
    reader: Callable[[Path], Tensors] = getattr(
        importlib.import_module(f"transfer.foreign.{kind.module}"), kind.function
    )
    return reader


def _listed() -> str:
    lines = (f"  {name}: {kind.what} ({', '.join(kind.suffixes) or 'any suffix'})" for name, kind in KINDS.items())
    return "Known kinds:\n" + "\n".join(lines)
