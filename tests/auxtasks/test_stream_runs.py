"""Pretraining on a stream, from end to end: killed and resumed, in one process and in two."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from auxtasks import checkpoint
from auxtasks.backbones import transformers
from auxtasks.data.stream_sources import open_stream
from auxtasks.data.tokenizers import train_tokenizer
from auxtasks.errors import CheckpointError, ColumnError, DataError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import FacePairs
from auxtasks.tasks.shuffled_sentences import ShuffledSentences
from auxtasks.training.file_list import write_file_list
from auxtasks.training.settings import LoopSettings

STEPS = 14
ANIMALS, DEEDS, PLACES = (
    ("cat", "dog", "old hen", "cow"),
    ("sleeps", "eats much", "sings"),
    ("here", "in my bed", "now"),
)
TEXTS = [f"The {a} {b} {c} {n}." for n in range(2) for a in ANIMALS for b in DEEDS for c in PLACES]  # 72


def make_task():
    tokenizer = train_tokenizer(TEXTS, size=90)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {"model_type": "bert", **sizes, "max_position_embeddings": 24}
    return ShuffledSentences(transformers(config, length=24, tokenizer=tokenizer))


def make_corpus(folder, parts=3):
    folder.mkdir()
    for part in range(parts):
        Dataset.from_dict({"line": TEXTS[part::parts]}).to_parquet(folder / f"{part}.parquet")
    return folder


def run(corpus, folder, *, task=None, workers=0, loop=None, steps=STEPS):
    """Pretrain for some two epochs, the folder decides where to begin."""
    loop = loop or LoopSettings(log_every=1, checkpoint_every=5, show_progress=False)
    stream = open_stream(corpus, column="line")
    task = task or make_task()
    return pretrain(task, stream, steps=steps, batch_size=8, seed=3, loop=loop, workers=workers, folder=folder)


def stop_in(step, stop):
    """Return a task that stops when a step's batch, counted from 1, is trained on."""
    task, calls = make_task(), []

    def count(*_):
        calls.append(1)
        if len(calls) == step:
            stop()

    task.register_forward_pre_hook(count)
    return task


class StoppedError(Exception):
    pass


def raise_stopped():
    raise StoppedError("in the middle of a step")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def meet_no_more():
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()  # without it, tearing down gloo aborts now and then
        dist.destroy_process_group()


def state_of(folder):
    """Digest all tensors of the last checkpoint, and the losses of all steps."""
    newest = folder / "checkpoints" / f"step-{STEPS:08d}"
    files = sorted(newest.rglob("*.safetensors"))
    assert len(files) == 3
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    return [checkpoint.tensors_digest(checkpoint.read_tensors(path)) for path in files], losses


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus") / "texts")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, corpus):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    run(corpus, folder)
    return folder


# Before the first checkpoint, in the first epoch, in the second; read in this process, or in one beside it.
@pytest.mark.parametrize(("step", "workers"), [(3, 1), (7, 0), (12, 0), (12, 1)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, corpus, straight, step, workers):
    with pytest.raises(StoppedError, match="in the middle of a step"):
        run(corpus, tmp_path, task=stop_in(step, raise_stopped), workers=workers)
    run(corpus, tmp_path, workers=workers)
    assert state_of(tmp_path) == state_of(straight)


@pytest.mark.processes
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, corpus, straight):
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_stream_runs import *\n"
        f"run(Path(sys.argv[1]), Path(sys.argv[2]), task=stop_in(7, kill), workers=1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, corpus, tmp_path])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000005"]
    run(corpus, tmp_path)
    assert state_of(tmp_path) == state_of(straight)


def test_every_checkpoint_says_where_in_the_stream_it_was_written(straight):
    state = checkpoint.read_json(straight / "checkpoints" / f"step-{STEPS:08d}" / "training" / "stream.json")
    assert state["schema"] == 1
    (position,) = state["processes"]
    assert position["epoch"] == 1
    assert position["read"] >= 8 * STEPS - 24


