# Every target does its own set-up. PYTHON is the interpreter the virtual environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup run serve test check bench descriptions names templates packs clean
help:
	@echo "make run     a picture of the default prompt (PROMPT='…' for yours)"
	@echo "make serve   the server on http://127.0.0.1:8188"
	@echo "make test    every test        make check   format, lint, types"
	@echo "make bench   every benchmark   make setup   the environment only"
	@echo "make templates converts the official workflow templates"
	@echo "make names   the table of the names that node packs use"
	@echo "make packs   PACKS_DIR=… runs real node packs, one folder each"

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone: what comes after is then content with the pinned build.
$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	@touch $@

setup: $(VENV)/.dev

run: $(VENV)/.run
	@$(BIN)/limner generate $(if $(PROMPT),"$(PROMPT)")

serve: $(VENV)/.run
	$(BIN)/limner serve

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

descriptions: $(VENV)/.run
	$(BIN)/python -m limner.nodes.describe

names: $(VENV)/.run
	$(BIN)/python -m limner.compat.table tests/compat/legacy_names.txt tests/compat docs/legacy_names.md

clean:
	rm -rf $(VENV)

templates: $(VENV)/.dev
	$(BIN)/python tests/templates/run.py

packs: $(VENV)/.dev
	$(BIN)/python tests/packs/run.py $(PACKS_DIR) --write docs/packs.md
