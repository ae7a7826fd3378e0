# All commands of the repository. `make` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(addsuffix /requirements,pyml pypredict db tests tests/compose tests/fuzz tests/mutants benchmarks audit notebooks) \
  pypredict/requirements-parquet requirements-ray
SOURCES := bundle pyml pypredict
# --no-deps: each lock is complete. Without it, an old pip looks for newer releases of packages with extras, and fails.
INSTALL := install --disable-pip-version-check --require-hashes --no-deps
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
	$(BIN)/pip $(INSTALL) $(foreach p,pyml pypredict db,-r $(p)/requirements.txt)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation $(SOURCES:%=-e ./%)
	@mkdir -p $(dir $(STEPS))
	@awk -v t=$$(stat -c %Y $(VENV)/pyvenv.cfg) 'BEGIN { "date +%s" | getline now; printf "%7.1f s  install\n", now - t }' >> $(STEPS)
	@touch $@

$(VENV)/.test-installed: $(VENV)/.run-installed tests/requirements.txt
	$(BIN)/pip $(INSTALL) --quiet -r tests/requirements.txt
	@touch $@

# $(call step,title,command): run a step of the pipeline and note its seconds for the table at the end.
STEPS := .local/steps
title = if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' '$(1)'; else printf '\n%s\n' '$(1)'; fi
step = @$(call title,$(1)); t=$$(date +%s%N); $(2) && \
  awk -v t=$$t -v now=$$(date +%s%N) 'BEGIN { printf "%7.1f s  $(1)\n", (now - t) / 1e9 }' >> $(STEPS)
EMBEDDED = $(PYTHON) db/embedded.py

.PHONY: run
run: begin install  ## train, publish, store, predict, check: the whole pipeline on this machine
	@STARTED=$$(date +%s%N) $(BIN)/python db/embedded.py exec -- $(MAKE) --no-print-directory pipeline

.PHONY: begin
begin:
	@mkdir -p .local && : > $(STEPS)

