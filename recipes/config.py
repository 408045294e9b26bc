"""What a recipe may say: strict, with all problems at once. Imports no torch, so that the command line starts fast.

Configuration stops here. The packages below take plain arguments; `recipes.build` turns the one into the other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from auxtasks.errors import RecipeError

__all__ = [
    "Recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_summary",
    "recipe_text",
]

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PoolName = Literal["auto", "mean", "max", "grid", "flatten", "token"]
ArmName = Literal["scratch", "untrained", "raw", "frozen", "finetuned"]


class _Strict(BaseModel):
    """Unknown keys are errors, a string is no number, and neither is infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Source(_Strict):
    """Where pictures come from."""

    path: str | None = Field(default=None, description="a folder, a file, a Hub name, or builtin:NAME")
    kind: Literal["auto", "folder", "parquet", "csv", "json", "hub", "builtin"] = "auto"
    image: str = Field(default="image", description="the column of pictures")
    label: str = Field(default="label", description="the column that says who or what is shown")
    where: dict[str, str | int | float | bool] | None = Field(default=None, description="keep rows with these values")
    split: str | None = None
    options: dict[str, str | int | float | bool] | None = Field(default=None, description="arguments of a built-in")
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    on_error: Literal["raise", "skip"] = Field(default="raise", description="what to do about an unreadable picture")


class Alignment(_Strict):
    """Detect and align faces once, before anything else."""

    size: Positive = 160
    margin: Share = 0.2
    on_missing: Literal["keep", "skip", "raise"] = "keep"


class Data(Source):
    """What is pretrained on."""

    holdout: Share = Field(default=0.1, description="share of the people kept out of training, for validation")
    align: Alignment | None = None
    allow_unlabelled: bool = False


class Backbone(_Strict):
    """What is pretrained."""

    name: str = "convnet"
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict, description="of its builder in auxtasks.backbones, such as size"
    )


class Augment(_Strict):
    """See `auxtasks.data.augment.Augment`."""

    shift: Share = 0.1
    scale: Share = 0.18
    stretch: Share = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 11.0
    flip: Share = 0.5
    gamma: Share = 0.3
    gradient: Share = 0.3
    blur: Share = 0.3
    erase: Share = 0.3


class FacePairs(_Strict):
    """See `auxtasks.tasks.FacePairs`."""

    name: Literal["face_pairs"] = "face_pairs"
    loss: Literal["logistic", "contrastive", "triplet"] = "logistic"
    photos: Annotated[int, Field(ge=2)] = 4
    hardness: Annotated[float, Field(ge=0)] = 0.0
    margin: Annotated[float, Field(gt=0)] | None = None
    scale: Annotated[float, Field(gt=0)] = 10.0
    single_share: Share = 0.0
    favour: Share = 0.0
    augment: Augment = Augment()


class Training(_Strict):
    """How the backbone is pretrained. Steps, not minutes: minutes are reported."""

    steps: Positive = 1000
    batch_size: Positive = Field(default=128, description="of the global batch, over all processes")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_steps: NotNegative = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0
    accumulation: Positive = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu"] = "auto"
    workers: NotNegative = 1
    log_every: NotNegative = 50
    validate_every: NotNegative = 0
    checkpoint_every: NotNegative = 500
    keep_checkpoints: Positive = 2
    trackers: list[str] = Field(default_factory=list, description="names that Accelerate knows, such as tensorboard")


class Verification(_Strict):
    """Pairs of people that were never trained on, scored after pretraining."""

    pairs: str = Field(description="a file of pairs; a relative path is looked up beside data.path")
    protocol: str | None = None
    key: str = Field(default="file", description="the column of data that the pairs refer to")
    mirror: bool = True


class Stage(_Strict):
    """A stretch of fine-tuning: how many layers below the head train, null for all."""

    steps: Positive
    top_layers: NotNegative | None = None


