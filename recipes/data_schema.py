"""What a recipe may say of data: sources, parts of them, and targets. Imports no torch, as `recipes.schema`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "IN_WORDS", "Data", "Line", "MinimalPairs", "Name", "NotNegative", "Part", "PoolName", "Positive", "Rate",
    "Scalar", "Seed", "Share", "Source", "Strength", "Strict", "Target", "TargetName", "Weight",
]  # fmt: skip

# No count or number that means something is larger; a slip of the keyboard is.
_MOST, _LARGEST = 10**9, 1e6
_LARGEST_INTEGER = 2**63 - 1  # of a column

Positive = Annotated[int, Field(ge=1, le=_MOST)]
NotNegative = Annotated[int, Field(ge=0, le=_MOST)]
Seed = Annotated[int, Field(ge=0, le=_LARGEST_INTEGER)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=_LARGEST)]
Strength = Annotated[float, Field(gt=0, le=_LARGEST)]
Rate = Annotated[float, Field(gt=0, le=100)]
PoolName = Literal["auto", "mean", "max", "mean_max", "grid", "flatten", "token"]

# Folders are called so: neither a path nor hidden.
_NAME, _TARGET_NAME, _LINE = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", r"^[A-Za-z0-9][A-Za-z0-9_-]*$", r"^.*\S.*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=100)]
TargetName = Annotated[str, Field(pattern=_TARGET_NAME, max_length=100)]
Line = Annotated[str, Field(pattern=_LINE, max_length=4096)]
IN_WORDS = {
    _NAME: "letters, digits, dots, _ and -, the first a letter or a digit",
    _TARGET_NAME: "letters, digits, _ and -, the first a letter or a digit",
    _LINE: "one line that is not blank",
}


def _storable(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("not_finite", "input should be a finite number")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise PydanticCustomError("too_large", "input should be a number that 64 bits hold")
    return value


Scalar = Annotated[str | int | float | bool, BeforeValidator(_storable)]


class Strict(BaseModel):
    """Unknown keys are errors, a string is no number, and neither is infinity.

    Example:
        >>> from pydantic import ValidationError
        >>> class Photo(Strict):
        ...     size: int = 32
        >>> Photo(size=64).size
        64
        >>> try:
        ...     Photo(size="64", colour=True)
        ... except ValidationError as error:
        ...     print([(entry["loc"], entry["type"]) for entry in error.errors()])
        [(('size',), 'int_type'), (('colour',), 'extra_forbidden')]
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Source(Strict):
    """Where pictures, texts or vectors come from, one a row, or how they compare: pairs, or lists with grades.

    Example:
        >>> Source(path="reviews.csv", text="body", where={"language": "en"}).label
        'label'
        >>> pairs = Source(path="answers.jsonl", holds="pairs", prompt="question")
        >>> pairs.chosen, pairs.rejected, pairs.prompt
        ('chosen', 'rejected', 'question')
    """

    path: Line | None = Field(default=None, description="a folder, a file, a Hub name, or builtin:NAME")
    kind: Literal["auto", "folder", "parquet", "csv", "json", "text", "svmlight", "hub", "builtin"] = "auto"
    image: Line = Field(default="image", description="the column of pictures")
    text: Line = Field(default="text", description="the column of texts")
    features: Line = Field(default="features", description="the column of vectors")
    label: Line = Field(
        default="label", description="the column that says who or what it is; of lists, the grade: more is better"
    )
    holds: Literal["items", "pairs", "lists"] = Field(
        default="items", description="what a row is: an item, a pair of a better and a worse one, an item of a query"
    )
    qid: Line = Field(default="qid", description="of lists, the column that says which query a row belongs to")
    chosen: Line = Field(default="chosen", description="of pairs, the column of the better items")
    rejected: Line = Field(default="rejected", description="of pairs, the column of the worse items")
    prompt: Line | None = Field(default=None, description="of pairs of texts, the column of what both answer")
    margin: Line | None = Field(default=None, description="of pairs, the column of the margin that each asks for")
    where: dict[Line, Scalar] | None = Field(default=None, description="keep rows with these values")
    split: Line | None = None
    options: dict[Line, Scalar] | None = Field(
        default=None, description="arguments of a built-in, or of an svmlight file"
    )
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    on_error: Literal["raise", "skip"] = Field(default="raise", description="about an unreadable picture or empty text")


