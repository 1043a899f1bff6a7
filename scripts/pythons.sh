#!/usr/bin/env bash
# Install the package with each Python that it supports, as `pip install .` does for people: core
# dependencies, no vllm, no torch, no transformers. Import all of its modules but Airflow's, and run
# the tests that need no engine, no cluster and no browser.
#
#   PYTHONS  the interpreters (default: those of python3.11, python3.12 and python3.13 that are here)
#
# Takes about three minutes for each Python, and needs the network or a full cache of pip's or uv's. Fails
# when something fails, when an interpreter of PYTHONS is not here, or when there is none at all.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-disabled} RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}

# safetensors without torch: it writes the weights of the tests' tiny models.
tools=(hypothesis "moto[server]" pandas pytest pytest-timeout safetensors zstandard)
tests=(
  tests/answering tests/cli tests/committing tests/driver tests/family tests/planning tests/prompts
  tests/reading tests/reporting tests/spec tests/storage tests/units tests/test_backoff.py
  tests/engines/test_echo.py tests/engines/test_stepper.py tests/engines/test_turns.py
)
left_out=( # they compare with transformers and vllm, or need a browser
  --ignore tests/family/test_card.py --ignore tests/reporting/test_page_in_browser.py
  --deselect tests/family/test_memory.py::test_kv_cache_is_that_of_vllm
)
# The versions that all other tests run with.
cat requirements/cpu.lock requirements/dev.lock > "$work/versions.txt"
cat > "$work/imports.py" << 'PY'
import importlib
import pkgutil

import gemma_batch

names = [m.name for m in pkgutil.walk_packages(gemma_batch.__path__, "gemma_batch.")]
for name in names:
    if not name.endswith("__main__") and not name.startswith("gemma_batch.ops.airflow"):
        importlib.import_module(name)
assert "site-packages" in gemma_batch.__file__ and len(names) > 50, (gemma_batch.__file__, names)
PY

install() { # PYTHON ARGUMENTS...: by uv where our environment has it and it works, else by pip
  local python=$1
  shift
  if [ -x .venv/bin/uv ] && .venv/bin/uv pip install -q --python "$python" "$@"; then return; fi
  "$python" -m pip --disable-pip-version-check -q install "$@"
}
check() { # PYTHON NUMBER
  local new=$work/$2/bin/python
  "$1" -m venv "$work/$2" && install "$new" -c "$work/versions.txt" . "${tools[@]}" || return
  # From elsewhere, so that the installed package is imported.
  (cd "$work" && "$new" imports.py) || return
  # The profile `ci`: no deadline for an example, which a busy machine misses.
  "$new" -m pytest -q -p no:cacheprovider --hypothesis-profile ci "${tests[@]}" "${left_out[@]}"
}

read -ra pythons <<< "${PYTHONS:-python3.11 python3.12 python3.13}"
tried=0 failed=()
for python in "${pythons[@]}"; do
  # Run, not only looked for: a version manager puts programs on PATH that only say how to get one.
  if ! "$python" -c '' 2> /dev/null; then
    echo "pythons: $python is not here"
    [ -z "${PYTHONS:-}" ] || failed+=("$python")
    continue
  fi
  tried=$((tried + 1))
  echo "pythons: $("$python" --version)"
  check "$python" "$tried" || failed+=("$python")
done
if [ "$tried" -eq 0 ] || [ ${#failed[@]} -gt 0 ]; then
  echo "pythons: failed: ${failed[*]:-none of ${pythons[*]} is here, name others in PYTHONS}" >&2
  exit 1
fi
