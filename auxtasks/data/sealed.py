"""Facts on what is kept, in JSON with their own digest: a changed byte in them would change what is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auxtasks.checkpoint import read_object, write_json
from auxtasks.errors import CheckpointError

__all__ = ["read_sealed", "write_sealed"]

_SEAL = "facts_sha256"


def write_sealed(file: Path, facts: Mapping[str, Any]) -> None:
    """Write facts, and their digest.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "manifest.json"
        ...     write_sealed(file, {"rows": 3})
        ...     print(read_sealed(file))
        ...     _ = file.write_text(file.read_text().replace("3,", "4,"))
        ...     try:
        ...         read_sealed(file)
        ...     except CheckpointError as error:
        ...         print(str(error).rpartition("/")[2])
        {'rows': 3}
        manifest.json does not hold what was written
    """
    write_json(file, {**facts, _SEAL: _digest(facts)})


def read_sealed(file: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises:
        CheckpointError: it is missing, damaged, or not what was written.
    """
    found = read_object(file)
    if found.pop(_SEAL, None) != _digest(found):
        raise CheckpointError(f"{file} does not hold what was written")
    return found


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
