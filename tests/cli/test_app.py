"""The app: versions, and completion as a shell does it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "gemma-batch"


def bash(script: str) -> str:
    """What a shell prints whose PATH begins with the folder of the program."""
    done = subprocess.run(
        ["bash", "-c", f'PATH="{PROGRAM.parent}:$PATH"; {script}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_versions_by_metadata_alone() -> None:
    """On stdout, so that a bug report can hold them, and without the imports of a run."""
    found = dict(line.split(" ", 1) for line in bash("gemma-batch --version").splitlines())
    assert found["gemma-batch"] == version("gemma-batch")
    assert found["ray"] == version("ray")
    assert re.match(r"\d+\.\d+|is not installed", found["vllm"])
    code = (
        "import sys; from gemma_batch.engines.installed import versions; versions(); "
        "print(sorted({'ray', 'vllm', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_shell_completes_commands_and_options() -> None:
    """By the script that `--show-completion` prints, in a real bash."""
    offered = {"st": {"status"}, "re": {"retry", "report"}, "run --v": {"--verbose"}}
    asked = "; ".join(
        f"COMP_WORDS=(gemma-batch {typed}); COMP_CWORD={len(typed.split())}; "
        '_gemma_batch_completion gemma-batch; echo "${COMPREPLY[@]}"'
        for typed in offered
    )
    replied = bash(f'eval "$(gemma-batch --show-completion bash)"; {asked}')
    assert [set(line.split()) for line in replied.splitlines()] == list(offered.values())
