"""Zip archives before anything in them is unpacked: what a member would take, against what the archive is."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

from auxtasks.errors import CheckpointError

__all__ = ["check_sizes"]

# Weights hardly pack. Small members may be anything, such as a step counter of zeros.
_ALWAYS_FITS: Final = 1 << 28
_MOST_FOLD: Final = 100


def check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive that would unpack to much more than it is, as a decompression bomb does.

    Raises:
        CheckpointError: names the archive and both sizes.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> with zipfile.ZipFile(file, "w") as archive:
        ...     archive.writestr("weights.npy", b"1234")
        ...     check_sizes(archive, Path("weights.npz"))
    """
    unpacked = sum(member.file_size for member in archive.infolist())
    packed = sum(member.compress_size for member in archive.infolist())
    if unpacked > max(_ALWAYS_FITS, _MOST_FOLD * packed):
        raise CheckpointError(
            f"{path} would unpack from {packed / 1e6:,.1f} MB to {unpacked / 1e6:,.0f} MB, as a decompression bomb "
            "does and weights do not. If you trust it, unpack it yourself and write it anew without compression."
        )
