"""Rename rules for Caffe's published networks: VGG16, which saw its pictures as blue, green, red."""

from __future__ import annotations

from transfer.foreign.rule_set import RuleSet
from transfer.rename import Rule

__all__ = ["RULES"]

# Convolutions of each block; ReLU and pooling between them take a place in torchvision's `features` as well.
BLOCKS = (2, 2, 3, 3, 3)
DENSE = {"fc6": 0, "fc7": 3, "fc8": 6}  # ReLU and dropout are between them


def _convolutions() -> dict[str, int]:
    """Return each convolution's name in Caffe with its place in torchvision's `features`.

    Example:
        >>> places = _convolutions()
        >>> places["conv1_1"], places["conv2_1"], places["conv5_3"]
        (0, 5, 28)
    """
    places, place = {}, 0
    for block, count in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            places[f"conv{block}_{number}"] = place
            place += 2
        place += 1
    return places


VGG16 = (
    Rule("conv1_1/0", "features.0.weight", "bgr"),
    *(
        Rule(f"{name}/{blob}", f"features.{place}.{kind}")
        for name, place in _convolutions().items()
        for blob, kind in enumerate(("weight", "bias"))
        if (name, blob) != ("conv1_1", 0)
    ),
    *(
        Rule(f"{name}/{blob}", f"classifier.{place}.{kind}")
        for name, place in DENSE.items()
        for blob, kind in enumerate(("weight", "bias"))
    ),
)

RULES: dict[str, RuleSet] = {
    "vgg16-caffe": RuleSet(
        name="vgg16-caffe",
        source="Caffe: VGG_ILSVRC_16_layers.caffemodel, and others of its structure (VGG-Face)",
        into="torchvision/vgg16",
        rules=VGG16,
        reference="Simonyan and Zisserman, 'Very Deep Convolutional Networks for Large-Scale Image Recognition', ICLR "
        "2015; VGG_ILSVRC_16_layers_deploy.prototxt",
        preprocessing="Caffe's network takes blue, green, red from 0 to 255 less the mean (103.939, 116.779, 123.68); "
        "the first kernel is turned here, so that it takes red, green, blue less (123.68, 116.779, 103.939), not "
        "scaled: with pictures from 0 to 1 that is the mean (0.485, 0.458, 0.408) and the deviation 1/255.",
        mean=tuple(value / 255 for value in (123.68, 116.779, 103.939)),
        std=(1 / 255,) * 3,
    )
}
