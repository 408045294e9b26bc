"""What a `report.json` holds, checked when it is built and again when it is read.

Shots are integers here and strings in JSON, which has no other keys. Times are seconds, memory is bytes, and scores are
as measured: an accuracy is a fraction, never per cent.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError, model_validator

__all__ = [
    "SCHEMA_VERSION",
    "ChosenEntry",
    "Cost",
    "DepthEntry",
    "EstimateEntry",
    "Protocol",
    "Report",
    "TargetReport",
    "list_problems",
]

SCHEMA_VERSION = 1

Shot = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class _Checked(BaseModel):
    """Unknown keys are errors, and nothing can be changed after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Open(BaseModel):
    """Further keys are kept, so that a protocol can say more than is asked for."""

    model_config = ConfigDict(extra="allow", frozen=True)


class DepthEntry(_Checked):
    """A mean and its 95 % interval, null where a single draw of a single unit leaves no spread to see."""

    mean: FiniteFloat
    ci95: tuple[FiniteFloat, FiniteFloat] | None

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError(f"ci95 runs from {self.ci95[0]} down to {self.ci95[1]}")
        return self


class EstimateEntry(DepthEntry):
    """A mean, its interval, and one value a label draw."""

    values: list[FiniteFloat]


class ChosenEntry(_Open):
    """What was chosen before the test set was opened: the arm that is claimed, and its layer where it has one."""

    arm: str
    layer: str | None = None


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
    """

    shots: list[Shot] = Field(min_length=1)
    draws: Annotated[int, Field(ge=1)]
    classes: Count | None = None
    train_pool: Count | None = None
    validation_labels: Count
    test_items: Count
    resampling: str


class TargetReport(_Checked):
    """One target's results; see `transfer.report.TargetResults` for how they are made."""

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


class Cost(_Open):
    """What the run took; null where it was not measured."""

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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
