"""What a saved backbone's folder says of itself: its manifest, and how the module is built."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError

__all__ = ["Family", "read_description"]


@dataclasses.dataclass(frozen=True)
class Family:
    """How a backbone is rebuilt from a folder: the family's name and the builder's arguments (JSON values).

    Example:
        >>> Family("mlp", {"width": 4, "hidden": [8]}).arguments["width"]
        4
    """

    name: str
    arguments: Mapping[str, Any]


def read_description(place: Path, known: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``manifest.json`` and ``config.json`` of a backbone's folder, after a look at both.

    Args:
        place: the folder.
        known: names of families.

    Raises:
        CheckpointError: no such folder, a file is missing or damaged, another schema, or a family that nobody knows.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = mlp(width=4, hidden=[3]).save_pretrained(Path(folder) / "backbone", pretrained_on="nothing")
        ...     manifest, config = read_description(place, known=["mlp"])
        >>> manifest["provenance"], config["arguments"]["hidden"]
        ({'pretrained_on': 'nothing'}, [3])
    """
    if not os.path.isdir(place):  # noqa: PTH112 - unlike a Path, it takes a name that is too long for none
        raise CheckpointError(
            f"{place} is not a folder. A backbone is a folder with config.json and model.safetensors."
        )
    manifest = checkpoint.read_object(place / "manifest.json")
    if manifest.get("schema") != checkpoint.SCHEMA_VERSION:
        raise CheckpointError(
            f"{place} has schema {manifest.get('schema')}; this version of auxtasks reads schema "
            f"{checkpoint.SCHEMA_VERSION}."
        )
    if "weights_digest" not in manifest:
        raise CheckpointError(f"{place}/manifest.json is damaged: it has no weights_digest to check the weights by.")
    provenance = manifest.setdefault("provenance", {})
    if not isinstance(provenance, dict):
        raise CheckpointError(f"{place}/manifest.json is damaged: provenance is {provenance!r}.")
    config = checkpoint.read_object(place / "config.json")
    if config.get("family") not in tuple(known):
        raise CheckpointError(f"{place} holds family {config.get('family')!r}; known are {', '.join(sorted(known))}.")
    return manifest, config
