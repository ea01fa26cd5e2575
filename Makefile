# Every target sets itself up: a fresh checkout needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What running sjd2 takes, and on top of it what developing it takes.
NEEDED := $(VENV)/.needed
STAMP  := $(VENV)/.installed
# Two tests at a time, those of a file one after another.
PYTEST := -m pytest --numprocesses 2 --dist loadfile
# A second environment, with the oldest transformers that pyproject.toml allows.
OLDEST := .venv-oldest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-oldest lint types format bench pictures gpu kernels clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv and install sjd2 with its development tools

$(NEEDED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("sjd2 needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(STAMP): $(NEEDED)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(NEEDED)  ## captions become pictures, token by token and accelerated, side by side
	$(BIN)/python -m sjd2.demo

test: $(STAMP)  ## the whole fast suite (under 10 minutes on 2 cores)
	$(BIN)/python $(PYTEST) -m "not slow and not gpu"

test-slow: $(STAMP)  ## the slow statistical tests
	$(BIN)/python $(PYTEST) -m "slow and not gpu"

test-oldest: $(OLDEST)/.installed  ## the fast suite on the oldest transformers that is supported
	$(OLDEST)/bin/python $(PYTEST) -m "not slow and not gpu"

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --editable ".[dev]" \
	  "transformers==$$(sed -nE 's/.*"transformers>=([0-9.]+),.*/\1/p' pyproject.toml).*"
	@touch $@

lint: $(STAMP)  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict on sjd2/
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the tables of docs/results.md (about half an hour on 2 cores)
	$(BIN)/python bench/bench_decode.py

pictures: $(STAMP)  ## the pictures of the README and the outputs of docs/sjd2.ipynb
	$(BIN)/python bench/docs_pictures.py
	$(BIN)/python bench/docs_notebook.py

gpu: $(STAMP)  ## parity and kernel benchmarks on the GPU at hand; writes bench/results/<device>.json
	$(BIN)/python bench/gpu.py

kernels: $(STAMP)  ## compile every kernel for GPUs that are not here: registers, shared memory, spills
	$(BIN)/python bench/compile_kernels.py

clean:  ## remove what the targets above installed and cached; the pictures in out/ stay
	rm -rf $(VENV) $(OLDEST) .mypy_cache .pytest_cache .ruff_cache .benchmarks
