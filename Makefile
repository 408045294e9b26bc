# Everything from a clean clone with Python 3.11 or later and make; .venv is built when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Two processes of a test share the cores; one thread each keeps them from waiting for each other.
TEST_THREADS ?= 2

.PHONY: install demo test lint bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/auxtasks run faces_demo --out runs/faces_demo

test: install
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest

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

clean:
	rm -rf .venv runs build dist *.egg-info
