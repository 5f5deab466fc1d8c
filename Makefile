# One verb per target. `make demo` and `make test` install what they need first.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEMO_PORT ?= 8000

FUZZ_SECONDS ?= 60
SOAK_MINUTES ?= 15
SEEDS ?= 10000

.PHONY: demo test test-fast lint types fmt bench fuzz seeds soak interop kernel-test kernel-test-qemu systemd-test static setup setup-test lock clean
.DEFAULT_GOAL := demo

demo: setup
	@exec setpriv --pdeathsig TERM -- $(PY) -m deploy.lab.demo --port $(DEMO_PORT)

test: setup-test
	@$(PY) -m deploy.setup.testrun

test-fast: setup-test
	$(PY) -m pytest -n 2 -m "not lab and not kernel and not browser and not celery and not slow"

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.dev
	$(PY) -m mypy

fmt: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: setup-test
	$(PY) -m tests.bench

fuzz: $(VENV)/.dev
	$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS)

soak: setup-test
	$(PY) -m tests.bench.soak
	$(PY) -m tests.bench.soak_data --minutes $(SOAK_MINUTES)

seeds: $(VENV)/.dev
	$(PY) -m tests.harness.seeds --count $(SEEDS)

interop: setup-test
	$(PY) -m tests.interop
	@sh deploy/setup/libreswan.sh || true
	$(PY) -m tests.kernel.interop

kernel-test: setup-test
	EVERY_KERNEL_CHECK=1 $(PY) -m pytest tests/kernel

# Debian's own kernel, emulated: xfrm interfaces and VRFs, which User Mode Linux lacks. Some minutes.
kernel-test-qemu: setup-test
	@sh deploy/setup/packages.sh qemu
	@sh deploy/setup/kernel.sh
	$(PY) -m pytest -q tests/kernel/on_qemu.py

# The agent's units under a systemd that boots on that kernel. Three to ten minutes.
systemd-test: setup-test
	@sh deploy/setup/packages.sh qemu systemd
	@sh deploy/setup/kernel.sh
	$(PY) -m pytest -q tests/kernel/on_systemd.py

setup: $(VENV)/.run static
	@sh deploy/setup/packages.sh demo

setup-test: $(VENV)/.dev static
	@sh deploy/setup/packages.sh demo test

static: static/vendor/.built

static/vendor/.built: package.json package-lock.json static/build.mjs
	@sh deploy/setup/packages.sh build
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	node static/build.mjs
	@touch $@

# The demo needs what runs, not what tests: .run is satisfied by either set.
$(VENV)/.run: requirements/agent.txt requirements/console.txt
	@sh deploy/setup/venv.sh $(PYTHON) $(VENV) requirements/agent.txt requirements/console.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@sh deploy/setup/venv.sh $(PYTHON) $(VENV) requirements/dev.txt
	@touch $@

lock: $(VENV)/.dev
	@sh deploy/setup/lock.sh $(PY)

clean:
	rm -rf $(VENV) .demo .cache node_modules static/vendor staticfiles test-artefacts
