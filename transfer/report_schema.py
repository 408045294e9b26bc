"""What a `report.json` holds, checked when it is built and again when it is read.

Shots are integers here and strings in JSON, which has no other keys. Times are seconds, memory is bytes, and scores are
as measured: an accuracy is a fraction, never per cent.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    computed_field,
    model_validator,
)

from transfer.crossing import Crossing, chance_level, crossing_point, failed_share

__all__ = [
    "SCHEMA_VERSION",
    "ChosenEntry",
    "Cost",
    "CrossingEntry",
    "DepthEntry",
    "EstimateEntry",
    "Protocol",
    "Report",
    "TargetReport",
    "list_problems",
]

SCHEMA_VERSION = 1

_CROSSING_ARMS = ("frozen", "finetuned")  # better with few labels, better with many

Shot = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class _Checked(BaseModel):
    """Unknown keys are errors, and nothing can be changed after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Open(BaseModel):
    """Further keys are kept, so that a protocol can say more than is asked for."""

    model_config = ConfigDict(extra="allow", frozen=True)


class DepthEntry(_Checked):
    """A mean and its 95 % interval, null where a single draw of a single unit leaves no spread to see.

    Example:
        >>> DepthEntry(mean=0.85, ci95=None).mean
        0.85
    """

    mean: FiniteFloat
    ci95: tuple[FiniteFloat, FiniteFloat] | None

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError(f"ci95 runs from {self.ci95[0]} down to {self.ci95[1]}")
        return self


class EstimateEntry(DepthEntry):
    """A mean, its interval, and one value a label draw.

    Example:
        >>> entry = EstimateEntry(mean=0.85, ci95=(0.8, 0.9), values=[0.83, 0.87])
        >>> entry.model_dump(mode="json")
        {'mean': 0.85, 'ci95': [0.8, 0.9], 'values': [0.83, 0.87]}
    """

    values: list[FiniteFloat]


class ChosenEntry(_Open):
    """What was chosen before the test set was opened: the arm that is claimed, and its layer where it has one.

    Example:
        >>> ChosenEntry(arm="frozen", layer="stage4").layer
        'stage4'
    """

    arm: str
    layer: str | None = None


class CrossingEntry(_Checked):
    """From how many labels a class on one arm stays better than another; see `transfer.crossing.Crossing`.

    Attributes:
        low: the arm for few labels.
        high: the arm for many.
        at: 0 where `high` is better at every number that was measured, null where it is not at the largest.
        ci95: over label draws, its ends as `at`; null for a single draw.

    Example:
        >>> from transfer.crossing import Crossing
        >>> never = Crossing(low="frozen", high="finetuned", at=float("inf"), ci95=None, shots=(1, 5))
        >>> print(CrossingEntry.of(never).at)
        None
    """

    low: str
    high: str
    at: FiniteFloat | None
    ci95: tuple[FiniteFloat | None, FiniteFloat | None] | None

    @classmethod
    def of(cls, found: Crossing) -> CrossingEntry:
        """Return a crossing as JSON can hold it: null for infinity."""
        low, high = found.ci95 or (0.0, math.inf)
        ci95 = None if found.ci95 is None else (_finite(low), _finite(high))
        return cls(low=found.low, high=found.high, at=_finite(found.at), ci95=ci95)


class Protocol(_Open):
    """How the numbers came about.

    Attributes:
        shots: labels a class, one entry a column of the report.
        draws: label draws for each number of shots.
        classes: classes of the target, null where it has none.
        train_pool: items that labels were drawn from.
        validation_labels: labels outside the support that choices used; 0 when all choices were made inside it.
        test_items: items that were scored.
        resampling: what the intervals resample.

    Example:
        >>> Protocol(shots=[1, 5], draws=10, classes=4, validation_labels=0, test_items=200, resampling="draws").classes
        4
    """

    shots: list[Shot] = Field(min_length=1)
    draws: Annotated[int, Field(ge=1)]
    classes: Count | None = None
    train_pool: Count | None = None
    validation_labels: Count
    test_items: Count
    resampling: str


class TargetReport(_Checked):
    """One target's results; see `transfer.report.TargetResults` for how they are made.

    Failed runs and the crossing are derived from the draws' scores whenever they are asked for, and written with the
    rest: what a file says of them is not read back, and so cannot deny the scores.

    Example:
        >>> from transfer.report import TargetResults, build_report
        >>> arms = {"frozen": {5: [[0.9, 0.8], [0.2, 0.3]]}}
        >>> protocol = {"shots": [5], "draws": 2, "classes": 2, "validation_labels": 0, "test_items": 40}
        >>> report: Report = build_report("demo", 0, {"digits": TargetResults(arms, protocol)})
        >>> target: TargetReport = report.targets["digits"]
        >>> target.chance, target.failed_runs["frozen"][5]
        (0.5, 0.5)
    """

    metric: str
    higher_is_better: bool
    protocol: Protocol
    arms: dict[str, dict[Shot, EstimateEntry]] = Field(min_length=1)
    paired: dict[str, dict[Shot, EstimateEntry]]
    depth: dict[Shot, dict[str, DepthEntry]]
    chosen: dict[Shot, ChosenEntry]

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        used = {shot for by_shot in [*self.arms.values(), *self.paired.values()] for shot in by_shot}
        unplanned = sorted((used | {*self.depth} | {*self.chosen}) - {*self.protocol.shots})
        if unplanned:
            raise ValueError(f"shots {unplanned} are not among protocol.shots {self.protocol.shots}")
        unknown = sorted({choice.arm for choice in self.chosen.values()} - {*self.arms})
        if unknown:
            raise ValueError(f"chosen names the arms {unknown}, there are {list(self.arms)}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_derived(cls, found: object) -> object:
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if key not in ("failed_runs", "crossing")}
        return found

    @property
    def chance(self) -> float | None:
        """What guessing gets, or None where that is not known."""
        return chance_level(self.metric, self.protocol.classes)

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def failed_runs(self) -> dict[str, dict[Shot, float]]:
        """Arm to shots to the share of draws that are not above chance; empty where chance is not known."""
        chance = self.chance
        if chance is None:
            return {}
        return {
            arm: {
                shot: failed_share(entry.values, chance, higher_is_better=self.higher_is_better)
                for shot, entry in by_shot.items()
            }
            for arm, by_shot in self.arms.items()
        }

    @computed_field  # type: ignore[prop-decorator]
    @property
    def crossing(self) -> CrossingEntry | None:
        """From where on fine-tuning beats the frozen network; None unless both have the same draws at two numbers."""
        low, high = (
            {shot: self._by_draw(entry.values) for shot, entry in self.arms.get(arm, {}).items()}
            for arm in _CROSSING_ARMS
        )
        shared = low.keys() & high.keys()
        if len(shared) < 2 or len({len(arm[shot]) for arm in (low, high) for shot in shared}) > 1:
            return None
        found = crossing_point(low, high, names=_CROSSING_ARMS, higher_is_better=self.higher_is_better)
        return CrossingEntry.of(found)

    def _by_draw(self, values: list[float]) -> list[float]:
        """Return one score a label draw: pretraining seeds share the draws, and are no further ones."""
        draws = self.protocol.draws
        if len(values) <= draws or len(values) % draws:
            return values
        return [fmean(values[draw::draws]) for draw in range(draws)]


class Cost(_Open):
    """What the run took; null where it was not measured.

    Example:
        >>> Cost(seconds=12.5, samples_per_second=800.0).seconds
        12.5
    """

    seconds: FiniteFloat | None = None
    samples_per_second: FiniteFloat | None = None
    peak_memory_bytes: Count | None = None


class Report(_Open):
    """The whole of `report.json`.

    Attributes:
        schema_version: "schema" in JSON.
        recipe: name of the recipe.
        seed: of the run.
        targets: by name.
        pretrain: metric of the pretraining task to its value.
        cost: of the run.
        versions: of Python and the packages.
        pretraining_seeds: how many backbones were pretrained; below 3 the verdicts hold for this backbone only.
        claim: what was claimed before the test set was opened, in words.
        notes: what a reader should know, such as conversions of the inputs and leaks that were looked for.
        inputs: where the data and the backbone came from.
        pictures: of the pretraining, such as filters: what each shows, and its file beside the report.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    recipe: str
    seed: int
    targets: dict[str, TargetReport] = Field(min_length=1)
    pretrain: dict[str, FiniteFloat]
    cost: Cost
    versions: dict[str, str]
    pretraining_seeds: Count = 1
    claim: str = ""
    notes: list[str] = []
    inputs: dict[str, JsonValue] = {}
    pictures: dict[str, str] = {}


def list_problems(error: ValidationError) -> str:
    """Return all problems, one line each, with dotted keys.

    Example:
        >>> try:
        ...     Cost(seconds="soon")
        ... except ValidationError as error:
        ...     print(list_problems(error))
        seconds: Input should be a valid number, unable to parse string as a number (found 'soon')
    """
    return "\n".join(
        f"{'.'.join(map(str, problem['loc'])) or 'report'}: {problem['msg']} (found {_short(problem['input'])})"
        for problem in error.errors()
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
