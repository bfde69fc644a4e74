# Two commands are all a newcomer needs: `make demo` and `make test`. Each sets up .venv from pinned versions first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One CPU build where no GPU is there; elsewhere name the build that fits the driver.
TORCH ?= torch==2.13.0
DEMO ?= demo
# Processes that run tests.
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench mutants clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## set up .venv from requirements.lock

# torch comes with whatever its build needs; all else is exactly the lock, which is closed under dependencies.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install ## the whole chain on a synthetic corpus: at most 10 minutes on two CPU cores
	PATH="$(abspath $(BIN)):$$PATH" bash jobs/demo/run.sh $(DEMO)

# One thread per process: torch's threads wait for each other where several tests run.
test: install ## every test, with line and branch coverage and its floor
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest --numprocesses $(WORKERS) --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: install ## style, types, import rules, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the benchmarks compare with lies beside the environment, so that it changes nothing in it.
$(VENV)/bench/.installed: requirements-bench.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/bench --requirement requirements-bench.lock
	touch $@

bench: install $(VENV)/bench/.installed ## benchmarks, side by side with what one would use instead
	PYTHONPATH=$(VENV)/bench $(BIN)/python tests/bench/run.py $(BENCH)

mutants: install ## break the code on purpose, one place at a time: a test must notice each
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

clean: ## remove what the targets made
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
