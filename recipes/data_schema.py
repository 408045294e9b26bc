"""What a recipe may say of data: sources, parts of them, and targets. Imports no torch, as `recipes.schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

__all__ = [
    "Data", "MinimalPairs", "NotNegative", "Part", "PoolName", "Positive", "Share", "Source", "Strict", "Target",
    "TargetName",
]  # fmt: skip

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PoolName = Literal["auto", "mean", "max", "mean_max", "grid", "flatten", "token"]
TargetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Strict(BaseModel):
    """Unknown keys are errors, a string is no number, and neither is infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Source(Strict):
    """Where pictures, texts or vectors come from, one a row, or how they compare: pairs, or lists with grades."""

    path: str | None = Field(default=None, description="a folder, a file, a Hub name, or builtin:NAME")
    kind: Literal["auto", "folder", "parquet", "csv", "json", "text", "svmlight", "hub", "builtin"] = "auto"
    image: str = Field(default="image", description="the column of pictures")
    text: str = Field(default="text", description="the column of texts")
    features: str = Field(default="features", description="the column of vectors")
    label: str = Field(
        default="label", description="the column that says who or what it is; of lists, the grade: more is better"
    )
    holds: Literal["items", "pairs", "lists"] = Field(
        default="items", description="what a row is: an item, a pair of a better and a worse one, an item of a query"
    )
    qid: str = Field(default="qid", description="of lists, the column that says which query a row belongs to")
    chosen: str = Field(default="chosen", description="of pairs, the column of the better items")
    rejected: str = Field(default="rejected", description="of pairs, the column of the worse items")
    prompt: str | None = Field(default=None, description="of pairs of texts, the column of what both answer")
    margin: str | None = Field(default=None, description="of pairs, the column of the margin that each asks for")
    where: dict[str, str | int | float | bool] | None = Field(default=None, description="keep rows with these values")
    split: str | None = None
    options: dict[str, str | int | float | bool] | None = Field(
        default=None, description="arguments of a built-in, or of an svmlight file"
    )
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    on_error: Literal["raise", "skip"] = Field(default="raise", description="about an unreadable picture or empty text")


class Part(Strict):
    """Another part of a source, to validate or test on: what is not said here is as for the source itself.

    Of `where` and `options` single keys can be said otherwise; null takes away what the source says.
    """

    path: str | None = None
    split: str | None = None
    where: dict[str, str | int | float | bool] | None = None
    options: dict[str, str | int | float | bool] | None = None

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

    size: Positive = 160
    margin: Share = 0.2
    on_missing: Literal["keep", "skip", "raise"] = "keep"


class Data(Source):
    """What is pretrained on."""

    holdout: Share = Field(
        default=0.1, description="share of the people, sentences or pictures kept out for validation"
    )
    validation: Part | None = Field(default=None, description="what to validate on, instead of a share")
    test: Part | None = Field(default=None, description="of rankings, what the scorer is tested on once")
    streaming: bool = Field(default=False, description="read texts as they are needed, for what does not fit a disk")
    validation_items: Positive | None = Field(default=None, description="validate on so many of them at most")
    align: Alignment | None = None
    allow_unlabelled: bool = False


class MinimalPairs(Strict):
    """Pairs of a good and a bad sentence, scored after pretraining."""

    path: str | None = Field(default=None, description="a file, a folder or a Hub name")
    split: str | None = None
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
    layers: Annotated[dict[str, PoolName], Field(min_length=1)] | None = Field(
        default=None, description="layers to choose from; null takes those of transfer"
    )
    at_each_depth: bool = Field(
        default=False, description="evaluate the network cut at each of these layers in turn, as targets NAME-LAYER"
    )
