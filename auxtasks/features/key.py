"""The name under which outputs are kept: a hash of all that they depend on, so that a change of anything misses.

A cache keyed by a model's name alone once served another model's features (fastai, v0.7).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.backbones.stages import owned_modules
from auxtasks.data.pair_table import PairTable
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.dtypes import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EXTRACTION_VERSION", "feature_key", "key_of", "kind_of", "prefix_digest", "prefix_parts"]

# Part of every key: raise it when the same inputs would give other outputs, or the files another layout.
EXTRACTION_VERSION = 3

# Whose code computes a layer: another version may compute another number.
_LIBRARIES = ("torch", "timm", "torchvision", "transformers", "facenet-pytorch")


def key_of(parts: Mapping[str, object]) -> str:
    """Return a name that changes with any of the parts, which are JSON values.

    Example:
        >>> one, again, other = (key_of({"layer": layer}) for layer in ("stage1", "stage1", "stage2"))
        >>> one == again, one == other
        (True, False)
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def prefix_parts(backbone: Backbone, layer: str) -> dict[str, object]:
    """Return what the outputs of a layer depend on, but for the data: weights and structure up to it, input, tokenizer.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> sorted(prefix_parts(mlp(width=2, hidden=[2, 2]), "hidden1"))
        ['family', 'input', 'libraries', 'structure', 'tokenizer', 'version', 'weights']
    """
    return {
        "version": EXTRACTION_VERSION,
        "libraries": _library_versions(),
        "weights": prefix_digest(backbone, layer),
        "structure": _structure(backbone, layer),
        "family": [backbone.family.name, dict(backbone.family.arguments)],
        "input": backbone.input.to_json(),
        "tokenizer": None if backbone.tokenizer is None else _tokenizer_digest(backbone.tokenizer),
    }


def feature_key(
    backbone: Backbone, table: Table, layers: Mapping[str, Pool], *, mirror: bool, dtype: Dtype = "float32"
) -> str:
    """Return the name under which features are kept: a hash of all that they depend on.

    Example:
        >>> import numpy as np
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((5, 3), np.float32), np.zeros(5, np.int64), ("all",), np.arange(5))
        >>> network = mlp(width=3, hidden=[4, 2])
        >>> one, other = (feature_key(network, table, {layer: "mean"}, mirror=False) for layer in network.layer_names)
        >>> len(one), one == other, kind_of(table)
        (32, False, ['vectors'])
    """
    deepest = max(layers, key=backbone.position)
    parts = {
        **prefix_parts(backbone, deepest),
        "layers": dict(layers),
        "mirror": mirror,
        "items": [*kind_of(table), table.fingerprint],
        "dtype": dtype,
    }
    return key_of(parts)


def kind_of(table: Table) -> list[str]:
    """Return what a table holds, and of pairs what they are pairs of."""
    return [item_noun(table), item_noun(table.items)] if isinstance(table, PairTable) else [item_noun(table)]


def prefix_digest(backbone: Backbone, layer: str) -> str:
    """Return a hash of the weights and buffers that a layer's output depends on: those above it may change.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=2, hidden=[2, 2])
        >>> before = prefix_digest(backbone, "hidden1"), prefix_digest(backbone, "hidden2")
        >>> _ = backbone.module[1][0].weight.data.zero_()
        >>> prefix_digest(backbone, "hidden1") == before[0], prefix_digest(backbone, "hidden2") == before[1]
        (True, False)
    """
    above = [f"{path}." for stage in backbone.stages[backbone.position(layer) + 1 :] for path in stage.owns]
    state = backbone.module.state_dict()
    kept = {name: value for name, value in state.items() if not any(f"{name}.".startswith(path) for path in above)}
    return checkpoint.tensors_digest(kept)


def _structure(backbone: Backbone, layer: str) -> str:
    """Return a hash of the modules up to a layer, as they print themselves: an activation may have been exchanged."""
    lines: list[str] = []
    for stage in backbone.stages[: backbone.position(layer) + 1]:
        lines += [stage.name, *stage.owns, *(repr(module) for module in owned_modules(backbone.module, stage.owns))]
    # Functions print their address, which is another in every process.
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", "\n".join(lines)).encode()).hexdigest()


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what turns texts into tokens, but not of how it last padded and cut them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: object = tokenizer.get_vocab()
    else:
        rules = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


@functools.cache
def _library_versions() -> dict[str, str | None]:
    """Return installed versions, without importing what is not needed."""
    found: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
