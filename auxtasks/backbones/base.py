"""A backbone: a library's own module, unchanged, seen as an ordered table of named stages.

That table is what reuse, freezing, caching and depth search stand on: `lower(name)` is the part up to and including a
layer, `upper(name)` the rest, and `forward` folds all stages, so that the three can never disagree.

Legend for shapes: B batch, C channels, H height, W width, T tokens, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks import checkpoint
from auxtasks.errors import BackboneError, CheckpointError, InputMismatchError, LayerError, did_you_mean

__all__ = [
    "Backbone",
    "Family",
    "InputSpec",
    "Part",
    "Pool",
    "Stage",
    "apply_in_turn",
    "builders",
    "check_positive",
    "pool_layer",
    "register",
]

Pool = Literal["none", "auto", "mean", "max", "grid", "flatten", "token"]

GRID = 3  # cells a side of pool="grid": coarse enough to be small, fine enough to tell eyes from mouth


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a backbone takes.

    Attributes:
        kind: ``"image"`` or ``"features"``.
        size: height and width in pixels, for images.
        channels: 1 (grey) or 3 (RGB), for images.
        mean, std: one value a channel, on the scale [0, 1], for images normalised by fixed constants.
        per_image: normalise each image by its own mean and standard deviation instead (as FaceNet's authors did): what
            a camera's exposure changes is then gone before the first layer.
        width: number of features, for feature vectors.
    """

    kind: Literal["image", "features"]
    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_image: bool = False
    width: int | None = None

    @classmethod
    def image(
        cls,
        size: int | tuple[int, int],
        channels: int,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        per_image: bool = False,
    ) -> InputSpec:
        """Describe images of ``size`` pixels (a number means a square); no `mean` and `std` leave [0, 1] as it is.

        Example:
            >>> InputSpec.image(48, channels=1, per_image=True).size
            (48, 48)
        """
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            kind="image",
            size=(height, width),
            channels=channels,
            mean=tuple(mean) or (0.0,) * channels,
            std=tuple(std) or (1.0,) * channels,
            per_image=per_image,
        )

    @classmethod
    def features(cls, width: int) -> InputSpec:
        """Describe feature vectors of a fixed width."""
        return cls(kind="features", width=width)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item: (C, H, W) for images, (D,) for features."""
        if self.kind == "image":
            assert self.size is not None  # held by the constructors above; narrows the type
            assert self.channels is not None
            return (self.channels, *self.size)
        assert self.width is not None
        return (self.width,)

    def check(self, batch: Tensor) -> None:
        """Refuse a batch whose items have another shape.

        Raises:
            InputMismatchError: shows both shapes.
        """
        if tuple(batch.shape[1:]) != self.shape:
            raise InputMismatchError(
                f"the backbone takes {self.kind} items of shape {self.shape}, the batch holds items of shape "
                f"{tuple(batch.shape[1:])}."
            )

    def normalize(self, batch: Tensor) -> Tensor:
        """Turn raw items into what the backbone takes: float, normalised.

        Args:
            batch: uint8 images (B, C, H, W) in 0..255, float images in 0..1, or features (B, D).

        Returns:
            A float tensor of the same shape.

        Example:
            >>> spec = InputSpec.image(2, channels=1, mean=[0.5], std=[0.5])
            >>> spec.normalize(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).flatten().tolist()
            [1.0, 1.0, 1.0, 1.0]
        """
        self.check(batch)
        if self.kind == "features":
            return batch.float()
        scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        if self.per_image:
            center = scaled.mean(dim=(1, 2, 3), keepdim=True)
            # The floor keeps a flat picture finite instead of amplifying its sensor noise.
            spread = scaled.std(dim=(1, 2, 3), keepdim=True) + 0.05
            return (scaled - center) / spread
        mean = scaled.new_tensor(self.mean).view(1, -1, 1, 1)
        std = scaled.new_tensor(self.std).view(1, -1, 1, 1)
        return (scaled - mean) / std

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputSpec:
        """Read what `to_json` wrote."""
        arguments: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
        }
        return cls(**arguments)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of a family's table.

    Attributes:
        name: the layer's name, as users write it.
        owns: dotted names, in the library's module, of the sub-modules and parameters that belong to this stage.
        dim: width of the layer's output: channels of an image layer, D of tokens or vectors.
        apply: computes the stage from the library's module and what crosses the cut below. A plain function, never a
            closure over a module: a deep copy of the backbone must compute with its own weights.
    """

    name: str
    owns: tuple[str, ...]
    dim: int
    apply: Callable[[nn.Module, Tensor], Tensor]


def apply_in_turn(module: nn.Module, x: Tensor, *, paths: Sequence[str]) -> Tensor:
    """Apply sub-modules by their dotted names, one after the other: what most stages of a table do.

    Example:
        >>> apply_in_turn(nn.Sequential(nn.ReLU(), nn.Flatten()), -torch.ones(2, 1, 3), paths=["0", "1"]).shape
        torch.Size([2, 3])
    """
    for path in paths:
        x = module.get_submodule(path)(x)
    return x


Reader = Callable[[nn.Module, Tensor, Sequence[str]], dict[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Family:
    """How a backbone is rebuilt from a folder: the family's name and the builder's arguments (JSON values)."""

    name: str
    arguments: Mapping[str, Any]


P = ParamSpec("P")

_BUILDERS: dict[str, Callable[..., Backbone]] = {}


def register(name: str) -> Callable[[Callable[P, Backbone]], Callable[P, Backbone]]:
    """Enter a family's builder in the closed table that `Backbone.from_pretrained` and recipes read."""

    def enter(builder: Callable[P, Backbone]) -> Callable[P, Backbone]:
        _BUILDERS[name] = builder
        return builder

    return enter


def builders() -> Mapping[str, Callable[..., Backbone]]:
    """Return the table of families by name."""
    return dict(_BUILDERS)


def pool_layer(output: Tensor, pool: Pool, prefix_tokens: int = 0) -> Tensor:
    """Turn a layer's output into one vector an item.

    Args:
        output: (B, C, H, W) image layer, (B, T, D) tokens, or (B, D).
        pool: ``"none"`` leaves the shape; ``"mean"`` and ``"max"`` run over positions; ``"grid"`` averages within 3 x 3
            cells and keeps where things are; ``"flatten"`` keeps every value; ``"token"`` takes the first token;
            ``"auto"`` is the mean of positions. Vectors stay as they are.
        prefix_tokens: leading tokens (class, registers) that are no positions; ``"mean"``, ``"max"`` leave them out.

    Returns:
        (B, D'), or the output itself for ``"none"``.

    Example:
        >>> pool_layer(torch.ones(2, 8, 6, 6), "grid").shape
        torch.Size([2, 72])
        >>> pool_layer(torch.ones(2, 5, 8), "mean", prefix_tokens=1).shape
        torch.Size([2, 8])
    """
    if pool not in get_args(Pool):
        raise LayerError(
            f'pool="{pool}" is not one of {", ".join(get_args(Pool))}.{did_you_mean(pool, get_args(Pool))}'
        )
    if pool == "none" or output.ndim == 2:
        return output
    if pool == "flatten":
        return output.flatten(1)
    if pool == "token":
        if output.ndim != 3:
            raise LayerError(f'pool="token" needs tokens (B, T, D); this layer gives {tuple(output.shape)}.')
        return output[:, 0]
    if pool == "grid":
        if output.ndim != 4:
            raise LayerError(f'pool="grid" needs an image layer (B, C, H, W); this layer gives {tuple(output.shape)}.')
        return F.adaptive_avg_pool2d(output, GRID).flatten(1)
    positions = output.flatten(2) if output.ndim == 4 else output[:, prefix_tokens:].transpose(1, 2)
    return positions.amax(dim=2) if pool == "max" else positions.mean(dim=2)


class Backbone(nn.Module):
    """A library's module with named layers. Final: a family is a builder function with its table of stages.

    Args:
        module: the library's own module; its state dict loads straight back into the library's class.
        stages: the layers from the input up.
        input: what the backbone takes.
        family: how to build it again.
        reader: for models whose layers can be read but not cut: computes the named layers in one pass.
        prefix_tokens: leading tokens of a transformer's layers that are no positions.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=4, hidden=[8, 8], seed=0)
        >>> backbone.layer_names
        ('hidden1', 'hidden2')
        >>> x = torch.ones(2, 4)
        >>> torch.equal(backbone.upper("hidden1")(backbone.lower("hidden1")(x)), backbone(x))
        True
    """

    def __init__(
        self,
        module: nn.Module,
        stages: Sequence[Stage],
        input: InputSpec,
        family: Family,
        *,
        reader: Reader | None = None,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.module = module
        self.stages = tuple(stages)
        self.input = input
        self.family = family
        self.prefix_tokens = prefix_tokens
        self.provenance: dict[str, Any] = {}
        self._reader = reader
        self._frozen: frozenset[str] = frozenset()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers, from the input up."""
        return tuple(stage.name for stage in self.stages)

    @property
    def layer_dims(self) -> dict[str, int]:
        """Width of each layer's output: channels, or features."""
        return {stage.name: stage.dim for stage in self.stages}

    @property
    def output_dim(self) -> int:
        """Width of the last layer's output."""
        return self.stages[-1].dim

    @property
    def can_be_cut(self) -> bool:
        """Whether `lower` and `upper` exist for this model."""
        return self._reader is None

    def position(self, name: str) -> int:
        """Return a layer's place from the input up, beginning with 0.

        Raises:
            LayerError: lists the layers that exist.
        """
        if name not in self.layer_names:
            hint = did_you_mean(name, self.layer_names)
            raise LayerError(f'no layer "{name}". Layers from the input up: {", ".join(self.layer_names)}.{hint}')
        return self.layer_names.index(name)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the last layer from a normalised batch (B, ...)."""
        return self.forward_layers(x, [self.layer_names[-1]])[self.layer_names[-1]]

    def forward_layers(self, x: Tensor, names: Iterable[str], pool: Pool = "none") -> dict[str, Tensor]:
        """Compute several layers in one pass that stops at the deepest of them.

        Args:
            x: a normalised batch, see `InputSpec.normalize`.
            names: layers, in any order.
            pool: see `pool_layer`.

        Returns:
            Each name with its output, in the order asked for.

        Example:
            >>> from auxtasks.backbones import convnet
            >>> x = torch.zeros(2, 1, 32, 32)
            >>> layers = convnet(size=32, seed=0).forward_layers(x, ["stage1", "stage3"], pool="mean")
            >>> {name: tuple(output.shape) for name, output in layers.items()}
            {'stage1': (2, 32), 'stage3': (2, 128)}
        """
        wanted = list(names)
        deepest = max(self.position(name) for name in wanted)
        if self._reader is not None:
            outputs = self._reader(self.module, x, wanted)
            return {name: pool_layer(outputs[name], pool, self.prefix_tokens) for name in wanted}
        kept: dict[str, Tensor] = {}
        for stage in self.stages[: deepest + 1]:
            x = stage.apply(self.module, x)
            if stage.name in wanted:
                kept[stage.name] = pool_layer(x, pool, self.prefix_tokens)
        return {name: kept[name] for name in wanted}

    def lower(self, name: str) -> Part:
        """Return the part from the input up to and including a layer; it shares its weights with this backbone.

        Raises:
            LayerError: no such layer, or a model that cannot be cut.
        """
        self._check_can_be_cut()
        return Part(self.module, self.stages[: self.position(name) + 1])

    def upper(self, name: str) -> Part:
        """Return the part above a layer: it takes what `lower(name)` gives and shares its weights with the backbone."""
        self._check_can_be_cut()
        return Part(self.module, self.stages[self.position(name) + 1 :])

    def _check_can_be_cut(self) -> None:
        if not self.can_be_cut:
            raise LayerError(
                f"{self.family.name} {dict(self.family.arguments)} can be read layer by layer (forward_layers) but not "
                "cut into lower and upper: no table of stages exists for its family. Families that can be cut: "
                "convnet, mlp, facenet; of timm: ResNet, ConvNeXt, VisionTransformer."
            )

    def parameters_of(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of one layer's own parameters, named as in the library's module."""
        return _owned_parameters(self.module, self.stages[self.position(name)].owns)

    def freeze(self, names: Iterable[str]) -> Self:
        """Stop the named layers from learning, and only those: no gradient, and eval mode whatever `train` says.

        Eval mode matters: a frozen BatchNorm in training mode still moves its running statistics.
        """
        wanted = frozenset(names)
        for name in wanted:
            self.position(name)  # refuses a name that does not exist, before anything changes
        self._frozen = wanted
        for stage in self.stages:
            for _, parameter in self.parameters_of(stage.name):
                parameter.requires_grad_(stage.name not in self._frozen)
        return self.train(self.training)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen layers, from the input up."""
        return tuple(name for name in self.layer_names if name in self._frozen)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen layers stay in eval mode."""
        super().train(mode)
        for stage in self.stages:
            if stage.name in self._frozen:
                for module in _owned_modules(self.module, stage.owns):
                    module.eval()
        return self

    def untrained(self, seed: int) -> Backbone:
        """Return the same network with random weights: what the arms without pretraining begin with."""
        arguments = {**self.family.arguments, "seed": seed}
        return _BUILDERS[self.family.name](**arguments)

    def save_pretrained(self, folder: str | Path, *, pretrained_on: str | None = None, seed: int | None = None) -> Path:
        """Write the backbone as a folder that `from_pretrained` reads, as a whole or not at all.

        The folder holds ``model.safetensors`` (the library's own state dict), ``config.json`` (how to build the
        module), ``manifest.json`` (schema version, layers, input, what it was pretrained on, digest of the weights)
        and a model card.

        Args:
            folder: where to; a folder that is there is replaced.
            pretrained_on: what it was pretrained on, in a few words.
            seed: the seed of the run that made it.
        """
        place = Path(folder)
        state = self.module.state_dict()
        provenance = {**self.provenance}
        if pretrained_on is not None:
            provenance["pretrained_on"] = pretrained_on
        if seed is not None:
            provenance["seed"] = seed
        manifest = {
            "schema": checkpoint.SCHEMA_VERSION,
            "layers": [{"name": stage.name, "dim": stage.dim} for stage in self.stages],
            "input": self.input.to_json(),
            "provenance": provenance,
            "weights_digest": checkpoint.tensors_digest(state),
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
        }
        with checkpoint.atomic_folder(place) as temporary:
            checkpoint.write_tensors(temporary / "model.safetensors", state)
            checkpoint.write_json(
                temporary / "config.json", {"family": self.family.name, "arguments": dict(self.family.arguments)}
            )
            checkpoint.write_json(temporary / "manifest.json", manifest)
            (temporary / "README.md").write_text(_model_card(self, manifest), encoding="utf-8")
        return place

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Backbone:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, or of a newer schema, or the weights do not fit the module.
        """
        place = Path(folder)
        if not place.is_dir():
            raise CheckpointError(
                f"{place} is not a folder. A backbone is a folder with config.json and model.safetensors."
            )
        manifest = checkpoint.read_json(place / "manifest.json")
        if manifest.get("schema") != checkpoint.SCHEMA_VERSION:
            raise CheckpointError(
                f"{place} has schema {manifest.get('schema')}; this version of auxtasks reads schema "
                f"{checkpoint.SCHEMA_VERSION}."
            )
        config = checkpoint.read_json(place / "config.json")
        if config.get("family") not in _BUILDERS:
            raise CheckpointError(
                f"{place} holds family {config.get('family')!r}; known are {', '.join(sorted(_BUILDERS))}."
            )
        backbone = _BUILDERS[config["family"]](**config["arguments"])
        state = checkpoint.read_tensors(place / "model.safetensors")
        checkpoint.load_strictly(backbone.module, state, place)
        if checkpoint.tensors_digest(state) != manifest["weights_digest"]:
            raise CheckpointError(
                f"{place}/model.safetensors does not match the digest in manifest.json: it was changed."
            )
        backbone.provenance = manifest["provenance"]
        return backbone


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

    def forward(self, x: Tensor) -> Tensor:
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


def _owned_modules(module: nn.Module, owns: Iterable[str]) -> Iterator[nn.Module]:
    for path in owns:
        owned = _resolve(module, path)
        if isinstance(owned, nn.Module):
            yield owned


def _owned_parameters(module: nn.Module, owns: Iterable[str]) -> Iterator[tuple[str, nn.Parameter]]:
    for path in owns:
        owned = _resolve(module, path)
        if isinstance(owned, nn.Parameter):
            yield path, owned
        elif isinstance(owned, nn.Module):
            for name, parameter in owned.named_parameters():
                yield f"{path}.{name}", parameter


def _model_card(backbone: Backbone, manifest: Mapping[str, Any]) -> str:
    """Describe a saved backbone for the person who finds the folder."""
    provenance = manifest["provenance"]
    layers = "\n".join(f"| {stage.name} | {stage.dim} |" for stage in backbone.stages)
    return (
        f"# Backbone: {backbone.family.name}\n\n"
        f"{manifest['parameters']:,} parameters. Input: {backbone.input.kind} of shape {backbone.input.shape}.\n"
        f"Pretrained on: {provenance.get('pretrained_on', 'nothing (random weights)')}. "
        f"Seed: {provenance.get('seed', 'not recorded')}.\n\n"
        f"| layer (from the input up) | width |\n|---|---|\n{layers}\n\n"
        "```python\nfrom auxtasks.backbones import Backbone\n\n"
        'backbone = Backbone.from_pretrained("path/to/this/folder")\n```\n'
    )


def check_positive(**values: int) -> None:
    """Refuse builder arguments that are not positive.

    Raises:
        BackboneError: names the argument and its value.
    """
    for name, value in values.items():
        if value < 1:
            raise BackboneError(f"{name} must be at least 1, found {value}.")
