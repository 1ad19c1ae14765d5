# `make help` lists what can be made. PYTHON chooses the interpreter the environment is made with.

PYTHON ?= python3
VENV ?= .venv
STORE ?= lmdb:var
LISTEN ?= tcp:7777:interface=127.0.0.1
BIN := $(VENV)/bin
# An install is as old as the files that say what it needs; a stamp keeps repeated makes quick.
INSTALLED := $(VENV)/.negd-installed
TESTABLE := $(VENV)/.negd-testable

.DEFAULT_GOAL := help
.PHONY: help run test demo lint protos bench simulate oldest news clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

run: $(INSTALLED) ## start the daemon in the foreground, its store in ./var
	$(BIN)/twistd -n --pidfile= negd --store $(STORE) --listen $(LISTEN) $(OPTIONS)

demo: $(INSTALLED) ## let two daemons on this machine sync a few thousand events
	@$(BIN)/python -m negd.demo

# One process a core; each starts with a half of the tests, in order, and helps the other out.
WORKERS ?= auto
SPREAD := -n $(WORKERS) --dist worksteal

test: $(TESTABLE) lint ## check style and types, then run every test
	$(BIN)/python -m pytest $(SPREAD) $(PYTEST)

lint: $(TESTABLE) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

protos: $(TESTABLE) ## write the generated modules of protos/ anew
	$(BIN)/python protos/generate.py

SEEDS ?= 1000
simulate: $(INSTALLED) ## let a thousand simulated networks fail and heal; SEEDS=N for other counts
	$(BIN)/python -m negd.testing.simulation $(SEEDS)

bench: $(VENV)/.negd-bench ## measure, and keep the figures under benchmarks/results
	$(BIN)/python -m benchmarks $(SUITES)

# setup.cfg's lower bounds as exact versions: what a constraints file wants.
OLDEST = awk '/^install_requires/ {on = 1; next} /^\[/ {on = 0} on && />=/ \
  {gsub(">=", "=="); gsub(/ |\[.*\]/, ""); print}' setup.cfg

oldest: ## run the tests with the oldest releases that setup.cfg allows
	@$(MAKE) --no-print-directory VENV=.venv-oldest .venv-oldest/bin/python
	@$(OLDEST) > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint .venv-oldest/oldest.txt --editable '.[test]'
	.venv-oldest/bin/python -m pytest $(SPREAD) $(PYTEST)

news: $(TESTABLE) ## show what the next release would say is new
	$(BIN)/towncrier build --draft

clean: ## remove the environment and what tools left; ./var stays
	rm -rf $(VENV) .venv-oldest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "negd needs Python 3.11 or newer as '$(PYTHON)': apt-get install python3 python3-venv, or make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "negd needs Python's venv module: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing negd into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(TESTABLE): $(INSTALLED)
	@echo "installing what the tests need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.negd-bench: $(INSTALLED)
	@echo "installing what the benchmarks need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
