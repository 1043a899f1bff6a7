# Every target sets itself up; `make setup` alone only installs.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: setup quickstart test faults lint format bench lock clean

setup: $(STAMP)

$(STAMP): requirements/cpu.lock requirements/dev.lock pyproject.toml scripts/setup.sh
	bash scripts/setup.sh $(VENV)
	touch $@

quickstart: setup
	$(PY) -m jobs.quickstart

test: setup
	$(PY) -m pytest

faults: setup
	$(PY) -m tests.faults

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup
	$(PY) -m benchmarks.throughput

lock: setup
	bash scripts/lock.sh $(VENV)

clean:
	rm -rf $(VENV) .quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis
