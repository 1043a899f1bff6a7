"""What the integration tests share: running the real command line, and checking a data set."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gemma_batch.storage.fs import open_store
from tests.warm import Process, Warm

ROOT = Path(__file__).parent.parent.parent
# In the place of `ray`: what it starts are nodes whose workers start at once (see the program).
WARM_RAY = [sys.executable, str(ROOT / "tests" / "warm_workers.py")]
# Whatever home a test gives its processes: without it vLLM is imported once more to learn of each
# model class.
CACHE = Path(os.environ.get("VLLM_CACHE_ROOT", "~/.cache/vllm")).expanduser()


def program(name: str, *, package: str) -> str:
    """The path of a program that `make test` installs; a test without it fails, and says how."""
    bin_folder = Path(sys.executable).parent
    found = shutil.which(name, path=f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    assert found is not None, (
        f"{name!r} is missing: `make test` gets it (scripts/programs.sh) where apt-get is; "
        f"elsewhere install it, in Debian it is in the package {package!r}"
    )
    return found


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command under test."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "VLLM_CACHE_ROOT": str(CACHE),
        **extra,
    }


def command(*arguments: str) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-m", "gemma_batch.cli", *arguments]


@functools.cache
def _warm(settings: tuple[tuple[str, str], ...]) -> Warm:
    # Ray reads these settings when it is imported; what the others read then is not imported here.
    modules = [
        "tests.ray_ids",
        "gemma_batch.cli.commands",
        "gemma_batch.driver.run",
        "gemma_batch.driver.retry",
    ]
    modules += ["gemma_batch.cluster.pipeline", "gemma_batch.ops.ray_jobs", "duckdb", "s3fs"]
    return Warm(sys.executable, modules, {**environment(), **dict(settings)})


def _prepared(**env: str) -> tuple[dict[str, str], Warm]:
    given = environment(**env)
    at_import = ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")
    return given, _warm(tuple((name, given[name]) for name in at_import))


def start_cli(
    *arguments: str, stdout: IO[Any] | None = None, stderr: IO[Any] | None = None, **env: str
) -> Process:
    """Start the command line, in a process of its own with the imports done (see `warm.py`)."""
    given, warm = _prepared(**env)
    words = ("-m", "gemma_batch.cli", *arguments)
    return warm.start(*words, env=given, stdout=stdout, stderr=stderr)


def cli(*arguments: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    given, warm = _prepared(**env)
    return warm.run("-m", "gemma_batch.cli", *arguments, env=given, timeout=timeout)


def cold_cli(*arguments: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """The same in a new interpreter, as people start it."""
    return subprocess.run(
        command(*arguments),
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def write_spec(path: Path, **data: Any) -> Path:
    """A spec as a YAML file."""
    path.write_text(yaml.safe_dump(data))
    return path


def data_set(output: str, folder: str) -> list[dict[str, Any]]:
    """All rows of `results` or `errors`; every file must open."""
    store = open_store(output)
    rows: list[dict[str, Any]] = []
    for key in store.list(folder):
        table = pq.read_table(pa.BufferReader(store.read(key)))
        rows += table.to_pylist()
    return rows


def assert_each_once(output: str, ids: Iterable[str]) -> tuple[list[Any], list[Any]]:
    """Promise 1: `results` and `errors` together hold every key exactly once."""
    results, errors = data_set(output, "results"), data_set(output, "errors")
    found = Counter(row["id"] for row in results) + Counter(row["id"] for row in errors)
    twice = [key for key, count in found.items() if count > 1]
    expected = set(ids)
    missing, strange = expected - found.keys(), found.keys() - expected
    assert not twice, f"{len(twice)} rows twice: {twice[:5]}"
    assert not missing, f"{len(missing)} rows missing: {sorted(missing)[:5]}"
    assert not strange, f"{len(strange)} unknown rows: {sorted(strange)[:5]}"
    return results, errors
