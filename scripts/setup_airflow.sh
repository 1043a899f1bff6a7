#!/usr/bin/env bash
# Make Airflow's own environment in $1 from its lock, for the tests of gemma_batch/ops/airflow.
# It cannot share ours: Airflow and vLLM want different versions. $2 is our environment, for its uv.
set -euo pipefail
mkdir -p "$1"
venv=$(cd "$1" && pwd) ours=$2
if [ ! -x "$venv/bin/python" ]; then
  "$ours/bin/python" -m venv "$venv"
fi
# --no-deps: the lock is complete.
echo "setup: installing Airflow into $venv"
if [ -x "$ours/bin/uv" ]; then
  "$ours/bin/uv" pip install -q --python "$venv/bin/python" --no-deps -r requirements/airflow.lock
  "$ours/bin/uv" pip check -q --python "$venv/bin/python"
else
  "$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps -r requirements/airflow.lock
  "$venv/bin/python" -m pip --disable-pip-version-check -q check
fi
# Not installed but found, as the code under test is.
pwd > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gemma_batch.pth"
AIRFLOW_HOME="$venv/home" "$venv/bin/airflow" version > "$venv/version.txt"
echo "setup: Airflow $(cat "$venv/version.txt") is there"
