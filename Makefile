# Warmroute. `make demo` shows it, `make test` proves it; both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
ENGINE ?= sim
ONCE ?=

.PHONY: help setup demo test test-vllm check format lock bench clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml requirements-dev.lock
	@echo "setting up $(VENV) (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP)  ## Make .venv with warmroute, warmroute-replica and the development tools

demo: $(STAMP)  ## The router before 4 simulated replicas, beside round robin (ENGINE=vllm: real vLLM; ONCE=1: then exit)
	@$(BIN)/python -m loadtest.demo --engine $(ENGINE) $(if $(ONCE),--once)

test: $(STAMP)  ## All tests but those that need vLLM
	$(BIN)/python -m pytest -m "not vllm"

test-vllm: $(STAMP)  ## Tests against real vLLM replicas on the CPU (installs vLLM at first use: 3 GB, some minutes)
	$(BIN)/warmroute-replica vllm-install
	$(BIN)/python -m pytest -m vllm --timeout 600

check: $(STAMP)  ## The gate of every commit: format, lint, types, import contracts, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit tests/property tests/meta

format: $(STAMP)  ## Format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## Renew the lock files from pyproject.toml (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:  ## Remove what setting up made
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
