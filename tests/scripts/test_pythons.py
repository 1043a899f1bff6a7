"""scripts/pythons.sh, as far as it goes without the network: which interpreters it takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(**env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONS"}
    return subprocess.run(
        ["bash", "scripts/pythons.sh"],
        cwd=ROOT,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_an_interpreter_that_is_not_here_fails_only_where_it_was_asked_for(tmp_path: Path) -> None:
    """A program that is on PATH but does not run (pyenv's, say) counts as not here."""
    for name in ("python3.11", "python3.12", "python3.13"):
        stand_in = tmp_path / name
        stand_in.write_text("#!/bin/sh\nexit 127\n")
        stand_in.chmod(0o755)
    done = run(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 1
    assert "python3.12 is not here" in done.stdout
    assert "none of python3.11 python3.12 python3.13 is here" in done.stderr
    done = run(PYTHONS=str(tmp_path / "python3.12"))
    assert done.returncode == 1
    assert f"failed: {tmp_path / 'python3.12'}" in done.stderr
