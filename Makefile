PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test check bench chaos partitions clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q src
	touch $@

.venv/bench-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

demo: .venv/ready
	$(BIN)/python examples/tutorial.py

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: .venv/bench-ready
	$(BIN)/python -m compileall -q src
	$(BIN)/python bench/compare.py

chaos: .venv/ready
	$(BIN)/python -m pytest -m chaos

partitions: .venv/ready
	$(BIN)/python -m pytest -m partitions tests/dask

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
