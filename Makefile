PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test check bench bench-quick bench-report docs chaos long-tests partitions simulate mutations soak fuzz clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q src
	touch $@

.venv/bench-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

# The last release with Pub and Sub, beside the current one. Without it, its row is missing, and the results say so.
.venv/dask-pubsub/ready: .venv/ready
	-$(PYTHON) -m venv .venv/dask-pubsub && \
	.venv/dask-pubsub/bin/python -m pip install --quiet --disable-pip-version-check 'distributed==2025.3.0' && \
	touch $@

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
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

# All peers at all works, 20 minutes; QUICK=1: fewer sizes, 3 minutes. Debian's redis-server takes part if it is there.
bench: .venv/bench-ready .venv/dask-pubsub/ready
	$(BIN)/python -m compileall -q src
	$(BIN)/python bench/run.py $(if $(QUICK),--quick)

# What is asked of us, beside one peer each.
bench-quick: .venv/bench-ready
	$(BIN)/python -m compileall -q src
	$(BIN)/python bench/compare.py

# Page, pictures and the README's table of the results that are there.
bench-report: .venv/bench-ready
	$(BIN)/python bench/run.py --report

docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

chaos: .venv/ready
	$(BIN)/python tests/histories/chaos.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(KIND),--kind '$(KIND)') $(if $(GROUND),--ground $(GROUND))

long-tests: .venv/ready
	$(BIN)/python -m pytest -m chaos

simulate: .venv/ready
	$(BIN)/python tests/histories/simulate.py $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(PROGRAMS),--programs $(PROGRAMS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(KIND),--kind '$(KIND)') \
	    $(if $(JOBS),--jobs $(JOBS))

mutations: .venv/ready
	$(BIN)/python tests/histories/simulate.py --mutations

.venv/fuzz-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	touch $@

# ENGINE=atheris: bytes that are led by what they reach, for what any bytes are given to (tests/fuzz/targets.py).
fuzz: .venv/ready $(if $(filter atheris,$(ENGINE)),.venv/fuzz-ready)
ifeq ($(ENGINE),atheris)
	$(BIN)/python tests/fuzz/targets.py all $$((60 * $(or $(MINUTES),10)))
else
	FUZZ_S=$$((60 * $(or $(MINUTES),10))) $(BIN)/python -m pytest -s tests/fuzz
endif

soak: .venv/bench-ready
	$(BIN)/python bench/soak.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(OUT),--out $(OUT))

partitions: .venv/ready
	$(BIN)/python -m pytest -m partitions tests/dask

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis
