# Two commands do all the set-up on a machine with nothing but Python >= 3.11: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pytest-xdist workers: each compiles with its own XLA, so more than the cores is slower.
JOBS ?= auto
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test test-slow test-aot lint install install-dev clean

# Environments with the compilers of TPUs and NVIDIA GPUs, which need no device. They are large (2 and 5 GB), so only
# `make test-aot` makes them, once; `AOT_TPU=/path AOT_GPU=/path` takes others as they are.
AOT_TPU ?= .venv-aot-tpu
AOT_GPU ?= .venv-aot-gpu
# More for pytest, such as AOT='-k "resnet50 and h100"', or AOT=--store-traffic to move the stored figures.
AOT ?=
export AOT_TPU AOT_GPU

train: install
	$(BIN)/python train.py

test: install-dev lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu and not aot"

test-slow: install-dev
	$(BIN)/python -m pytest -m "slow and not gpu and not aot"

# An hour on two cores. What failed first before comes first.
test-aot: install-dev $(foreach folder,$(AOT_TPU) $(AOT_GPU),$(if $(filter .venv-%,$(folder)),$(folder)/installed))
	$(BIN)/python -m pytest -n $(JOBS) --dist load tests/aot $(AOT)

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

# Made anew when versions move. `python -m venv` leaves what lies there.
.venv-aot-%/installed: pyproject.toml constraints.txt
	@echo "Installing resnet_jax with the compiler of $* into .venv-aot-$* (minutes the first time) ..."
	$(PYTHON) -m venv .venv-aot-$*
	.venv-aot-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[aot-$*]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-aot-tpu .venv-aot-gpu build *.egg-info .pytest_cache .mypy_cache .ruff_cache
