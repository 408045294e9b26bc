"""Every launcher starts the processes that it was asked for, and they end with the weights of one; or it is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from auxtasks import checkpoint
from auxtasks.errors import TrainingError
from auxtasks.training import processes as module
from auxtasks.training.run_lock import only_run
from trust.launched import ALLOWED, environment, relative_difference, torchrun

NO_TARGETS = "targets.strangers=null"
ACCELERATE = ["-m", "accelerate.commands.launch"]
# Without --multi_gpu it would start one process where there are not several GPUs; with it, it also starts them on CPUs.
TOGETHER = [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0",
            "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]  # fmt: skip
LAUNCHERS = {"torchrun": [*torchrun(2), "-m"], "accelerate launch": TOGETHER}
TIMED = {"samples_per_second", "data_wait_share"}


def start(launcher, *arguments, folder, **variables):
    """Run a command of ours by a launcher; its configuration is read from an empty folder, not from the user's."""
    return subprocess.run(
        [sys.executable, *launcher, "recipes", *map(str, arguments)],
        env={**environment(), "HF_HOME": str(folder / "hf"), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def weights(run: Path):
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return checkpoint.read_tensors(newest / "backbone" / "model.safetensors")


def lines(run: Path):
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMED} for line in found]


def processes_of(run: Path) -> int:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return checkpoint.read_json(newest / "training" / "state.json")["processes"]


@pytest.mark.processes
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_it_pretrains_as_one_process_does(finished, miniature, tmp_path, launcher, record_property):
    out = tmp_path / "run"
    ended = start(LAUNCHERS[launcher], "pretrain", miniature, NO_TARGETS, "--out", out, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (processes_of(out), processes_of(finished)) == (2, 1)
    difference = relative_difference(weights(out), weights(finished))
    assert difference <= ALLOWED
    record_property("largest_difference", difference)
    one, two = lines(finished), lines(out)
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert a.pop("kind") == b.pop("kind")
        assert b == pytest.approx(a, rel=1e-4)


@pytest.mark.processes
def test_processes_on_a_folder_in_use_all_end_with_one_message(miniature, tmp_path):
    with only_run(tmp_path / "run"):
        ended = start(LAUNCHERS["torchrun"], "pretrain", miniature, "--out", tmp_path / "run", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("is in use by another run: process ") == 1
    assert [line for line in ended.stderr.splitlines() if line.startswith("[rank")] == []  # no traceback of a process
    assert "SIGKILL" not in ended.stderr  # nor one that waited until the launcher had enough


@pytest.mark.processes
def test_torchrun_fine_tunes_as_one_process_does(command_line, finished, tmp_path, record_property):
    arguments = ("finetune", finished, "--target", "strangers", "--layer", "stage2")
    called = command_line(*arguments, "--out", tmp_path / "one")
    assert called.code == 0, called.err
    ended = start(LAUNCHERS["torchrun"], *arguments, "--out", tmp_path / "two", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = [json.loads((tmp_path / name / "finetuned" / "strangers.json").read_text()) for name in ("one", "two")]
    for result in results:
        del result["cost"]
    assert results[0] == results[1]
    # Each number is printed once, by the first process; seconds are its own.
    printed = [[line for line in text.splitlines() if " stages, " not in line] for text in (called.out, ended.stdout)]
    assert printed[0] == printed[1] != []
    models = [
        checkpoint.read_tensors(tmp_path / name / "transfer" / "model" / "strangers" / "backbone" / "model.safetensors")
        for name in ("one", "two")
    ]
    difference = relative_difference(models[1], models[0])
    assert difference <= ALLOWED
    record_property("largest_difference", difference)


@pytest.mark.processes
def test_accelerate_that_starts_one_process_instead_of_two_is_refused(miniature, tmp_path):
    launcher = [*ACCELERATE, "--cpu", "--num_processes", "2", "-m"]
    ended = start(launcher, "pretrain", miniature, NO_TARGETS, "--out", tmp_path / "run", folder=tmp_path)
    assert ended.returncode == 1
    assert "error: accelerate launch was asked for several processes and started one. Add --multi_gpu" in ended.stderr
    assert not (tmp_path / "run").exists()


ALONE = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("missing", ALONE)
def test_one_process_that_is_all_that_was_asked_for_is_fine(monkeypatch, missing):
    # `accelerate launch --num_processes 1` names no place to meet; a cluster may name one where Accelerate is not used.
    for name in (*ALONE, *module.SIZES):
        monkeypatch.delenv(name, raising=False)
    for name in ALONE.keys() - {missing}:
        monkeypatch.setenv(name, ALONE[name])
    assert module.join_processes().num_processes == 1


def test_processes_of_mpi_are_no_lonely_ones(monkeypatch):
    for name, value in {**ALONE, "PMI_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert module.join_processes().num_processes == 1
    monkeypatch.delenv("PMI_SIZE")
    with pytest.raises(TrainingError, match="asked for several processes and started one"):
        module.join_processes()


KILLED = """
import os, signal, sys, time
from recipes.interruptions import Interruption, interruptions

if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
try:
    with interruptions():
        time.sleep(60)
except Interruption as stop:
    sys.exit(128 + stop.signal)
"""


@pytest.mark.processes
def test_a_process_that_was_killed_is_no_stop_though_the_launcher_stops_the_others(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, "-m", "recipes.torch_launcher", "--standalone", "--nproc_per_node", "2"]
    variables = {**environment(), "AUXTASKS_LAUNCHED": str(os.getpid())}
    done = subprocess.run([*command, tmp_path / "killed.py"], env=variables, capture_output=True, text=True)
    assert done.returncode == 1
    assert "process 1 was ended by SIGKILL" in done.stderr
