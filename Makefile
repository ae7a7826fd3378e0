# Everything a person types. `make` alone lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := pyml pypredict db tests
SOURCES := bundle pyml pypredict
EXPERIMENT ?= experiments/digits_cnn.json

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: install
install: $(VENV)/.run-installed  ## make .venv and install the hash-locked packages

$(VENV)/.run-installed: $(foreach p,pyml pypredict db,$(p)/requirements.txt) $(SOURCES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is $$($(PYTHON) -V), Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "Installing the hash-locked packages into $(VENV) (about 1.5 GB on disk; once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --require-hashes $(foreach p,pyml pypredict db,-r $(p)/requirements.txt)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation $(SOURCES:%=-e ./%)
	@touch $@

$(VENV)/.test-installed: $(VENV)/.run-installed tests/requirements.txt
	$(BIN)/pip install --disable-pip-version-check --quiet --require-hashes -r tests/requirements.txt
	@touch $@

.PHONY: lock
lock: $(VENV)/.test-installed  ## resolve the requirements anew and write every hash
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate \
	  --custom-compile-command 'make lock' $(LOCKED:%=%/requirements.in) -o constraints.txt
	@for part in $(LOCKED); do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes -c constraints.txt \
	    --custom-compile-command 'make lock' $$part/requirements.in -o $$part/requirements.txt || exit 1; done
