#!/usr/bin/env bash
# Make Airflow's own environment in $1 from its lock, for the tests of gemma_batch/ops/airflow.
# It cannot share ours: Airflow and vLLM want different versions. $2 is our environment, whose
# Python and uv are used.
set -euo pipefail
mkdir -p "$1"
venv=$(cd "$1" && pwd) ours=$2
echo "setup: making Airflow's environment in $venv"
PYTHON=$ours/bin/python SETUP_UV=$ours/bin/uv \
  bash scripts/install.sh "$venv" requirements/airflow.lock
"$venv/bin/python" -m pip --disable-pip-version-check -q check
# Not installed but found, as the code under test is.
pwd > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gemma_batch.pth"
AIRFLOW_HOME="$venv/home" "$venv/bin/airflow" version > "$venv/version.txt"
echo "setup: Airflow $(cat "$venv/version.txt") is there"
