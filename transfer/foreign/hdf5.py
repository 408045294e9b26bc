"""Keras's HDF5 files, weights alone or whole models, read without Keras: `h5py` is enough.

Two layouts are in use. The older one (``.h5`` of Keras 1 to 3) has a group for each layer, whose attribute
``weight_names`` names its arrays. The newer one (``.weights.h5`` of Keras 3) numbers a layer's arrays under ``vars``
and keeps the layer's name beside them; which number is the kernel follows from the layer's class. Both give
``layer/kernel``. An optimizer's state is left out. A model's configuration is not read, so that no code in it is run.

Reference: Keras, `legacy_h5_format.py` and `saving_lib.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError

if TYPE_CHECKING:
    import h5py

__all__ = ["BROKEN", "Layer", "named_variables", "open_hdf5", "read_hdf5", "unique", "variable_names"]

Array = NDArray[Any]

# What a layer's arrays are, in their order, by its class in snake case, as the newer layout writes it.
VARIABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dense", "einsum_dense", "conv1d", "conv2d", "conv3d", "depthwise_conv1d", "depthwise_conv2d",
                     "conv1d_transpose", "conv2d_transpose", "conv3d_transpose"), ("kernel", "bias")),
    **dict.fromkeys(("separable_conv1d", "separable_conv2d"), ("depthwise_kernel", "pointwise_kernel", "bias")),
    **dict.fromkeys(("simple_rnn_cell", "lstm_cell", "gru_cell"), ("kernel", "recurrent_kernel", "bias")),
    "embedding": ("embeddings",),
    "layer_normalization": ("gamma", "beta"),
    "group_normalization": ("gamma", "beta"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}  # fmt: skip
VARIABLES |= dict.fromkeys(("query_dense", "key_dense", "value_dense", "output_dense"), VARIABLES["einsum_dense"])
# What h5py raises where a byte is another: an address, a text that is none, a type of numbers that does not exist.
BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
_ALWAYS_FITS, _MOST_FOLD = 1 << 28, 100  # see `transfer.foreign.archives`
SWITCHES = {"gamma": "scale", "beta": "center", "bias": "use_bias"}  # settings without which an array is not there


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is known of a layer.

    Attributes:
        name: its own.
        kind: its class, in snake case.
        settings: its configuration, where there is one.

    Example:
        >>> Layer("conv2d_3", kind="conv2d", settings={"filters": 8}).kind
        'conv2d'
    """

    name: str
    kind: str
    settings: Mapping[str, object] | None = None


def read_hdf5(path: Path) -> dict[str, Array]:
    """Read all arrays of a Keras file, by layer and name: ``block1_conv1/kernel``.

    Names are those in the file, without ``:0``; those of Keras 1 hold the layer's twice (``fc1/fc1_W_1``). Names of
    layers within layers are joined by ``/``.

    Raises:
        CheckpointError: no such file, no HDF5, cut short, another program's HDF5, or `h5py` is not installed.

    Example:
        >>> import tempfile
        >>> import h5py
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.h5"
        ...     with h5py.File(path, "w") as file:
        ...         file.attrs["layer_names"] = ["dense"]
        ...         layer = file.create_group("dense")
        ...         layer.attrs["weight_names"] = ["dense/kernel:0"]
        ...         layer["dense/kernel:0"] = np.ones((2, 3), np.float32)
        ...     print({name: array.shape for name, array in read_hdf5(path).items()})
        {'dense/kernel': (2, 3)}
    """
    with open_hdf5(path) as file:
        try:
            weights = file.get("model_weights", file)
            if _names(weights, "layer_names"):
                return unique(_older(weights), path)
            return unique(named_variables(weights), path)
        except BROKEN as error:
            raise CheckpointError(f"{path} is damaged or cut short: {error}") from error


def open_hdf5(source: Any, where: Path | None = None) -> h5py.File:
    """Open a path, or a file object (of the archive `where`), for reading.

    Raises:
        CheckpointError: as `read_hdf5`.

    Example:
        >>> open_hdf5(Path("no_such.h5"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.h5...
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise CheckpointError(
            'Keras files need h5py, which is not installed: pip install "auxtasks[foreign]".'
        ) from error
    place = where or source
    if where is None and not Path(source).is_file():
        raise CheckpointError(f"there is no file {source}.")
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise CheckpointError(f"{place} is no HDF5 file, or damaged or cut short: {error}") from error
    try:
        _refuse_other_files(file, place)
    except BaseException:
        file.close()
        raise
    return file


def _refuse_other_files(file: h5py.File, place: Any) -> None:
    """Refuse a file that would have HDF5 open another one, wherever that is."""
    import h5py

    found: list[str] = []

    def look(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            found.append(f"{name} (in {link.filename})")

    try:
        file.visititems_links(look)
    except (*BROKEN, SystemError) as error:  # what h5py makes of a name that is no text
        raise CheckpointError(f"{place} is damaged or cut short: {error}") from error
    if found:
        raise _elsewhere(place, found[0])


def _elsewhere(place: Any, what: str) -> CheckpointError:
    return CheckpointError(f"{place}: {what} is kept in another file. Files elsewhere are never read.")


def variable_names(kind: str, count: int, settings: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Return what the arrays of a layer are called, by its class in snake case; numbers where that is not known.

    Args:
        kind: such as ``"conv2d"``.
        count: how many arrays there are.
        settings: the layer's configuration, where there is one: it says which of them are left out.

    Example:
        >>> variable_names("conv2d", 1), variable_names("my_layer", 2)
        (('kernel',), ('0', '1'))
        >>> variable_names("batch_normalization", 3, {"scale": False, "center": True})
        ('beta', 'moving_mean', 'moving_variance')
    """
    names = VARIABLES.get(kind, ())
    if settings is not None:
        names = tuple(name for name in names if settings.get(SWITCHES.get(name, ""), True) is not False)
    only_the_bias_may_lack = names[-1:] == ("bias",) and count == len(names) - 1
    if count == len(names) or only_the_bias_may_lack:
        return names[:count]
    return tuple(str(place) for place in range(count))


