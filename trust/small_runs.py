"""Whole runs of a fraction of a second, one for each way in which the library trains, with any of the loop's settings.

Each is a function of a folder and of `Settings`: begun twice with the same, it is the same run, and the folder alone
decides where it begins.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from datasets import Dataset, IterableDataset

from auxtasks.backbones import Backbone, convnet, mlp, transformers
from auxtasks.data import ImageTable, Mixture, decode_images, load_source, train_tokenizer
from auxtasks.data.augment import Augment
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.noise import Noise
from auxtasks.pretrain import pretrain
from auxtasks.tasks import (
    CorruptedItems,
    CorruptedSentences,
    FacePairs,
    LabelledQueries,
    LayerAutoencoder,
    LayerRBM,
    MaxMarginRanking,
    ShuffledSentences,
)
from auxtasks.tasks.base import AuxTask
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings, TrainingResult
from transfer.finetune import Stage, Tuning, fine_tune

__all__ = ["BEST", "RUNS", "Settings", "SmallRun"]

STEPS: Final = 20  # so that two of them are warm-up
STAGE_STEPS: Final = 10
LOOP: Final = LoopSettings(log_every=1, checkpoint_every=4, show_progress=False)
OPTIMIZER: Final = OptimizerSettings(warmup_steps=0)
WORDS: Final = ("the", "a", "old", "young", "dog", "cat", "bird", "saw", "heard", "chased", "and")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked of a small run: of the loop, of the optimizer, and how many loader workers."""

    loop: LoopSettings = LOOP
    optimizer: OptimizerSettings = OPTIMIZER
    workers: int = 0
    seed: int = 3


# A run's metrics, or what stands for them where it returns something else.
SmallRun = Callable[[Path | None, Settings], Mapping[str, float]]


@functools.cache
def people(count: int = 8, first: int = 0) -> Dataset:
    """Draw people with four photos each."""
    options = {"people": count, "photos": 4, "size": 20, "first_person": first}
    drawn = load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"}, options=options)
    assert isinstance(drawn, Dataset)
    return drawn


@functools.cache
def portraits(count: int = 8, first: int = 0) -> ImageTable:
    """Decode people to grey pictures of 20 x 20 pixels."""
    return decode_images(people(count, first), size=(20, 20), channels=1)


@functools.cache
def texts(seed: int = 0, count: int = 40) -> tuple[str, ...]:
    """Draw sentences of 5 to 13 words."""
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, size=size)) + "." for size in rng.integers(5, 14, size=count))


def corpus(seed: int = 0) -> Dataset:
    """Return `texts` as a data set."""
    return Dataset.from_dict({"text": list(texts(seed))})


def stream() -> IterableDataset:
    """Return `texts` as a stream of three shards."""
    return corpus().to_iterable_dataset(num_shards=3)


def lists(queries: int = 16, seed: int = 0) -> Dataset:
    """Draw lists of six vectors, graded by the sum of their features."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(queries * 6, 4)).astype(np.float32)
    grades = np.clip(np.round(vectors.sum(axis=1)), 0, 4)
    qids = np.repeat(np.arange(queries), 6)
    return Dataset.from_dict({"qid": qids.tolist(), "grade": grades.tolist(), "features": vectors.tolist()})


def shares(seed: int = 0, items: int = 40) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Draw vectors of eight values in [0, 1]."""
    return np.random.default_rng(seed).random((items, 8), dtype=np.float32)


def network() -> Backbone:
    """Return a network for pictures of 16 x 16 pixels, with dropout."""
    return convnet(size=16, widths=[8], blocks=[1], embedding=8, dropout=0.4)


@functools.cache
def _tokenizer() -> Any:
    return train_tokenizer(list(texts()), size=90)


def encoder() -> Backbone:
    """Return a tiny BERT, with dropout."""
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 24, "max_position_embeddings": 32, "hidden_dropout_prob": 0.3}  # fmt: skip
    return transformers(config, tokenizer=_tokenizer(), length=32)


def shuffled_sentences(**options: Any) -> ShuffledSentences:
    """Return a task whose corruptions follow a curriculum, so that an item depends on its step as well."""
    mixture = Mixture(easy={"shuffle": 1.0, "duplicate": 1.0}, curriculum_steps=STEPS)
    return ShuffledSentences(encoder(), **{"mixture": mixture, **options})


def _ranked_sentences() -> MaxMarginRanking:
    backbone = encoder()
    return MaxMarginRanking(backbone, CorruptedSentences(SentenceSource(backbone, corruptions=2)), dropout=0.2)


def _ranked_vectors() -> MaxMarginRanking:
    return MaxMarginRanking(mlp(width=4, hidden=[6]), LabelledQueries(list_size=5), weighting="ndcg", dropout=0.3)


