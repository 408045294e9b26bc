"""Every image model of timm, by name: ResNets, ConvNeXts and vision transformers can be cut, all others be read.

A family that can be cut has a table of stages here; for any other model, see `auxtasks.backbones.timm_reader`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone, check_positive, register
from auxtasks.backbones.description import Family
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.published_files import checkpoints_folder
from auxtasks.backbones.stages import Reader, Stage, apply_in_turn
from auxtasks.backbones.timm_reader import LAST, readable
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import BackboneError, did_you_mean

__all__ = ["published_at", "timm_backbone"]


@register("timm")
def timm_backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    size: int | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Backbone:
    """Build a timm model without its classifier; the last layer ``pooled`` is what timm's forward returns.

    Args:
        name: as in `timm.list_models`, with or without a tag of pretrained weights, such as ``"resnet18.a1_in1k"``.
        pretrained: load the published weights, fetched once into the cache of the Hugging Face Hub, or those that were
            put by hand at ``hub/checkpoints/timm/NAME.safetensors`` in the folder of PyTorch's files.
        weights: path of a state dict (``.safetensors`` or ``.pt``) instead, with or without a classifier.
        size: height and width of the pictures in pixels; nothing takes the model's own.
        channels: 1 for grey, 3 for colour; published weights are adapted by timm.
        mean, std: one value a channel, on the scale [0, 1], that pictures are normalised by; nothing takes those of the
            published weights. Weights of other origin may need others, see `transfer.foreign`.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: a name that timm does not have, weights that cannot be fetched or do not fit, sizes that make no
            network, or a model whose layers cannot be read.

    Example:
        >>> timm_backbone("test_resnet", size=64).layer_dims
        {'stem': 32, 'layer1': 32, 'layer2': 48, 'layer3': 192, 'layer4': 96, 'pooled': 96}
    """
    check_positive(channels=channels, **({} if size is None else {"size": size}))
    if pretrained and weights is not None:
        raise BackboneError("pretrained=True and weights=PATH exclude each other: give one of the two.")
    settings = _settings(name)
    spec = _input_spec(settings, size, channels).scaled_by(mean, std)
    options: dict[str, Any] = {"in_chans": channels}
    if size is not None and settings.fixed_input_size:
        options["img_size"] = size  # such models have parameters for every position
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _create(name, num_classes=0, **options)
        if pretrained:
            _load_published(module, name, options)
        elif weights is not None:
            _load_file(module, name, options, Path(weights).expanduser())
    stages, reader = _stages(module, spec)
    arguments = {
        # Not the weights: a saved folder has them and must be read without a network.
        "name": name, "pretrained": False, "weights": None, "size": size, "channels": channels, "mean": mean,
        "std": std, "seed": seed,
    }  # fmt: skip
    prefix_tokens = 0 if reader is not None else int(getattr(module, "num_prefix_tokens", 0))
    backbone = Backbone(module, stages, spec, Family("timm", arguments), reader=reader, prefix_tokens=prefix_tokens)
    if pretrained:
        backbone.provenance["pretrained_on"] = f"timm/{settings.architecture}.{settings.tag}"
    elif weights is not None:
        backbone.provenance["pretrained_on"] = f"weights file {Path(weights).name}"
    return backbone


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What timm knows about a model before it is built."""

    architecture: str
    tag: str | None
    source: str | None
    fixed_input_size: bool
    num_classes: int
    classifiers: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _settings(name: str) -> _Settings:
    """Look a name up in timm's registry; nothing is built or fetched.

    Raises:
        BackboneError: the registry does not have it; names the closest.
    """
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    # Names such as "hf-hub:owner/model" are no entries of the registry: they would be fetched at every build.
    if not timm.is_model(architecture):
        raise BackboneError(
            f'timm has no model "{name}".{did_you_mean(architecture, timm.list_models())} '
            f'See timm.list_models("*part*") for its {len(timm.list_models())} models.'
        )
    tagged = timm.list_models(architecture, include_tags=True)
    if tag and name not in tagged:
        raise BackboneError(
            f'timm has no weights "{tag}" for {architecture}. It has: {", ".join(tagged)}.{did_you_mean(name, tagged)}'
        )
    found = get_pretrained_cfg(name)
    if found is None:
        raise BackboneError(f'timm has no settings for "{name}": neither its input nor its weights are known.')
    classifiers = found.classifier or ()
    return _Settings(
        architecture=architecture,
        tag=found.tag,
        source=published_at(found),
        fixed_input_size=bool(found.fixed_input_size),
        num_classes=found.num_classes,
        classifiers=(classifiers,) if isinstance(classifiers, str) else tuple(classifiers),
        input_size=found.input_size,
        mean=found.mean,
        std=found.std,
    )


