# `make demo` and `make test` need nothing but Python >= 3.11 and a network to install from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# On a machine without an NVIDIA GPU the CPU build of torch is taken where an index offers it:
# it is a tenth of the CUDA build's size.
TORCH := $(shell $(PYTHON) -c 'import re;print(re.search(r"^torch==\S+", open("constraints.txt").read(), re.M)[0])')
define install_torch
if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null 2>&1; \
	then $(1) install '$(TORCH)'; \
	else $(1) install '$(TORCH)+cpu' 2> /dev/null || $(1) install '$(TORCH)'; fi
endef

.PHONY: setup demo test test-slow test-gpu check fuzz docs wheel-check format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "poscon needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up $(VENV) (once; a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(call install_torch,$(PIP))
	@$(PIP) install --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: setup
	@$(BIN)/poscon demo

# On a CPU everywhere: a GPU rounds otherwise, and in an order that changes. A process a core, each
# with one thread: threads that wait for each other would lose more than they gain. Processes that
# tests start share the compiled code, also where the user's Python keeps none.
PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test: setup check
	@$(PYTEST)

test-slow: setup
	@$(PYTEST) -m slow

test-gpu: setup
	@$(BIN)/pytest tests/test_gpu.py

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Damaged files for every reader; `make test` tries a hundredth of them. A quarter of an hour.
fuzz: setup
	@$(BIN)/python reliability/fuzz.py --inputs 100000 --seed 0

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

# The package as others get it: two builds have the same bytes, and it works in an empty environment.
wheel-check:
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	mkdir "$$folder/copy"; cp -r src pyproject.toml README.md LICENSE "$$folder/copy"; \
	$(PYTHON) -m venv "$$folder/venv"; pip="$$folder/venv/bin/python -m pip --disable-pip-version-check -qq"; \
	$$pip wheel --no-deps --wheel-dir "$$folder/one" .; \
	$$pip wheel --no-deps --wheel-dir "$$folder/two" "$$folder/copy"; \
	cmp "$$folder"/one/*.whl "$$folder"/two/*.whl; sha256sum "$$folder"/one/*.whl; \
	$(call install_torch,$$pip); \
	$$pip install --constraint constraints.txt "$$folder"/one/*.whl; \
	cd "$$folder"; venv/bin/poscon demo

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis
