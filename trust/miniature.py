"""Recipes that train in a moment, and the sentences that they read: what tries whole commands runs these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from auxtasks.seeding import generator

__all__ = ["FACES", "LAYERS", "TEXTS", "write_lines"]

# With dropout or sampling: what is random inside a network has to go on where it was.
FACES: Final[Mapping[str, Any]] = {
    "name": "faces",
    "data": {"path": "builtin:drawn_faces", "options": {"people": 8, "photos": 4, "size": 20}, "holdout": 0.25},
    "backbone": {
        "name": "convnet",
        "arguments": {"size": 16, "widths": [8], "blocks": [1], "embedding": 8, "dropout": 0.4},
    },
    "task": {"name": "face_pairs", "photos": 2},
}
LAYERS: Final[Mapping[str, Any]] = {
    "name": "layers",
    "data": {"path": "builtin:digits", "options": {"split": "train"}, "holdout": 0.1},
    "backbone": {"name": "mlp", "arguments": {"size": 8, "hidden": [12, 8], "activation": "sigmoid"}},
    "task": {"name": "layer_rbm"},
}
TEXTS: Final[Mapping[str, Any]] = {
    "name": "texts",
    "tokenizer": {"kind": "wordpiece", "size": 120},
    "backbone": {
        "name": "transformers",
        "arguments": {
            "config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "intermediate_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.3},
            "length": 16,
        },
    },
    "task": {"name": "shuffled_sentences"},
}  # fmt: skip


def write_lines(place: Path, count: int = 240) -> Path:
    """Write sentences, one a line, that the file's name decides; return the file."""
    rng = generator(0, place.name)
    words = ["dog", "cat", "bird", "fox", "wolf", "mouse", "car", "train", "ship", "plane"]
    lines = [f"The {' '.join(rng.permutation(words)[:5])} {number % 7}." for number in range(count)]
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place
