"""A run that was stopped and resumed ends with the weights, to the bit, of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auxtasks import checkpoint
from auxtasks.backbones import convnet, transformers
from auxtasks.data import Mixture, load_source, train_tokenizer
from auxtasks.errors import CheckpointError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs, ShuffledSentences
from auxtasks.training.optim import OptimizerSettings
from auxtasks.training.settings import LoopSettings

STEPS = 9


def make_task(**options):
    # Dropout on: the random numbers inside the network must go on where they were.
    return FacePairs(convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=8, dropout=0.4), photos=2, **options)


def make_faces(people=8):
    return load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": people, "photos": 4, "size": 20},
    )


def loop(mixed_precision="no"):
    return LoopSettings(log_every=1, checkpoint_every=4, mixed_precision=mixed_precision, show_progress=False)


def run(folder, *, task=None, workers=0, mixed_precision="no", **options):
    """Pretrain; the folder, if there is one, decides where to begin."""
    task = task or make_task()
    arguments = {"steps": STEPS, "batch_size": 8, "seed": 3, "data": make_faces(), "loop": loop(mixed_precision)}
    pretrain(task, folder=folder, workers=workers, **{**arguments, **options})
    return task


def stop_at(task, step, stop):
    """Stop in the middle of a step, counted from 1: its batch is there, its weights are not yet moved."""
    collate, calls = task.collate, []

    def stopping(items):
        calls.append(len(items))
        if len(calls) == step:
            stop()
        return collate(items)

    task.collate = stopping
    return task


class StoppedError(Exception):
    pass


def raise_stopped():
    raise StoppedError("in the middle of a step")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def state_of(folder: Path) -> dict[str, str]:
    """Digest all tensors of the last checkpoint: backbone, head, optimizer."""
    newest = folder / "checkpoints" / f"step-{STEPS:08d}"
    files = sorted(newest.rglob("*.safetensors"))
    assert len(files) == 3
    return {path.parent.name: checkpoint.tensors_digest(checkpoint.read_tensors(path)) for path in files}


def lines_of(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    assert state_of(found) == state_of(expected)
    assert lines_of(found) == lines_of(expected)
    assert [step for step, _ in lines_of(found)] == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that were never stopped, by precision."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("no", "bf16")}
    for kind, folder in folders.items():
        run(folder, mixed_precision=kind)
    return folders


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
@pytest.mark.parametrize("step", [2, 5, 7, STEPS])  # before the first checkpoint, just behind one, later, the last
def test_stopped_by_an_error_and_resumed(tmp_path, straight, step, mixed_precision):
    task = stop_at(make_task(), step, raise_stopped)
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run(tmp_path, task=task, mixed_precision=mixed_precision)
    run(tmp_path, mixed_precision=mixed_precision)
    assert_same_run(tmp_path, straight[mixed_precision])


def test_the_precisions_are_two_runs(straight):
    assert state_of(straight["no"]) != state_of(straight["bf16"])


def test_dropout_was_on_and_every_weight_learned(straight):
    before = make_task().state_dict()
    newest = straight["no"] / "checkpoints" / f"step-{STEPS:08d}"
    after = make_task()
    after.restore(newest)
    assert [name for name, tensor in after.state_dict().items() if torch.equal(tensor, before[name])] == []
    after.train()
    images = torch.zeros(2, 1, 16, 16)
    assert not torch.equal(after.backbone(images + 1), after.backbone(images + 1))


@pytest.mark.processes
@pytest.mark.parametrize("step", [3, 7])
def test_killed_and_resumed(tmp_path, straight, step):
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_resume import *\n"
        f"run(Path(sys.argv[1]), task=stop_at(make_task(), {step}, kill))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -signal.SIGKILL
    assert not (tmp_path / "checkpoints" / f"step-{STEPS:08d}").exists()
    run(tmp_path)
    assert_same_run(tmp_path, straight["no"])


def test_stopped_many_times(tmp_path, straight):
    # A step at a time would never get anywhere without a checkpoint; 5 steps a try get from one to the next.
    for _ in range(2):
        with pytest.raises(StoppedError, match="in the middle of a step"):
            run(tmp_path, task=stop_at(make_task(), 5, raise_stopped))
    run(tmp_path)
    assert_same_run(tmp_path, straight["no"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit(tmp_path, straight, workers):
    run(tmp_path, workers=workers)
    assert_same_run(tmp_path, straight["no"])


# Sentences, whose corruptions follow a curriculum, so that an item depends on its step as well


def make_texts(seed=0):
    rng = np.random.default_rng(seed)
    words = ["the", "a", "old", "young", "dog", "cat", "bird", "saw", "heard", "chased", "and"]
    return [" ".join(rng.choice(words, size=size)) + "." for size in rng.integers(5, 14, size=40)]


def make_sentence_task(**options):
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 24, "max_position_embeddings": 32, "hidden_dropout_prob": 0.3}  # fmt: skip
    network = transformers(config, tokenizer=train_tokenizer(make_texts(), size=90), length=32)
    mixture = Mixture(easy={"shuffle": 1.0, "duplicate": 1.0}, curriculum_steps=STEPS)
    return ShuffledSentences(network, **{"mixture": mixture, **options})


def run_sentences(folder, **options):
    """Pretrain on sentences; the folder decides where to begin."""
    data = load_source({"text": make_texts()}, columns={"text": "text"})
    return run(folder, **{"task": make_sentence_task(), "data": data, **options})


@pytest.fixture(scope="module")
def straight_sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    run_sentences(folder)
    return folder


@pytest.mark.parametrize("step", [2, 7])  # 9 steps are two epochs
def test_sentences_stopped_and_resumed(tmp_path, straight_sentences, step):
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run_sentences(tmp_path, task=stop_at(make_sentence_task(), step, raise_stopped))
    run_sentences(tmp_path)
    assert_same_run(tmp_path, straight_sentences)


def test_sentences_by_tokens_stopped_and_resumed(tmp_path):
    # Epochs of different length: a resumed run has to count them.
    folders = [tmp_path / name for name in ("straight", "stopped")]
    run_sentences(folders[0], task=make_sentence_task(batch_tokens=600))
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run_sentences(folders[1], task=stop_at(make_sentence_task(batch_tokens=600), 7, raise_stopped))
    run_sentences(folders[1], task=make_sentence_task(batch_tokens=600))
    assert_same_run(folders[1], folders[0])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit_of_a_run_on_sentences(tmp_path, straight_sentences, workers):
    run_sentences(tmp_path, workers=workers)
    assert_same_run(tmp_path, straight_sentences)


def test_a_cache_changes_no_bit_of_a_run_on_sentences(tmp_path, straight_sentences):
    for name in ("written", "read"):
        run_sentences(tmp_path / name, cache=tmp_path / "cache")
        assert_same_run(tmp_path / name, straight_sentences)


def test_other_corruptions_are_refused(straight_sentences):
    with pytest.raises(CheckpointError, match=r"other settings: mixture: .*'duplicate'.* there, .* asked"):
        run_sentences(straight_sentences, task=make_sentence_task(mixture=Mixture()))


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 5}, r"steps: \[9\] there, \[5\] asked"),
        ({"batch_size": 16}, "batch_size: 8 there, 16 asked"),
        ({"seed": 4}, "seed: 3 there, 4 asked"),
        ({"optimizer": OptimizerSettings(learning_rate=0.5)}, r"optimizer: .*0\.001.* there, .*0\.5.* asked"),
        ({"mixed_precision": "bf16"}, "mixed_precision: 'no' there, 'bf16' asked"),
        ({"task": {"loss": "triplet"}}, "loss: 'logistic' there, 'triplet' asked"),
        ({"task": {"hardness": 1.0}}, r"hardness: 0\.0 there, 1\.0 asked"),
        ({"seed": 4, "steps": 5}, r"seed: 3 there, 4 asked; steps: \[9\] there, \[5\] asked"),
    ],
)
def test_other_settings_are_refused_and_listed(straight, change, message):
    if "task" in change:
        change = {"task": make_task(**change["task"])}
    with pytest.raises(CheckpointError, match=rf"was written with other settings: {message}\. Resume with the same"):
        run(straight["no"], **change)


def test_other_data_and_another_network_are_refused(straight):
    with pytest.raises(CheckpointError, match="other settings: data: "):
        run(straight["no"], data=make_faces(people=9))
    other = FacePairs(convnet(size=16, widths=[8], blocks=[1], embedding=8), photos=2)
    with pytest.raises(CheckpointError, match="other settings: backbone arguments: "):
        run(straight["no"], task=other)


@pytest.fixture
def stopped(tmp_path):
    """A run stopped behind its first checkpoint."""
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run(tmp_path, task=stop_at(make_task(), 6, raise_stopped))
    return tmp_path


FILES = [
    "backbone/model.safetensors",
    "task/model.safetensors",
    "training/optimizer.safetensors",
    "training/state.json",
]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_not_used(stopped, name):
    path = stopped / "checkpoints" / "step-00000004" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"step-00000004/{name} is damaged"):
        run(stopped)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing: the folder .* is not complete"):
        run(stopped)


def test_a_checkpoint_that_was_being_written_is_not_seen(stopped, straight):
    half = stopped / "checkpoints" / ".step-00000008.writing-1"
    half.mkdir()
    (half / "state.json").write_text("{")
    run(stopped)
    assert_same_run(stopped, straight["no"])
