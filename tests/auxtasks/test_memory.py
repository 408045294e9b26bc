"""How much memory a run took: of the process, of its loader workers, of all processes, of a GPU."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from auxtasks.backbones import mlp
from auxtasks.layerwise import pretrain_layerwise
from auxtasks.tasks import LayerAutoencoder
from auxtasks.training.memory import PeakMemory, WorkerMemory, own_peak_memory, peak_memory
from auxtasks.training.settings import LoopSettings

MEGABYTE = 2**20


def resident(line: str) -> int:
    """Return what the kernel says of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(text.split()[1]) * 1024 for text in status.splitlines() if text.startswith(line))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the oracle is Linux's own count")
def test_the_peak_is_what_the_kernel_counts():
    assert own_peak_memory().largest == pytest.approx(resident("VmHWM:"), abs=4 * MEGABYTE)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has another count")
def test_what_a_process_was_before_it_became_this_program_does_not_count(monkeypatch):
    """Of a large parent that starts it, Linux counts the copy from which it began, in ru_maxrss."""
    monkeypatch.setattr("resource.getrusage", lambda who: pytest.fail("the parent's peak would be told"))
    assert own_peak_memory().largest == pytest.approx(resident("VmHWM:"), abs=4 * MEGABYTE)


def test_the_peak_stays_when_memory_is_given_back():
    before = own_peak_memory().largest
    held = np.ones(before // 8 + 8 * MEGABYTE)  # 64 MB more than there ever was
    during = own_peak_memory().largest
    assert during > before
    del held
    # The kernel adds up the pages of threads now and then, not at once.
    assert own_peak_memory().largest >= during - MEGABYTE


def test_a_run_of_one_process_names_no_sum_and_no_gpu():
    found = peak_memory()
    assert found.total == found.largest
    assert found.as_cost() == {"peak_memory_bytes": found.largest}


def test_all_that_there_is_is_named():
    assert PeakMemory(largest=5, total=9, workers=2, gpu=7).as_cost() == {
        "peak_memory_bytes": 5,
        "peak_memory_bytes_all_processes": 9,
        "peak_memory_bytes_workers": 2,
        "peak_gpu_memory_bytes": 7,
    }


def test_stages_have_the_largest_figures_of_any():
    assert PeakMemory(5, 9, 2, 7).at_most(PeakMemory(6, 8, 1, 9)) == PeakMemory(6, 9, 2, 9)
    values = np.random.default_rng(0).random((20, 6), dtype=np.float32)
    loop = LoopSettings(show_progress=False, device="cpu")
    found = pretrain_layerwise(
        mlp(width=6, hidden=[4, 3], activation="sigmoid"), values, LayerAutoencoder, steps=2, batch_size=10, loop=loop
    )
    assert found.as_one().memory.largest == max(stage.memory.largest for stage in found.stages.values()) > MEGABYTE


def hold(ready, done):
    held = np.ones(16 * MEGABYTE)  # 128 MB of its own
    ready.set()
    done.wait()
    del held


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks beside threads
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells what is shared")
def test_workers_count_with_what_is_theirs_alone():
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    memory = WorkerMemory()
    worker = context.Process(target=hold, args=(ready, done))
    worker.start()
    try:
        assert ready.wait(60)
        memory.look()
    finally:
        done.set()
        worker.join()
    found = own_peak_memory(memory)
    assert 128 * MEGABYTE < found.workers < 128 * MEGABYTE + found.largest / 2  # and not what it shares with this one
    assert found.total == found.largest + found.workers
    memory.look()
    assert own_peak_memory(memory) == found  # what has ended is still in the peak
