"""Replacing only the output layer: the same network for other classes, everything below kept as it is.

Of a library's whole classifier (timm, torchvision, transformers, facenet-pytorch, or a module of your own) the layer is
found and exchanged in place; of a target model a new one is returned, whose head is random and says so.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from auxtasks.backbones.base import Backbone
from auxtasks.errors import TransferError, did_you_mean
from auxtasks.features.batches import Table
from auxtasks.features.extract import extract
from auxtasks.seeding import generator
from transfer.head import Head
from transfer.linear_heads import FittedLinear, LogisticHead
from transfer.model import TargetModel

__all__ = ["Replaced", "fit_head", "output_layers", "replace_head", "replace_output"]

# torchvision's Inception and GoogLeNet classify from the middle as well, while they train.
AUXILIARY = "aux"


@dataclasses.dataclass(frozen=True)
class Replaced:
    """What was exchanged.

    Attributes:
        names: dotted names of the layers, the output layer last.
        before: how many outputs there were; None where there was no output layer.
        outputs: how many there are.
        random: names of the new parameters, which nobody has trained.

    Example:
        >>> replaced: Replaced = replace_output(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 10)), 3)
        >>> replaced.names, replaced.before, replaced.outputs, replaced.random
        (('1',), 10, 3, ('1.weight', '1.bias'))
    """

    names: tuple[str, ...]
    before: int | None
    outputs: int
    random: tuple[str, ...]

    def describe(self) -> str:
        """Return it in words."""
        before = "none" if self.before is None else str(self.before)
        return f"{', '.join(self.names)}: {before} outputs before, {self.outputs} now, random: train them."


def replace_output(module: nn.Module, outputs: int, *, name: str | None = None, seed: int = 0) -> Replaced:
    """Exchange a classifier's output layer in place for a random one; every other weight stays.

    Args:
        module: a library's classifier, or your own module.
        outputs: C, of the new layer.
        name: dotted name of the output layer, where it is not found by itself, see `output_layers`.
        seed: of the new weights; PyTorch's global generator is left as it was.

    Raises:
        TransferError: a backbone (which has no output layer), no such layer, or one that is neither linear nor a
            convolution; names those that there are.

    Example:
        >>> classifier = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000))
        >>> replace_output(classifier, 3).describe()
        '2: 1000 outputs before, 3 now, random: train them.'
        >>> classifier(torch.ones(1, 4)).shape
        torch.Size([1, 3])
    """
    if outputs < 1:
        raise TransferError(f"an output layer has at least 1 output, found {outputs}.")
    if isinstance(module, Backbone):
        raise TransferError(
            "a backbone has no output layer: heads are fitted on its layers, see transfer.heads; of a target model, "
            "replace_head gives a new head."
        )
    names = output_layers(module) if name is None else (name,)
    olds = [_layer(module, found) for found in names]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        news = [_like(old, outputs, found) for old, found in zip(olds, names, strict=True)]
    for found, old, new in zip(names, olds, news, strict=True):
        _put(module, found, new.train(old.training))
    before = None if _is_new(module, names) else _outputs(olds[-1])
    _tell(module, names, before, outputs)
    random = [f"{found}.{key}" for found, new in zip(names, news, strict=True) for key, _ in new.named_parameters()]
    return Replaced(names, before, outputs, tuple(random))


def output_layers(module: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of a classifier's output layers, auxiliary ones first.

    timm says which it is, and transformers how many outputs it has; of another module it is the linear layer or
    convolution that was registered last.

    Raises:
        TransferError: none is found; names the linear layers that there are.

    Example:
        >>> output_layers(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
        ('1',)
    """
    settings = getattr(module, "pretrained_cfg", None)
    if settings and settings.get("classifier"):  # timm; several for a distilled model
        found = settings["classifier"]
        return (found,) if isinstance(found, str) else tuple(found)
    leaves = [
        found for found, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    if _of_library(module, "facenet_pytorch"):
        return ("logits",)
    labels = getattr(getattr(module, "config", None), "num_labels", None)
    if _of_library(module, "transformers") and labels is not None:
        below = f"{getattr(module, 'base_model_prefix', '')}."
        leaves = [
            found for found in leaves if not found.startswith(below) and _outputs(module.get_submodule(found)) == labels
        ]
    if not leaves:
        raise TransferError(
            f"{type(module).__name__} has no output layer that could be found: give name=.{_linear(module)}"
        )
    last = leaves[-1]
    count = _outputs(module.get_submodule(last))
    auxiliary = [
        found for found in leaves[:-1] if AUXILIARY in found.lower() and _outputs(module.get_submodule(found)) == count
    ]
    return (*auxiliary, last)


def replace_head(model: TargetModel, class_names: Sequence[str], *, seed: int = 0) -> TargetModel:
    """Return a target model for other classes: the same backbone, layer and preprocessing, with a random linear head.

    It says of itself that its head is untrained, also when it is saved and loaded again; `fit_head` trains it.

    Args:
        model: stays as it is; the two share the backbone.
        class_names: C names.
        seed: of the head.

    Raises:
        TransferError: fewer than two classes, or a name given twice.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> from transfer.heads import build_head
        >>> head = build_head("prototype").fit([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [0, 1], n_classes=2)
        >>> network = mlp(width=2, hidden=[3])
        >>> pets = TargetModel(network, "hidden1", "mean", False, head, ("cat", "dog"), decoded_size=None)
        >>> birds = replace_head(pets, ["owl", "wren", "crow"])
        >>> birds.class_names, birds.head_trained
        (('owl', 'wren', 'crow'), False)
        >>> values, labels = np.eye(3, 2, dtype=np.float32), np.arange(3)
        >>> table = feature_table_of(values, labels, birds.class_names, np.arange(3))
        >>> fit_head(birds, table).head_trained
        True
    """
    names = tuple(class_names)
    if isinstance(class_names, str) or len(names) < 2 or len(set(names)) < len(names):
        raise TransferError(f"class_names is a list of at least two different names, found {class_names!r}.")
    width = model.head.n_features
    drawn = generator(seed, "a new head").uniform(-1, 1, (len(names), width)) / np.sqrt(width)  # as nn.Linear begins
    return dataclasses.replace(
        model,
        head=FittedLinear(drawn, np.zeros(len(names)), unit_rows=False),
        class_names=names,
        head_trained=False,
        facts={"head": "random: not trained yet"},
    )


def fit_head(model: TargetModel, table: Table, head: Head | None = None) -> TargetModel:
    """Return a target model whose head is fitted on labelled items, on the model's own layer; all else is kept.

    Args:
        model: stays as it is.
        table: N labelled items, prepared at the model's `decoded_size`; its classes are those of the model.
        head: a classifier's options; None takes logistic regression.

    Raises:
        TransferError: other classes than the model's, or a class without an item.
        InputMismatchError: items that the backbone does not take.
    """
    if tuple(table.class_names) != tuple(model.class_names):
        raise TransferError(
            f"the table's classes {', '.join(table.class_names)} are not the model's, {', '.join(model.class_names)}: "
            "make a head for them first, with replace_head."
        )
    features = extract(model.backbone, table, {model.layer: model.pool}, mirror=model.mirror)[model.layer]
    read = model.discriminants(features) if model.discriminants else features
    chosen = LogisticHead() if head is None else head
    fitted = chosen.fit(read, table.labels, len(model.class_names))
    facts = {**model.facts, "fitted on": f"{len(table)} labelled items", "head": repr(chosen)}
    return dataclasses.replace(model, head=fitted, head_trained=True, facts=facts)


def _of_library(module: nn.Module, library: str) -> bool:
    """Whether a module's class, or one that it derives from, is a library's."""
    return any(base.__module__.partition(".")[0] == library for base in type(module).__mro__)


def _layer(module: nn.Module, name: str) -> nn.Module:
    """Return the layer at a dotted name; facenet-pytorch leaves its last one out where it only embeds."""
    if name == "logits" and _of_library(module, "facenet_pytorch") and not hasattr(module, name):
        return nn.Linear(_outputs(module.get_submodule("last_linear")), 1)
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        known = [found for found, _ in module.named_modules() if found]
        raise TransferError(
            f'{type(module).__name__} has no layer "{name}".{did_you_mean(name, known)}{_linear(module)}'
        ) from error


def _like(old: nn.Module, outputs: int, name: str) -> nn.Module:
    """Return a random layer that takes what another takes, on the same device and in the same type."""
    # What holds more than a weight and a bias computes something else, such as a scaled or normalised product.
    plain = isinstance(old, nn.Linear | nn.Conv2d) and set(old.state_dict()) <= {"weight", "bias"}
    if not plain or getattr(old, "groups", 1) != 1:
        raise TransferError(
            f'the layer "{name}" is a {type(old).__name__}, and an output layer that can be exchanged is a plain '
            "nn.Linear, or nn.Conv2d without groups. A network built without classes has none: build it with some, or "
            "name another layer."
        )
    new: Any = copy.deepcopy(old)  # keeps all but the number of outputs, such as a convolution's stride
    setattr(new, "out_features" if isinstance(old, nn.Linear) else "out_channels", outputs)
    new.weight = nn.Parameter(new.weight.new_empty(outputs, *new.weight.shape[1:]))
    if new.bias is not None:
        new.bias = nn.Parameter(new.bias.new_empty(outputs))
    new.reset_parameters()
    layer: nn.Module = new
    return layer


def _outputs(layer: nn.Module) -> int:
    found = getattr(layer, "out_features", None)
    return int(layer.out_channels if found is None else found)  # type: ignore[arg-type]


def _put(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def _is_new(module: nn.Module, names: Iterable[str]) -> bool:
    """Whether the output layer was not there before: facenet-pytorch's, which only embedded."""
    return "logits" in names and _of_library(module, "facenet_pytorch") and not getattr(module, "num_classes", None)


def _tell(module: nn.Module, names: Sequence[str], before: int | None, outputs: int) -> None:
    """Set the numbers of classes that libraries keep beside the layer, from the output layer up to the whole module."""
    steps = names[-1].split(".")[:-1]
    above = [module.get_submodule(".".join(steps[:cut])) for cut in range(len(steps) + 1)]
    for owner, attribute in itertools.product(above, ("num_classes", "num_labels")):
        if isinstance(getattr(owner, attribute, None), int):
            setattr(owner, attribute, outputs)
    if _of_library(module, "facenet_pytorch"):
        module.num_classes, module.classify = outputs, True  # type: ignore[assignment]
    if _of_library(module, "transformers"):
        config: Any = module.config
        config.num_labels = outputs  # names the classes anew as well
        if 1 in (before, outputs):
            config.problem_type = None  # one output had made it a regression, or would


def _linear(module: nn.Module) -> str:
    found = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return f" Its linear layers: {', '.join([*found[:3], '...', *found[-5:]] if len(found) > 8 else found) or 'none'}."
