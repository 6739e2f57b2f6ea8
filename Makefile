# Everything runs from a virtual environment in .venv, made from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROJECTS := $(wildcard deploy/projects/*)

.PHONY: help install dev test bench bench-server bench-kafka chaos kafka stack lint fmt lock clean

help:
	@echo "make install  set up .venv"
	@echo "make dev      run the five example projects on this machine"
	@echo "make test     run every test"
	@echo "make bench    measure, each figure against a baseline in the same run"
	@echo "make bench-server, make bench-kafka  the same for a ClickHouse server, and for Kafka"
	@echo "make chaos    kill the server again and again (ROUNDS=n SEED=n)"
	@echo "make kafka    run a Kafka broker on this machine, from its Java artifacts"
	@echo "make stack    run every process of an installation on this machine"
	@echo "make lint     check types, style and format"
	@echo "make fmt      format the code"
	@echo "make lock     renew requirements.lock"
	@echo "make clean    remove caches and .venv; data is kept"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) deploy/preflight.py
	@echo "Setting up $(VENV) (once, a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--editable . >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@touch $(STAMP)

dev: $(STAMP)
	@exec $(BIN)/pipehouse dev $(PROJECTS)

# Some at a time: many tests wait for processes of their own.
TEST_WORKERS ?= 3
test: $(STAMP) lint
	@$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	@$(BIN)/python -m tests.bench

bench-server: $(STAMP)
	@$(BIN)/python -m tests.bench server

bench-kafka: $(STAMP)
	@$(BIN)/python -m tests.bench kafka

kafka: $(STAMP)
	@exec $(BIN)/python -m deploy.kafka.broker

stack: $(STAMP)
	@exec $(BIN)/python -m tests.stack $(PROJECTS)

ROUNDS ?= 200
SEED ?= 0
chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)
	@$(BIN)/python -m tests.faults --rounds $$(( ($(ROUNDS) + 9) / 10 )) --seed $(SEED)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

fmt: $(STAMP)
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

LOCK := pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
lock:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	@$(BIN)/$(LOCK) --extra dev --output-file requirements.lock pyproject.toml
	@$(BIN)/$(LOCK) --constraint requirements.lock --output-file deploy/docker/requirements.lock pyproject.toml

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
