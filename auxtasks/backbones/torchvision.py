"""The classification models of torchvision, by name; all but MNASNet can be cut, see `torchvision_stages`."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone, check_positive, register
from auxtasks.backbones.description import Family
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.published_files import fetched
from auxtasks.backbones.torchvision_stages import ARCHITECTURES, Architecture, stages_of
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import BackboneError, did_you_mean

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

__all__ = ["torchvision_backbone"]


@register("torchvision")
def torchvision_backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Backbone:
    """Build a torchvision model without its classifier; the last layer is what its last dense layer would take.

    It computes what the library does when that dense layer is an `nn.Identity`. GoogLeNet and Inception are built
    without their heads beside the trunk, and with ``transform_input=True``, as the published weights need it.

    Args:
        name: as in `torchvision.models.list_models`, with or without the name of published weights, such as
            ``"resnet50"`` or ``"resnet50.IMAGENET1K_V1"``; without one, the library's default.
        pretrained: load the published weights, fetched once into the folder that torchvision uses too.
        weights: path of a state dict (``.safetensors`` or ``.pt``) instead, with or without a classifier.
        size: height and width of the pictures in pixels; nothing takes what the published weights were tested at.
        mean, std: one value a channel, on the scale [0, 1], that pictures are normalised by; nothing takes those of the
            published weights. Weights of other origin may need others, see `transfer.foreign`.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: a name that torchvision does not have, a class without a table of stages, weights that cannot be
            fetched or do not fit, or a size or a scale that the network cannot take.

    Example:
        >>> torchvision_backbone("resnet18", size=64).layer_dims
        {'stem': 64, 'layer1': 64, 'layer2': 128, 'layer3': 256, 'layer4': 512, 'pooled': 512}
    """
    if pretrained and weights is not None:
        raise BackboneError("pretrained=True and weights=PATH exclude each other: give one of the two.")
    if size is not None:
        check_positive(size=size)
    model = _Model.of(name)
    pixels = size or model.published.transforms.keywords["crop_size"]
    transforms: Any = model.published.transforms()
    spec = InputSpec.image(pixels, channels=3, mean=transforms.mean, std=transforms.std).scaled_by(mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = model.create(pixels)
    if pretrained:
        _load(module, model, fetched(model.published.url))
    elif weights is not None:
        _load(module, model, Path(weights).expanduser())
    arguments = {
        # Not the weights: a saved folder has them and must be read without a network.
        "name": name, "pretrained": False, "weights": None, "size": size, "mean": mean, "std": std, "seed": seed,
    }  # fmt: skip
    backbone = Backbone(
        module,
        stages_of(module, _layer_dims(module, model.name, pixels)),
        spec,
        Family("torchvision", arguments),
        prefix_tokens=model.architecture.prefix_tokens,
    )
    if pretrained:
        backbone.provenance["pretrained_on"] = f"torchvision/{model.name}.{model.published.name}"
    elif weights is not None:
        backbone.provenance["pretrained_on"] = f"weights file {Path(weights).name}"
    return backbone


@dataclasses.dataclass(frozen=True)
class _Model:
    """What torchvision knows about a model before it is built.

    Attributes:
        name: without the name of weights.
        builder: the library's function.
        architecture: how its class is cut.
        published: its weights, which also say what pictures they take.
    """

    name: str
    builder: Callable[..., nn.Module]
    architecture: Architecture
    published: WeightsEnum

    @classmethod
    def of(cls, name: str) -> _Model:
        """Look a name up in torchvision's closed table; nothing is built or fetched."""
        from torchvision import models

        plain, _, tag = name.partition(".")
        known = models.list_models(module=models)
        if plain not in known:
            raise BackboneError(
                f'torchvision has no model "{name}". It has: {", ".join(known)}.{did_you_mean(plain, known)}'
            )
        published = models.get_model_weights(plain)
        tags = [weights.name for weights in published]
        if tag and tag not in tags:
            raise BackboneError(
                f'torchvision has no weights "{tag}" for {plain}. It has: '
                f"{', '.join(f'{plain}.{found}' for found in tags)}.{did_you_mean(tag, tags)}"
            )
        builder = models.get_model_builder(plain)
        kind = builder.__annotations__["return"].__name__
        if kind not in ARCHITECTURES:
            raise BackboneError(
                f"torchvision's {plain} is of the class {kind}, which has no table of stages. Classes that have one: "
                f"{', '.join(ARCHITECTURES)}."
            )
        return cls(plain, builder, ARCHITECTURES[kind], published[tag] if tag else published.DEFAULT)

    def create(self, pixels: int) -> nn.Module:
        """Build the module with random weights and without its classifier.

        Raises:
            BackboneError: a size that makes no network.
        """
        options = dict(self.architecture.options)
        if self.architecture.size_argument is not None:
            vision_transformer = self.architecture.size_argument == "image_size"
            options[self.architecture.size_argument] = pixels if vision_transformer else (pixels, pixels)
        try:
            module = self.builder(weights=None, **options)
        except (ValueError, AssertionError, RuntimeError) as error:
            raise BackboneError(f"size {pixels} makes no {self.name}: {error}") from error
        module.set_submodule(self.architecture.classifier, nn.Identity())
        return module


def _layer_dims(module: nn.Module, name: str, pixels: int) -> Sequence[int]:
    """Find the width of each layer by a picture without values through a copy of the network without values.

    Raises:
        BackboneError: a layer has nothing left of a picture of this size.
    """
    # Copied by this table, no tensor's values are.
    tensors = itertools.chain(module.parameters(), module.buffers())
    hollow = copy.deepcopy(module, memo={id(tensor): tensor.to("meta") for tensor in tensors}).eval()
    x = torch.empty(1, 3, pixels, pixels, device="meta")
    dims = []
    for stage in stages_of(module):
        try:
            with torch.no_grad():
                x = stage.apply(hollow, x)
        except RuntimeError as error:
            raise BackboneError(f"size {pixels} is too small for {name}: {error}") from error
        dims.append(x.shape[1] if x.ndim == 4 else x.shape[-1])
    return dims


def _load(module: nn.Module, model: _Model, path: Path) -> None:
    """Load a state dict whose names and shapes must all fit, save for what no layer uses."""
    state = _of_layers(read_weights(path), model.architecture)
    state = _at_positions(module, state)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BackboneError(f'weights: {path} does not fit torchvision\'s "{model.name}": {error}') from error


def _of_layers(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Leave out classifiers, and bring names of older releases up to date."""
    beginnings = (f"{architecture.classifier}.", *architecture.left_out)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(beginnings)}
    for pattern, replacement in architecture.renames:
        kept = {re.sub(pattern, replacement, name): tensor for name, tensor in kept.items()}
    return kept


def _at_positions(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resample a vision transformer's position embeddings to another size of pictures, as the library does."""
    positions = state.get("encoder.pos_embedding")
    own = module.state_dict().get("encoder.pos_embedding")
    if positions is None or own is None or positions.shape == own.shape or positions.shape[-1] != own.shape[-1]:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    sizes: Any = module
    try:
        resampled = interpolate_embeddings(sizes.image_size, sizes.patch_size, state)
    except ValueError as error:
        raise BackboneError(f"weights: their position embeddings cannot be resampled: {error}") from error
    return dict(resampled)
