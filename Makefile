# Every target creates what it needs: a virtual environment in .venv, and the compiled module in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc -type f)

.PHONY: demo test test-slow test-all test-verl lint bench bench-check ptxas build clean

# Train, measure and verify; a page to look at.
demo: build
	$(BIN)/python -m sim demo --out runs/demo

# All that CI runs.
test: build lint
	$(BIN)/python -m pytest -m "not slow and not every_recipe"

test-slow: build
	$(BIN)/python -m pytest -m slow

# Every test there is: the slow ones, and the training of every recipe.
test-all: build lint
	$(BIN)/python -m pytest

# verl wants other versions of other packages: an environment of its own.
VERL_VERSION ?= 0.9.1
test-verl: .venv-verl/built
	.venv-verl/bin/python -m pytest -W default tests/integrations/test_verl_*.py

.venv-verl/built: tests/integrations/verl-requirements.txt $(SOURCES)
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/pip install --quiet -r tests/integrations/verl-requirements.txt
	.venv-verl/bin/pip install --quiet --no-deps verl==$(VERL_VERSION)
	.venv-verl/bin/pip install --quiet --no-deps --no-build-isolation --editable . \
	  --config-settings=build-dir=build/verl --config-settings=cmake.define.ENTROPY_CUDA=OFF
	touch $@

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: build
	$(BIN)/python -m bench

bench-check: build
	$(BIN)/python -m bench --check

# Registers, spills and stack of each CUDA kernel, as the compiler reports them.
ptxas: build
	$(BIN)/python -m bench.ptxas

build: $(VENV)/built

# torch first and pinned. Where pip would bring the CUDA build, gigabytes, PIP_EXTRA_INDEX_URL can
# name PyTorch's index of CPU builds.
$(VENV)/requirements: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt scikit-build-core pybind11 ninja
	touch $@

# Not isolated, so that a changed kernel is compiled again in seconds.
$(VENV)/built: $(VENV)/requirements $(SOURCES)
	@echo "compiling the kernels: a few minutes where nvcc is found"
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation \
	  --config-settings=cmake.define.ENTROPY_WARNINGS_AS_ERRORS=ON --editable ".[sim,test,trl]"
	touch $@

clean:
	rm -rf $(VENV) .venv-verl build runs dist
