"""The wheel: what `pip install` gives to people."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    """Each module and data file, and the marker by which type checkers use our annotations."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("gemma_batch-*.whl")
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("gemma_batch/")}
    files = (path for path in (ROOT / "gemma_batch").rglob("*") if path.is_file())
    ours = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert packed == ours
    assert "gemma_batch/py.typed" in packed
    assert "gemma_batch/family/catalog.json" in packed
