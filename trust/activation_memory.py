"""Prints how much memory one step of a network takes beyond its weights, with its stages kept or computed again.

``python -m trust.activation_memory vit_small_patch16_224 --pictures 16 --again``
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from auxtasks.backbones import Backbone, timm_backbone
from auxtasks.checkpoint import tensors_digest

__all__ = ["peak_bytes", "resident_bytes"]


def resident_bytes(process: int | str = "self") -> int:
    """Return what a process holds in memory now; Linux."""
    return _status(process, "VmRSS")


def peak_bytes(process: int | str = "self") -> int:
    """Return the most that a process has held; `getrusage` would count what its parent held when it forked."""
    return _status(process, "VmHWM")


def _status(process: int | str, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def step(network: Backbone, pictures: int) -> dict[str, float | str]:
    """Do one pass forward and backward, and return what it took and what its gradients are."""
    channels, height, width = network.input.shape
    batch = torch.randn(pictures, channels, height, width, generator=torch.Generator().manual_seed(0))
    gradients = [torch.zeros_like(parameter) for parameter in network.parameters()]
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient  # there before, so that they are not counted
    network.train()
    before, began = resident_bytes(), time.perf_counter()
    network(batch).square().mean().backward()
    seconds, taken = time.perf_counter() - began, peak_bytes() - before
    digest = tensors_digest({str(place): gradient for place, gradient in enumerate(gradients)})
    return {"bytes": taken, "seconds": seconds, "gradients": digest}


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="of timm")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--again", action="store_true", help="compute stages again instead of keeping them")
    asked = parser.parse_args()
    network = timm_backbone(asked.network, seed=0)
    network.recomputes = asked.again
    print(json.dumps(step(network, asked.pictures)))


if __name__ == "__main__":
    main()
