"""The table of named stages that a backbone is seen as, and runs of its rows as modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from auxtasks.backbones.text import TextState, TokenBatch

__all__ = ["Crossing", "Part", "Reader", "Stage", "apply_in_turn", "owned_modules", "owned_parameters"]

Crossing: TypeAlias = Tensor | TokenBatch | TextState  # what goes into a stage, and what crosses a cut


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of a family's table.

    Attributes:
        name: the layer's name, as users write it.
        owns: dotted names, in the library's module, of the sub-modules and parameters that belong to this stage.
        dim: width of the layer's output: channels of an image layer, D of tokens or vectors.
        apply: computes the stage from the library's module and what crosses the cut below. A plain function, never a
            closure over a module: a deep copy of the backbone must compute with its own weights.

    Example:
        >>> import torch
        >>> module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> hidden = Stage("hidden", ("0", "1"), 3, lambda whole, x: whole[1](whole[0](x)))
        >>> tuple(Part(module, [hidden])(torch.ones(4, 2)).shape)
        (4, 3)
        >>> [name for name, _ in owned_parameters(module, hidden.owns)]
        ['0.weight', '0.bias']
        >>> [type(found).__name__ for found in owned_modules(module, hidden.owns)]
        ['Linear', 'ReLU']
    """

    name: str
    owns: tuple[str, ...]
    dim: int
    apply: Callable[[nn.Module, Any], Any]  # a family knows its own `Crossing`


def apply_in_turn(module: nn.Module, x: Tensor, *, paths: Sequence[str]) -> Tensor:
    """Apply sub-modules by their dotted names, one after the other: what most stages of a table do.

    Example:
        >>> import torch
        >>> apply_in_turn(nn.Sequential(nn.ReLU(), nn.Flatten()), -torch.ones(2, 1, 3), paths=["0", "1"]).shape
        torch.Size([2, 3])
    """
    for path in paths:
        x = module.get_submodule(path)(x)
    return x


Reader = Callable[[nn.Module, Any, Sequence[str]], dict[str, Any]]


class Part(nn.Module):
    """A run of a backbone's stages. Its parameters are the backbone's own, and only those of its stages.

    Args:
        module: the library's whole module.
        stages: consecutive rows of the family's table; none makes the identity.
    """

    def __init__(self, module: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        # Inside a tuple the whole module is not registered, so that parameters() lists this part's alone.
        self._whole = (module,)
        for stage in self.stages:
            for path in stage.owns:
                owned = _resolve(module, path)
                name = path.replace(".", "/")  # torch allows no dot in the name of a child
                if isinstance(owned, nn.Parameter):
                    self.register_parameter(name, owned)
                elif isinstance(owned, nn.Module):
                    self.add_module(name, owned)

    def forward(self, x: Any) -> Any:
        """Compute this part's last layer from what crosses the cut below it."""
        for stage in self.stages:
            x = stage.apply(self._whole[0], x)
        return x


def _resolve(module: nn.Module, path: str) -> object:
    """Follow a dotted name from a module."""
    found: object = module
    for step in path.split("."):
        found = getattr(found, step)
    return found


def owned_modules(module: nn.Module, owns: Iterable[str]) -> Iterator[nn.Module]:
    """Yield the sub-modules among what a stage owns."""
    for path in owns:
        owned = _resolve(module, path)
        if isinstance(owned, nn.Module):
            yield owned


def owned_parameters(module: nn.Module, owns: Iterable[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) of what a stage owns, named as in the library's module."""
    for path in owns:
        owned = _resolve(module, path)
        if isinstance(owned, nn.Parameter):
            yield path, owned
        elif isinstance(owned, nn.Module):
            for name, parameter in owned.named_parameters():
                yield f"{path}.{name}", parameter