def _older(weights: h5py.Group) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of the layout with a group for each layer and names in its attributes."""
    layers = _names(weights, "layer_names")
    if "top_level_model_weights" in weights:  # variables that belong to no layer, such as a class token
        layers = [*layers, "top_level_model_weights"]
    for layer in layers:
        group = weights[layer]
        for name in _names(group, "weight_names"):
            inner = name.removesuffix(":0").split("/")
            # The layer's own name stands in front once; of a nested model's layer, both do.
            above = [] if inner[0] == layer or layer == "top_level_model_weights" else [layer]
            yield "/".join([*above, *inner]), _array(group[name])


def named_variables(
    group: h5py.Group, layers: Mapping[str, Layer] | None = None, above: Sequence[str] = ()
) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of the layout in which each layer numbers its own, of a layer and those within it.

    Args:
        group: of the file or of a layer.
        layers: what is known of layers by their paths in the file (``/layers/conv2d``).
        above: names of the layers around it.

    Example:
        >>> import h5py
        >>> import numpy as np
        >>> with h5py.File("in_memory.h5", "w", driver="core", backing_store=False) as file:
        ...     file["layers/dense/vars/0"] = np.ones((2, 3))
        ...     print([(name, array.shape) for name, array in named_variables(file["layers/dense"])])
        [('dense/kernel', (2, 3))]
    """
    layer = (layers or {}).get(group.name) or _guessed(group)
    # The model itself and a list of layers are no layers, and have no name among the others'.
    here = above if group.name == "/" or "vars" not in group else (*above, layer.name)
    if "vars" in group:
        keys = sorted(group["vars"], key=lambda key: (not key.isdigit(), int(key) if key.isdigit() else 0, key))
        numbered = [key for key in keys if key.isdigit()]
        names = [*variable_names(layer.kind, len(numbered), layer.settings), *keys[len(numbered) :]]
        for key, name in zip(keys, names, strict=True):
            yield "/".join([*here, name]), _array(group["vars"][key])
    for child in group:
        if child != "vars" and (group.name, child) != ("/", "optimizer") and hasattr(group[child], "keys"):
            yield from named_variables(group[child], layers, here)


def _guessed(group: h5py.Group) -> Layer:
    """Return what a file alone says of a layer: its name, kept since Keras 3.4, and its class or attribute."""
    path = re.sub(r"_\d+$", "", group.name.rpartition("/")[2])
    stored = group["vars"].attrs.get("name") if "vars" in group else None
    name = group.name.rpartition("/")[2] if stored is None else _text(stored)
    kind = path if path in VARIABLES else re.sub(r"_\d+$", "", name)
    return Layer(name, kind)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return a list of names, which is cut into several attributes where it is too long for one."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    pieces = itertools.takewhile(lambda key: key in group.attrs, (f"{attribute}{place}" for place in itertools.count()))
    return [_text(name) for piece in pieces for name in group.attrs[piece]]


def _text(name: bytes | str) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def _array(data: h5py.Dataset) -> Array:
    """Return an array; bfloat16, which HDF5 has not, is kept as two bytes and becomes float32."""
    if data.external or data.is_virtual:
        raise _elsewhere(data.file.filename, data.name)
    if data.nbytes > max(_ALWAYS_FITS, _MOST_FOLD * data.id.get_storage_size()):
        raise CheckpointError(
            f"{data.file.filename}: {data.name} would unpack to {data.nbytes / 1e6:,.0f} MB from the "
            f"{data.id.get_storage_size() / 1e6:,.1f} MB that are there, as a decompression bomb does."
        )
    array: Array = np.asarray(data)
    if data.attrs.get("dtype") == "bfloat16":
        return (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array


def unique(arrays: Iterator[tuple[str, Array]], path: Path) -> dict[str, Array]:
    """Return named arrays as a table.

    Raises:
        CheckpointError: two of one name, or none at all.

    Example:
        >>> import numpy as np
        >>> sorted(unique(iter([("dense/kernel", np.ones((2, 3))), ("dense/bias", np.ones(3))]), Path("model.h5")))
        ['dense/bias', 'dense/kernel']
    """
    found: dict[str, Array] = {}
    for name, array in arrays:
        if name in found:
            raise CheckpointError(
                f"{path} holds two arrays called {name}: give the layers names of their own in Keras."
            )
        found[name] = array
    if not found:
        raise CheckpointError(f"{path} is an HDF5 file, but holds no weights of Keras, neither as layers nor as vars.")
    return found