.PHONY: pipeline
pipeline:
	@awk -v t=$$STARTED -v now=$$(date +%s%N) 'BEGIN { printf "%7.1f s  start the database\n", (now - t) / 1e9 }' >> $(STEPS)
	$(call step,update the schema,PGUSER=ml_owner $(BIN)/pypredict migrate --passfile .local/postgres/pgpass)
	$(call step,train and publish,$(BIN)/pyml train $(EXPERIMENT))
	$(call step,store the test set,$(BIN)/pypredict load models/current/*.json)
	$(call step,predict the pending inputs,$(BIN)/pypredict run --until-empty)
	$(call step,compare SQL with the manifest,$(BIN)/pypredict report)
	$(call step,repeat the predictions and write the report,$(BIN)/pypredict report --html .local/report.html --replay all)
	@$(call title,How long it took); cat $(STEPS)
	@$(call title,Where to look next)
	@echo "  .local/report.html    the report with charts and mistakes: open it in a browser"
	@echo "  make db               starts this database and prints how psql and pgAdmin reach it; make db-stop ends it"
	@echo "  $(BIN)/wandb leet .local/wandb/wandb    the training's curves in the terminal, no account needed"
	@echo "  ls models/bundles/*   the model with its manifest, test set and predictions.csv"
	@echo "  make up               the same as a stack of containers, with pgAdmin"

.PHONY: db
db: install  ## start the embedded database, keep it up, print how to reach it
	@$(BIN)/python db/embedded.py start
	@echo "export PYML_MODELS='$(CURDIR)/models' PYPREDICT_MODELS='$(CURDIR)/models'"
	@echo "# Paste these lines into your shell. pgAdmin: the same host, port and database, user reader (it sees no bytes);"
	@echo "# its password is in the last field of the line with reader in $(CURDIR)/.local/postgres/pgpass"

.PHONY: db-stop
db-stop:  ## stop it
	@$(EMBEDDED) stop

# With STACK=1 these targets are about the stack of containers; they need no .venv then.
BACKUP = $(if $(STACK),$(PYTHON) db/backup.py --stack,$(BIN)/python db/backup.py $(if $(POSTGRES_BIN),--bin $(POSTGRES_BIN)))
NEEDED := $(if $(STACK),,install)
named = @test -n "$(DIR)" || { echo "Name the directory of the backup: make $@ DIR=..." >&2; exit 1; }

.PHONY: backup
backup: $(NEEDED)  ## write database, models and records into the new directory DIR=... (of the stack: STACK=1)
	$(named)
	@$(BACKUP) backup "$(DIR)"

.PHONY: restore
restore: $(NEEDED)  ## restore DIR=... into an empty installation and repeat all predictions (of the stack: STACK=1)
	$(named)
	@$(BACKUP) restore "$(DIR)"

.PHONY: upgrade
upgrade: $(NEEDED)  ## move the database to PostgreSQL 18 by dump and restore (of the stack: STACK=1); the old data are kept
	@$(BACKUP) upgrade

.PHONY: remove-old
remove-old: $(NEEDED)  ## remove the data that upgrade has kept (of the stack: STACK=1)
	@$(BACKUP) remove-old

PACKAGES := bundle/src pyml/src pypredict/src
SUITES := $(addprefix tests/,unit db contract attacks acceptance fuzz)
.PHONY: test
test: $(VENV)/.test-installed  ## lint, types, secrets, and all fast suites on the embedded database
	$(BIN)/pre-commit run --all-files --show-diff-on-failure
	$(BIN)/mypy $(PACKAGES) tests benchmarks db audit notebooks
	$(BIN)/pytest --numprocesses auto --dist loadfile $(if $(TEST),$(TEST),$(SUITES)) $(PYTEST)

# The service's own environment, without TensorFlow: these suites show that the service needs none.
SERVICE_VENV := .local/service-venv
$(SERVICE_VENV)/.installed: pypredict/requirements.txt db/requirements.txt tests/requirements.txt bundle/pyproject.toml pypredict/pyproject.toml
	$(PYTHON) -m venv $(SERVICE_VENV)
	$(SERVICE_VENV)/bin/pip $(INSTALL) --quiet -r pypredict/requirements.txt \
	  -r db/requirements.txt -r tests/requirements.txt
	$(SERVICE_VENV)/bin/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e ./bundle -e ./pypredict
	@touch $@

.PHONY: test-faults
test-faults: $(SERVICE_VENV)/.installed  ## the service without TensorFlow: kills, crashes, lost connections, full disks, random faults (CHAOS_SECONDS=60 and more)
	WITHOUT_TENSORFLOW=1 $(SERVICE_VENV)/bin/pytest tests/faults --ignore tests/faults/test_tracking.py $(PYTEST)

.PHONY: test-tracking
test-tracking: $(VENV)/.test-installed  ## the trainer with W&B: what arrives, and servers that are silent, slow or gone
	$(BIN)/pytest tests/faults/test_tracking.py tests/tracking $(PYTEST)

$(VENV)/.ray-installed: $(VENV)/.test-installed requirements-ray.txt
	$(BIN)/pip $(INSTALL) --quiet -r requirements-ray.txt
	@touch $@

.PHONY: test-ray
test-ray: $(VENV)/.ray-installed  ## a Ray cluster of several nodes on this machine, one of which is killed
	$(BIN)/pytest tests/cluster $(PYTEST)

$(SERVICE_VENV)/.mutants-installed: $(SERVICE_VENV)/.installed tests/mutants/requirements.txt
	$(SERVICE_VENV)/bin/pip $(INSTALL) --quiet -r tests/mutants/requirements.txt
	@touch $@

.PHONY: mutants
mutants: $(SERVICE_VENV)/.mutants-installed  ## break the code in small ways and list what no test notices (one module: MODULE=jobs; MOST=25 for each)
	PYTHONPATH=db $(SERVICE_VENV)/bin/python tests/mutants/run.py $(if $(MODULE),--module $(MODULE)) $(if $(MOST),--most $(MOST))

.PHONY: test-training
test-training: $(VENV)/.test-installed  ## the long trainings on real data (in PYML_DATA_DIR): accuracy targets; every layer, served
	TEST_TRAINING=1 $(BIN)/pytest --numprocesses auto --dist loadfile tests/training $(PYTEST)

$(VENV)/.fuzz-installed: $(VENV)/.test-installed tests/fuzz/requirements.txt
	$(BIN)/pip $(INSTALL) --quiet -r tests/fuzz/requirements.txt
	@touch $@

BROWSER := .local/browser
$(VENV)/.browser-installed: $(VENV)/.test-installed tests/compose/requirements.txt tests/browser/package-lock.json
	$(BIN)/pip $(INSTALL) --quiet -r tests/compose/requirements.txt
	@mkdir -p $(BROWSER) && cp tests/browser/package*.json $(BROWSER)/
	npm ci --prefix $(BROWSER) --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.PHONY: test-browser
test-browser: $(VENV)/.browser-installed  ## the HTML report in a real browser, checked by axe-core (needs chromium and npm)
	$(BIN)/pytest tests/browser $(PYTEST)

.PHONY: pictures
pictures: run $(VENV)/.browser-installed  ## take the pictures of README again, from a run, a comparison and pgAdmin, and say what has changed (needs chromium and Docker)
	$(BIN)/pyml train experiments/digits_grid.json
	$(BIN)/pyml compare --baseline digits_cnn --html .local/comparison.html
	PYTHONPATH=tests $(BIN)/python tests/support/pictures.py

$(VENV)/.notebook-installed: $(VENV)/.test-installed notebooks/requirements.txt
	$(BIN)/pip $(INSTALL) --quiet -r notebooks/requirements.txt
	@touch $@

.PHONY: notebook
notebook: $(VENV)/.notebook-installed  ## write notebooks/analysis.ipynb from analysis.py, without outputs
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/analysis.py
	$(BIN)/jupyter nbconvert --log-level WARN --clear-output --inplace notebooks/analysis.ipynb

.PHONY: analysis
analysis: $(VENV)/.notebook-installed  ## run the notebook on a published model and write .local/analysis.html (another dataset: ANALYSIS_DATASET=imdb)
	$(BIN)/python db/embedded.py exec -- $(BIN)/jupyter nbconvert --log-level ERROR --execute --to html \
	  --output-dir .local notebooks/analysis.ipynb
	@echo "Open .local/analysis.html in a browser"

.PHONY: test-notebook
test-notebook: $(VENV)/.notebook-installed  ## run the notebook on digits, film reviews and photographs (the last two in PYML_DATA_DIR)
	$(BIN)/pytest tests/notebook $(PYTEST)

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: $(VENV)/.fuzz-installed  ## fuzz every reader of foreign files, two at a time, each for FUZZ_SECONDS=60 (one: PYTEST="-k csv")
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/pytest --numprocesses 2 -rP tests/fuzz/test_fuzz.py $(PYTEST)

$(VENV)/.bench-installed: $(VENV)/.run-installed benchmarks/requirements.txt
	$(BIN)/pip $(INSTALL) --quiet -r benchmarks/requirements.txt
	@touch $@

# Pixeltable and Ray Data have an environment of their own: their packages do not fit the locks of the services.
PEERS_VENV := .local/peers-venv
$(PEERS_VENV)/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip $(INSTALL) --quiet -r $<
	@touch $@

.PHONY: bench
bench: $(VENV)/.bench-installed $(PEERS_VENV)/.installed  ## measure the predict service's speed and write docs/benchmarks.md (some parts: BENCH='write read')
	$(BIN)/python benchmarks/bench.py $(if $(POSTGRES_BIN),--bin $(POSTGRES_BIN)) $(BENCH)

.PHONY: bench-train
bench-train: install  ## measure the trainer's speed beside Keras alone, on MNIST (in PYML_DATA_DIR)
	$(BIN)/python benchmarks/train.py

.PHONY: test-db
test-db: $(SERVICE_VENV)/.installed  ## only the db tests, without TensorFlow; POSTGRES_BIN=DIR selects another server's binaries
	WITHOUT_TENSORFLOW=1 POSTGRES_BIN=$(POSTGRES_BIN) $(SERVICE_VENV)/bin/pytest --numprocesses auto --dist loadfile tests/db tests/attacks --ignore tests/db/test_embedded.py $(PYTEST)

# The tools that look at our packages have an environment of their own, so that they cannot change what they look at.
AUDIT_VENV := .local/audit-venv
RUNTIME_LOCKS := $(wildcard $(addsuffix /requirements*.txt,pyml pypredict db))
$(AUDIT_VENV)/.installed: audit/requirements.txt
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip $(INSTALL) --quiet -r $<
	@touch $@

.PHONY: audit
audit: licences sbom advisories  ## licences, SBOMs and known vulnerabilities of all locked packages (needs the internet)

.PHONY: licences
licences: $(AUDIT_VENV)/.installed $(VENV)/.test-installed  ## check the licences of the runtime packages against audit/licences.toml
	@$(AUDIT_VENV)/bin/python audit/licences.py --python $(BIN)/python $(RUNTIME_LOCKS)

.PHONY: sbom
sbom: $(AUDIT_VENV)/.installed  ## write a CycloneDX SBOM for each image into .local/sbom (other machines: MACHINE=aarch64)
	@$(AUDIT_VENV)/bin/python audit/sbom.py $(if $(MACHINE),--machine $(MACHINE)) .local/sbom

.PHONY: advisories
advisories: $(AUDIT_VENV)/.installed  ## ask the advisory service about every version of every lock
	@$(AUDIT_VENV)/bin/python audit/advisories.py

.PHONY: test-audit
test-audit: $(AUDIT_VENV)/.installed $(VENV)/.test-installed  ## test the audit: what it refuses, with a local advisory service
	$(BIN)/pytest tests/audit $(PYTEST)

.PHONY: clean
clean:  ## remove what was made: environment, database, models, records
	@if [ -d .local/postgres ]; then $(EMBEDDED) destroy; fi
	rm -rf $(VENV) .local models .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: lock
lock: $(VENV)/.test-installed  ## resolve all requirements again and write their hashes
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate \
	  --custom-compile-command 'make lock' $(LOCKED:%=%.in) -o constraints.txt
	@for part in $(LOCKED); do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes -c constraints.txt \
	    --custom-compile-command 'make lock' $$part.in -o $$part.txt || exit 1; done
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
	  --custom-compile-command 'make lock' benchmarks/peers/requirements.in -o benchmarks/peers/requirements.txt
	@sed -E 's/^tensorflow-cpu(==[^;]*).*/tensorflow[and-cuda]\1/; /^tensorflow==/d' pyml/requirements.in | \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes -c constraints.txt \
	    --custom-compile-command 'make lock' - -o pyml/requirements-gpu.txt

# The stack of containers
COMPOSE_VENV := .local/compose-venv

.PHONY: up
up: export GIT_COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
up: export GIT_DIRTY ?= $(shell git rev-parse --git-dir >/dev/null 2>&1 && { test -z "$$(git status --porcelain)" && echo false || echo true; })
# An attestation contains a time, so each build would give the image a new id, and the containers would be made again.
up: export BUILDX_NO_DEFAULT_ATTESTATIONS := 1
up:  ## start the stack of containers, wait until it has trained and predicted, say where pgAdmin is
	@test -f .env || test -n "$$PGADMIN_PASSWORD" || \
	  { echo "There is no .env yet: cp .env.example .env, then choose PGADMIN_PASSWORD in it" >&2; exit 1; }
	@since=$$(date +%s); docker compose up --detach --build || \
	  { docker compose logs --no-log-prefix --since $$since secrets pgdata migrate >&2; exit 1; }; \
	  trainer=$$(docker compose ps --all --quiet pyml); \
	  docker logs --follow --since $$since $$trainer; \
	  code=$$(docker wait $$trainer); \
	  [ "$$code" = 0 ] || { echo "the trainer ended with exit code $$code: docker compose logs pyml" >&2; exit 1; }
	@docker compose up --detach --wait --no-deps --no-recreate db pypredict pgadmin
	@docker compose exec --no-TTY pypredict pypredict run --until-empty
	@docker compose exec --no-TTY pypredict pypredict report
	@docker compose exec --no-TTY pypredict pypredict check --replay all
	@echo "pgAdmin is open on http://$$(docker compose port pgadmin 5050), with the login of .env; make down ends all, data stays"

.PHONY: down
down:  ## stop and remove the containers; the volumes keep the data (docker compose down -v removes them, too)
	docker compose down

$(COMPOSE_VENV)/.installed: tests/compose/requirements.txt
	$(PYTHON) -m venv $(COMPOSE_VENV)
	$(COMPOSE_VENV)/bin/pip $(INSTALL) --quiet -r $<
	@touch $@

.PHONY: test-compose
test-compose: $(COMPOSE_VENV)/.installed  ## build the images and test the whole stack with a real engine and a real browser
	TEST_COMPOSE=1 $(COMPOSE_VENV)/bin/pytest --confcutdir=tests/compose tests/compose --ignore tests/compose/test_cold.py $(PYTEST)

.PHONY: test-compose-cold
test-compose-cold: $(COMPOSE_VENV)/.installed  ## ten builds and five first starts of fresh clones, each without images (about 10 minutes)
	TEST_COMPOSE=1 $(COMPOSE_VENV)/bin/pytest --confcutdir=tests/compose tests/compose/test_cold.py $(PYTEST)
