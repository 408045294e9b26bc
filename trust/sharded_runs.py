"""Trains each task twice in as many processes as there are, whole and dealt out; writes how far the two are apart.

``torchrun --nproc_per_node 2 trust/sharded_runs.py FOLDER [CASE ...]``, with the repository's root on the path.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from auxtasks.backbones import Backbone, convnet, mlp, timm_backbone, transformers
from auxtasks.data import train_tokenizer
from auxtasks.data.loaders import Feed
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, LabelledQueries, MaxMarginRanking, ShuffledSentences
from auxtasks.tasks.base import AuxTask
from auxtasks.training.engine import train
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, Phase
from auxtasks.training.sharding import local
from trust.launched import parts
from trust.small_runs import corpus, lists, people, texts

__all__ = ["CASES", "SMALL", "Case", "apart", "compare", "run"]

ADAMW: Final = OptimizerSettings(learning_rate=1e-3, warmup_steps=0)
CLIPPED: Final = dataclasses.replace(ADAMW, clip_norm=0.05)
SGD: Final = OptimizerSettings(name="sgd", learning_rate=0.01, warmup_steps=0, clip_norm=None)


@dataclasses.dataclass(frozen=True)
class Case:
    """A run that is to end with the same weights, whole and dealt out."""

    make_task: Callable[[], AuxTask]
    data: Callable[[], Any]
    held_out: Callable[[], Any] | None = None
    optimizer: OptimizerSettings = ADAMW
    loop: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[tuple[str, ...], ...] = ()  # what is frozen in each of a run's phases; none: one phase
    steps: int = 6


@functools.cache
def _tokenizer() -> Any:
    return train_tokenizer(list(texts()), size=90)


def _encoder(kind: str) -> Backbone:
    # Large weights: with the usual ones the order of words changes a score by less than float32 rounds off.
    wide: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    config = {"model_type": kind, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 34, **wide}
    return transformers(config, tokenizer=_tokenizer(), length=32)


def _sentences(kind: str = "modernbert") -> ShuffledSentences:
    return ShuffledSentences(_encoder(kind), losses=dict.fromkeys(("sentence", "pair", "token", "order"), 1.0))


def _faces(network: Backbone | None = None, loss: Any = "logistic") -> FacePairs:
    small = functools.partial(convnet, size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.4)
    return FacePairs(network or small(), photos=2, loss=loss)


def _ranking(**options: Any) -> MaxMarginRanking:
    return MaxMarginRanking(mlp(width=4, hidden=[7, 6]), LabelledQueries(list_size=5), l2=0.1, **options)


# Among them those that a test tries: one of each task, and each of the loop's ways.
SMALL: Final = (
    "face pairs, best of two validations",
    "face pairs, unfrozen in three phases",
    "sentences, bfloat16, stages computed again",
    "ranking, accumulated, clipped",
)
CASES: Final[Mapping[str, Case]] = {
    "face pairs, best of two validations": Case(
        _faces, people, lambda: people(4, 1000), loop={"keep_best": "roc_auc", "validate_every": 3}
    ),
    "face pairs, clipped": Case(functools.partial(_faces, loss="contrastive"), people, optimizer=CLIPPED),
    "face pairs, unfrozen in three phases": Case(
        _faces, people, stages=(("stem", "stage1", "stage2"), ("stem",), ()), optimizer=CLIPPED
    ),
    "sentences, accumulated, SGD": Case(_sentences, corpus, optimizer=SGD, loop={"accumulation": 2}),
    "ranking, accumulated, clipped": Case(
        functools.partial(_ranking, weighting="ndcg"), lists, lambda: lists(9, 1), optimizer=CLIPPED,
        loop={"accumulation": 2},
    ),
    "ranking, SGD": Case(_ranking, lists, optimizer=SGD),
    "sentences, bfloat16, stages computed again": Case(
        _sentences, corpus, lambda: corpus(1), loop={"mixed_precision": "bf16", "gradient_checkpointing": True}
    ),
    "pictures, a vision transformer": Case(
        lambda: _faces(timm_backbone("test_vit", size=32, channels=1)), people, optimizer=SGD
    ),
    "pictures, ConvNeXt": Case(
        lambda: _faces(timm_backbone("test_convnext", size=32, channels=1)), people, optimizer=SGD
    ),
    "pictures, a network that cannot be cut": Case(
        lambda: _faces(timm_backbone("test_nfnet", size=32, channels=1)), people, optimizer=SGD
    ),
    "pictures, stages computed again": Case(
        _faces, people, optimizer=CLIPPED, loop={"gradient_checkpointing": True}
    ),
}  # fmt: skip


def run(case: Case, folder: Path | None, **changes: Any) -> AuxTask:
    """Train a case, and return the task."""
    task = case.make_task()
    settings = LoopSettings(
        log_every=1, checkpoint_every=3, keep_checkpoints=9, show_progress=False, **{**case.loop, **changes}
    )
    if not case.stages:
        held_out = None if case.held_out is None else case.held_out()
        pretrain(
            task, case.data(), steps=case.steps, batch_size=8, validation=held_out, seed=1,
            optimizer=case.optimizer, loop=settings, folder=folder,
        )  # fmt: skip
        return task
    table = task.prepare(case.data())
    feed: Feed[Any, Any] = Feed(table, task.plan(table, 8, 1), task.transform, task.collate, 1)
    phases = [Phase(case.steps // len(case.stages), begin=_freezes(names)) for names in case.stages]
    train(task, feed, phases, seed=1, optimizer=case.optimizer, loop=settings, folder=folder)
    return task


def _freezes(names: tuple[str, ...]) -> Callable[[Any], None]:
    return lambda objective: objective.backbone.freeze(names)


def apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how far each tensor is from what was expected, as a share of its length."""
    if found.keys() != expected.keys():
        raise ValueError(f"expected tensors {sorted(expected)}, found {sorted(found)}.")
    distances = {}
    for name, tensor in expected.items():
        length = float(tensor.double().norm())
        distance = float((found[name].double() - tensor.double()).norm())
        distances[name] = distance / length if length else (math.inf if distance else 0.0)
    return distances


