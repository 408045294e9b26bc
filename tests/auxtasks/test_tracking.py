"""Lines of metrics survive a kill, and the bar keeps quiet where nobody looks."""

import json

import pytest

from auxtasks.errors import CheckpointError
from auxtasks.training import tracking
from auxtasks.training.tracking import Meter, MetricsLog, ProgressBar


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    for step in (10, 20, 30):
        log.write(step, "train", {"loss": 1 / step})
        log.write(step, "validation", {"auc": 0.5})
    return log


def test_lines_are_json_and_what_is_not_finite_is_null(tmp_path):
    MetricsLog(tmp_path / "a").write(1, "train", {"loss": float("nan"), "norm": float("inf"), "auc": 0.5})
    assert lines(tmp_path / "a") == [{"step": 1, "kind": "train", "loss": None, "norm": None, "auc": 0.5}]


def test_rewinding_drops_later_steps_and_keeps_the_rest_as_it_was(log, tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    before = path.read_text().splitlines(keepends=True)
    log.rewind(to_step=20)
    assert path.read_text() == "".join(before[:4])


def test_a_last_line_cut_short_by_a_kill_is_dropped(log, tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "ki')
    log.rewind(to_step=100)
    assert [line["step"] for line in lines(path)] == [10, 10, 20, 20, 30, 30]
    log.write(40, "train", {})
    assert lines(path)[-1] == {"step": 40, "kind": "train"}


@pytest.mark.parametrize("line", [b"{]\n", b"\xff\n", b"3\n", b"{}\n"])
def test_a_line_that_no_kill_leaves_is_named_and_nothing_is_dropped(log, tmp_path, line):
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(damaged := line + path.read_bytes())
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged: .* Move it away"):
        log.rewind(to_step=20)
    assert path.read_bytes() == damaged


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = MetricsLog(None)
    log.write(1, "train", {"loss": 1.0})
    log.rewind(0)
    assert list(tmp_path.iterdir()) == []


def test_the_meter_counts_items_and_waiting(monkeypatch):
    clock = iter([100.0, 104.0])
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: next(clock))
    meter = Meter()
    for items, waited in ((30, 0.5), (10, 0.5)):
        meter.wait(waited)
        meter.count(items)
    assert meter.read() == {"samples_per_second": 10.0, "data_wait_share": 0.25}


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_is_silent_where_stderr_is_no_terminal(capfd, shown):
    with ProgressBar("training", total=3, done=1, shown=shown) as bar:
        bar.advance("loss 0.5")
        bar.advance()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_bar_shows_step_and_status_on_a_terminal(monkeypatch, capfd):
    monkeypatch.setattr(tracking.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar("training", total=3, done=1) as bar:
        bar.advance("loss 0.5")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "loss 0.5" in captured.err
    assert "2/3" in captured.err
