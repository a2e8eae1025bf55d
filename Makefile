# Every target creates what it needs: a virtual environment in .venv, and the compiled module in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc -type f)

.PHONY: demo test test-slow test-all lint bench bench-check ptxas build clean

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

# torch first and pinned: the CPU build, where an unpinned one is gigabytes of CUDA packages.
$(VENV)/requirements: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt scikit-build-core pybind11 ninja
	touch $@

# Not isolated, so that a changed kernel is compiled again in seconds.
$(VENV)/built: $(VENV)/requirements $(SOURCES)
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation \
	  --config-settings=cmake.define.ENTROPY_WARNINGS_AS_ERRORS=ON --editable ".[sim,test,trl]"
	touch $@

clean:
	rm -rf $(VENV) build runs dist
