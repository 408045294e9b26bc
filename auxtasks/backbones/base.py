"""A backbone: a library's own module, unchanged, seen as an ordered table of named stages.

That table is what reuse, freezing, caching and depth search stand on: `lower(name)` is the part up to and including a
layer, `upper(name)` the rest, and `forward` folds all stages, so that the three can never disagree.

Legend for shapes: B batch, C channels, H height, W width, T tokens, D features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self

import torch
from torch import nn

from auxtasks import checkpoint
from auxtasks.backbones.description import Family, read_description
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.model_card import library_card, model_card
from auxtasks.backbones.pooling import Pool, pool_layer
from auxtasks.backbones.recomputing import apply_recomputed
from auxtasks.backbones.stages import Crossing, Part, Reader, Stage, owned_modules, owned_parameters
from auxtasks.backbones.tokenizer import has_tokenizer, read_tokenizer
from auxtasks.errors import BackboneError, CheckpointError, LayerError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Backbone", "builders", "check_positive", "register"]


P = ParamSpec("P")

_BUILDERS: dict[str, Callable[..., Backbone]] = {}


def register(name: str) -> Callable[[Callable[P, Backbone]], Callable[P, Backbone]]:
    """Enter a family's builder in the closed table that `Backbone.from_pretrained` and recipes read.

    Example:
        >>> enter = register("my_family")  # a decorator: the builder below it gets the name
        >>> "my_family" in builders()  # nothing was below it
        False
    """

    def enter(builder: Callable[P, Backbone]) -> Callable[P, Backbone]:
        _BUILDERS[name] = builder
        return builder

    return enter


def builders() -> Mapping[str, Callable[..., Backbone]]:
    """Return the table of families by name.

    Example:
        >>> from auxtasks import backbones  # the families enter their builders
        >>> {"mlp", "convnet", "timm", "transformers"} <= set(builders())
        True
        >>> family = builders()["mlp"](width=4, hidden=[3]).family
        >>> family.name, family.arguments["hidden"]
        ('mlp', [3])
    """
    return dict(_BUILDERS)


class Backbone(nn.Module):
    """A library's module with named layers. Final: a family is a builder function with its table of stages.

    Args:
        module: the library's own module; its state dict loads straight back into the library's class.
        stages: the layers from the input up.
        input: what the backbone takes.
        family: how to build it again.
        reader: for models whose layers can be read but not cut: computes the named layers in one pass.
        prefix_tokens: leading tokens of a transformer's layers that are no positions.
        tokenizer: what text is turned into the backbone's token ids with; saved with it.
        library_config: what the library itself reads from ``config.json``, for folders that it can load.

    Attributes:
        recomputes: in training, whether a stage keeps its input alone; see `apply_recomputed`.

    Example:
        >>> import torch
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
        tokenizer: PreTrainedTokenizerBase | None = None,
        library_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.stages = tuple(stages)
        self.input = input
        self.family = family
        self.prefix_tokens = prefix_tokens
        self.tokenizer = tokenizer
        self.provenance: dict[str, Any] = {}
        self.recomputes = False
        self._reader = reader
        self._library_config = library_config
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
    def device(self) -> torch.device:
        """Where it computes: where its first parameter or buffer is, and the CPU if it has none."""
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def can_be_cut(self) -> bool:
        """Whether `lower` and `upper` exist for this model."""
        return self._reader is None

    @property
    def text_settings(self) -> tuple[PreTrainedTokenizerBase, int]:
        """The tokenizer, and the most tokens of a text.

        Raises:
            BackboneError: it takes no text, or has no tokenizer.
        """
        if self.tokenizer is None or self.input.length is None:
            raise BackboneError("the backbone has no tokenizer: build it with tokenizer=, see `train_tokenizer`.")
        return self.tokenizer, self.input.length

    def position(self, name: str) -> int:
        """Return a layer's place from the input up, beginning with 0.

        Raises:
            LayerError: lists the layers that exist.
        """
        if name not in self.layer_names:
            hint = did_you_mean(name, self.layer_names)
            raise LayerError(f'no layer "{name}". Layers from the input up: {", ".join(self.layer_names)}.{hint}')
        return self.layer_names.index(name)

    def forward(self, x: Crossing) -> Any:
        """Compute the last layer from a normalised batch (B, ...): a tensor, or a `TextState` from a `TokenBatch`."""
        return self.forward_layers(x, [self.layer_names[-1]])[self.layer_names[-1]]

    def forward_layers(self, x: Crossing, names: Iterable[str], pool: Pool = "none") -> dict[str, Any]:
        """Compute several layers in one pass that stops at the deepest of them.

        Args:
            x: a normalised batch, see `InputSpec.normalize`, or a `TokenBatch`.
            names: layers, in any order.
            pool: see `pool_layer`; ``"none"`` gives what the layer computes as it is, of text a `TextState`.

        Returns:
            Each name with its output, in the order asked for.

        Raises:
            LayerError: no name, or one that does not exist.

        Example:
            >>> import torch
            >>> from auxtasks.backbones import convnet
            >>> x = torch.zeros(2, 1, 32, 32)
            >>> layers = convnet(size=32, seed=0).forward_layers(x, ["stage1", "stage3"], pool="mean")
            >>> {name: tuple(output.shape) for name, output in layers.items()}
            {'stage1': (2, 32), 'stage3': (2, 128)}
        """
        wanted = list(names)
        if not wanted:
            raise LayerError(f"no layer was asked for. Layers from the input up: {', '.join(self.layer_names)}.")
        deepest = max(self.position(name) for name in wanted)
        if self._reader is not None:
            outputs = self._reader(self.module, x, wanted)
            return {name: self._pooled(outputs[name], pool) for name in wanted}
        kept: dict[str, Any] = {}
        recomputes = self.recomputes and self.training and torch.is_grad_enabled()
        for stage in self.stages[: deepest + 1]:
            x = apply_recomputed(stage, self.module, x) if recomputes else stage.apply(self.module, x)
            if stage.name in wanted:
                kept[stage.name] = self._pooled(x, pool)
        return {name: kept[name] for name in wanted}

    def _pooled(self, output: Any, pool: Pool) -> Any:
        return output if pool == "none" else pool_layer(output, pool, self.prefix_tokens)

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
                "convnet, mlp, facenet, transformers, torchvision; of timm: ResNet, ConvNeXt, VisionTransformer."
            )

    def parameters_of(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of one layer's own parameters, named as in the library's module."""
        return owned_parameters(self.module, self.stages[self.position(name)].owns)

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
                for module in owned_modules(self.module, stage.owns):
                    module.eval()
        return self

    def untrained(self, seed: int) -> Backbone:
        """Return the same network with random weights: what the arms without pretraining begin with."""
        return self._rebuilt(seed=seed)

    def with_length(self, length: int) -> Backbone:
        """Return a copy, with the same weights, that takes texts of another length.

        A network without a table of positions reads longer texts than it was trained on; how well is another matter.

        Raises:
            BackboneError: it takes no text, or has fewer positions.
        """
        if self.input.kind != "text":
            raise BackboneError(f"the backbone takes {self.input.kind}, which have no length in tokens.")
        other = self._rebuilt(length=length)
        other.module.load_state_dict(self.module.state_dict())
        other.provenance = dict(self.provenance)
        return other

    def _rebuilt(self, **changed: int) -> Backbone:
        other = _BUILDERS[self.family.name](**{**self.family.arguments, **changed})
        other.tokenizer = self.tokenizer
        return other

    def save_pretrained(self, folder: str | Path, *, pretrained_on: str | None = None, seed: int | None = None) -> Path:
        """Write the backbone as a folder that `from_pretrained` reads, as a whole or not at all.

        The folder holds ``model.safetensors`` (the library's own state dict), ``config.json`` (how to build the
        module), ``manifest.json`` (schema version, layers, input, what it was pretrained on, digest of the weights),
        the files of the tokenizer if there is one, and a model card. A folder of the family ``transformers`` also loads
        with ``AutoModel.from_pretrained`` and ``AutoTokenizer.from_pretrained``.

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
        rebuild = {"family": self.family.name, "arguments": dict(self.family.arguments)}
        # By this word in the header transformers knows weights of PyTorch's.
        metadata = None if self._library_config is None else {"format": "pt"}
        with checkpoint.atomic_folder(place) as temporary:
            checkpoint.write_tensors(temporary / "model.safetensors", state, metadata=metadata)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(temporary)
            checkpoint.write_json(temporary / "config.json", {**(self._library_config or {}), **rebuild})
            checkpoint.write_json(temporary / "manifest.json", manifest)
            card = model_card(self.family.name, self.input, manifest)
            if self._library_config is not None:
                card += library_card(self.module, has_tokenizer=self.tokenizer is not None)
            (temporary / "README.md").write_text(card, encoding="utf-8")
        return place

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Backbone:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, or of a newer schema, the builder does not take what
                config.json says, the weights do not fit the module, or the tokenizer cannot be read.

        Example:
            >>> import tempfile
            >>> from auxtasks.backbones import mlp
            >>> saved = mlp(width=4, hidden=[3])
            >>> place = saved.save_pretrained(Path(tempfile.mkdtemp()) / "saved", pretrained_on="ten numbers")
            >>> backbone = Backbone.from_pretrained(place)
            >>> backbone.layer_names, backbone.provenance["pretrained_on"]
            (('hidden1',), 'ten numbers')
        """
        place = Path(folder)
        manifest, config = read_description(place, known=_BUILDERS)
        try:
            backbone = _BUILDERS[config["family"]](**config["arguments"])
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError, OSError) as error:
            raise CheckpointError(f"{place}/config.json does not describe a {config['family']}: {error}.") from error
        state = checkpoint.read_tensors(place / "model.safetensors")
        checkpoint.load_strictly(backbone.module, state, place)
        if checkpoint.tensors_digest(state) != manifest["weights_digest"]:
            raise CheckpointError(
                f"{place}/model.safetensors does not match the digest in manifest.json: it was changed."
            )
        backbone.provenance = manifest["provenance"]
        if has_tokenizer(place):
            try:
                backbone.tokenizer = read_tokenizer(place)
            except BackboneError as error:
                raise CheckpointError(f"{place} is damaged: {error}") from error
        return backbone


def check_positive(**values: int) -> None:
    """Refuse builder arguments that are not positive.

    Raises:
        BackboneError: names the argument and its value.

    Example:
        >>> check_positive(width=4)
        >>> check_positive(width=0)
        Traceback (most recent call last):
            ...
        auxtasks.errors.BackboneError: width must be at least 1, found 0.
    """
    for name, value in values.items():
        if value < 1:
            raise BackboneError(f"{name} must be at least 1, found {value}.")
