"""The README of a saved backbone's folder, for the person who finds it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from auxtasks.backbones.input_spec import InputSpec

__all__ = ["library_card", "model_card"]


def model_card(family: str, input: InputSpec, manifest: Mapping[str, Any]) -> str:
    """Describe a saved backbone.

    Args:
        family: its name.
        input: what the backbone takes.
        manifest: as it is saved beside the card.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> network = mlp(width=4, hidden=[3])
        >>> layers, origin = [{"name": "hidden1", "dim": 3}], {"pretrained_on": "digits"}
        >>> manifest = {"provenance": origin, "layers": layers, "parameters": 15}
        >>> model_card("mlp", network.input, manifest).splitlines()[2]
        '15 parameters. Input: features of shape (4,).'
    """
    provenance = manifest["provenance"]
    layers = "\n".join(f"| {layer['name']} | {layer['dim']} |" for layer in manifest["layers"])
    return (
        f"# Backbone: {family}\n\n"
        f"{manifest['parameters']:,} parameters. Input: {input.kind} of shape {input.shape}.\n"
        f"Pretrained on: {provenance.get('pretrained_on', 'nothing (random weights)')}. "
        f"Seed: {provenance.get('seed', 'not recorded')}.\n\n"
        f"| layer (from the input up) | width |\n|---|---|\n{layers}\n\n"
        "```python\nfrom auxtasks.backbones import Backbone\n\n"
        'backbone = Backbone.from_pretrained("path/to/this/folder")\n```\n'
    )


def library_card(module: nn.Module, *, has_tokenizer: bool) -> str:
    """Show how transformers itself loads the folder of a module of its own.

    Example:
        >>> from torch import nn
        >>> "AutoTokenizer" in library_card(nn.Linear(1, 1), has_tokenizer=True)
        True
    """
    has_pooler = "add_pooling_layer" in inspect.signature(type(module)).parameters
    pooler = ", add_pooling_layer=False" if has_pooler else ""
    names, tokenizer = "AutoModel", ""
    if has_tokenizer:
        names, tokenizer = (
            "AutoModel, AutoTokenizer",
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n',
        )
    return (
        "\nWith transformers alone:\n\n"
        f"```python\nfrom transformers import {names}\n\n"
        f'model = AutoModel.from_pretrained("path/to/this/folder"{pooler})\n{tokenizer}```\n'
    )
