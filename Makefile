# Every command a person or CI needs. `make` alone lists them.
# The first call of any target sets up .venv by itself (a minute or two: PyTorch is large) and says so.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
CONFIG ?= trex_star
TREX    = $(BIN)/trex
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# How `make test` uses two cores. One process runs all tests with Slurm (tests/conftest.py), from the start; it mostly
# waits, so two more run the other tests meanwhile. One after the other: make test TEST_WORKERS=
TEST_WORKERS ?= -n 3 --dist loadgroup

# Words that are handed on: make train CONFIG=trex ARGS="train.epochs=50"
ARGS ?=
cluster = $(if $(CLUSTER),--cluster $(CLUSTER))
dry     = $(if $(DRY_RUN),--dry-run)

.DEFAULT_GOAL := help
.PHONY: help setup demo train run extract probe report status transfer lint check test test-install prerequisites docs \
        cluster-up cluster-down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo '  CONFIG=trex_star   a file of configs/ by name, or a path      CLUSTER=mycluster  a file of configs/clusters/'
	@echo '  ARGS="key=value …" settings on top of the config              DRY_RUN=1          print, create nothing'

setup: $(READY)  ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	@echo '==> setting up $(VENV): Python packages, PyTorch among them (once; takes a minute or two)'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 …' >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
	@echo '==> $(VENV) is ready'

demo: $(READY)  ## the whole way on real images on this machine: train, extract, probe, report
	@$(BIN)/python tools/demo.py

train: $(READY)  ## train CONFIG (on Slurm where there is one)
	@$(TREX) train $(CONFIG) $(cluster) $(dry) $(ARGS)

run: $(READY)  ## the whole chain of CONFIG: train, extract, probe, report
	@$(TREX) run $(CONFIG) $(cluster) $(dry) $(ARGS)

extract: $(READY)  ## features of the transfer datasets
	@$(TREX) extract $(CONFIG) $(cluster) $(dry) $(ARGS)

probe: $(READY)  ## linear probes on the features
	@$(TREX) probe $(CONFIG) $(cluster) $(dry) $(ARGS)

report: $(READY)  ## table and web page of CONFIG's run
	@$(TREX) report $(CONFIG)

# The run's name is not the recipe's, so that features of a file never mix with those of a training of that name.
transfer: $(READY)  ## evaluate CHECKPOINT=file.pth on the transfer datasets, without training
	@test -n '$(CHECKPOINT)' || { echo 'usage: make transfer CHECKPOINT=trex.pth' >&2; exit 2; }
	@$(TREX) run $(CONFIG) $(cluster) $(dry) 'extract.weights=$(CHECKPOINT)' 'name=transfer_$(basename $(notdir $(CHECKPOINT)))' $(ARGS)

status: $(READY)  ## every run: stage, epoch, speed, time left, restarts
	@$(TREX) status $(ARGS)

lint: $(READY)  ## format, lint, types, import layers
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && echo 'format, lint: ok'
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

check: lint  ## lint, and the quick tests (under a minute)
	@$(PYTEST) -n 2 -m 'not slow and not slurm'

test: prerequisites $(READY)  ## every test, those with a real Slurm too; installs Slurm where it may
	@$(PYTEST) $(TEST_WORKERS)

test-install: $(READY)  ## install the wheel with all its dependencies in an empty venv, and try it (downloads PyTorch)
	@TREX_FULL_INSTALL=1 $(PYTEST) tests/test_wheel.py

prerequisites:
	@$(PYTHON) tools/prerequisites.py

docs: $(READY)  ## make docs/config.md and docs/example.sbatch from the code
	@$(BIN)/python tools/config_reference.py > docs/config.md
	@$(BIN)/python tools/example_sbatch.py > docs/example.sbatch

cluster-up: $(READY)  ## start a real Slurm on this machine, four nodes with pretend GPUs
	@$(BIN)/python tools/sandbox.py up

cluster-down: $(READY)  ## stop it and leave nothing behind
	@$(BIN)/python tools/sandbox.py down

clean:  ## delete .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
