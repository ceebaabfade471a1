# Two commands do all the set-up on a machine with nothing but Python >= 3.11: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pytest-xdist workers: each compiles with its own XLA, so more than the cores is slower.
JOBS ?= auto
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test test-slow lint install install-dev clean

train: install
	$(BIN)/python train.py

test: install-dev lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu"

test-slow: install-dev
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"resnet_jax needs Python >= 3.11; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing resnet_jax into $(VENV) (about a minute the first time) ..."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing resnet_jax with its test tools into $(VENV) (a minute or more the first time) ..."
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
