"""How commands end as processes: by their own will, by an error, by a signal, beside another one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

pytestmark = pytest.mark.processes

RECIPE = {
    "name": "small",
    "data": {"path": "builtin:drawn_faces", "options": {"people": 8, "photos": 4, "size": 20}, "holdout": 0.25},
    "backbone": {"name": "convnet", "arguments": {"size": 16, "widths": [8], "blocks": [1], "embedding": 8}},
    "task": {"name": "face_pairs", "photos": 2},
    # So many steps that a process that is not stopped would not end within the test.
    "training": {"steps": 100_000, "batch_size": 8, "workers": 1, "log_every": 1, "device": "cpu"},
}


@contextlib.contextmanager
def begun(*arguments):
    """Begin a command; nothing of it outlives the block."""
    command = [sys.executable, "-m", "recipes", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    one.kill()


def wait_for_steps(process, out, count=3):
    log = out / "metrics.jsonl"
    while not log.exists() or log.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def newest(out):
    return max((out / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_with_a_checkpoint_a_word_and_its_exit_code(recipe, tmp_path, number):
    out = tmp_path / "run"
    with begun("pretrain", recipe, "--out", out) as process:
        wait_for_steps(process, out)
        # To the whole family, as a terminal or a scheduler does: the loader worker's end would be an error of its own.
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(family) >= 2
        for one in family:
            one.send_signal(number)
        said = process.communicate()[1]
        _, alive = psutil.wait_procs(family, timeout=30)
    assert process.returncode == 128 + number
    kept = newest(out)
    step = int(kept.name.removeprefix("step-"))
    assert said == (
        f"stopped by {number.name} after step {step}: kept in {kept}; the same command goes on from there.\n"
    )
    assert json.loads((kept / "training" / "state.json").read_text())["step"] == step
    assert alive == []
    assert {path.name for path in out.iterdir()} == {"checkpoints", "environment.json", "metrics.jsonl", "recipe.yaml"}


def test_several_processes_stop_together_at_the_signal_of_the_one_that_started_them(recipe, tmp_path):
    out = tmp_path / "run"
    with begun("run", recipe, "--out", out, "--processes", 2) as process:
        wait_for_steps(process, out)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 5  # the launcher, two processes, and the loader worker of each
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
        _, alive = psutil.wait_procs(family, timeout=30)
    assert process.returncode == 143
    step = int(newest(out).name.removeprefix("step-"))
    assert (
        f"stopped by SIGTERM after step {step}: kept in {newest(out)}; the same command goes on from there.\n" in said
    )
    assert said.count("stopped by") == 1
    assert "Traceback" not in said
    assert alive == []


def test_processes_do_not_outlive_a_launcher_that_was_killed(recipe, tmp_path):
    out = tmp_path / "run"
    with begun("run", recipe, "--out", out, "--processes", 2) as process:
        wait_for_steps(process, out)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_the_second_command_on_a_folder_is_refused_and_told_of_the_first(recipe, tmp_path):
    out = tmp_path / "run"
    with begun("pretrain", recipe, "--out", out) as first:
        wait_for_steps(first, out)
        with begun("run", recipe, "--out", out, "--processes", "2") as second:
            said = second.communicate()[1]
        assert second.returncode == 1
        assert re.fullmatch(rf"error: {out} is in use by another run: process {first.pid} on .*\n", said)
        assert first.poll() is None


def test_a_stop_before_training_is_a_word_and_an_exit_code(recipe, tmp_path):
    with begun("pretrain", recipe, "data.options.people=200000", "--out", tmp_path / "run") as process:
        while not (tmp_path / "run" / "recipe.yaml").exists():  # it is about to draw very many pictures
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert (process.returncode, said) == (130, "stopped by SIGINT.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list"], 0, ""),
        (["pretrain", "no such recipe"], 2, "error: .*no such recipe"),
        (["no-such-command"], 2, "No such command"),
        (["report", "/nowhere"], 1, "error: /nowhere"),
    ],
)
def test_exit_codes(arguments, code, said):
    with begun(*arguments) as process:
        errors = process.communicate()[1]
    assert process.returncode == code
    assert re.search(said, errors)
    assert "Traceback" not in errors
