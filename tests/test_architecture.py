"""The rules of the house, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gemma_batch"
MODULES = sorted(PACKAGE.rglob("*.py"))
RAY = {"cluster/exchange.py", "cluster/pipeline.py", "cluster/worker.py"}
FILE_SYSTEMS = {"fsspec", "s3fs", "boto3", "botocore", "huggingface_hub"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_house_rules(path: Path) -> None:
    """Who may import what, and how long a module may be (DESIGN.md, Rooms)."""
    name, found = name_of(path), tops(path)
    room = name.split("/")[0]
    if name != "engines/vllm.py":
        assert "vllm" not in found
    if name not in RAY and room != "ops":
        assert "ray" not in found
    if room != "storage":
        assert not found & FILE_SYSTEMS
    if room == "family":
        ours = {m for m in imports(path) if m.startswith("gemma_batch.")}
        allowed = ("gemma_batch.family", "gemma_batch.errors")
        assert all(m.startswith(allowed) for m in ours), ours
    if room in {"storage", "prompts", "engines", "family"}:
        assert not any(m.startswith("gemma_batch.driver") for m in imports(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no module docstring"


def test_importing_the_package_is_fast_and_light() -> None:
    """`import gemma_batch` pulls in nothing heavy and takes well under half a second."""
    code = (
        "import time; t = time.perf_counter(); import gemma_batch; "
        "took = time.perf_counter() - t; import sys; "
        "heavy = {'ray', 'vllm', 'torch', 'pyarrow', 'pydantic', 'duckdb', 'transformers'}; "
        "print(took, sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, _, loaded = out.stdout.strip().partition(" ")
    assert loaded == "[]"
    assert float(took) < 0.5


def test_the_public_api_is_what_it_says() -> None:
    """`__all__` is sorted and every name in it can be had, `run` being the function."""
    import gemma_batch

    assert sorted(gemma_batch.__all__) == gemma_batch.__all__
    for name in gemma_batch.__all__:
        assert getattr(gemma_batch, name) is not None
    import gemma_batch.driver.run

    assert callable(gemma_batch.run)