def _weights(task: AuxTask) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


@contextlib.contextmanager
def _watched(held: list[int]) -> Iterator[None]:
    """Note of every optimizer step how many numbers of weights and their gradients this process holds."""

    def look(optimizer: Any, *_: Any) -> None:
        members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        held.append(sum(local(part).numel() for p in members for part in (p, p.grad)))

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Run a case whole and dealt out, and from its middle on the other way.

    Returns:
        How far its weights are apart; of each way, how many steps were done, and how many numbers a process held.
    """
    case = CASES[name]
    begun = _weights(case.make_task())
    held: dict[str, list[int]] = {}
    ended: dict[str, dict[str, Tensor]] = {}

    def end(way: str, place: Path, sharding: str) -> None:
        with _watched(held.setdefault(way, [])):
            ended[way] = _weights(run(case, place, sharding=sharding))

    for sharding in ("none", "full"):
        end(sharding, folder / sharding, sharding)
    # Stopped halfway: its last checkpoint is gone. It goes on the other way.
    for sharding, other in (("none", "full"), ("full", "none")):
        place = folder / f"{sharding}-{other}"
        if dist.get_rank() == 0:
            shutil.copytree(folder / sharding, place)
            newest = max((place / "checkpoints").iterdir())
            shutil.rmtree(newest)
        dist.barrier()
        end(f"{sharding}, then {other}", place, other)
    moved = sum(distance > 0 for distance in apart(ended["none"], begun).values())
    return {
        "apart": {way: apart(weights, ended["none"]) for way, weights in ended.items() if way != "none"},
        "moved": moved,
        "held": {way: max(seen, default=0) for way, seen in held.items()},
        "steps": {way: len(seen) for way, seen in held.items()},
        "same files": _files(folder / "none") == _files(folder / "full"),
    }


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def main() -> None:
    """Write ``apart-RANK.json`` of all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    found = {name: compare(name, asked.folder / str(place)) for place, name in enumerate(asked.cases)}
    (asked.folder / f"apart-{dist.get_rank()}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    parts()


if __name__ == "__main__":
    main()
