"""A run that learns nothing says so while it runs, and in its result; one that learns says nothing."""

import dataclasses
import json
import logging
import math
import os
import signal

import numpy as np
import pytest
import torch
from datasets import Dataset

from auxtasks.backbones import mlp, transformers
from auxtasks.data import load_source, train_tokenizer
from auxtasks.errors import TrainingStoppedError
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, LayerAutoencoder, LayerRBM, MaxMarginRanking, ShuffledSentences
from auxtasks.training.health import CollapseWatch, TrivialLevel
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

LOOP = LoopSettings(show_progress=False, device="cpu", log_every=20)
CHANCE = TrivialLevel("accuracy", 0.52, "below", "it guesses")
DEAD = TrivialLevel("activity", 0.001, "below", "all units are off", at_once=True)


# When there is something to say


def told(level, values, total=1000, every=50):
    watch = CollapseWatch([level], total)
    lines = [watch.look(every * line, {level.metric: value}) for line, value in enumerate(values, start=1)]
    return [every * line for line, new in enumerate(lines, start=1) if new]


def test_a_fault_from_the_beginning_is_told_at_the_second_line_and_never_again():
    assert told(DEAD, [0.0] * 6) == [100]
    assert told(DEAD, [0.5, 0.0, 0.0, 0.0]) == [150]


def test_one_bad_line_between_good_ones_is_no_collapse():
    assert told(DEAD, [0.5, 0.0, 0.5, 0.0, 0.5]) == []


def test_half_of_a_run_may_pass_before_it_has_to_know_anything():
    assert told(CHANCE, [0.5] * 20) == [550]
    assert told(CHANCE, [0.5] * 10 + [0.6] * 10) == []
    assert told(CHANCE, [0.5] * 9, total=90, every=10) == []  # so short a run is not judged


def test_what_is_no_number_or_not_measured_says_nothing():
    assert told(DEAD, [math.nan] * 5) == []
    assert CollapseWatch([DEAD], 10).look(5, {"loss": 0.0}) == []


def test_training_and_validation_are_counted_apart_and_told_once():
    watch = CollapseWatch([DEAD], 1000)
    found = [watch.look(step, {"activity": 0.0}, kind) for step in (1, 2, 3) for kind in ("", "validation ")]
    assert [len(new) for new in found] == [0, 0, 1, 0, 0, 0]


def test_two_levels_of_one_metric_do_not_count_for_each_other():
    levels = [dataclasses.replace(DEAD, level=0.5, says="low"), dataclasses.replace(DEAD, lines=3)]
    watch = CollapseWatch(levels, 1000)
    assert [len(watch.look(step, {"activity": 0.0})) for step in (1, 2, 3)] == [0, 1, 1]


def test_a_run_that_goes_on_does_not_say_it_again():
    first = CollapseWatch([DEAD], 1000)
    for step in (1, 2):
        first.look(step, {"activity": 0.0})
    second = CollapseWatch([DEAD], 1000, first.told)
    assert [second.look(step, {"activity": 0.0}) for step in (3, 4, 5)] == [[], [], []]


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_run_that_goes_on_counts_on(stop):
    levels = [CHANCE, DEAD, dataclasses.replace(DEAD, metric="spread", says="all are alike", lines=3)]
    lines = [(step, {"accuracy": 0.5, "activity": 0.0 if step != 2 else 0.5, "spread": 0.0}) for step in range(1, 9)]

    def told_by(watch, lines):
        return [
            text for step, metrics in lines for kind in ("", "validation ") for text in watch.look(step, metrics, kind)
        ]

    straight = CollapseWatch(levels, 1000)
    expected = told_by(straight, lines)
    assert len(expected) == 2
    first = CollapseWatch(levels, 1000)
    found = told_by(first, lines[:stop])
    second = CollapseWatch(levels, 1000, first.told, json.loads(json.dumps(first.in_a_row)))
    assert found + told_by(second, lines[stop:]) == expected
    assert second.in_a_row == straight.in_a_row


def test_nothing_is_counted_where_nothing_holds():
    watch = CollapseWatch([DEAD, CHANCE], 1000)
    for value in (0.0, 0.7):
        watch.look(600, {"activity": value, "accuracy": 0.7})
    assert watch.in_a_row == []


