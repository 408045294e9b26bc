"""Tables of stages of torchvision's classification models, a table a class: how each is cut, without its classifier.

A row names a layer and the steps that compute it from the layer below: dotted names of the library's own modules, and
what the library's forward does between them. A step never works in place on what crosses a cut: the layer below it may
be kept.

Legend for shapes: B batch, C channels, H height, W width, T tokens, D features.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks.backbones.stages import Stage

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of", "stages_of"]

Step: TypeAlias = str | Callable[[Any, Tensor], Tensor]  # a module by its dotted name, or a function of (module, x)
Row: TypeAlias = tuple[str, tuple[Step, ...]]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How one of torchvision's classes is cut, and what is special about it and its published files.

    Attributes:
        rows: the layers from the input up, from a module whose classifier is replaced.
        classifier: dotted name of the last dense layer, which stands for classes and is replaced by the identity.
        size_argument: what its builder calls the pictures' size, where parameters depend on it.
        prefix_tokens: leading tokens of its layers that are no positions.
        options: what its builder is told besides.
        left_out: beginnings of names in published files that are no part of the layers.
        renames: (regular expression, replacement) of names in published files that are older than the class.
    """

    rows: Callable[[Any], Iterator[Row]]
    classifier: str
    size_argument: str | None = None
    prefix_tokens: int = 0
    options: tuple[tuple[str, object], ...] = ()
    left_out: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()


def stages_of(module: nn.Module, dims: Sequence[int] | None = None) -> list[Stage]:
    """Return a module's table of stages.

    Args:
        module: of a class that `ARCHITECTURES` has, its classifier replaced.
        dims: width of each layer; zeros while they are not known.

    Example:
        >>> import torchvision
        >>> module = torchvision.models.resnet18()
        >>> found: Architecture = architecture_of(module)
        >>> found.classifier, [stage.name for stage in stages_of(module)]
        ('fc', ['stem', 'layer1', 'layer2', 'layer3', 'layer4', 'pooled'])
    """
    rows = list(architecture_of(module).rows(module))
    widths = [0] * len(rows) if dims is None else dims
    return [
        Stage(name, _owned(steps), dim, functools.partial(_apply, steps=steps))
        for (name, steps), dim in zip(rows, widths, strict=True)
    ]


def architecture_of(module: nn.Module) -> Architecture:
    """Return how a module is cut, by its very class: a subclass may compute something else in between."""
    return ARCHITECTURES[type(module).__name__]


