# Everything from a clean clone with Python 3.11 or later and make; .venv is built when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Tests run side by side, a file a process; threads of one would wait for those of the other.
TEST_PROCESSES ?= 2

.PHONY: install demo test lint bench trust clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/auxtasks run faces_demo --out runs/faces_demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.training_loop
	$(BIN)/python -m benchmarks.cached_features
	$(BIN)/python -m benchmarks.text_speed
	$(BIN)/python -m benchmarks.depth_search
	$(BIN)/python -m benchmarks.staged_unfreezing
	$(BIN)/python -m benchmarks.foreign_logits

# Kills, resumes, bad inputs and the rest, as often as a proof needs; README says what came out.
trust: install
	OMP_NUM_THREADS=1 $(BIN)/python -m trust

clean:
	rm -rf .venv runs build dist *.egg-info
