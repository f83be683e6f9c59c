# Every target works on a fresh machine: it makes .venv first when that is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test slow check benchmark clean

help:  ## show these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## make .venv with the tested versions

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	DS_BUILD_OPS=0 $(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

quickstart: setup  ## run the main job on the lab
	$(BIN)/python -m safety_lightning fit --config configs/quickstart.yaml

test slow: export OMP_NUM_THREADS = 1
test slow: PYTEST = $(BIN)/python -m pytest -q -n auto --dist worksteal

test: setup  ## run the tests
	$(PYTEST)

slow: setup  ## run the slow tests: kills, several processes, a whole build of the lab
	$(PYTEST) -m slow

check: setup  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup  ## measure the ratios of docs/benchmarks.md (about two hours)
	$(BIN)/python scripts/benchmark.py --out docs/benchmarks.md

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
