# Everything happens in .venv/ of this folder, installed from pyproject.toml with the versions of constraints.txt.
#   make quickstart   set up and run the main job on the embedded sample (CPU, no network), ending in a report
#   make efficient-empathy   the whole method: both experts, their mixture and its baselines, side by side (CPU)
#   make docs         the documentation site, into build/site
#   make test         set up and run the tests (those marked slow are left to make test-all)

PYTHON ?= python3
BIN := .venv/bin
DATA := $(abspath $(wildcard ../shared/data))
ifneq ($(DATA),)
export EE_TRL_DATA ?= $(DATA)
endif

.PHONY: quickstart efficient-empathy test test-all lint types format docs wheel clean

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: .venv/installed
	$(BIN)/ee-trl quickstart --output runs/quickstart

efficient-empathy: .venv/installed
	$(BIN)/python recipes/efficient_empathy.py --output_dir runs/efficient_empathy

test: .venv/installed
	$(BIN)/pytest -m "not slow"

test-all: .venv/installed
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --wheel --sdist --outdir dist .

clean:
	rm -rf .venv build dist runs *.egg-info
