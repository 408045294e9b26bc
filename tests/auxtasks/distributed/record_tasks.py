"""Train tasks on records in as many processes as there are; keep every gradient, and every printed metric.

Called with the folder for all that it leaves; see test_distributed.py.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from auxtasks import checkpoint
from auxtasks.backbones import convnet, mlp, transformers
from auxtasks.data import load_source, train_tokenizer
from auxtasks.pretrain import pretrain
from auxtasks.tasks import (
    CorruptedItems,
    CorruptedSentences,
    FacePairs,
    LabelledQueries,
    MaxMarginRanking,
    ShuffledSentences,
)
from auxtasks.tasks.sentence_source import SentenceSource
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings
from trust.launched import keeps_gradients, parts

# Small steps: large ones blow up what float32 rounds off, until two runs differ by more than the gradients of either.
PLAIN = OptimizerSettings(
    name="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.01, schedule="constant", warmup_steps=0, clip_norm=None
)
WORDS = ["the", "a", "old", "young", "dog", "cat", "bird", "saw", "heard", "chased", "and", ",", "quickly"]

gradients, seen = {}, []


class Watched(FacePairs):
    """Tells how many photos its forward sees."""

    def forward(self, batch):
        seen.append(len(batch.identities))
        return super().forward(batch)


def faces(people, first_person):
    options = {"people": people, "photos": 4, "size": 20, "first_person": first_person}
    return load_source("builtin:drawn_faces", columns={"image": "image", "label": "label"}, options=options)


def face_task(loss, hardness=0.0):
    network = convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.0)
    return Watched(network, photos=2, loss=loss, hardness=hardness)


def text_network(texts):
    config = {
        "model_type": "modernbert",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        # Large weights: with the usual ones the order of words changes a score by less than float32 rounds off.
        "initializer_range": 0.3,
    }
    return transformers(config, tokenizer=train_tokenizer(texts, size=90), length=32)


def sentence_task(texts, **options):
    losses = dict.fromkeys(("sentence", "pair", "token", "order"), 1.0)
    return ShuffledSentences(text_network(texts), losses=losses, **options)


def sentences(rows):
    return load_source({"text": rows}, columns={"text": "text"})


def graded_lists(draw, queries):
    """Draw queries of 1 to 9 items, a few of which say nothing."""
    sizes = draw.integers(1, 10, size=queries)
    columns = {
        "qid": np.arange(queries).repeat(sizes),
        "grade": draw.integers(4, size=sizes.sum()),
        "features": draw.normal(size=(sizes.sum(), 5)),
    }
    values = {name: column.tolist() for name, column in columns.items()}
    return load_source(values, columns={name: name for name in columns})


def run(out, name, task, data, held_out, *, steps=4, batch_size=16, optimizer=PLAIN, **loop):
    """Train a task; leave its log and checkpoint, and keep its gradients."""
    with keeps_gradients([task], name, gradients):
        return pretrain(
            task,
            data,
            steps=steps,
            batch_size=batch_size,
            seed=1,
            validation=held_out,
            optimizer=optimizer,
            folder=out / name,
            loop=LoopSettings(log_every=1, show_progress=False, **loop),
        )


def compare_faces(out, processes):
    known, strangers = faces(8, 0), faces(7, 1000)
    for name, loss, hardness in (
        ("logistic", "logistic", 0.0),
        ("hard", "logistic", 1.0),
        ("contrastive", "contrastive", 0.0),
        ("triplet", "triplet", 0.0),
    ):
        run(out, name, face_task(loss, hardness), known, strangers)
    assert seen == [16 // processes] * 16, seen


def shuffle_sentences(out, texts):
    for name, accumulation, options in (
        ("sentences", 1, {}),
        ("sentences_accumulated", 4, {}),
        ("sentences_by_tokens", 1, {"batch_tokens": 16 * 48}),
    ):
        task = sentence_task(texts, **options)
        run(out, name, task, sentences(texts[:60]), sentences(texts[60:]), accumulation=accumulation)


def rank(out, draw, texts):
    queries = graded_lists(draw, 41), graded_lists(draw, 17)  # one process evaluates more of them than the other
    for name, accumulation, options in (
        ("ranking_query", 1, {}),
        ("ranking_query_accumulated", 4, {}),
        ("ranking_pair", 1, {"average": "pair"}),
        ("ranking_pair_accumulated", 4, {"average": "pair"}),
        ("ranking_ndcg", 1, {"weighting": "ndcg", "loss": "logistic"}),
        ("ranking_drawn", 1, {"weighting": "ndcg", "average": "pair", "queries": LabelledQueries(list_size=4)}),
    ):
        task = MaxMarginRanking(mlp(width=5, hidden=[6]), l2=0.1, **options)
        run(out, name, task, *queries, accumulation=accumulation)
    rows = [{"features": draw.normal(size=(count, 5)).tolist()} for count in (40, 13)]
    vectors = [load_source(values, columns={"features": "features"}) for values in rows]
    for name, accumulation in (("ranking_corrupted", 1), ("ranking_corrupted_accumulated", 4)):
        task = MaxMarginRanking(mlp(width=5, hidden=[6]), CorruptedItems())
        run(out, name, task, *vectors, accumulation=accumulation)
    for name, accumulation in (("ranking_sentences", 1), ("ranking_sentences_accumulated", 4)):
        network = text_network(texts)
        task = MaxMarginRanking(network, CorruptedSentences(SentenceSource(network, corruptions=2)))
        run(out, name, task, sentences(texts[:60]), sentences(texts[60:]), accumulation=accumulation)


def train_whole(out, rank):
    """Train on 240 pictures, choosing the best of five validations; leave each process's scores."""
    known, strangers = faces(60, 0), faces(25, 1000)
    task = face_task("logistic")
    optimizer = OptimizerSettings(learning_rate=3e-3)
    result = run(out, "whole", task, known, strangers, steps=30, batch_size=32, optimizer=optimizer,
                 validate_every=6, keep_best="roc_auc")  # fmt: skip
    task.eval()
    again = task.evaluate(task.prepare(strangers))
    scores = {
        **{f"again/{name}": value for name, value in again.items()},
        **result.metrics,
        "best_step": result.best_step,
    }
    (out / f"scores-{rank}.json").write_text(json.dumps(scores))
    checkpoint.write_tensors(out / f"weights-{rank}.safetensors", task.state_dict())


def main():
    out = Path(sys.argv[1])
    rank_, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=size)) + "." for size in draw.integers(4, 14, size=70)]
    compare_faces(out, processes)
    shuffle_sentences(out, texts)
    rank(out, draw, texts)
    train_whole(out, rank_)
    checkpoint.write_tensors(out / f"gradients-{rank_}.safetensors", gradients)
    parts()


if __name__ == "__main__":
    main()