class Tuning(_Strict):
    """How a network is trained on the few labels."""

    stages: list[Stage] = Field(default_factory=lambda: [Stage(steps=40, top_layers=1), Stage(steps=60)], min_length=1)
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [5e-4], min_length=1, description="the first is the default, more are searched"
    )
    depth_decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    batch_size: Positive = 64
    weight_decay: Annotated[float, Field(ge=0)] = 0.05

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


class Head(_Strict):
    """A classifier on frozen features."""

    name: Literal["prototype", "ridge", "logistic", "neighbors"]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Discriminants(_Strict):
    """Directions that tell pretraining identities apart, as further spaces for the heads."""

    components: Positive = 256
    shrinkage: Annotated[float, Field(gt=0)] = 1.0


def _default_heads() -> list[Head]:
    return [
        Head(name="prototype"),
        Head(name="prototype", options={"center": True}),
        Head(name="ridge", options={"alpha": 1.0, "scaling": "l2"}),
        Head(name="logistic", options={"C": 10.0, "scaling": "rms"}),
    ]


class Transfer(_Strict):
    """How the backbone is reused and evaluated; the same for all targets."""

    shots: list[Positive] = Field(default_factory=lambda: [1, 5], min_length=1)
    draws: Positive = 10
    test_per_class: Positive | None = None
    arms: Annotated[list[ArmName], Field(min_length=1)] = ["scratch", "untrained", "raw", "frozen", "finetuned"]
    claim: ArmName = "frozen"
    layers: dict[str, PoolName] | None = Field(default=None, description="layers to choose from; null takes all")
    heads: list[Head] = Field(default_factory=_default_heads, min_length=1)
    discriminants: Discriminants | None = Discriminants()
    mirror: bool = False
    tuning: Tuning = Field(default_factory=Tuning)
    scratch: Tuning = Field(default_factory=lambda: Tuning(stages=[Stage(steps=100)], learning_rates=[2e-3]))
    augment: Augment = Augment()
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    on_leak: Literal["raise", "report"] = "raise"

    @model_validator(mode="after")
    def _check(self) -> Transfer:
        if self.claim not in self.arms:
            raise ValueError(f'claim: the claimed arm "{self.claim}" is not among arms: {", ".join(self.arms)}')
        if sorted(set(self.shots)) != self.shots:
            raise ValueError(f"shots: different numbers in rising order, found {self.shots}")
        if self.tuning.steps != self.scratch.steps or len(self.tuning.learning_rates) != len(
            self.scratch.learning_rates
        ):
            raise ValueError(
                f"scratch: needs the same budget as tuning: {self.tuning.steps} steps and "
                f"{len(self.tuning.learning_rates)} learning rates, found {self.scratch.steps} and "
                f"{len(self.scratch.learning_rates)}"
            )
        return self


class Target(Source):
    """A data set with few labels."""


