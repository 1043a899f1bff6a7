"""Scale-out: steady rows/s as replicas are added, with echo engines of a fixed rate.

    python -m benchmarks.scale_out --replicas 1 4 16 64 --rate 50 --seconds 60

Every size runs on a fresh Ray cluster of one node with as many logical CPUs as its replicas and
readers reserve; the real cores are whatever the machine has, so what is measured is whether the
driver, Ray Data and storage keep that many engines busy. Each replica has `seconds` of work; while
dozens of Python processes start on a few cores the first of them do more than their share, so
`--seconds` must be well above the time to start all.

Printed per number of replicas:

steady rows/s   over the window in which every replica works: from the moment the last engine was
                ready and had its first unit to the moment the first replica had committed its
                last unit.
of linear       steady rows/s over replicas x rate.
idle            1 - rows done / (replica-seconds x rate), replica-seconds counted from each
                engine's readiness to the end of the last one: start-up and tail included.
all ready       seconds from the start of the run (the cluster is up) to the last engine's
                readiness.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import common, inputs

MODULE = "benchmarks.scale_out"
READERS = 3  # CPUs of Ray's left for tasks that read
ENGINE_CPUS = 0.9  # what a replica reserves at most, see gemma_batch.planning.pool
UNIT_SECONDS = 5
SHARD_ROWS, GROUP_ROWS = 25_000, 1_000

Receipt = dict[str, Any]
Points = list[tuple[float, float]]  # time, rows done until then


def by_worker(receipts: Sequence[Receipt]) -> list[Points]:
    """Each worker's rows over time: nothing when its engine is ready, more with every unit.

    Units of one engine are worked off one after the other, so between two commits lie the rows
    of the second.
    """
    found = []
    for worker in {r["worker"] for r in receipts}:
        mine = sorted((r for r in receipts if r["worker"] == worker), key=lambda r: r["finished"])
        begin = max(mine[0]["engine_ready"], min(r["started"] for r in mine))
        points, done = [(begin, 0.0)], 0.0
        for receipt in mine:
            done += receipt["rows"]
            points.append((receipt["finished"], done))
        found.append(points)
    return found


def rows_at(points: Points, moment: float) -> float:
    """Rows that a worker had done at a moment, evenly spread between two commits."""
    if moment <= points[0][0]:
        return 0.0
    for (begin, before), (end, after) in pairwise(points):
        if moment <= end:
            return before + (after - before) * (moment - begin) / max(end - begin, 1e-9)
    return points[-1][1]


def scaling(
    receipts: Sequence[Receipt], replicas: int, rate: float, began: float
) -> common.Figures:
    """The figures of one run from its receipts; `steady` None when the window is empty."""
    workers = by_worker(receipts)
    ready = max(r["engine_ready"] for r in receipts)
    busy = max(p[0][0] for p in workers)
    first_out, end = min(p[-1][0] for p in workers), max(p[-1][0] for p in workers)
    window = first_out - busy
    all_worked = len(workers) == replicas and window > 0
    done = sum(rows_at(p, first_out) - rows_at(p, busy) for p in workers)
    readiness = {r["worker"]: r["engine_ready"] for r in receipts}
    lifetime = sum(end - moment for moment in readiness.values())
    rows = sum(r["rows"] for r in receipts)
    steady = done / window if all_worked else None
    return {
        "replicas": replicas,
        "worked": len(workers),
        "rows": rows,
        "window": round(window, 1),
        "steady": steady,
        "linear": steady / (replicas * rate) if steady is not None else None,
        "idle": 1 - rows / (lifetime * rate),
        "ready": round(ready - began, 1),
        "seconds": round(end - began, 1),
    }


def child(folder: Path, replicas: int, rate: float, seconds: float) -> None:
    """One size: a cluster, a run, the figures."""
    import time

    import ray

    import gemma_batch

    work = Path(tempfile.mkdtemp(prefix=f"{replicas}-", dir=folder))
    found = inputs.write_rows(
        work / "in",
        int(replicas * rate * seconds),
        inputs.texts(),
        shard_rows=SHARD_ROWS,
        group_rows=GROUP_ROWS,
    )
    spec = gemma_batch.JobSpec.from_dict(
        {
            "name": f"scale-{replicas}",
            "input": {"path": found, "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": 4},
            "output": {"path": str(work / "out")},
            "resources": {
                "engine": "echo",
                "max_model_len": 256,
                "replicas": replicas,
                "order": "input",
                "engine_args": {"rows_per_second": rate},
            },
            "policy": {"unit_rows": max(1, round(rate * UNIT_SECONDS))},
        }
    )
    ray.init(
        address="local",
        num_cpus=math.ceil(ENGINE_CPUS * replicas) + READERS,
        include_dashboard=False,
        log_to_driver=False,
    )
    began = time.time()
    gemma_batch.run(spec)
    receipts = common.receipts_of(str(work / "out"))
    common.report_figures(folder, scaling(receipts, replicas, rate, began))


def table(runs: dict[int, list[common.Figures]]) -> str:
    """One line per number of replicas, medians."""
    lines = []
    for replicas, found in runs.items():
        if not found:
            lines.append([replicas, "failed", "-", "-", "-", "-"])
            continue
        steady = any(run["steady"] is not None for run in found)
        linear = common.median(found, "linear")
        lines.append(
            [
                replicas,
                common.spread(found, "steady") if steady else "not all worked at once",
                f"{linear:.2f}" if steady else "-",
                f"{100 * common.median(found, 'idle'):.0f}%",
                f"{common.median(found, 'ready'):.0f} s",
                f"{common.median(found, 'window'):.0f} s",
            ]
        )
    head = ["replicas", "steady rows/s", "of linear", "idle", "all ready", "window"]
    return common.markdown(head, lines)


def main() -> None:
    """Parse, run every size, print."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rate", type=float, default=50.0, help="rows per second of an engine")
    parser.add_argument("--seconds", type=float, default=60.0, help="work per replica")
    options = parser.parse_args()
    if options.child:
        child(options.folder, int(options.child), options.rate, options.seconds)
        return
    with tempfile.TemporaryDirectory(prefix="scale-out-") as name:
        folder = Path(name)
        inputs.tiny_model(folder)
        arguments = ("--rate", str(options.rate), "--seconds", str(options.seconds))

        def run(replicas: str) -> common.Figures | None:
            return common.measure(MODULE, replicas, folder, *arguments, RAY_worker_niceness="0")

        found = common.in_turn(
            [str(n) for n in options.replicas], options.rounds, run, minutes=options.minutes
        )
    runs = {int(name): figures for name, figures in found.items()}
    text = table(runs)
    title = f"scale-out, echo engines of {options.rate:g} rows/s, {options.seconds:g} s each"
    common.publish(options, title, text, runs)


if __name__ == "__main__":
    main()
