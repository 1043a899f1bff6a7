"""The set-up scripts, with programs that stand in for pip and uv: no network, no packages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# The environment's Python. `FAIL` names what fails: installing uv, torch or the packages.
PYTHON = """#!/bin/sh
echo "python $*" >> "$CALLS"
fail() { echo "pip cannot install $1" >&2; exit 1; }
case "$*" in
*purelib*) echo "$VENV" ;;
"-c"*) exit 1 ;; # the version of torch that is installed: none
*" install uv")
  case "$FAIL" in *uv-itself*) fail uv ;; esac
  printf '%s\\n' '#!/bin/sh' "$UV_BODY" > "$VENV/bin/uv"
  chmod +x "$VENV/bin/uv" ;;
*--index-url*) case "$FAIL" in *torch-index*) fail "torch from the index" ;; esac ;;
*torch==*) case "$FAIL" in *torch*) fail "torch by itself" ;; esac ;;
*" -r "*) case "$FAIL" in *packages*) fail packages ;; esac ;;
esac
exit 0
"""
UV_WORKS = 'echo "uv $*" >> "$CALLS"'
UV_FAILS = UV_WORKS + '; echo "error: failed to fetch" >&2; echo "  UnknownIssuer" >&2; exit 2'
UV_IS_INTERRUPTED = UV_WORKS + "; kill -INT $PPID; exit 130"


class Setup:
    """An environment of stand-ins, and the script run on it."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / "venv"
        self.calls_file = folder / "calls.txt"
        self.lock = folder / "some.lock"
        self.lock.write_text("one==1\ntorch==2.13.0+cpu\ntwo==2\n")
        (self.venv / "bin").mkdir(parents=True)
        self.program("python", PYTHON)
        self.program("pip", "#!/bin/sh\n")

    def program(self, name: str, text: str, folder: Path | None = None) -> Path:
        path = (folder or self.venv / "bin") / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(self, uv: str = "", fail: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return self.script("install.sh", str(self.lock), uv=uv, fail=fail, **env)

    def script(
        self, name: str, *arguments: str, uv: str = "", fail: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "SETUP_UV"}
        ours = {"CALLS": str(self.calls_file), "VENV": str(self.venv), "UV_BODY": uv, "FAIL": fail}
        return subprocess.run(
            ["bash", f"scripts/{name}", str(self.venv), *arguments],
            cwd=ROOT,
            env={**kept, **ours, **env},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def calls(self, start: str, *words: str) -> list[str]:
        """The commands that were run so far, begin like this and hold all of these words."""
        lines = self.calls_file.read_text().splitlines()
        return [line for line in lines if line.startswith(start) and all(w in line for w in words)]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_uv_installs_where_it_works(setup: Setup) -> None:
    """pip gets uv and torch, uv the rest of the lock, and nothing is said of errors."""
    done = setup.run(uv=UV_WORKS)
    assert done.returncode == 0, done.stderr
    assert len(setup.calls("uv pip install", "--no-deps", "packages.txt")) == 1
    assert (setup.venv / "packages.txt").read_text() == "one==1\ntwo==2\n"
    assert not setup.calls("python", "packages.txt")
    assert done.stderr == ""
    assert "failed" not in done.stdout


def test_pip_takes_over_where_uv_fails(setup: Setup) -> None:
    """One line says so, with the last line of uv's error; no error is shown beside it."""
    done = setup.run(uv=UV_FAILS)
    assert done.returncode == 0, done.stderr
    assert len(setup.calls("uv pip install")) == 1
    assert len(setup.calls("python", "--no-deps", "packages.txt")) == 1
    (line,) = (line for line in done.stdout.splitlines() if "uv failed" in line)
    assert line == "setup: pip installed the packages, because uv failed: UnknownIssuer"
    assert done.stderr == ""


def test_both_errors_are_shown_where_both_fail(setup: Setup) -> None:
    """Each below the name of what failed; the script fails."""
    done = setup.run(uv=UV_FAILS, fail="packages")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "setup: the locked packages could not be installed, in none of these ways:",
        "setup: uv failed:",
        "  error: failed to fetch",
        "    UnknownIssuer",
        "setup: pip failed:",
        "  pip cannot install packages",
    ]
    assert "pip installed" not in done.stdout


def test_pip_installs_where_uv_cannot_be_had(setup: Setup) -> None:
    """Silently; why there is no uv is shown only when pip fails as well."""
    done = setup.run(fail="uv-itself")
    assert done.returncode == 0, done.stderr
    assert len(setup.calls("python", "packages.txt")) == 1
    assert "cannot install uv" not in done.stdout + done.stderr
    done = setup.run(fail="uv-itself packages")
    assert done.returncode == 1
    assert "setup: pip install uv failed:\n  pip cannot install uv\n" in done.stderr
    assert "setup: pip failed:\n  pip cannot install packages\n" in done.stderr


def test_torch_comes_from_where_it_is_found(setup: Setup) -> None:
    """From PyTorch's index only after plain pip; with both errors when neither has it."""
    assert setup.run(uv=UV_WORKS).returncode == 0
    assert len(setup.calls("python -m pip", "torch==2.13.0+cpu")) == 1
    assert not setup.calls("python", "--index-url")
    done = setup.run(uv=UV_WORKS, fail="torch")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(setup.calls("python", "--index-url", "torch==2.13.0+cpu")) == 1
    done = setup.run(uv=UV_WORKS, fail="torch torch-index")
    assert done.returncode == 1
    assert "setup: torch==2.13.0+cpu could not be installed" in done.stderr
    assert "pip cannot install torch by itself" in done.stderr
    assert "pip cannot install torch from the index" in done.stderr
    done = setup.run(uv=UV_FAILS, fail="torch packages")
    assert done.returncode == 1
    assert "torch" not in done.stderr, "it was had in the end"


def test_an_interrupted_uv_is_not_a_failed_one(setup: Setup) -> None:
    """Ctrl-C ends the set-up; pip does not begin instead."""
    done = setup.run(uv=UV_IS_INTERRUPTED)
    assert done.returncode == 130
    assert len(setup.calls("uv pip install")) == 1
    assert not setup.calls("python", "packages.txt")


def test_a_half_made_environment_is_completed(setup: Setup, tmp_path: Path) -> None:
    """A Python without pip is what an interrupted `venv` leaves."""
    maker = setup.program("maker", '#!/bin/sh\necho "maker $*" >> "$CALLS"\n', tmp_path)
    assert setup.run(uv=UV_WORKS, PYTHON=str(maker)).returncode == 0
    assert not setup.calls("maker")
    (setup.venv / "bin" / "pip").unlink()
    assert setup.run(uv=UV_WORKS, PYTHON=str(maker)).returncode == 0
    assert setup.calls("maker") == [f"maker -m venv {setup.venv}"]


@pytest.mark.parametrize("uv", [UV_WORKS, UV_FAILS, ""], ids=["works", "fails", "none"])
def test_airflows_environment_is_made_the_same_way(setup: Setup, tmp_path: Path, uv: str) -> None:
    """With the uv of our environment; pip takes over where that fails or is not there."""
    ours = tmp_path / "ours"
    (ours / "bin").mkdir(parents=True)
    if uv:
        setup.program("uv", f"#!/bin/sh\n{uv}\n", ours / "bin")
    setup.program("airflow", "#!/bin/sh\necho 3.3.0\n")
    done = setup.script("setup_airflow.sh", str(ours))
    assert done.returncode == 0, done.stderr
    assert "setup: Airflow 3.3.0 is there" in done.stdout
    assert len(setup.calls("uv pip install", "packages.txt")) == bool(uv)
    assert len(setup.calls("python", "packages.txt")) == (uv != UV_WORKS)
    assert ("because uv failed: UnknownIssuer" in done.stdout) == (uv == UV_FAILS)
    assert not setup.calls("python", "install uv"), "no second try to get what ours could not get"
    assert len(setup.calls("python -m pip", "-q check")) == 1
    assert (setup.venv / "gemma_batch.pth").read_text() == f"{ROOT}\n"