def published_at(settings: Any) -> str | None:
    """Return the address of the published weights that timm's settings name, if there are any.

    Example:
        >>> import timm
        >>> published_at(timm.get_pretrained_cfg("resnet18.a1_in1k"))
        'https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors'
    """
    if settings.hf_hub_id:
        file = settings.hf_hub_filename or "model.safetensors"
        return f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/{file}"
    return settings.url or None


def _create(name: str, **options: Any) -> nn.Module:
    """Build a module without weights; timm's complaint about an option becomes ours."""
    import timm

    try:
        module: nn.Module = timm.create_model(name, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BackboneError(f'timm cannot build "{name}" with {options}: {error}') from error
    return module


def _load_published(module: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    """Load the published weights, fetched by timm.

    timm loads loosely as soon as the number of classes is not the published one, and layers that were not found stay
    random without a word. So the published model is built whole, which timm loads strictly, and all but its classifier
    is copied strictly.
    """
    import timm

    settings = _settings(name)
    if settings.source is None:
        raise BackboneError(f'timm publishes no weights for "{name}". timm.list_pretrained() lists what it has.')
    by_hand = _place_by_hand(settings, settings.source)
    if by_hand.is_file():
        _load_file(module, name, options, by_hand)
        return
    try:
        whole = timm.create_model(name, pretrained=True, num_classes=settings.num_classes, **options)
    except Exception as error:  # the Hub's client raises errors of half a dozen libraries when there is no network
        raise BackboneError(
            f'could not load the published weights of "{name}": {error}\n'
            f"Without a network: fetch the file on a machine that has one, for example with\n"
            f"    curl -L -O {settings.source}\n"
            f"and put it at {by_hand}, or pass its path as weights=PATH."
        ) from error
    _copy_strictly(whole, module, f"published weights of {name}")


def _place_by_hand(settings: _Settings, source: str) -> Path:
    """Return where a published file is looked for before the network is: the Hub's own cache cannot be filled by hand.

    The name is the model's with its tag: on the Hub all files have the same.
    """
    return checkpoints_folder() / "timm" / f"{settings.architecture}.{settings.tag}{Path(source).suffix}"


def _load_file(module: nn.Module, name: str, options: Mapping[str, Any], path: Path) -> None:
    """Load a state dict with the published classifier, another one, or none.

    timm's own loader does it, since it renames the layers of original releases, adapts the first convolution to
    `channels` and resamples position embeddings to `size`.
    """
    import timm

    settings = _settings(name)
    state = read_weights(path)
    heads = tuple(f"{classifier}." for classifier in settings.classifiers)
    headless = {key: tensor for key, tensor in state.items() if not key.startswith(heads)} if heads else state
    problems = []
    for classes, tensors in ((settings.num_classes, state), (0, headless)):
        source = {"state_dict": tensors, "num_classes": classes, "custom_load": False}
        try:
            # The number of classes is that of the source, so that timm loads strictly: see _load_published.
            whole = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=source, num_classes=classes, **options
            )
        except (RuntimeError, KeyError, ValueError, AttributeError) as error:
            problems.append(str(error))
            continue
        _copy_strictly(whole, module, str(path))
        return
    raise BackboneError(f'weights: {path} does not fit timm\'s "{name}": {problems[-1]}')


def _copy_strictly(whole: nn.Module, module: nn.Module, source: str) -> None:
    """Copy every tensor that `module` has from a model that may have a classifier besides."""
    names = module.state_dict().keys()
    try:
        module.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if name in names})
    except RuntimeError as error:
        raise BackboneError(f"weights: {source} leaves part of the backbone random: {error}") from error


def _input_spec(settings: _Settings, size: int | None, channels: int) -> InputSpec:
    """Describe the pictures as the model's settings do, with the size and the channels asked for."""
    mean, std = (
        values if len(values) == channels else (sum(values) / len(values),) * channels
        for values in (tuple(settings.mean), tuple(settings.std))
    )
    return InputSpec.image(size or settings.input_size[1:], channels, mean=mean, std=std)


