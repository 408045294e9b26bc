"""What a recipe may say: strict, in the words of the field. Imports no torch, so that the command line starts fast.

Configuration stops here. The packages below take plain arguments; `recipes.build` turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from recipes.data_schema import Data, MinimalPairs, Name, Part, Seed, Source, Strict, Target, TargetName
from recipes.task_schema import (
    Augment,
    Corruptions,
    FacePairs,
    LayerAutoencoder,
    LayerRBM,
    Layerwise,
    MaxMarginRanking,
    ReadyMade,
    ShuffledSentences,
    Task,
)
from recipes.training_schema import Backbone, Tokenizer, Training, Verification
from recipes.transfer_schema import Transfer, Tuning

__all__ = [
    "Augment",
    "Corruptions",
    "FacePairs",
    "LayerAutoencoder",
    "LayerRBM",
    "Layerwise",
    "MaxMarginRanking",
    "MinimalPairs",
    "Part",
    "ReadyMade",
    "Recipe",
    "ShuffledSentences",
    "Source",
    "Target",
    "Tokenizer",
    "Tuning",
]


class Recipe(Strict):
    """A whole run: pretrain, verify, reuse, evaluate, report.

    Example:
        >>> from pydantic import ValidationError
        >>> friends = Target(path="friends", shots=[1, 5])
        >>> recipe = Recipe(name="mine", data=Data(path="photos"), targets={"friends": friends})
        >>> recipe.task.name, recipe.training.steps, recipe.targets["friends"].metric
        ('face_pairs', 1000, 'accuracy')
        >>> try:
        ...     Recipe(name="mine", tokenizer=Tokenizer())
        ... except ValidationError as error:
        ...     print(error.errors()[0]["msg"])
        Value error, tokenizer: not for the task face_pairs; leave it out
    """

    name: Name
    description: Annotated[str, Field(max_length=10_000)] = ""
    seed: Seed = 0
    data: Data = Data()
    backbone: Backbone = Backbone()
    tokenizer: Tokenizer | None = None
    task: Task = FacePairs()
    training: Training = Training()
    verification: Verification | None = None
    minimal_pairs: dict[TargetName, MinimalPairs] = Field(default_factory=dict)
    transfer: Transfer = Field(default_factory=Transfer)
    targets: dict[TargetName, Target] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        problems = _problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _problems(recipe: Recipe) -> list[str]:
    """Return what does not fit together though each value is right; each a line that begins with a key."""
    return [*_misplaced(recipe), *_unfit(recipe), *_targets(recipe), *_unparted(recipe)]


def _reads_texts(recipe: Recipe) -> bool:
    """Whether the backbone takes texts."""
    ranking = isinstance(recipe.task, MaxMarginRanking) and recipe.backbone.family == "transformers"
    return isinstance(recipe.task, ShuffledSentences) or ranking


def _may_read_texts(recipe: Recipe) -> bool:
    """Whether the backbone takes texts, or is not known to take anything else."""
    return _reads_texts(recipe) or isinstance(recipe.task, ReadyMade)


def _misplaced(recipe: Recipe) -> Iterator[str]:
    """Say what belongs to another task than the recipe's."""
    data, task = recipe.data, recipe.task
    of_faces = {"data.align": data.align, "verification": recipe.verification}
    unlabelled = {"data.allow_unlabelled": data.allow_unlabelled or None}
    of_texts = {"tokenizer": recipe.tokenizer, "minimal_pairs": recipe.minimal_pairs or None}
    validation, streaming = {"data.validation": data.validation}, {"data.streaming": data.streaming or None}
    misplaced: dict[str, object] = {}
    if isinstance(task, ReadyMade):
        misplaced |= {**of_texts, **of_faces, "data": None if data == Data() else data}
        misplaced |= {"training": None if _trains_nothing(recipe.training) else recipe.training}
    elif isinstance(task, MaxMarginRanking):
        misplaced |= {**({} if _reads_texts(recipe) else {**of_texts, **streaming}), **of_faces, **unlabelled}
        misplaced |= {
            "data.fit": None if data.fit == "stretch" else data.fit,
            "data.on_error": None if data.on_error == "raise" else data.on_error,
        }
    elif isinstance(task, ShuffledSentences):
        misplaced |= {"data.test": data.test, **of_faces}
    else:
        misplaced |= {**of_texts, **validation, **streaming, "data.test": data.test}
        misplaced |= {**of_faces, **unlabelled} if isinstance(task, Layerwise) else {}
    for key, value in misplaced.items():
        if value is not None:
            yield f"{key}: not for the task {task.name}; leave it out"


def _trains_nothing(training: Training) -> bool:
    """Whether nothing is said of training but where it computes."""
    return training == Training(device=training.device)


