"""What fine-tuning on all labels of a target came to, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["finetune_lines"]


def finetune_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what `finetune_run` gave as lines for a terminal.

    Example:
        >>> found = {"target": "t", "labels": 60, "items": "pictures", "classes": 5, "layer": "stage1", "pool": "mean",
        ...          "learning_rate": 1e-3, "stages": [{"steps": 40}, {"steps": 60}], "cost": {"seconds": 2.04},
        ...          "training_accuracy": 0.95, "validation": None, "metric": "accuracy", "notes": [],
        ...          "test": {"items": 200, "mean": 0.8125, "ci95": [0.75, 0.875]}}
        >>> print("\\n".join(finetune_lines(found)))
        t: 60 labelled pictures, 5 classes
        head on stage1 (mean), learning rate 0.001, 100 steps in 2 stages, 2.0 s; fits 95.0% of what it last trained on
        accuracy on 200 test items: 0.812 [0.750, 0.875]
    """
    lines = [
        f"{found['target']}: {found['labels']:,} labelled {found['items']}, {found['classes']} classes",
        f"head on {found['layer']} ({found['pool']}), learning rate {found['learning_rate']:g}, "
        f"{sum(stage['steps'] for stage in found['stages'])} steps in {len(found['stages'])} stages, "
        f"{found['cost']['seconds']:.1f} s; fits {found['training_accuracy']:.1%} of what it last trained on",
    ]
    if found["validation"] is not None:
        tried = ", ".join(f"{one['accuracy']:.3f} at {one['learning_rate']:g}" for one in found["validation"]["tried"])
        lines.append(f"accuracy on {found['validation']['items']:,} validation items: {tried}")
    if found["test"] is not None:
        test = found["test"]
        low, high = test["ci95"]
        lines.append(f"{found['metric']} on {test['items']:,} test items: {test['mean']:.3f} [{low:.3f}, {high:.3f}]")
    return [*lines, *(f"note: {note}" for note in found["notes"])]
