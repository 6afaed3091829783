# All commands for users and CI. `make` without a target lists them.
# The first call of any target creates .venv, which takes a minute or two because PyTorch is large.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
CONFIG ?= trex_star
TREX    = $(BIN)/trex
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Arguments for the command: make train CONFIG=trex ARGS="train.epochs=50"
ARGS ?=
cluster = $(if $(CLUSTER),--cluster $(CLUSTER))
dry     = $(if $(DRY_RUN),--dry-run)

.DEFAULT_GOAL := help
.PHONY: help setup demo showcase train run extract probe report status transfer lint check test test-slurm test-others test-faults \
        test-slurm-newer test-install bench bench-gpu prerequisites docs cluster-up cluster-down clean

help:  ## list all targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo '  CONFIG=trex_star   a recipe in configs/, or a path            CLUSTER=mycluster  a file in configs/clusters/'
	@echo '  ARGS="key=value …" settings that override the recipe          DRY_RUN=1          print only, create nothing'

setup: $(READY)  ## create .venv with all dependencies

$(READY): pyproject.toml constraints.txt
	@echo '==> setting up $(VENV) with PyTorch and the other Python packages (once; takes a minute or two)'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 …' >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)
	@echo '==> $(VENV) is ready'

demo: $(READY)  ## all stages on real images on this machine: train, extract, probe, report
	@$(BIN)/python tools/demo.py

showcase: prerequisites $(READY)  ## evaluate a real encoder on real images, compare with scikit-learn, write docs/showcase.md
	@OMP_NUM_THREADS=1 $(BIN)/python tools/showcase.py

train: $(READY)  ## train CONFIG (on Slurm if it is available)
	@$(TREX) train $(CONFIG) $(cluster) $(dry) $(ARGS)

run: $(READY)  ## all stages of CONFIG: train, extract, probe, report
	@$(TREX) run $(CONFIG) $(cluster) $(dry) $(ARGS)

extract: $(READY)  ## extract features of the transfer datasets
	@$(TREX) extract $(CONFIG) $(cluster) $(dry) $(ARGS)

probe: $(READY)  ## train and test probes on the features
	@$(TREX) probe $(CONFIG) $(cluster) $(dry) $(ARGS)

report: $(READY)  ## write the table and the web page of CONFIG's run
	@$(TREX) report $(CONFIG)

# The run gets a name of its own, so that the features of the file never mix with those of a training with that recipe.
transfer: $(READY)  ## evaluate CHECKPOINT=file.pth on the transfer datasets, without training
	@test -n '$(CHECKPOINT)' || { echo 'usage: make transfer CHECKPOINT=trex.pth' >&2; exit 2; }
	@$(TREX) run $(CONFIG) $(cluster) $(dry) 'extract.weights=$(CHECKPOINT)' 'name=transfer_$(basename $(notdir $(CHECKPOINT)))' $(ARGS)

status: $(READY)  ## show all runs: stage, epoch, speed, time left, restarts
	@$(TREX) status $(ARGS)

lint: $(READY)  ## check format, lint rules, types and import layers
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && echo 'format, lint: ok'
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

check: lint  ## lint, then run the quick tests (a minute or two)
	@$(PYTEST) -n 2 -m 'not slow and not slurm and not long'

# The tests with Slurm wait half of the time, so the others run beside them.
test: prerequisites $(READY)  ## run the tests, including those with a real Slurm; installs Slurm if it can
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-slurm test-others

test-slurm: $(READY)
	@$(PYTEST) -n 2 --dist loadfile -m slurm

test-others: $(READY)
	@$(PYTEST) -n 2 --dist worksteal -m 'not slurm and not long'

test-faults: prerequisites $(READY)  ## break things on purpose, with real processes and Slurm, and print a table (20 minutes)
	@$(PYTEST) -n 4 --dist loadfile --no-loadscope-reorder --faults

# Not part of CI: Debian 13 is 8 GB. Left out: what does not depend on the version of Slurm.
NEWER = interruption requeue_lines chain clusters status sites waits
test-slurm-newer:  ## run the tests of interruptions, chains and sites on Slurm 24.11 with Python 3.13, as root (20 minutes)
	@tools/debian13.sh make setup
	@tools/debian13.sh env CI=true OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile $(NEWER:%=tests/slurm/test_%.py)

# ONLY="crops step": these topics (`make bench ONLY=help` lists them)
bench: $(READY)  ## measure crops, loader, step, checkpoint, features, probes against the usual way; writes benchmarks/
	@$(PYTHON) tools/prerequisites.py --photographs
	@$(BIN)/python -m tools.bench $(if $(filter help,$(ONLY)),--help,$(ONLY))

bench-gpu: $(READY)  ## measure the training on this machine's GPUs; writes benchmarks/gpu.md
	@$(BIN)/python -m tools.bench.gpu

test-install: $(READY)  ## install the wheel with all dependencies in an empty venv and test it (downloads PyTorch)
	@TREX_FULL_INSTALL=1 $(PYTEST) tests/test_wheel.py

prerequisites:
	@$(PYTHON) tools/prerequisites.py

docs: $(READY)  ## generate docs/config.md, docs/costs.md, docs/example.sbatch and the pictures from the code
	@$(BIN)/python tools/config_reference.py > docs/config.md
	@$(BIN)/python tools/example_sbatch.py > docs/example.sbatch
	@$(BIN)/python tools/cost_tables.py > docs/costs.md
	@$(BIN)/python tools/draw_map.py

# SLURM=24.11: that of Debian 13, in tools/debian13.sh
SLURM ?=
here = $(if $(SLURM),,$(READY))
sandbox = $(if $(filter 24.11,$(SLURM)),tools/debian13.sh python3,$(if $(SLURM),$(error SLURM=$(SLURM): expected 24.11, or \
          nothing for the Slurm of this machine),$(BIN)/python)) tools/sandbox.py
cluster-up: $(here)  ## start a real Slurm on this machine: four nodes with simulated GPUs; SLURM=24.11: that of Debian 13
	@$(sandbox) up

cluster-down: $(here)  ## stop this Slurm and delete its files
	@$(sandbox) down

clean:  ## delete .venv and caches, but not runs/ and data/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
