# make train [ARGS="magnification=10x seed=1"] · make test [ARGS="-m slow"] · make lint
# make bench [ARGS="step rounds=5"] · make bench-peers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint bench bench-peers

train: $(VENV)/.ready
	$(BIN)/python -m mbgan.train experiment=quick_start $(ARGS)

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/.ready
	$(BIN)/python -m benchmarks.peers $(ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[dev]"
	touch $@