class Part(Strict):
    """Another part of a source, to validate or test on: what is not said here is as for the source itself.

    Of `where` and `options` single keys can be said otherwise; null takes away what the source says.
    """

    path: Line | None = None
    split: Line | None = None
    where: dict[Line, Scalar] | None = None
    options: dict[Line, Scalar] | None = None

    @model_validator(mode="after")
    def _check(self) -> Part:
        if not self.model_fields_set:
            raise ValueError("split: a part differs from its source in path, split, where or options, found none")
        return self

    @model_serializer(mode="wrap")
    def _said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not said: written out as null, it would take away what the source says."""
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}

    @property
    def lacks_path(self) -> bool:
        """Whether it has a path of its own that nobody has told yet."""
        return self.model_fields_set == {"path"} and self.path is None

    def changes(self, source: Source) -> dict[str, Any]:
        """Return the values that are otherwise in this part than in its source."""
        merged = {
            key: {**(getattr(source, key) or {}), **value} if isinstance(value, dict) else value
            for key, value in self.model_dump().items()
            if key != "path" or value is not None  # without a path there is no data to take a part of
        }
        return {key: value for key, value in merged.items() if value != getattr(source, key)}


class Alignment(Strict):
    """Detect and align faces once, before anything else."""

    size: Annotated[int, Field(ge=1, le=4096)] = Field(default=160, description="in pixels")
    margin: Share = 0.2
    on_missing: Literal["keep", "skip", "raise"] = "keep"


class Data(Source):
    """What is pretrained on.

    Example:
        >>> photos = Data(path="photos", holdout=0.2)
        >>> photos.label, photos.fit, photos.holdout
        ('label', 'stretch', 0.2)
        >>> ranked = Data(path="queries", holds="lists", split="train", test=Part(split="test"))
        >>> ranked.test.changes(ranked)
        {'split': 'test'}
    """

    holdout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of the people, sentences or pictures kept out for validation"
    )
    validation: Part | None = Field(default=None, description="what to validate on, instead of a share")
    test: Part | None = Field(default=None, description="of rankings, what the scorer is tested on once")
    streaming: bool = Field(default=False, description="read texts as they are needed, for what does not fit a disk")
    validation_items: Positive | None = Field(default=None, description="validate on so many of them at most")
    align: Alignment | None = None
    allow_unlabelled: bool = False


class MinimalPairs(Strict):
    """Pairs of a good and a bad sentence, scored after pretraining.

    Example:
        >>> from pydantic import ValidationError
        >>> MinimalPairs(path="blimp").limit is None  # all are scored
        True
        >>> try:
        ...     MinimalPairs(path="blimp", limit=0)
        ... except ValidationError as error:
        ...     print(error.errors()[0]["msg"])
        Input should be greater than or equal to 1
    """

    path: Line | None = Field(default=None, description="a file, a folder or a Hub name")
    split: Line | None = None
    limit: Positive | None = Field(default=None, description="at most so many pairs, spread evenly")


class Target(Source):
    """A data set with few labels."""

    test: Part | None = Field(default=None, description="what is tested on; null tests on what is not drawn")
    validation: Part | None = Field(
        default=None, description="labelled items that choices are made on; null makes them inside the few labels"
    )
    validation_items: Positive | None = Field(
        default=None, description="set so many random items aside, to make choices on, instead of a validation part"
    )
    metric: Literal["accuracy", "matthews"] = "accuracy"
    shots: Annotated[list[Positive], Field(min_length=1)] | None = Field(
        default=None, description="labels a class; null takes those of transfer"
    )
    room: bool = Field(
        default=True, description="decode pictures a quarter larger than the backbone takes them, to be shifted in"
    )
    layers: Annotated[dict[Line, PoolName], Field(min_length=1)] | None = Field(
        default=None, description="layers to choose from; null takes those of transfer"
    )
    at_each_depth: bool = Field(
        default=False, description="evaluate the network cut at each of these layers in turn, as targets NAME-LAYER"
    )
