"""Rename rules for networks that were published as Keras files: VGG16 of keras.applications."""

from __future__ import annotations

from collections.abc import Iterator

from transfer.foreign.rule_set import RuleSet
from transfer.rename import Rule

__all__ = ["RULES"]

BLOCKS = (2, 2, 3, 3, 3)  # convolutions of each block
DENSE = {"fc2": 3, "predictions": 6}  # places in torchvision's `classifier`; ReLU and dropout are between them
GRID = (7, 7)  # height and width of what is flattened before the first dense layer, for pictures of 224 pixels


def _rules() -> Iterator[Rule]:
    place = 0
    for block, count in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            layer = f"block{block}_conv{number}"
            yield Rule(_kernel(layer), f"features.{place}.weight", "conv")
            yield Rule(_bias(layer), f"features.{place}.bias")
            place += 2  # a ReLU follows
        place += 1  # a pooling follows
    yield Rule(_kernel("fc1"), "classifier.0.weight", "flattened", grid=GRID)
    yield Rule(_bias("fc1"), "classifier.0.bias")
    for layer, place in DENSE.items():
        yield Rule(_kernel(layer), f"classifier.{place}.weight", "linear")
        yield Rule(_bias(layer), f"classifier.{place}.bias")


def _kernel(layer: str) -> str:
    """Return the pattern of a layer's kernel, in today's names and in those of Keras 1, which the published files have.

    Example:
        >>> import re
        >>> [bool(re.fullmatch(_kernel("fc1"), name)) for name in ("fc1/kernel", "vgg16/fc1/fc1_W_1", "fc1/bias")]
        [True, True, False]
    """
    return rf"(?:.*/)?{layer}/(?:kernel|{layer}_W(?:_\d+)?)"


def _bias(layer: str) -> str:
    return rf"(?:.*/)?{layer}/(?:bias|{layer}_b(?:_\d+)?)"


RULES: dict[str, RuleSet] = {
    "vgg16-keras": RuleSet(
        name="vgg16-keras",
        source="Keras: keras.applications.VGG16, with or without its dense layers",
        into="torchvision/vgg16",
        rules=tuple(_rules()),
        reference="github.com/keras-team/keras, keras/src/applications/vgg16.py",
        preprocessing="Keras's network takes blue, green, red from 0 to 255 less the mean (103.939, 116.779, 123.68); "
        "the first kernel is turned here, so that it takes red, green, blue less (123.68, 116.779, 103.939), not "
        "scaled: with pictures from 0 to 1 that is the mean (0.485, 0.458, 0.408) and the deviation 1/255",
        mean=tuple(value / 255 for value in (123.68, 116.779, 103.939)),
        std=(1 / 255,) * 3,
        bgr=(_kernel("block1_conv1"),),
    )
}
