#!/usr/bin/env bash
# Make the environment in $1 from the exact locks. Run by `make setup`; needs python3 with venv.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $("$python" --version 2>&1) is too old, Python 3.11 or newer is needed (set PYTHON=python3.11, say)" >&2
  exit 1
}
bash scripts/install.sh "$venv" requirements/cpu.lock requirements/dev.lock
"$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
"$venv/bin/gemma-batch" --help > "$venv/help.txt"
echo "setup: done"
