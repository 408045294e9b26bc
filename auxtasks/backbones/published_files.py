"""Files of published weights: where they are kept, how they are fetched, and what to do without a network."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from auxtasks.errors import BackboneError

__all__ = ["checkpoints_folder", "fetched", "how_to_fetch"]

# torchvision and timm end a file's name with the first digits of its digest, as in resnet18-f37072fd.pth.
DIGEST = re.compile(r"-([0-9a-f]{8,})\.\w+$")


def checkpoints_folder() -> Path:
    """Return where PyTorch keeps published files: ``hub/checkpoints`` below ``TORCH_HOME``, ``~/.cache/torch``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def how_to_fetch(url: str, path: Path) -> str:
    """Tell a person without a network what to fetch, and where it is looked for.

    Example:
        >>> print(how_to_fetch("https://example.org/net.pth", Path("/cache/net.pth")))
        Fetch it on a machine with a network, for example with
            curl -L -o net.pth https://example.org/net.pth
        and put it at /cache/net.pth, or pass its path as weights=PATH.
    """
    return (
        "Fetch it on a machine with a network, for example with\n"
        f"    curl -L -o {path.name} {url}\n"
        f"and put it at {path}, or pass its path as weights=PATH."
    )


def fetched(url: str, folder: Path | None = None) -> Path:
    """Return a published file, downloaded as a whole or not at all when it is not there yet.

    Args:
        url: where it is published; its name is the last part.
        folder: where it is kept; `checkpoints_folder` by default.

    Raises:
        BackboneError: it could not be downloaded, or not as it was published; says where to put it by hand.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "weights-0a1b2c3d.pth").write_bytes(b"put there by hand")
        ...     print(fetched("https://example.org/weights-0a1b2c3d.pth", Path(folder)).name)
        weights-0a1b2c3d.pth
        >>> checkpoints_folder().name
        'checkpoints'
    """
    path = (folder or checkpoints_folder()) / url.rpartition("/")[2]
    if path.is_file():
        return path
    digest = DIGEST.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It writes beside the file's place, compares the digest, then renames.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest.group(1) if digest else None)
    except (OSError, RuntimeError) as error:  # RuntimeError: another digest
        raise BackboneError(f"could not download {url}: {error}. {how_to_fetch(url, path)}") from error
    return path