def _unfit(recipe: Recipe) -> Iterator[str]:
    if isinstance(recipe.task, MaxMarginRanking):
        yield from _unfit_for_ranking(recipe, recipe.task)
    elif recipe.data.holds != "items":
        yield f"data.holds: {recipe.data.holds} are for the task max_margin_ranking, found {recipe.task.name}"
    if _reads_texts(recipe):
        yield from _unfit_for_texts(recipe)
    elif recipe.data.validation_items is not None and not isinstance(recipe.task, MaxMarginRanking):
        yield "data.validation_items: for texts; the share of people, or of pictures, held out is data.holdout"
    if recipe.transfer.length is not None and not _may_read_texts(recipe):
        yield "transfer.length: for texts, in tokens; leave it out"
    if recipe.backbone.standardize and (recipe.backbone.name != "mlp" or "size" in recipe.backbone.arguments):
        yield "backbone.standardize: for vectors, whose backbone is an mlp without a size; leave it out"
    given = recipe.backbone.arguments or recipe.backbone.standardize or recipe.tokenizer
    if recipe.backbone.pretrained is not None and given:
        yield (
            "backbone.pretrained: a network that is there has its arguments, its scale and its tokenizer; leave "
            "arguments, standardize and tokenizer out"
        )


def _unfit_for_ranking(recipe: Recipe, task: MaxMarginRanking) -> Iterator[str]:
    data = recipe.data
    if task.sentences is None and task.items is None:
        if data.holds == "items":
            yield (
                "data.holds: labelled rankings are pairs (chosen, rejected) or lists (qid, label), found items; or say "
                "task.sentences or task.items, to rank sentences, vectors or pictures above corruptions of them"
            )
        if data.streaming:
            yield "data.streaming: labelled rankings are read as a whole; leave it out"
        if recipe.minimal_pairs and _reads_texts(recipe):
            yield "minimal_pairs: with task.sentences; labelled rankings are tested on a part of theirs, data.test"
        return
    if task.sentences is not None and task.items is not None:
        yield "task.items: there are task.sentences already; leave one of them out"
    if task.sentences is not None and not _reads_texts(recipe):
        yield f"task.sentences: needs a backbone of transformers, found {recipe.backbone.name}"
    if task.items is not None and _reads_texts(recipe):
        yield "task.items: vectors or pictures, and this backbone takes texts: say task.sentences"
    if data.holds != "items":
        yield f"data.holds: what is corrupted are items, found {data.holds}"
    if data.test is not None:
        yield "data.test: for labelled rankings; what is learnt from corruptions is tested on targets"
    if task.list_size is not None:
        yield "task.list_size: for labelled rankings; leave it out"


def _unfit_for_texts(recipe: Recipe) -> Iterator[str]:
    data = recipe.data
    has_its_own = "name" in recipe.backbone.arguments or recipe.backbone.name.startswith("hf/")
    if recipe.tokenizer is None and not has_its_own and recipe.backbone.pretrained is None:
        yield "tokenizer: required for a network from a config, such as {kind: wordpiece, size: 8192}"
    if recipe.transfer.mirror:
        yield "transfer.mirror: texts have no mirror image; leave it out"
    if recipe.backbone.family != "transformers":
        yield f"backbone.name: {recipe.task.name} needs a backbone of transformers, found {recipe.backbone.name}"
    if not data.streaming:
        return
    if data.validation is None:
        yield "data.validation: required with data.streaming, since no share can be held out of a stream"
    if data.where is not None or data.options is not None:
        yield "data.where, data.options: a stream is read as it is; leave them out"
    if data.kind in ("folder", "csv", "builtin", "svmlight"):
        yield f"data.kind: {data.kind} does not stream; parquet, JSON lines, text and Hub data sets do"
    if recipe.training.workers > 1:
        yield f"training.workers: a stream has one reader, so at most 1, found {recipe.training.workers}"


def _targets(recipe: Recipe) -> Iterator[str]:
    for name, target in recipe.targets.items():
        if target.validation_items and target.validation:
            yield f"targets.{name}.validation_items: there is a validation part already; leave one of them out"
        if target.metric == "matthews" and target.test is None:
            yield f"targets.{name}.metric: matthews needs a test set of its own (test)"
        if target.holds == "lists":
            yield f"targets.{name}.holds: a target is items or pairs, found lists"
        if target.holds == "pairs" and target.test is None:
            yield f"targets.{name}.test: required for pairs, since those left over share their items with the labelled"


def _unparted(recipe: Recipe) -> Iterator[str]:
    """Say where what is validated or tested on would be what is trained on, or one be the other."""
    data = recipe.data
    owners: dict[str, tuple[Source, Part | None, Part | None]] = {"data": (data, data.test, data.validation)}
    owners |= {f"targets.{name}": (target, target.test, target.validation) for name, target in recipe.targets.items()}
    for owner, (source, test, validation) in owners.items():
        if test and validation and test.changes(source) == validation.changes(source) != {}:
            yield f"{owner}.validation: the same data as the test; say what is different of it"
        for key, part in (("test", test), ("validation", validation)):
            if part is not None and not part.lacks_path and not part.changes(source):
                keys = ", ".join(Part.model_fields)
                yield f"{owner}.{key}: the same data again; say what is different of it ({keys}), or leave it out"
