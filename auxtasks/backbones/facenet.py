"""FaceNet: the Inception-ResNet-v1 of facenet-pytorch, with its published face weights or random ones.

Reference: Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015; weights: David Sandberg's, converted by Tim Esler.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone, register
from auxtasks.backbones.description import Family
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.published_files import fetched
from auxtasks.backbones.stages import Stage, apply_in_turn
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import BackboneError, did_you_mean

__all__ = ["PUBLISHED", "facenet"]

_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
PUBLISHED = {
    "vggface2": _RELEASE + "20180402-114759-vggface2.pt",
    "casia-webface": _RELEASE + "20180408-102900-casia-webface.pt",
}

SMALLEST = 75  # pixels; below it the last pooling has nothing left to pool
MEAN, STD = 127.5 / 255, 128 / 255  # facenet-pytorch's fixed_image_standardization, (x - 127.5) / 128, on [0, 1]

# name, sub-modules applied in turn, channels
_TABLE: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("conv2d_1a", ("conv2d_1a",), 32),
    ("conv2d_2a", ("conv2d_2a",), 32),
    # The pooling belongs to the layer below it: what is cached at this cut is then a quarter as large.
    ("conv2d_2b", ("conv2d_2b", "maxpool_3a"), 64),
    ("conv2d_3b", ("conv2d_3b",), 80),
    ("conv2d_4a", ("conv2d_4a",), 192),
    ("conv2d_4b", ("conv2d_4b",), 256),
    ("repeat_1", ("repeat_1",), 256),
    ("mixed_6a", ("mixed_6a",), 896),
    ("repeat_2", ("repeat_2",), 896),
    ("mixed_7a", ("mixed_7a",), 1792),
    ("repeat_3", ("repeat_3",), 1792),
    ("block8", ("block8",), 1792),
)
_EMBEDDING = ("avgpool_1a", "dropout", "last_linear", "last_bn")


@register("facenet")
def facenet(weights: str | None = None, *, size: int = 160, seed: int = 0) -> Backbone:
    """Build an Inception-ResNet-v1 for RGB faces; its last layer ``embedding`` has 512 values and length 1.

    Args:
        weights: ``"vggface2"`` or ``"casia-webface"`` (fetched once, into the folder that facenet-pytorch uses too),
            the path of a state dict (``.safetensors`` or ``.pt``), or nothing for random weights.
        size: height and width of the pictures in pixels; the published weights were trained at 160.
        seed: of the random weights; PyTorch's global generator is left as it was.

    Raises:
        BackboneError: unknown weights, a file that is no state dict of this network, or a download that failed; says
            where to put the file by hand.

    Example:
        >>> facenet(size=80).layer_dims["embedding"]
        512
    """
    # facenet_pytorch imports torchvision: paid by those who use it.
    from facenet_pytorch import InceptionResnetV1

    if size < SMALLEST:
        raise BackboneError(f"size {size} is too small for facenet: use at least {SMALLEST} pixels.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Always built without weights: the library would read its file as a pickle that may run code, and keep a
        # `logits` layer that no forward uses, at which DDP raises.
        module: nn.Module = InceptionResnetV1(pretrained=None)
    stages = [Stage(name, paths, dim, functools.partial(apply_in_turn, paths=paths)) for name, paths, dim in _TABLE]
    stages.append(Stage("embedding", _EMBEDDING, 512, _embedding))
    spec = InputSpec.image(size, channels=3, mean=[MEAN] * 3, std=[STD] * 3)
    # Not the weights' name: a saved folder has the weights and must be read without a network.
    backbone = Backbone(module, stages, spec, Family("facenet", {"weights": None, "size": size, "seed": seed}))
    if weights is not None:
        path = _weights_file(weights)
        _load(module, path)
        backbone.provenance["pretrained_on"] = weights if weights in PUBLISHED else f"weights file {path.name}"
    return backbone


def _embedding(module: nn.Module, x: Tensor) -> Tensor:
    """Map (B, 1792, H, W) to vectors (B, 512) of length 1, in the library's own order of operations."""
    x = apply_in_turn(module, x, paths=_EMBEDDING[:2])
    x = apply_in_turn(module, x.view(x.shape[0], -1), paths=_EMBEDDING[2:])
    return F.normalize(x, p=2, dim=1)


def _weights_file(weights: str) -> Path:
    """Return the file that `weights` stands for, fetched when it is a published one that is not there yet."""
    if weights not in PUBLISHED:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise BackboneError(
                f'weights="{weights}" is neither a file nor one of {", ".join(PUBLISHED)}.'
                f"{did_you_mean(weights, PUBLISHED)}"
            )
        return path
    from facenet_pytorch.models.inception_resnet_v1 import get_torch_home

    return fetched(PUBLISHED[weights], Path(get_torch_home()) / "checkpoints")


def _load(module: nn.Module, path: Path) -> None:
    """Load a state dict whose names and shapes must all fit, save for the classifier that is not used here."""
    state = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith("logits.")}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BackboneError(f"weights: {path} is no state dict of InceptionResnetV1: {error}") from error
