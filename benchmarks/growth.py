"""Growth: time and the driver's memory as the input grows, with the echo engine.

    python -m benchmarks.growth --rows 100000 1000000 5000000

Short documents, no model; what is measured is everything around an engine. Printed per size:
seconds, rows/s, and the driver process's peak memory (RSS, sampled twice a second).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SHARD_ROWS = 250_000
GROUP_ROWS = 25_000


def prepare(folder: Path, rows: int) -> Path:
    """Shards of `rows` short documents in all, and a spec; the spec's path."""
    from gemma_batch.family.tiny import build_tiny_gemma
    from jobs.stdlib_docs import collect

    texts = [doc["doc"][:60] for doc in collect(2000)]
    if not (folder / "model").exists():
        build_tiny_gemma(folder / "model", texts=texts)
    source = folder / f"in-{rows}"
    source.mkdir()
    for start in range(0, rows, SHARD_ROWS):
        numbers = range(start, min(start + SHARD_ROWS, rows))
        table = pa.table(
            {
                "id": pa.array(numbers, pa.int64()),
                "doc": pa.array([texts[n % len(texts)] for n in numbers], pa.string()),
            }
        )
        path = source / f"{start // SHARD_ROWS:05d}.parquet"
        pq.write_table(table, path, row_group_size=GROUP_ROWS)
    spec = {
        "name": f"growth-{rows}",
        "input": {"path": f"{source}/*.parquet", "id": "id"},
        "prompt": {"user": "{{ doc }}"},
        "model": str(folder / "model"),
        "sampling": {"max_tokens": 4},
        "output": {"path": str(folder / f"out-{rows}")},
        "resources": {"engine": "echo", "max_model_len": 256, "replicas": 1},
        "policy": {"max_failed": "100%", "progress_seconds": 30},
    }
    path = folder / f"{rows}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def measure(spec: Path) -> dict[str, Any]:
    """One run in a process of its own, its memory watched."""
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    command = [sys.executable, "-m", "gemma_batch.cli", "run", str(spec), "--json"]
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.5)
        assert process.stdout is not None
        report = json.loads(process.stdout.read() or b"{}")
    return {
        "rows": report.get("rows", 0),
        "answered": report.get("answered", 0),
        "units": report.get("units", 0),
        "seconds": round(time.monotonic() - started, 1),
        "steady": report.get("steady_rows_per_second", 0),
        "peak_mb": round(peak / 2**20, 1),
    }


def main() -> None:
    """Parse, run in turn, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        for rows in options.rows:
            found.append(measure(prepare(Path(name), rows)))
            print(found[-1], file=sys.stderr, flush=True)
    print("| rows | units | seconds | steady rows/s | driver's peak MB |\n|---|---|---|---|---|")
    for one in found:
        print(
            f"| {one['rows']:,} | {one['units']:,} | {one['seconds']:,} | {one['steady']:,.0f} | "
            f"{one['peak_mb']} |"
        )
    growth = found[-1]["peak_mb"] - found[0]["peak_mb"]
    print(
        f"\nmemory grew by {growth:.1f} MB from {found[0]['rows']:,} to {found[-1]['rows']:,} rows"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
