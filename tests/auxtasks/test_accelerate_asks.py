"""What a launcher asks for in the environment and no run gets is refused before anything is done."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from auxtasks.backbones import mlp
from auxtasks.data.loaders import Shard
from auxtasks.errors import TrainingError
from auxtasks.pretrain import pretrain
from auxtasks.tasks import LabelledQueries, MaxMarginRanking
from auxtasks.training.accelerate_asks import refuse_other_settings, refuse_what_is_not_given
from auxtasks.training.batch_norm import refuse_batch_norm
from auxtasks.training.objective import Objective
from auxtasks.training.processes import join_processes
from auxtasks.training.settings import LoopSettings, Phase

QUIET = LoopSettings(show_progress=False)


def lists() -> Dataset:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(24, 3)).tolist()
    return Dataset.from_dict({"qid": [row // 4 for row in range(24)], "grade": [0.0, 1, 2, 3] * 6, "features": vectors})


def run(loop: LoopSettings = QUIET, folder=None) -> dict[str, torch.Tensor]:
    task = MaxMarginRanking(mlp(width=3, hidden=[4]), LabelledQueries(list_size=4))
    pretrain(task, lists(), steps=2, batch_size=4, loop=loop, folder=folder)
    return task.state_dict()


ASKS = [
    ("ACCELERATE_USE_FSDP", "true", "each process would hold and train all of the network.*training.sharding=full"),
    ("ACCELERATE_USE_FSDP", "1", "dealt out to the processes by FSDP"),
    ("ACCELERATE_USE_DEEPSPEED", "true", "asks for DeepSpeed.*on a CPU it would train without.*training.sharding=full"),
    ("ACCELERATE_USE_MEGATRON_LM", "true", "asks for Megatron-LM.*training.sharding=full"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "asks for tensor, context or pipeline parallelism"),
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "asks for a compiled network.*Leave --dynamo_backend out"),
    ("PJRT_DEVICE", "TPU", "asks for a TPU, which is not given here: it would train on the CPU"),
    ("ACCELERATE_IN_TPU_POD", "1", "asks for a pod of TPUs"),
]


@pytest.mark.parametrize(("variable", "value", "told"), ASKS)
def test_what_no_run_gets_is_refused_before_anything_is_done(variable, value, told, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, value)
    with pytest.raises(TrainingError, match=f"{variable}={value} {'' if told.startswith('asks') else 'asks.*'}{told}"):
        run(folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            "=bf16, while the run has mixed_precision=no, which would have been used",
        ),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "=fp8, while the run has mixed_precision=no"),
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "4",
            "=4, while the run has accumulation=1.*training.accumulation=4",
        ),
    ],
)
def test_another_precision_or_accumulation_is_refused(variable, value, told, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, value)
    with pytest.raises(TrainingError, match=told):
        run(folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_run_has_anyway_may_be_asked_for(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    found = run(LoopSettings(show_progress=False, mixed_precision="bf16", accumulation=2))
    monkeypatch.undo()
    expected = run(LoopSettings(show_progress=False, mixed_precision="bf16", accumulation=2))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_a_launcher_sets_by_default_asks_for_nothing():
    default = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_FSDP": "false",
        "PJRT_DEVICE": "CPU",
    }
    refuse_what_is_not_given(default)
    for precision in ("no", "bf16"):  # the launcher's "no" may be its default: the run's own holds
        refuse_other_settings(precision, 4, default)


def test_processes_do_not_even_meet_where_something_else_was_asked_for(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(TrainingError, match="DeepSpeed"):
        join_processes()


class Synchronised(Objective):
    """A network with a BatchNorm that asks for the statistics of all processes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.SyncBatchNorm(2)

    def forward(self, batch):
        raise AssertionError("refused before")

    def save(self, folder, provenance): ...

    def restore(self, folder): ...


def test_synchronised_batch_norm_on_a_cpu_is_refused():
    with pytest.raises(TrainingError, match="norm on the statistics of a batch, and the batch is split into 2 proc"):
        refuse_batch_norm(Synchronised(), [Phase(1)], Shard(0, 2, 1), torch.device("cpu"))


@pytest.mark.processes
def test_accelerate_launch_with_fsdp_is_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from auxtasks.training.processes import join_processes\njoin_processes()\n")
    launcher = ["-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "--num_machines", "1", "--main_process_port", "0", script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "TrainingError: ACCELERATE_USE_FSDP=true asks for weights dealt out to the processes by FSDP" in done.stderr
