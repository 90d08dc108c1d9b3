PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test check bench chaos long-tests simulate mutations soak fuzz clean

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
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: .venv/bench-ready
	$(BIN)/python -m compileall -q src
	$(BIN)/python bench/compare.py

chaos: .venv/ready
	$(BIN)/python tests/histories/chaos.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(KIND),--kind '$(KIND)')

long-tests: .venv/ready
	$(BIN)/python -m pytest -m chaos

simulate: .venv/ready
	$(BIN)/python tests/histories/simulate.py $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(PROGRAMS),--programs $(PROGRAMS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(KIND),--kind '$(KIND)')

mutations: .venv/ready
	$(BIN)/python tests/histories/simulate.py --mutations

fuzz: .venv/ready
	FUZZ_S=$$((60 * $(or $(MINUTES),10))) $(BIN)/python -m pytest -s tests/fuzz

soak: .venv/bench-ready
	$(BIN)/python bench/soak.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(OUT),--out $(OUT))

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