def _owned(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the modules and parameters of steps: functions that read some have them in a table."""
    owned: list[str] = []
    for step in steps:
        owned.extend([step] if isinstance(step, str) else OWNED_BY_FUNCTION.get(step, ()))
    return tuple(owned)


def _apply(module: nn.Module, x: Tensor, *, steps: Sequence[Step]) -> Tensor:
    """Compute one layer from the one below it."""
    for step in steps:
        x = module.get_submodule(step)(x) if isinstance(step, str) else step(module, x)
    return x


# Steps that are no modules


def _flatten(_: Any, x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def _mean(_: Any, x: Tensor) -> Tensor:
    return x.mean([2, 3])


def _pool(_: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, (1, 1))


def _relu(_: Any, x: Tensor) -> Tensor:
    # DenseNet's own forward does this in place, which would change the layer below where that is kept.
    return F.relu(x)


def _channels_first(_: Any, x: Tensor) -> Tensor:
    """Turn (B, H, W, C), in which a Swin transformer computes, into (B, C, H, W), as every image layer is."""
    return x.permute(0, 3, 1, 2)


def _channels_last(_: Any, x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _imagenet_to_half(module: Any, x: Tensor) -> Tensor:
    """Bring pictures of ImageNet's mean and deviation to mean 0.5, as the published weights were trained."""
    transformed: Tensor = module._transform_input(x)
    return transformed


def _tokens(module: Any, x: Tensor) -> Tensor:
    """Turn pictures (B, C, H, W) into tokens (B, T, D): the class token before the patches, each at its position."""
    x = module._process_input(x)
    x = torch.cat([module.class_token.expand(x.shape[0], -1, -1), x], dim=1)
    tokens: Tensor = module.encoder.dropout(x + module.encoder.pos_embedding)
    return tokens


def _class_token(_: Any, x: Tensor) -> Tensor:
    return x[:, 0]


OWNED_BY_FUNCTION: dict[Callable[[Any, Tensor], Tensor], tuple[str, ...]] = {
    _tokens: ("conv_proj", "class_token", "encoder.pos_embedding", "encoder.dropout"),
}


# Tables


def _run(path: str, places: range) -> tuple[Step, ...]:
    return tuple(f"{path}.{place}" for place in places)


def _resnet(_: Any) -> Iterator[Row]:
    """Layers ``stem``, ``layer1`` ... ``layer4`` and ``pooled``; also of ResNeXt and the wide ones."""
    yield "stem", ("conv1", "bn1", "relu", "maxpool")
    yield from ((f"layer{place}", (f"layer{place}",)) for place in range(1, 5))
    yield "pooled", ("avgpool", _flatten, "fc")


def _blocks_by_pooling(features: nn.Sequential) -> Iterator[Row]:
    """Layers ``block1`` ...: runs of a plain network that end with a pooling, so that little crosses a cut."""
    start, block = 0, 1
    for place, part in enumerate(features):
        if isinstance(part, nn.MaxPool2d) or place == len(features) - 1:
            yield f"block{block}", _run("features", range(start, place + 1))
            start, block = place + 1, block + 1


def _plain(module: Any) -> Iterator[Row]:
    """Layers ``block1`` ..., ``fc6`` and ``fc7`` of VGG and AlexNet; the dense ones bear Caffe's names."""
    yield from _blocks_by_pooling(module.features)
    yield "fc6", ("avgpool", _flatten, *_run("classifier", range(3)))
    yield "fc7", _run("classifier", range(3, 7))


def _squeezenet(module: Any) -> Iterator[Row]:
    """Layers ``block1`` ... and ``pooled``."""
    yield from _blocks_by_pooling(module.features)
    yield "pooled", (*_run("classifier", range(len(module.classifier))), _flatten)


def _densenet(_: Any) -> Iterator[Row]:
    """Layers ``stem``, ``block1`` ... ``block4`` and ``pooled``; a transition, which makes narrower, ends its block."""
    yield "stem", tuple(f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0"))
    for place in range(1, 4):
        yield f"block{place}", (f"features.denseblock{place}", f"features.transition{place}")
    yield "block4", ("features.denseblock4", "features.norm5")
    yield "pooled", (_relu, _pool, _flatten, "classifier")


def _row_of_features(module: Any, word: str, pooled: tuple[Step, ...]) -> Iterator[Row]:
    """Layers ``stem``, one for each entry of ``features`` in between, ``head`` and ``pooled``."""
    last = len(module.features) - 1
    yield "stem", ("features.0",)
    yield from ((f"{word}{place}", (f"features.{place}",)) for place in range(1, last))
    yield "head", (f"features.{last}",)
    yield "pooled", pooled


def _efficientnet(module: Any) -> Iterator[Row]:
    yield from _row_of_features(module, "stage", ("avgpool", _flatten, "classifier"))


def _mobilenet_v2(module: Any) -> Iterator[Row]:
    yield from _row_of_features(module, "block", (_pool, _flatten, "classifier"))


def _mobilenet_v3(module: Any) -> Iterator[Row]:
    """As the second one, with a dense layer ``fc`` behind the pooling."""
    yield from _row_of_features(module, "block", ("avgpool", _flatten))
    yield "fc", ("classifier",)


def _convnext(_: Any) -> Iterator[Row]:
    """Layers ``stem``, ``stage1`` ... ``stage4``, each behind its downsampling, and ``pooled``."""
    yield "stem", ("features.0",)
    yield "stage1", ("features.1",)
    yield from ((f"stage{place}", _run("features", range(2 * place - 2, 2 * place))) for place in range(2, 5))
    yield "pooled", ("avgpool", "classifier")


def _swin(_: Any) -> Iterator[Row]:
    """Layers ``stem``, ``stage1`` ... ``stage4``, each behind its merging of patches, and ``pooled``."""
    yield "stem", ("features.0", _channels_first)
    yield "stage1", (_channels_last, "features.1", _channels_first)
    for place in range(2, 5):
        steps = _run("features", range(2 * place - 2, 2 * place))
        yield f"stage{place}", (_channels_last, *steps, _channels_first)
    yield "pooled", (_channels_last, "norm", "permute", "avgpool", "flatten", "head")


def _maxvit(module: Any) -> Iterator[Row]:
    """Layers ``stem``, ``stage1`` ... and ``pooled``, which holds a dense layer."""
    yield "stem", ("stem",)
    yield from ((f"stage{place + 1}", (f"blocks.{place}",)) for place in range(len(module.blocks)))
    yield "pooled", ("classifier",)


def _regnet(_: Any) -> Iterator[Row]:
    """Layers ``stem``, ``stage1`` ... ``stage4`` and ``pooled``."""
    yield "stem", ("stem",)
    yield from ((f"stage{place}", (f"trunk_output.block{place}",)) for place in range(1, 5))
    yield "pooled", ("avgpool", _flatten, "fc")


def _shufflenet(_: Any) -> Iterator[Row]:
    """Layers ``stem``, ``stage2`` ... ``stage4``, ``head`` and ``pooled``: the library counts from 2."""
    yield "stem", ("conv1", "maxpool")
    yield from ((f"stage{place}", (f"stage{place}",)) for place in range(2, 5))
    yield "head", ("conv5",)
    yield "pooled", (_mean, "fc")


def _vision_transformer(module: Any) -> Iterator[Row]:
    """Layers ``embeddings``, ``block1`` ..., ``norm`` and ``pooled``, which is the class token."""
    yield "embeddings", (_tokens,)
    for place, name in enumerate(name for name, _ in module.encoder.layers.named_children()):
        yield f"block{place + 1}", (f"encoder.layers.{name}",)
    yield "norm", ("encoder.ln",)
    yield "pooled", (_class_token, "heads")


def _googlenet(_: Any) -> Iterator[Row]:
    """Layers ``stem``, those of the library's own names from ``inception3a`` to ``inception5b``, and ``pooled``."""
    yield "stem", (_imagenet_to_half, "conv1", "maxpool1", "conv2", "conv3", "maxpool2")
    pooling = {"inception3b": ("maxpool3",), "inception4e": ("maxpool4",)}
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        layer = f"inception{name}"
        yield layer, (layer, *pooling.get(layer, ()))
    yield "pooled", ("avgpool", _flatten, "dropout", "fc")


def _inception_v3(_: Any) -> Iterator[Row]:
    """Layers ``stem``, those of the library's own names from ``Mixed_5b`` to ``Mixed_7c``, and ``pooled``."""
    convolutions = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    yield "stem", (_imagenet_to_half, *convolutions, "maxpool2")
    for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
        yield f"Mixed_{name}", (f"Mixed_{name}",)
    yield "pooled", ("avgpool", "dropout", _flatten, "fc")


# The published weights of both were trained without the library's normalisation; the heads beside the trunk are left
# out, since no layer uses them.
_INCEPTION: tuple[tuple[str, object], ...] = (("aux_logits", False), ("transform_input", True), ("init_weights", True))

# MNASNet is missing: it refuses every state dict without PyTorch's private record of versions, and a safetensors file
# has none.
ARCHITECTURES = {
    "AlexNet": Architecture(_plain, "classifier.6"),
    "ConvNeXt": Architecture(_convnext, "classifier.2"),
    # Published before PyTorch forbade dots in the names of modules: denselayer1.norm.1 is now denselayer1.norm1.
    "DenseNet": Architecture(
        _densenet, "classifier", renames=((r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),)
    ),
    "EfficientNet": Architecture(_efficientnet, "classifier.1"),
    "GoogLeNet": Architecture(_googlenet, "fc", options=_INCEPTION, left_out=("aux1.", "aux2.")),
    "Inception3": Architecture(_inception_v3, "fc", options=_INCEPTION, left_out=("AuxLogits.",)),
    "MaxVit": Architecture(_maxvit, "classifier.5", size_argument="input_size"),
    "MobileNetV2": Architecture(_mobilenet_v2, "classifier.1"),
    "MobileNetV3": Architecture(_mobilenet_v3, "classifier.3"),
    "RegNet": Architecture(_regnet, "fc"),
    "ResNet": Architecture(_resnet, "fc"),
    "ShuffleNetV2": Architecture(_shufflenet, "fc"),
    "SqueezeNet": Architecture(_squeezenet, "classifier.1"),
    "SwinTransformer": Architecture(_swin, "head"),
    "VGG": Architecture(_plain, "classifier.6"),
    "VisionTransformer": Architecture(_vision_transformer, "heads.head", size_argument="image_size", prefix_tokens=1),
}