# In runs: each beside one that is healthy


def warnings_of(result, caplog) -> list[str]:
    """Return what a run told, which has to be the same in the log and in the result."""
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    assert [text for text in logged if text in result.warnings] == list(result.warnings)
    return list(result.warnings)


def ranking(rows=120):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 4))
    grades = (features[:, 0] > 0).astype(float)
    return {"qid": np.repeat(np.arange(rows // 6), 6), "features": features, "grade": grades}


def rank(data, optimizer, steps=160):
    return pretrain(
        MaxMarginRanking(mlp(width=4, hidden=[8])),
        Dataset.from_dict(data),
        steps=steps,
        batch_size=10,
        validation=Dataset.from_dict(data),
        optimizer=optimizer,
        loop=LOOP,
    )


def test_ranking_that_learns_is_silent_and_weights_that_decay_to_zero_are_told(caplog):
    healthy = rank(ranking(), OptimizerSettings(learning_rate=1e-2))
    assert warnings_of(healthy, caplog) == []
    assert healthy.metrics["pair_accuracy"] > 0.9
    decayed = rank(ranking(), OptimizerSettings(name="sgd", learning_rate=1.0, weight_decay=1.0, warmup_steps=0))
    found = warnings_of(decayed, caplog)
    assert any(text.startswith("hardly an item is above a worse one: pair_accuracy was 0 at step 40") for text in found)


def test_grades_that_say_nothing_are_told(caplog):
    data = ranking(6000)
    data["grade"] = np.random.default_rng(1).permutation(data["grade"])
    task = MaxMarginRanking(mlp(width=4, hidden=[]))
    result = pretrain(
        task,
        Dataset.from_dict(data),
        steps=200,
        batch_size=100,
        loop=LOOP,
        optimizer=OptimizerSettings(learning_rate=1e-9),
    )
    (text,) = warnings_of(result, caplog)
    assert text.startswith("pairs are told apart no better than by chance: pair_accuracy was 0.")


def sentence_task(losses):
    words = ["cat", "dog", "bird", "fox", "cow", "hen", "pig"]
    texts = [f"the {a} {verb} a {b}" for a in words for b in words for verb in ("sees", "hears") if a != b]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = train_tokenizer(texts, size=60)
    task = ShuffledSentences(
        transformers({"model_type": "bert", **sizes}, tokenizer=tokenizer, length=16), losses=losses
    )
    return task, load_source({"text": texts}, columns={"text": "text"})


def test_sentences_that_are_learnt_are_silent_and_guesses_are_told(caplog):
    found = {}
    for name, rate in (("healthy", 1e-2), ("still", 1e-9)):
        task, source = sentence_task({"sentence": 1.0, "pair": 1.0})
        result = pretrain(
            task, source, steps=120, batch_size=16, loop=LOOP, optimizer=OptimizerSettings(learning_rate=rate)
        )
        found[name] = warnings_of(result, caplog), result.metrics
    assert found["healthy"][0] == []
    assert found["healthy"][1]["pair_accuracy"] > 0.9
    assert any(text.startswith("the pair loss is that of a guess: pair_loss was 0.69") for text in found["still"][0])


def pixels(rows=200):
    """Bits that two causes decide."""
    rng = np.random.default_rng(0)
    causes = rng.integers(2, size=(rows, 2))
    return (rng.random((rows, 12)) < np.where(np.repeat(causes, 6, axis=1), 0.9, 0.1)).astype(np.float32)


@pytest.mark.parametrize(("make", "rate"), [(LayerAutoencoder, 0.05), (LayerRBM, 0.05)])
def test_a_layer_that_learns_is_silent_and_one_that_gives_the_mean_is_told(make, rate, caplog):
    def run(optimizer):
        backbone = mlp(width=12, hidden=[6], activation="sigmoid")
        result = pretrain_layerwise(
            backbone, pixels(), make, steps=160, batch_size=20, validation=pixels(), optimizer=optimizer, loop=LOOP
        )
        return result.as_one()

    assert warnings_of(run(OptimizerSettings(learning_rate=rate, weight_decay=0.0)), caplog) == []
    decayed = run(OptimizerSettings(name="sgd", learning_rate=0.1, momentum=0.0, weight_decay=9.0, warmup_steps=0))
    found = warnings_of(decayed, caplog)
    assert any(text.startswith("hidden1 tells its inputs no better than their mean does: ") for text in found)


def test_units_that_are_all_off_are_told(caplog):
    class Off(LayerRBM):
        def prepare(self, summary):
            super().prepare(summary)
            with torch.no_grad():
                self.linear.module.bias.fill_(-30.0)

    backbone = mlp(width=12, hidden=[6], activation="sigmoid")
    result = pretrain_layerwise(
        backbone, pixels(), Off, steps=60, batch_size=20, loop=LOOP, optimizer=OptimizerSettings(learning_rate=1e-6)
    ).as_one()
    (text,) = warnings_of(result, caplog)
    assert text.startswith("the units of hidden1 are all off: activity was ")
    assert "at step 40, trivial is below 0.001." in text


def test_faces_that_are_learnt_are_silent_and_a_rate_far_too_large_is_told(faces, tiny_convnet, caplog):
    healthy = pretrain(
        FacePairs(tiny_convnet(), photos=4),
        faces,
        steps=120,
        batch_size=16,
        loop=LOOP,
        optimizer=OptimizerSettings(learning_rate=1e-2),
    )
    assert warnings_of(healthy, caplog) == []
    assert healthy.metrics["roc_auc"] > 0.7
    wild = pretrain(
        FacePairs(tiny_convnet(), photos=4),
        faces,
        steps=120,
        batch_size=16,
        loop=LOOP,
        optimizer=OptimizerSettings(learning_rate=30.0, warmup_steps=0),
    )
    found = warnings_of(wild, caplog)
    assert any(text.startswith("all embeddings") and "Lower the learning rate" in text for text in found)


def test_what_was_told_before_a_stop_is_still_in_the_result(tmp_path, caplog):
    optimizer = OptimizerSettings(name="sgd", learning_rate=1.0, weight_decay=1.0, warmup_steps=0)
    loop = dataclasses.replace(LOOP, checkpoint_every=60)
    results = []
    for _ in range(2):  # the second finds a finished run, and trains nothing
        task = MaxMarginRanking(mlp(width=4, hidden=[8]))
        results.append(
            pretrain(
                task,
                Dataset.from_dict(ranking()),
                steps=60,
                batch_size=10,
                optimizer=optimizer,
                loop=loop,
                folder=tmp_path,
            )
        )
    assert results[0].warnings == results[1].warnings != ()
    assert len(caplog.records) == len(results[0].warnings)
    (state,) = tmp_path.glob("checkpoints/*/training/state.json")
    assert json.loads(state.read_text())["warnings"] == list(results[0].warnings)


class Interrupted(MaxMarginRanking):
    """Asks this process to stop in a step of one's choice, counted from when it was made."""

    stop_in = 0

    def forward(self, batch):
        self.stop_in -= 1
        if self.stop_in == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(batch)


def test_a_run_that_was_stopped_between_two_trivial_lines_warns_as_one_that_was_not(tmp_path):
    def run(folder, stop_in=0):
        task = Interrupted(mlp(width=4, hidden=[8]))
        task.stop_in = stop_in
        optimizer = OptimizerSettings(name="sgd", learning_rate=1.0, weight_decay=1.0, warmup_steps=0)
        data = Dataset.from_dict(ranking())
        return pretrain(task, data, steps=60, batch_size=10, optimizer=optimizer, loop=LOOP, folder=tmp_path / folder)

    def counted(folder):
        newest = max((tmp_path / folder).glob("checkpoints/*/training/state.json"))
        return json.loads(newest.read_text()).get("in_a_row")

    straight = run("straight")
    assert "at step 40" in " ".join(straight.warnings)
    with pytest.raises(TrainingStoppedError, match="after step 30"):
        run("stopped", stop_in=30)
    assert {count for *_, count in counted("stopped")} == {1}
    assert run("stopped").warnings == straight.warnings
    assert counted("stopped") == counted("straight")
