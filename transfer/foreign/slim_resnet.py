"""TF-slim's way of halving a picture in a ResNet, for timm's and torchvision's modules.

TF-slim's ResNet v1 halves in the last unit of a block, where its shortcut is a pooling of 1 x 1, and pads what it pools
after the first convolution below and at the right only. The weights have the same shapes, so that they load without an
error and the network still computes something else. With this change it computes what TensorFlow did.

Reference: TF-slim, `tf_slim/nets/resnet_v1.py`, `resnet_utils.py` (`conv2d_same`, `subsample`).
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from auxtasks.errors import TransferError

__all__ = ["halve_as_slim"]

BLOCKS = ("layer1", "layer2", "layer3", "layer4")


def halve_as_slim(module: nn.Module) -> nn.Module:
    """Move the strides of a ResNet with bottlenecks, in place, to where TF-slim has them.

    A saved backbone has the weights only: call this again on one that was loaded.

    Args:
        module: timm's or torchvision's ResNet-50, -101 or -152, or one of their bottleneck structure.

    Returns:
        The module.

    Raises:
        TransferError: no such ResNet; names what it lacks.

    Example:
        >>> from torchvision.models import resnet50
        >>> network = halve_as_slim(resnet50())
        >>> network.layer1[2].conv2.stride, network.layer2[0].conv2.stride, network.layer4[2].conv2.stride
        ((2, 2), (1, 1), (1, 1))
    """
    missing = [name for name in (*BLOCKS, "maxpool") if not isinstance(getattr(module, name, None), nn.Module)]
    if missing:
        raise TransferError(
            f"{type(module).__name__} is no ResNet as timm and torchvision build it: it has no {', '.join(missing)}."
        )
    # Padded below and at the right, as TensorFlow does where the number of pixels is even.
    module.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for name in BLOCKS:
        units: list[Any] = list(cast("nn.Sequential", getattr(module, name)))
        projection = next(part for part in units[0].downsample if isinstance(part, nn.Conv2d))
        units[0].conv2.stride = projection.stride = (1, 1)
        if name != BLOCKS[-1]:
            units[-1].conv2.stride = (2, 2)
            units[-1].downsample = nn.MaxPool2d(1, stride=2)
    return module
