"""Backbones: networks with named layers that can be read, cut, frozen, saved and reused."""

from auxtasks.backbones.base import Backbone, builders
from auxtasks.backbones.convnet import convnet
from auxtasks.backbones.facenet import facenet
from auxtasks.backbones.input_spec import InputSpec
from auxtasks.backbones.mlp import mlp
from auxtasks.backbones.pooling import pool_layer
from auxtasks.backbones.stages import Part, Stage
from auxtasks.backbones.text import TextState, TokenBatch
from auxtasks.backbones.timm import timm_backbone
from auxtasks.backbones.torchvision import torchvision_backbone
from auxtasks.backbones.transformers import transformers
from auxtasks.backbones.zoo import build

__all__ = [
    "Backbone",
    "InputSpec",
    "Part",
    "Stage",
    "TextState",
    "TokenBatch",
    "build",
    "builders",
    "convnet",
    "facenet",
    "mlp",
    "pool_layer",
    "timm_backbone",
    "torchvision_backbone",
    "transformers",
]
