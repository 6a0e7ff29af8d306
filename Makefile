# Everything happens in .venv/ of this folder, installed from pyproject.toml with the versions of constraints.txt.
#   make quickstart   set up and run the main job on the embedded sample (CPU, no network), ending in a report
#   make efficient-empathy   the whole method: both experts, their mixture and its baselines, side by side (CPU)
#   make docs         the documentation site, into build/site
#   make test         set up and run the tests (those marked slow are left to make test-all)
#   make test-lowest  the same in .venv-lowest/, with the oldest versions that are supported

PYTHON ?= python3
BIN := .venv/bin
DATA := $(abspath $(wildcard ../shared/data))
ifneq ($(DATA),)
export EE_TRL_DATA ?= $(DATA)
endif

.PHONY: quickstart efficient-empathy test test-all test-lowest lint types format docs wheel clean

PYTHON_IS_NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON_IS_NEW_ENOUGH)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# constraints-lowest.txt goes over constraints.txt, package by package
.venv-lowest/installed: pyproject.toml constraints.txt constraints-lowest.txt
	@$(PYTHON_IS_NEW_ENOUGH)
	$(PYTHON) -m venv .venv-lowest
	awk -F== 'FNR == NR { lowest[tolower($$1)] } FNR == NR || !(tolower($$1) in lowest)' \
		constraints-lowest.txt constraints.txt > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet --upgrade pip
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	@touch $@

quickstart: .venv/installed
	$(BIN)/ee-trl quickstart --output runs/quickstart

efficient-empathy: .venv/installed
	$(BIN)/python recipes/efficient_empathy.py --output_dir runs/efficient_empathy

test: .venv/installed
	$(BIN)/pytest -m "not slow"

test-all: .venv/installed
	$(BIN)/pytest

test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/imports && mkdir -p build/imports
	cp -r ee_trl build/imports/ && cp -r evaluation recipes build/imports/ee_trl/
	cd build/imports && $(abspath $(BIN))/lint-imports --no-cache --config $(abspath pyproject.toml)

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
	rm -rf .venv .venv-lowest build dist runs *.egg-info