def _stages(module: nn.Module, spec: InputSpec) -> tuple[list[Stage], Reader | None]:
    """Return the table of a family that has one, and else the layers that can be read, with their reader."""
    from timm.models.convnext import ConvNeXt
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    tables: dict[type[nn.Module], Callable[[Any], list[Stage]]] = {
        ResNet: _resnet,
        ConvNeXt: _convnext,
        VisionTransformer: _vision_transformer,
    }
    # The very class: a subclass may compute something else in between, such as DeiT's second class token.
    if type(module) in tables:
        _check_patches(module, spec)
        return tables[type(module)](module), None
    return readable(module, spec)


def _in_turn(name: str, paths: tuple[str, ...], dim: int) -> Stage:
    return Stage(name, paths, dim, functools.partial(apply_in_turn, paths=paths))


def _head(module: Any, x: Tensor, *, paths: tuple[str, ...]) -> Tensor:
    """Apply what comes after the last named layer, then timm's own head (pooling, its norm, dropout)."""
    output: Tensor = module.forward_head(apply_in_turn(module, x, paths=paths))
    return output


def _resnet(module: Any) -> list[Stage]:
    """Layers ``stem``, ``layer1`` ... ``layer4`` and ``pooled``."""
    stem, *layers = module.feature_info
    return [
        _in_turn("stem", ("conv1", "bn1", "act1", "maxpool"), stem["num_chs"]),
        *(_in_turn(layer["module"], (layer["module"],), layer["num_chs"]) for layer in layers),
        Stage(LAST, ("global_pool", "fc"), module.head_hidden_size, functools.partial(_head, paths=())),
    ]


def _convnext(module: Any) -> list[Stage]:
    """Layers ``stem``, ``stage1`` ... ``stage4`` and ``pooled``."""
    *_, stem = (layer for layer in module.stem if isinstance(layer, nn.Conv2d))
    return [
        _in_turn("stem", ("stem",), stem.out_channels),
        *(
            _in_turn(f"stage{place + 1}", (layer["module"],), layer["num_chs"])
            for place, layer in enumerate(module.feature_info)
        ),
        Stage(LAST, ("norm_pre", "head"), module.head_hidden_size, functools.partial(_head, paths=("norm_pre",))),
    ]


def _vision_transformer(module: Any) -> list[Stage]:
    """Layers ``embeddings``, ``block1`` ... , ``norm`` (where it comes before pooling) and ``pooled``."""
    dim = module.embed_dim
    tokens = tuple(name for name in ("cls_token", "reg_token", "pos_embed") if getattr(module, name) is not None)
    owns = ("patch_embed", *tokens, "pos_drop", "patch_drop", "norm_pre")
    # Where the norm follows pooling (fc_norm) this one is the identity, and no layer of its own.
    norm = [] if isinstance(module.norm, nn.Identity) else [_in_turn("norm", ("norm",), dim)]
    pool = () if module.attn_pool is None else ("attn_pool",)
    return [
        Stage("embeddings", owns, dim, _embeddings),
        *(_in_turn(f"block{place + 1}", (f"blocks.{place}",), dim) for place in range(len(module.blocks))),
        *norm,
        Stage(LAST, (*pool, "fc_norm", "head_drop", "head"), dim, functools.partial(_head, paths=())),
    ]


def _embeddings(module: Any, x: Tensor) -> Tensor:
    """Map pictures (B, C, H, W) to tokens (B, T, D): patches behind the class token and registers."""
    x = apply_in_turn(module, x, paths=("patch_embed",))
    x = module._pos_embed(x)
    return apply_in_turn(module, x, paths=("patch_drop", "norm_pre"))


def _check_patches(module: nn.Module, spec: InputSpec) -> None:
    """Refuse a size that is no whole number of patches, before the first batch does."""
    embed = getattr(module, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if patch is None or getattr(embed, "dynamic_img_pad", False):
        return
    if any(pixels % step for pixels, step in zip(spec.shape[1:], patch, strict=True)):
        raise BackboneError(f"size {spec.shape[1:]} is no whole number of patches of {tuple(patch)} pixels.")
