# make train [ARGS="magnification=10x seed=1"] · make test [ARGS="-m slow"] · make lint · make docs · make audit
# make bench [ARGS="step rounds=5"] · make bench-peers
# CONSTRAINTS=constraints.txt installs the versions that CI tests; without it, the newest that pyproject.toml allows.
PYTHON ?= python3
CONSTRAINTS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint docs audit constraints bench bench-peers

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

docs: $(VENV)/.ready  # into docs/_build/html; a warning fails
	$(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env docs docs/_build/html

audit: $(VENV)/.ready  # known vulnerabilities of the versions CI tests; asks a service on the network
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

constraints: $(VENV)/.ready  # what is installed here; builds of torch and NVIDIA's libraries are the machine's own
	( echo "# Versions that CI tests, with Python 3.11: make constraints" ; \
	  $(BIN)/pip freeze --exclude-editable | sed -E '/^(nvidia|cuda|triton)/d; s/\+.*//' ) > constraints.txt

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(CONSTRAINTS:%=--constraint %) --editable ".[dev]"
	touch $@