def test_another_stream_and_another_number_of_processes_are_refused(tmp_path, corpus, straight):
    with pytest.raises(CheckpointError, match=r"other settings: data: 'a stream of 3 shards, .* 'a stream of 2 shards"):
        run(make_corpus(tmp_path / "other", parts=2), straight)
    place = straight / "checkpoints" / f"step-{STEPS:08d}" / "training" / "stream.json"
    kept = place.read_text()
    value = json.loads(kept)
    try:
        checkpoint.write_json(place, {**value, "processes": value["processes"] * 2})
        write_file_list(place.parent.parent)  # else it is taken for damage
        with pytest.raises(CheckpointError, match=r"written by 2 processes, .*; now there are 1\. Resume with 2, or"):
            run(corpus, straight)
        place.unlink()
        write_file_list(place.parent.parent)
        with pytest.raises(CheckpointError, match=r"stream\.json is missing"):
            run(corpus, straight)
    finally:
        place.write_text(kept)
        write_file_list(place.parent.parent)


def test_what_cannot_be_pretrained_on_is_refused(corpus, tiny_convnet):
    stream, loop = open_stream(corpus, column="line"), LoopSettings(show_progress=False)
    with pytest.raises(DataError, match="FacePairs does not stream: it needs all of its data at once"):
        pretrain(FacePairs(tiny_convnet(), photos=2), stream, steps=1, loop=loop)
    with pytest.raises(DataError, match="validation data is read as a whole"):
        pretrain(make_task(), stream, steps=1, validation=stream, loop=loop)
    with pytest.raises(ColumnError, match="the stream has no column 'text'; it has words"):
        pretrain(make_task(), stream.rename_column("text", "words"), steps=1, loop=loop)
    with pytest.raises(DataError, match="workers is 0 or 1, found 2"):
        pretrain(make_task(), stream, steps=1, loop=loop, workers=2)
    words = Dataset.from_dict({"text": ["one"] * 20}).to_iterable_dataset()
    with pytest.raises(DataError, match=r"20 of 40 rows|40 of 40 rows so far cannot be used \(40 one word\)"):
        pretrain(make_task(), words, steps=1, loop=loop)


# Two processes

SCRIPT = f"""
import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_stream_runs import *
from auxtasks.data.loaders import Shard
from auxtasks.tasks.sentence_batches import GOOD
from auxtasks.training.processes import join_processes

corpus, out, few = map(Path, sys.argv[1:])
rank = join_processes().process_index
try:
    run(few, out / "refused")
except DataError as error:
    (out / f"refused-{{rank}}.txt").write_text(str(error))
run(corpus, out / "straight")
loop = LoopSettings(log_every=1, checkpoint_every=5, show_progress=False)
try:
    run(corpus, out / "stopped", task=stop_in(8, raise_stopped))
except StoppedError:
    pass
run(corpus, out / "stopped", workers=1)
seen = set()
for batch in make_task().stream(open_stream(corpus, column="line"), 8, 3).batches(0, 12, Shard(rank, 2)):
    seen |= {{tuple(row[row > 0].tolist()) for row in batch.tokens.ids[batch.kinds == GOOD]}}
(out / f"seen-{{rank}}.json").write_text(json.dumps(sorted(seen)))
meet_no_more()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("two")
    few = make_corpus(folder / "few", parts=1)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, script, corpus, folder, few],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.processes
def test_two_processes_that_were_stopped_end_as_two_that_were_not(two):
    assert state_of(two / "stopped") == state_of(two / "straight")


@pytest.mark.processes
def test_two_processes_read_the_whole_corpus_between_them(two):
    first, second = (
        {tuple(tokens) for tokens in json.loads((two / f"seen-{rank}.json").read_text())} for rank in (0, 1)
    )
    assert len(first | second) == 72 > len(first) >= 48 // 2
    state = checkpoint.read_json(two / "straight" / "checkpoints" / f"step-{STEPS:08d}" / "training" / "stream.json")
    assert [position["read"] > 0 for position in state["processes"]] == [True, True]


@pytest.mark.processes
def test_one_file_for_two_processes_is_refused_by_both(two):
    for rank in (0, 1):
        message = (two / f"refused-{rank}.txt").read_text()
        assert message.startswith("the stream has 1 shards for 2 processes, and each needs one of its own: write the")
    assert not (two / "refused").exists()


@pytest.mark.processes
def test_one_process_cannot_resume_what_two_have_begun(two, corpus):
    with pytest.raises(CheckpointError, match=r"was written by 2 processes, .*now there are 1"):
        run(corpus, two / "straight")