def _ranked_pictures() -> MaxMarginRanking:
    return MaxMarginRanking(network(), CorruptedItems(strengths=(0.5, 1.0)))


def _pretraining(
    make_task: Callable[[], AuxTask],
    make_data: Callable[[], Any],
    make_held_out: Callable[[], Any],
) -> SmallRun:
    def run(folder: Path | None, settings: Settings) -> Mapping[str, float]:
        validates = settings.loop.validate_every > 0 or settings.loop.keep_best is not None
        return _facts(
            pretrain(
                make_task(),
                make_data(),
                steps=STEPS,
                batch_size=8,
                validation=make_held_out() if validates else None,
                seed=settings.seed,
                optimizer=settings.optimizer,
                loop=settings.loop,
                workers=settings.workers,
                folder=folder,
            )
        )

    return run


def _facts(result: TrainingResult) -> dict[str, float]:
    timed = ("samples_per_second", "data_wait_share")
    return {
        **{name: value for name, value in result.metrics.items() if name not in timed},
        "steps": result.steps,
        "best_step": -1 if result.best_step is None else result.best_step,
    }


def _layerwise(make_task: Callable[..., Any]) -> SmallRun:
    def run(folder: Path | None, settings: Settings) -> Mapping[str, float]:
        validates = settings.loop.validate_every > 0 or settings.loop.keep_best is not None
        result = pretrain_layerwise(
            mlp(width=8, hidden=[5, 4], activation="sigmoid"),
            shares(),
            make_task,
            steps=STAGE_STEPS,
            batch_size=12,
            validation=shares(1) if validates else None,
            seed=settings.seed,
            optimizer=settings.optimizer,
            loop=settings.loop,
            unrolled_steps=STAGE_STEPS,
            folder=folder,
        )
        stages = {stage: _facts(found) for stage, found in result.stages.items()}
        return {f"{stage}/{name}": value for stage, facts in stages.items() for name, value in facts.items()}

    return run


def _fine_tuning(folder: Path | None, settings: Settings) -> Mapping[str, float]:
    """Unfreeze from the top in three stages, on augmented pictures."""
    validates = settings.loop.validate_every > 0 or settings.loop.keep_best is not None
    optimizer = settings.optimizer
    tuned = fine_tune(
        network(),
        "embedding",
        "auto",
        portraits(4),
        portraits(4).labels,
        n_classes=4,
        tuning=Tuning(
            stages=(Stage(7, 0), Stage(7, 1), Stage(7)),
            learning_rate=optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            batch_size=8,
        ),
        augment=Augment(size=(16, 16)),
        seed=settings.seed,
        loop=settings.loop,
        folder=folder,
        validation=portraits(4, 4) if validates else None,
    )
    return {"training accuracy": tuned.training_accuracy, "best_step": tuned.best_step or -1}


# Which validation metric tells the best weights of each, and whether the highest is the best.
BEST: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "face pairs": ("roc_auc", "highest"),
        "shuffled sentences": ("pair_accuracy", "highest"),
        "sentences, streamed": ("pair_accuracy", "highest"),
        "ranking of vectors": ("ndcg@10", "highest"),
        "ranking of sentences": ("pair_accuracy", "highest"),
        "ranking of pictures": ("pair_accuracy", "highest"),
        "layers, autoencoders": ("loss", "lowest"),
        "layers, Boltzmann machines": ("reconstruction_error", "lowest"),
        "fine-tuning in stages": ("accuracy", "highest"),
    }
)

RUNS: Final[Mapping[str, SmallRun]] = MappingProxyType(
    {
        "face pairs": _pretraining(lambda: FacePairs(network(), photos=2), people, lambda: people(4, 1000)),
        "shuffled sentences": _pretraining(shuffled_sentences, corpus, lambda: corpus(1)),
        "sentences, streamed": _pretraining(shuffled_sentences, stream, lambda: corpus(1)),
        "ranking of vectors": _pretraining(_ranked_vectors, lists, lambda: lists(8, 1)),
        "ranking of sentences": _pretraining(_ranked_sentences, corpus, lambda: corpus(1)),
        "ranking of pictures": _pretraining(_ranked_pictures, people, lambda: people(4, 1000)),
        "layers, autoencoders": _layerwise(
            functools.partial(LayerAutoencoder, noise=Noise("masking", 0.3), contraction=0.1, tied=False)
        ),
        "layers, Boltzmann machines": _layerwise(functools.partial(LayerRBM, persistent=True, chains=6, gibbs_steps=2)),
        "fine-tuning in stages": _fine_tuning,
    }
)
