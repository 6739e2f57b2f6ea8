# Everything runs from a virtual environment in .venv, made from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROJECTS := $(wildcard deploy/projects/*)

.PHONY: help install dev test bench chaos lint fmt lock clean

help:
	@echo "make install  set up .venv"
	@echo "make dev      run the five example projects on this machine"
	@echo "make test     run every test"
	@echo "make bench    measure, each figure against a baseline in the same run"
	@echo "make chaos    kill the server again and again (ROUNDS=n SEED=n)"
	@echo "make lint     check types, style and format"
	@echo "make fmt      format the code"
	@echo "make lock     renew requirements.lock"
	@echo "make clean    remove caches and .venv; data is kept"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) deploy/preflight.py
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--editable . >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@touch $(STAMP)

dev: $(STAMP)
	@exec $(BIN)/pipehouse dev $(PROJECTS)

test: $(STAMP) lint
	@$(BIN)/python -m pytest -q

bench: $(STAMP)
	@$(BIN)/python -m tests.bench

ROUNDS ?= 200
SEED ?= 0
chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

fmt: $(STAMP)
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

lock:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	@$(BIN)/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
