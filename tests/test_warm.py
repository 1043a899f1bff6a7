"""Warm processes are processes: arguments, environment, files, exit codes, signals, sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.helpers import environment
from tests.warm import Warm


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    made = Warm(sys.executable, ["json"], dict(os.environ))
    yield made
    made.close()


def run(warm: Warm, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return warm.run("-c", code, *arguments, env={**os.environ, **env}, timeout=60)


def test_each_has_its_own_arguments_environment_and_outputs(warm: Warm, tmp_path: Path) -> None:
    """And what it is given is all it has; scripts and modules run as they do in Python."""
    code = "import sys, os; print(sys.argv[1:], os.environ['X']); print('err', file=sys.stderr)"
    done = run(warm, code, "a", "ü", X="y")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['a', 'ü'] y\n", "err\n")
    script = tmp_path / "script.py"
    script.write_text("import sys\nif __name__ == '__main__':\n    sys.exit(len(sys.argv))\n")
    assert warm.run(str(script), "a", env=os.environ, timeout=60).returncode == 2
    module = warm.run("-m", "json.tool", "--help", env=os.environ, timeout=60)
    assert module.returncode == 0
    assert "usage: " in module.stdout


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    ],
)
def test_an_end_is_told(warm: Warm, code: str, exit_code: int, said: str) -> None:
    """By exit code or signal, with the traceback where there is one."""
    done = run(warm, code)
    assert done.returncode == exit_code
    assert said in done.stderr


def test_signals_reach_it_and_a_limit_ends_it(warm: Warm) -> None:
    """Ctrl-C is a KeyboardInterrupt even where a shell has turned it off."""
    code = (
        "import time\n"
        "try:\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('ok')"
    )
    process = warm.start("-c", code, env=os.environ)
    while not process.said(0):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.said(0) == "up\nok\n"
    with pytest.raises(AssertionError, match="did not end"):
        warm.run("-c", code, env=os.environ, timeout=0.2)


def test_it_can_lead_a_session(warm: Warm) -> None:
    """So that a test can end it with all that it started."""
    process = warm.start("-c", "import time; time.sleep(60)", env=os.environ, new_session=True)
    while os.getpgid(process.pid) != process.pid:
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def test_forks_draw_ids_of_their_own_in_ray() -> None:
    """Objects of two drivers, or of two workers, must not have the same name."""
    made = Warm(sys.executable, ["tests.ray_ids", "ray.data"], environment())
    code = "from ray._raylet import ObjectID; print(ObjectID.from_random().hex())"
    try:
        drawn = [run(made, code).stdout for _ in range(2)]
    finally:
        made.close()
    assert len(set(drawn)) == 2
    assert all(drawn)
