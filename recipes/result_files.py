"""What a run keeps of its results besides the report, in JSON: read back only as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from auxtasks.checkpoint import read_object
from auxtasks.errors import CheckpointError
from transfer.report_schema import list_problems

__all__ = ["FineTuned", "Pretrained", "Ranked", "read_result"]

Count: TypeAlias = Annotated[int, Field(ge=0)]
Ends: TypeAlias = tuple[FiniteFloat, FiniteFloat]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class Pretrained(_Part):
    """``pretrain.json``: what a finished pretraining measured and cost, and what a reader should know."""

    metrics: dict[str, FiniteFloat]
    cost: dict[str, FiniteFloat]
    notes: list[str]


class _Mean(_Part):
    mean: FiniteFloat
    ci95: Ends | None


class Ranked(_Part):
    """``ranking.json``: the test of a run that ranks, by ranker and metric.

    Example:
        >>> sorted(Ranked.model_fields)
        ['noun', 'paired', 'queries', 'rankers']
    """

    queries: Count
    noun: str
    rankers: dict[str, dict[str, _Mean]]
    paired: dict[str, dict[str, _Mean]]


class _Stage(_Part):
    steps: Count


class _Cost(_Part):
    seconds: FiniteFloat


class _Tried(_Part):
    learning_rate: FiniteFloat
    accuracy: FiniteFloat


class _Validated(_Part):
    items: Count
    tried: list[_Tried]


class _Tested(_Part):
    items: Count
    mean: FiniteFloat
    ci95: Ends


class FineTuned(_Part):
    """``finetuned/TARGET.json``: what fine-tuning on all labels of a target came to.

    Example:
        >>> len(FineTuned.model_fields)
        14
    """

    target: str
    metric: str
    items: str
    classes: Count
    labels: Count
    layer: str
    pool: str
    learning_rate: FiniteFloat
    stages: list[_Stage]
    training_accuracy: FiniteFloat
    validation: _Validated | None
    test: _Tested | None
    cost: _Cost
    notes: list[str]


def read_result(file: Path, kind: type[BaseModel], remedy: str) -> dict[str, Any]:
    """Read a result's file.

    Args:
        file: where it is.
        kind: what it must hold.
        remedy: what to do where it does not.

    Raises:
        CheckpointError: it is missing, damaged, or of another version; lists all problems.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "pretrain.json"
        ...     _ = file.write_text('{"metrics": {"loss": 0.5}, "cost": {}, "notes": []}')
        ...     print(read_result(file, Pretrained, "Pretrain again."))
        ...     _ = file.write_text('{"metrics": {"loss": "low"}, "cost": {}, "notes": []}')
        ...     try:
        ...         read_result(file, Pretrained, "Pretrain again.")
        ...     except CheckpointError as error:
        ...         print(str(error).rpartition("/")[2])
        {'metrics': {'loss': 0.5}, 'cost': {}, 'notes': []}
        pretrain.json is damaged, or of another version:
        metrics.loss: Input should be a valid number (found 'low')
        Pretrain again.
    """
    found = read_object(file)
    try:
        kind.model_validate_json(json.dumps(found))
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged, or of another version:\n{list_problems(error)}\n{remedy}") from error
    return found
