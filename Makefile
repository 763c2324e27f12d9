# Everything here happens in $(VENV); the environment of the user is never touched.
# Another Python: make test PYTHON=python3.12
.DEFAULT_GOAL := help
.PHONY: help demo compose-demo test check lint bench bench-quick flames chaos fuzz clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# 3.12 say; empty where $(PYTHON) doesn't run.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
MADE := $(VENV)/.made-with-$(VERSION)

# What a shell may have set for another Python.
unexport PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.has-examples ## run examples/grid_search.py on containers of its own
	@$(BIN)/scaleplug run examples/grid_search.py

# Compose v2, or Debian's docker-compose 1.29.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

compose-demo: ## bring docker-compose.yml up and run a job on it, which makes it scale
	@config/make-secrets.sh
	@$(COMPOSE) up --detach --build
	@$(COMPOSE) exec -T app python3 demo.py
	@echo "It goes on running: http://localhost:8000/?below=2000000 and Flower at http://localhost:5555"
	@echo "To end it: $(COMPOSE) down (and --volumes to forget all that it has)"

test: lint ## all checks, then all tests
	@$(BIN)/python -m pytest --timeout 120

check: test ## the same as test

lint: $(VENV)/.has-dev ## ruff, mypy --strict and the import contracts
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports --no-logo

fuzz: $(VENV)/.has-dev ## feed what reads messages, records and arguments with anything, for ten minutes
	@FUZZ_SECONDS=600 $(BIN)/python -m pytest tests/unit/test_fuzz.py --timeout 900

bench: $(VENV)/.has-dev ## all benchmarks, into docs/benchmarks.md and its picture
	@$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.has-dev ## the benchmarks in under 3 minutes, for a first look
	@$(BIN)/python -m benchmarks --quick

flames: $(VENV)/.has-dev ## where the time of the hot paths goes: pictures in build/flames, and the functions in short
	@$(BIN)/python -m benchmarks.flames

chaos: $(VENV)/.has-dev ## make everything fail that may fail, for more than an hour: a line each
	@$(BIN)/python -m tests.chaos

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.has-examples: EXTRAS := examples
$(VENV)/.has-dev: EXTRAS := all,dev
$(VENV)/.has-%: pyproject.toml $(MADE)
	@echo "Installing scaleplug[$(EXTRAS)] into $(VENV)"
	@$(PIP) install --editable '.[$(EXTRAS)]'
	@touch $@

# A virtual environment of another Python is made anew, and its stamps go with it.
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "scaleplug needs Python 3.11 or newer and '$(PYTHON)' is $(or $(VERSION),not there):" \
	       "install one and name it, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' can't make virtual environments: install its venv module, as in: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