class Recipe(_Strict):
    """A whole run: pretrain, verify, reuse, evaluate, report."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    seed: NotNegative = 0
    data: Data
    backbone: Backbone = Backbone()
    task: FacePairs = FacePairs()
    training: Training = Training()
    verification: Verification | None = None
    transfer: Transfer = Field(default_factory=Transfer)
    targets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Target] = Field(default_factory=dict)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("recipes.configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name_or_file: str) -> str:
    """Return a recipe's YAML, by the name of a shipped recipe or the path of a file.

    Raises:
        RecipeError: neither; suggests the closest name.
    """
    if name_or_file in recipe_names():
        return resources.files("recipes.configs").joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_file)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError([f"{path}: not UTF-8 text: {error}"]) from error
    close = difflib.get_close_matches(name_or_file, recipe_names(), n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise RecipeError(
        [f"{name_or_file}: no recipe and no file of that name. Recipes: {', '.join(recipe_names())}.{hint}"]
    )


def recipe_summary(name: str) -> str:
    """Return a shipped recipe's description, on one line."""
    return str(_parse_yaml(recipe_text(name), name).get("description", ""))


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``key.sub=value`` overrides, and check all of it.

    Values are YAML: ``targets.att=null`` takes a target out, ``transfer.shots=[1,5]`` is a list.

    Raises:
        RecipeError: all problems at once.

    Example:
        >>> load_recipe("faces_demo", ["training.steps=3"]).training.steps
        3
    """
    value = _parse_yaml(recipe_text(name_or_file), name_or_file)
    if not isinstance(value, dict):
        raise RecipeError([f"{name_or_file}: a recipe is a mapping of keys, found {type(value).__name__}"])
    problems: list[str] = []
    for override in overrides:
        problem = _apply_override(value, override)
        problems += [problem] if problem else []
    if isinstance(value.get("targets"), dict | None):
        value["targets"] = {name: target for name, target in (value.get("targets") or {}).items() if target is not None}
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        # A value that fits none of several types is an error for each of them, described alike: said once.
        raise RecipeError([*problems, *dict.fromkeys(_describe(entry) for entry in error.errors())]) from error
    problems += [
        f"{key}: not given. Name a data set with {key}=PATH"
        + (f", or leave the target out with {key.removesuffix('.path')}=null" if key.startswith("targets.") else "")
        for key, source in [("data.path", recipe.data), *((f"targets.{n}.path", t) for n, t in recipe.targets.items())]
        if source.path is None
    ]
    if problems:
        raise RecipeError(problems)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as the number that it is (YAML 1.1 wants ``1.0e-3``), and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, as the base class does."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the base class says what is wrong with it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" is given twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError([f"{where}: not valid YAML: {' '.join(str(error).split())}"]) from error


def _apply_override(value: dict[str, Any], override: str) -> str | None:
    """Set one dotted key; return what is wrong with the override, or None."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"{override}: an override is key.sub=value"
    steps = key.split(".")
    at: Any = value
    for place, step in enumerate(steps[:-1]):
        if at.get(step) is None:
            at[step] = {}
        at = at[step]
        if not isinstance(at, dict):
            return f"{key}: {'.'.join(steps[: place + 1])} is a value, not a group of keys"
    try:
        at[steps[-1]] = _parse_yaml(text, key) if text else None
    except RecipeError as error:
        return error.problems[0]
    return None


# What pydantic adds to a place for each type that a value may have, and how it names that type in an error.
_SCALARS = {"str": "string", "int": "int", "float": "float", "bool": "bool"}


def _describe(entry: Mapping[str, Any]) -> str:
    """Turn pydantic's error into: dotted key, what was found, what is allowed, did you mean."""
    place, kind = entry["loc"], entry["type"]
    key = ".".join(str(step) for step in place) or "recipe"
    if kind == "extra_forbidden":
        allowed = sorted(_fields_at(place[:-1]))
        close = difflib.get_close_matches(str(place[-1]), allowed, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        return f"{key}: unknown key. Allowed here: {', '.join(allowed)}.{hint}"
    if kind == "missing":
        return f"{key}: required, not given"
    found = entry["input"]
    if place and place[-1] in _SCALARS and kind == f"{_SCALARS[str(place[-1])]}_type":
        return f"{'.'.join(map(str, place[:-1]))}: must be a text, a number or true or false, found {found!r}."
    if kind in ("model_type", "dict_type"):
        return f"{key}: must be a group of keys, found {found!r}."
    if kind == "value_error":  # of a validator here, whose message begins with a key
        return f"{key}.{entry['msg'].removeprefix('Value error, ')}."
    message, hint = entry["msg"], ""
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", message)
        close = difflib.get_close_matches(str(found), allowed, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    return f"{key}: {message[0].lower()}{message[1:]}{shown}.{hint}"


def _fields_at(place: Sequence[str | int]) -> list[str]:
    """Return the keys that are allowed at a place in a recipe."""
    at: Any = Recipe
    for step in place:
        at = _type_inside(at, step)
    return next((list(option.model_fields) for option in _options(at) if _is_model(option)), [])


def _type_inside(annotation: Any, step: str | int) -> Any:
    """Return the type of what is at a key or an index of a value of a type."""
    for option in _options(annotation):
        if get_origin(option) in (dict, list):
            return get_args(option)[-1]
        if _is_model(option) and step in option.model_fields:
            return option.model_fields[step].annotation
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the types in ``Model | None``; any other type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)
