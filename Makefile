# `make help` lists the targets. Everything runs in a virtual environment that is made at first use.

VENV := .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
# One more than there are processors: much of the time tests wait for servers.
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 1 )))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
LOCALSERVE_OPTIONS ?=
FUZZ_TARGETS ?=

.PHONY: help localserve test test-all test-database check fmt lock bench soak fuzz clients openapi clean

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

localserve: $(VENV)/.server ## Run a mail server for trying out: ports from 1025 on loopback, user mox@localhost, password moxmoxmox.
	$(BIN)/python manage.py localserve $(LOCALSERVE_OPTIONS)

test: $(VENV)/.dev clients ## Everything on SQLite, then what is marked `database` on PostgreSQL and a Redis of its own.
	$(PYTEST)
	$(MAKE) test-database

test-database: $(VENV)/.dev
	TEST_DATABASE=postgresql $(PYTEST) -m database

check: $(VENV)/.dev ## Lint, format, types, import rules, migrations.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-cache
	MOX_DATA_DIR=$$(mktemp -d) $(BIN)/python manage.py makemigrations --check --dry-run

fmt: $(VENV)/.dev ## Format, and mend what can be mended by itself.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## The load scenarios against a fresh localserve (see bench/README.md).
	$(BIN)/python -m bench.protocols
	$(BIN)/python -m bench.queue claims
	$(BIN)/python -m bench.queue drain
	$(BIN)/python -m bench.suite

soak: $(VENV)/.dev clients ## Clients at work for ten minutes, comparing what they were told (SOAK_SECONDS=600).
	SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest -n 0 -m soak --timeout 0 tests/system

fuzz: $(VENV)/.dev ## Input for the parsers that is led by what it reaches, a time for each (FUZZ_SECONDS=60, FUZZ_TARGETS="spf dkim").
	$(BIN)/python -m tests.fuzz --seconds $${FUZZ_SECONDS:-60} --jobs $(WORKERS) $(FUZZ_TARGETS)
	$(if $(FUZZ_TARGETS),,$(PYTEST) -m fuzz --timeout 0)

clients: ## The mail programs and name servers that the tests use: installed as root, else named.
	@sh tests/install-clients.sh

lock: $(VENV)/.dev ## Make requirements.txt and requirements-dev.txt anew from the .in files.
	$(BIN)/pip install -q pip-tools
	$(BIN)/pip-compile -q --strip-extras --no-emit-index-url --no-emit-options -o requirements.txt requirements.in
	$(BIN)/pip-compile -q --strip-extras --no-emit-index-url --no-emit-options -o requirements-dev.txt requirements-dev.in

openapi: $(VENV)/.server ## Write docs/openapi.yaml anew, after a change of the webapi.
	$(BIN)/python manage.py openapi > docs/openapi.yaml

clean: ## Remove what was made here.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.server: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version)'
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: $(VENV)/.server requirements-dev.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@
