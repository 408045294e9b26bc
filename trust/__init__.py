"""Proofs that a run's result does not depend on how it is run, and that nothing is lost when it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["ROOT"]

ROOT: Final = Path(__file__).parent.parent  # of the repository
