"""Growth: time and the driver's memory as the input grows, with the echo engine.

    python -m benchmarks.growth --sizes 100000 1000000 10000000

Short documents, no model; what is measured is everything around an engine. Printed per size:
seconds in all, seconds from the first unit's start to the last commit (work), rows/s in that time,
and the driver process's peak memory (RSS, sampled twice a second).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import common, inputs

SHARD_ROWS, GROUP_ROWS = 250_000, 25_000


def child(folder: Path, rows: int) -> common.Figures:
    """One size in this process, which is the driver."""
    import gemma_batch

    spec = gemma_batch.JobSpec.from_dict(
        {
            "name": f"growth-{rows}",
            "input": {"path": f"{folder}/in/*.parquet", "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": 4},
            "output": {"path": str(folder / f"out-{rows}")},
            "resources": {"engine": "echo", "max_model_len": 256, "replicas": 1},
            "policy": {"progress_seconds": 30},
        }
    )
    peak = inputs.PeakMemory()
    peak.start()
    begun = time.monotonic()
    report = gemma_batch.run(spec)
    seconds = time.monotonic() - begun
    peak.stop()
    receipts = common.receipts_of(spec.output.path)
    ready = common.ready_at(receipts)
    work = max(r["finished"] for r in receipts) - ready
    return {
        "rows": report.answered,
        "units": len(receipts),
        "seconds": seconds,
        "work": work,
        "speed": report.answered / work,
        "peak": peak.mb,
    }


def table(found: dict[str, list[common.Figures]]) -> str:
    """One line per size, medians, and what came of the aims."""
    runs = [(size, figures) for size, figures in found.items() if figures]
    rows = [
        [
            f"{int(size):,}",
            f"{common.median(figures, 'units'):,.0f}",
            common.spread(figures, "seconds"),
            common.spread(figures, "work"),
            common.spread(figures, "speed", 0),
            common.spread(figures, "peak"),
        ]
        for size, figures in runs
    ]
    head = ["rows", "units", "seconds", "of work", "rows/s", "driver's peak MB"]
    (_, first), (_, last) = runs[0], runs[-1]
    per_row = common.median(first, "speed") / common.median(last, "speed")
    memory = common.median(last, "peak") - common.median(first, "peak")
    return common.markdown(head, rows) + (
        f"\n\nFrom the smallest to the largest: {per_row:.2f} times the seconds of work per row "
        f"(aim: within 10% of 1), {memory:+.1f} MB of the driver's memory (aim: flat)."
    )


def main() -> None:
    """Parse, run in turn, print."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    options = parser.parse_args()
    if options.child:
        common.report_figures(options.folder, child(options.folder, int(options.child)))
        return
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name)
        inputs.tiny_model(folder)
        sizes = [str(size) for size in options.sizes]

        def run(size: str) -> common.Figures | None:
            with tempfile.TemporaryDirectory(dir=folder) as one:
                (Path(one) / "model").symlink_to(folder / "model")
                inputs.write_rows(
                    Path(one) / "in",
                    int(size),
                    inputs.texts(),
                    shard_rows=SHARD_ROWS,
                    group_rows=GROUP_ROWS,
                )
                return common.measure("benchmarks.growth", size, Path(one), timeout=7200)

        found = common.in_turn(sizes, options.rounds, run, minutes=options.minutes)
    common.publish(options, "growth, echo engine", table(found), found)


if __name__ == "__main__":
    main()
