"""The numeric check of an import: the same inputs give the same outputs here as in the framework they came from.

Names and shapes may all fit and the network still compute something else: a kernel with its axes swapped where both are
as long, channels in another order, another epsilon. Only numbers tell.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.text import TextState, TokenBatch
from auxtasks.errors import TransferError
from transfer.foreign.npz import read_npz
from transfer.rename import to_tensor

__all__ = ["Check", "check_file", "check_outputs"]

ALIKE = 0.99  # correlation from which on outputs differ by a detail, and below which by something large


@dataclasses.dataclass(frozen=True)
class Check:
    """How far the outputs are from those expected.

    Attributes:
        difference: the largest absolute difference of two numbers.
        where: its place in the outputs, (item, ...).
        found: what stands there.
        expected: what should.
        scale: the largest absolute value expected, at least 1; differences are measured by it.
        correlation: of all numbers found with all expected; NaN if one side is constant.

    Example:
        >>> found = Check(difference=0.02, where=(0, 3), found=1.98, expected=2.0, scale=2.0, correlation=0.999)
        >>> found.relative
        0.01
    """

    difference: float
    where: tuple[int, ...]
    found: float
    expected: float
    scale: float
    correlation: float

    @property
    def relative(self) -> float:
        """The largest difference by the scale: what the tolerance is compared with."""
        return self.difference / self.scale


def check_outputs(
    network: nn.Module,
    inputs: Tensor | NDArray[Any] | TokenBatch,
    expected: Tensor | NDArray[Any],
    *,
    tolerance: float = 1e-5,
    layer: str | None = None,
) -> Check:
    """Compare what a network computes, in eval mode, with what another framework computed.

    Met if max |found - expected| <= tolerance x max(1, max |expected|): float32 keeps so many digits of large logits.

    Args:
        network: a backbone, or any module that gives one tensor.
        inputs: as the network takes them: normalised, channels first; of texts token ids and mask, and then only
            what is computed for tokens is compared, since padding may hold anything.
        expected: the other framework's outputs for them, axes as here.
        tolerance: at least 0.
        layer: of a backbone: the layer to compare; None takes the last.

    Raises:
        TransferError: the tolerance is not met, with the figures and a hint at the cause; outputs that are not
            finite or of another shape; a layer of what is no backbone.
        LayerError: no such layer.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(network.weight, 0.5)
        >>> check_outputs(network, np.ones((1, 2), np.float32), np.ones((1, 1), np.float32)).difference
        0.0
    """
    if not tolerance >= 0:
        raise TransferError(f"tolerance is at least 0; found {tolerance}.")
    given = inputs if isinstance(inputs, TokenBatch) else to_tensor(inputs, "inputs")
    found, mask = _outputs(network, given, layer)
    found, wanted = found.double().cpu(), to_tensor(expected, "expected").double().cpu()
    if found.shape != wanted.shape or not found.numel():
        raise TransferError(
            f"the outputs have the shape {tuple(found.shape)}, those expected {tuple(wanted.shape)}: give the outputs "
            "of the same layer, axes as PyTorch has them (channels first)."
        )
    if mask is not None:
        found, wanted = (values * mask.cpu()[..., None] for values in (found, wanted))
    for name, values in (("outputs", found), ("expected outputs", wanted)):
        if not values.isfinite().all():
            raise TransferError(f"the {name} hold {int((~values.isfinite()).sum())} numbers that are not finite.")
    check = _compared(found, wanted)
    if check.relative > tolerance:
        raise TransferError(
            f"the outputs are not those expected: at {check.where} found {check.found:.6g}, expected "
            f"{check.expected:.6g}. Largest difference {check.difference:.3g} at a scale of {check.scale:.3g}, that is "
            f"{check.relative:.3g}; allowed {tolerance:.3g}. {_hint(check)}"
        )
    return check


def check_file(network: nn.Module, path: str | Path, *, tolerance: float = 1e-5, layer: str | None = None) -> Check:
    """Compare with what another framework computed and kept: an ``.npz`` with the arrays `inputs` and `outputs`.

    Of texts, `inputs` are token ids (B, T), and `mask` says which of them are no padding; without it all are tokens.

    Raises:
        CheckpointError: the file cannot be read.
        TransferError: it lacks one of the arrays, or what `check_outputs` raises.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> network = mlp(width=2, hidden=[3])
        >>> inputs = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)
        >>> outputs = network(torch.from_numpy(inputs)).detach().numpy()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/told.npz", inputs=inputs, outputs=outputs)
        ...     print(check_file(network, f"{folder}/told.npz").difference < 1e-6)
        True
    """
    arrays = read_npz(Path(path).expanduser())
    lacking = [name for name in ("inputs", "outputs") if name not in arrays]
    if lacking:
        raise TransferError(
            f"{path} has no {' and no '.join(lacking)}: found {', '.join(arrays) or 'nothing'}. It should hold what "
            "the other framework was given (as this network takes it: normalised, channels first) and what it computed."
        )
    inputs: Tensor | TokenBatch = to_tensor(arrays["inputs"], "inputs")
    if isinstance(network, Backbone) and network.input.kind == "text":
        ids = to_tensor(arrays["inputs"], "inputs").long()
        mask = to_tensor(arrays["mask"], "mask").bool() if "mask" in arrays else torch.ones_like(ids, dtype=torch.bool)
        inputs = TokenBatch(ids, mask)
    return check_outputs(network, inputs, arrays["outputs"], tolerance=tolerance, layer=layer)


def _outputs(network: nn.Module, inputs: Tensor | TokenBatch, layer: str | None) -> tuple[Tensor, Tensor | None]:
    """Compute without gradient, in eval mode, also which positions are tokens; the network's mode stays what it was."""
    if layer is not None and not isinstance(network, Backbone):
        raise TransferError(f'layer="{layer}": only a backbone has named layers, found {type(network).__name__}.')
    modes = [(module, module.training) for module in network.modules()]
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    there = TokenBatch(*(part.to(device) for part in inputs)) if isinstance(inputs, TokenBatch) else inputs.to(device)
    network.eval()
    try:
        with torch.no_grad():
            found = network(there) if layer is None else cast(Backbone, network).forward_layers(there, [layer])[layer]
    finally:
        for module, training in modes:
            module.training = training
    if isinstance(found, TextState):
        return found.hidden, found.mask
    if not isinstance(found, Tensor):
        raise TransferError(f"the network gives no tensor, but {type(found).__name__}: wrap it so that it gives one.")
    return found, None


def _compared(found: Tensor, wanted: Tensor) -> Check:
    gaps = (found - wanted).abs()
    place = int(gaps.argmax())
    where = tuple(int(axis) for axis in np.unravel_index(place, found.shape))
    return Check(
        difference=float(gaps.max()),
        where=where,
        found=float(found.flatten()[place]),
        expected=float(wanted.flatten()[place]),
        scale=max(1.0, float(wanted.abs().max())),
        correlation=_correlation(found.flatten(), wanted.flatten()),
    )


def _correlation(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found - found.mean(), wanted - wanted.mean()
    norms = float(found.norm() * wanted.norm())
    return float(found @ wanted) / norms if norms > 0 else float("nan")


def _hint(check: Check) -> str:
    if check.correlation >= ALIKE:
        return (
            f"They go together all the same (correlation {check.correlation:.4f}): look for a detail, such as the "
            "epsilon of a norm, an approximate activation (GELU by tanh), or precision."
        )
    return (
        f"They hardly go together (correlation {check.correlation:.2f}): look for axes in another order, red and blue "
        "swapped, inputs that are scaled otherwise, or a layer that was not copied (see the audit of the copy)."
    )
