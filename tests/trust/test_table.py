"""``python -m trust`` tells each proof as it comes, outlives a section that breaks, and ends as the worst of them."""

import sys
import types

import pytest

from trust import ROOT, kills, processes, resumes
from trust import __main__ as program
from trust.proof import Proof
from trust.suites import count

HELD = Proof("a part", "what [holds]", 1_000, result="all [equal]")


def broken(folder, *, full):
    yield HELD
    (folder / "left").mkdir()
    raise OSError("no space left\nmore of it")


SECTIONS = {
    "holds": lambda folder, *, full: iter([HELD]),
    "fails": lambda folder, *, full: iter([Proof("a part", "what does not", 2, ("the second", "and the first"))]),
    "idle": lambda folder, *, full: iter([Proof("a part", "what was never tried", 0)]),
    "breaks": broken,
    "small": lambda folder, *, full: iter([Proof("a part", "how often", 9 if full else 1)]),
}


@pytest.fixture
def tried(monkeypatch, capsys):
    """Try sections; return the exit code and what was printed."""
    monkeypatch.setattr(program, "SECTIONS", tuple(SECTIONS))
    for name, prove in SECTIONS.items():
        monkeypatch.setitem(sys.modules, f"trust.{name}", types.SimpleNamespace(prove=prove))

    def call(*arguments):
        code = program.main(arguments)
        return code, capsys.readouterr().out

    return call


def test_what_holds_is_told_and_ends_well(tried):
    code, said = tried("holds")
    assert code == 0
    assert said.startswith("holds: what [holds]: 1,000 tried, 0 failed. all [equal]\nholds: 0 s\n")
    row = next(line for line in said.splitlines() if line.startswith("│ a part"))
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["what [holds]", "1,000", "0", "all [equal]"]


def test_a_failure_is_a_line_and_the_exit_code(tried):
    code, said = tried("fails", "holds")
    assert code == 1
    assert "fails: what does not: 2 tried, 2 failed.\n  the second\n  and the first\n" in said
    assert "what [holds]" in said


def test_what_was_never_tried_does_not_hold(tried):
    code, said = tried("idle")
    assert code == 1
    assert "not tried" in said


def test_a_section_that_breaks_fails_and_the_others_are_tried(tried):
    code, said = tried("breaks", "holds")
    assert code == 1
    assert "breaks: what [holds]: 1,000 tried, 0 failed." in said  # what it had proved before
    assert "breaks: the section, to its end: 1 tried, 1 failed.\n  OSError: no space left\n" in said
    assert "holds: what [holds]" in said


def test_a_proof_is_full_unless_a_small_one_is_asked_for(tried):
    assert "9 tried" in tried("small")[1]
    assert "1 tried" in tried("small", "--small")[1]


def test_a_section_that_is_not_there_is_refused(tried, capsys):
    with pytest.raises(SystemExit, match="2"):
        tried("nothing")
    assert "no section nothing; there are holds, fails, idle, breaks, small" in capsys.readouterr().err


def test_every_section_is_there():
    for name in program.SECTIONS:
        assert callable(program.importlib.import_module(f"trust.{name}").prove)


def test_every_suite_is_there():
    for _, tests in (*processes.SUITES, *kills.SUITES, *resumes.SUITES):
        for test in tests:
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not name or f"def {name}(" in text, test


def test_what_is_counted_is_the_tests_that_are_named_and_what_they_have_tried(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_many(record_property): record_property('inputs', 7)\n"
        "@pytest.mark.parametrize('case', 'ab')\ndef test_two(case): pass\n"
        "def test_of_something_else(): assert False\n"
    )
    named = [f"{tmp_path}/test_some.py::{name}" for name in ("test_many", "test_two")]
    proof = count("a part", "some", named)
    assert (proof.times, proof.failures) == (9, ())
    assert not count("a part", "some", [*named, f"{tmp_path}/test_some.py::test_gone"]).holds


def test_tests_that_fail_break_or_are_skipped_are_told_apart(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_well(record_property): record_property('largest_difference', 3e-7)\n"
        "def test_wrong(): assert 1 == 2, 'one is not two'\n"
        "@pytest.fixture\ndef gone(): raise OSError('gone')\n"
        "def test_broken(gone): pass\n"
        "@pytest.mark.skip\ndef test_left_out(): pass\n"
    )
    proof = count("a part", "some", [str(tmp_path / "test_some.py")])
    wrong, gone = proof.failures
    assert proof.times == 3
    assert "test_wrong: AssertionError: one is not two" in wrong
    assert "test_broken: " in gone
    assert "OSError: gone" in gone
    assert proof.result == "largest relative difference 3.0e-07"


def test_files_without_tests_fail(tmp_path):
    (tmp_path / "test_none.py").touch()
    proof = count("a part", "none", [str(tmp_path / "test_none.py")])
    assert not proof.holds
    assert "pytest ended with exit code 5" in proof.failures[0]
