"""Tail: replicas that stand idle at the end, because of long rows or of slower engines.

    python -m benchmarks.tail --seconds 120
    python -m benchmarks.tail --seconds 120 --speeds

Four replicas of 32 sequences. The "engine" is a clock in both contenders, so that only scheduling
is compared: a row takes its answer's tokens / `SPEED` seconds, 32 rows of a replica side by side.
Long rows are at random places.

gemma_batch       the echo engine
Ray Data batches  what `ray.data.llm` does with rows: batches of 32, 8 batches of a replica at once,
                  a batch done when its last row is; the same clock in its actors

seconds     from the first row's start to the last answer
ideal       the same work spread evenly: row-seconds / all sequences
idle        share of replica-seconds between a replica's last answer and the end; `worst` is the
            replica that ended first

With `--speeds`, rows take equal time, every second engine is 20% slower, and an engine has 512
requests at once: some seconds of work are bound to an engine anyway. Only gemma_batch runs.

after first  seconds from the end of the first replica to the end of the last, and their share
bound        the most units that one actor held at a time
starved      the longest time of a replica's engine without any request
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common, inputs

REPLICAS, SEQUENCES, LONG_ROWS = 4, 32, 8
SHORT_TOKENS, TIMES, SPEED = 8, 50, 20.0  # tokens, tokens/s
PEER_BATCH, PEER_BATCHES, PEER_BLOCK = 32, 8, 64
SEED = 11
RATES, FAST_SEQUENCES = [40, 32], 256  # rows/s of the engines in turn


def write_docs(folder: Path, rows: int, long_rows: int) -> None:
    """One shard; a long row's answer has `TIMES` as many tokens, asked for in its parameters."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    long = set(random.Random(SEED).sample(range(rows), long_rows))
    words = " ".join(inputs.texts(4000, 100))[: 12 * SHORT_TOKENS * TIMES]
    tokens = [SHORT_TOKENS * (TIMES if n in long else 1) for n in range(rows)]
    table = pa.table(
        {
            "id": list(range(rows)),
            "doc": [words if count > SHORT_TOKENS else words[:100] for count in tokens],
            "params": [json.dumps({"max_tokens": count}) for count in tokens],
            "tokens": tokens,
        }
    )
    (folder / "in").mkdir()
    pq.write_table(table, folder / "in" / "0.parquet", row_group_size=1000)


def figures(spans: dict[str, tuple[float, float]], tokens: list[int]) -> common.Figures:
    """From each replica's first start and last answer."""
    begin, end = min(s for s, _ in spans.values()), max(e for _, e in spans.values())
    idle = [(end - last) / (end - begin) for _, last in spans.values()]
    return {
        "replicas": len(spans),
        "seconds": end - begin,
        "ideal": sum(tokens) / SPEED / (REPLICAS * SEQUENCES),
        "idle": 100 * sum(idle) / len(idle),
        "worst": 100 * max(idle),
    }


def ours(folder: Path, tokens: list[int]) -> common.Figures:
    """The echo engine, whose requests all run side by side: as many as a replica has sequences."""
    import gemma_batch

    spec = gemma_batch.JobSpec.from_dict(
        {
            "name": "tail",
            "input": {"path": f"{folder}/in/*.parquet", "id": "id"},
            "prompt": {"user": "{{ doc }}", "params": "params"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": SHORT_TOKENS},
            "output": {"path": str(folder / "out")},
            "resources": {
                "engine": "echo",
                "max_model_len": 8192,
                # The feed gives an engine twice this many.
                "max_num_seqs": SEQUENCES // 2,
                "replicas": REPLICAS,
                "engine_args": {"tokens_per_second": SPEED},
            },
            # A minute's work of such an engine is 32 / 0.4 s x 60 s.
            "policy": {"unit_seconds": 60},
        }
    )
    gemma_batch.run(spec)
    spans: dict[str, tuple[float, float]] = {}
    for receipt in common.receipts_of(spec.output.path):
        begin = max(receipt["started"], receipt["engine_ready"])
        first, last = spans.get(receipt["worker"], (begin, 0.0))
        spans[receipt["worker"]] = (min(first, begin), max(last, receipt["finished"]))
    return figures(spans, tokens)


def uneven(folder: Path, tokens: list[int]) -> common.Figures:
    """Echo engines of two speeds, and units as for a plan that knows the faster speed."""
    import gemma_batch
    from gemma_batch.family.hardware import Hardware
    from gemma_batch.planning.plan import make_plan

    data: dict[str, Any] = {
        "name": "speeds",
        "input": {"path": f"{folder}/in/*.parquet", "id": "id"},
        "prompt": {"user": "{{ doc }}"},
        "model": str(folder / "model"),
        "sampling": {"max_tokens": SHORT_TOKENS},
        "output": {"path": str(folder / "out")},
        "resources": {
            "engine": "echo",
            "max_model_len": 8192,
            "max_num_seqs": FAST_SEQUENCES,
            "replicas": REPLICAS,
            "engine_args": {"rows_per_second": RATES, "turns": str(folder / "turns")},
        },
    }
    plan = make_plan(gemma_batch.JobSpec.from_dict(data)).placed(Hardware(gpu=None))
    data["policy"] = {"unit_seconds": 60 * RATES[0] / plan.routes[0].rows_per_second}
    gemma_batch.run(gemma_batch.JobSpec.from_dict(data))
    receipts = common.receipts_of(data["output"]["path"])
    ends: dict[str, float] = {}
    for receipt in receipts:
        name = receipt["worker"]
        ends[name] = max(ends.get(name, 0.0), receipt["finished"])
    begin, last = min(max(r["started"], r["engine_ready"]) for r in receipts), max(ends.values())
    moments = [receipt["started"] for receipt in receipts]
    return {
        "replicas": len(ends),
        "seconds": last - begin,
        "ideal": len(tokens) / (sum(RATES) * REPLICAS / len(RATES)),
        "after": last - min(ends.values()),
        "share": 100 * (last - min(ends.values())) / (last - begin),
        "bound": max(
            sum(r["worker"] == name and r["started"] <= moment < r["finished"] for r in receipts)
            for name in ends
            for moment in moments
        ),
        "starved": max(receipt["starved"] for receipt in receipts),
    }


class Clock:
    """The peer's engine: `SEQUENCES` rows at once, each for its time."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(SEQUENCES)
        self._name = str(random.random())

    async def _row(self, tokens: int) -> None:
        async with self._room:
            await asyncio.sleep(tokens / SPEED)

    async def __call__(self, batch: dict[str, Any]) -> Any:
        begin = time.time()
        await asyncio.gather(*(self._row(int(tokens)) for tokens in batch["tokens"]))
        size = len(batch["tokens"])
        yield {"who": [self._name] * size, "begin": [begin] * size, "end": [time.time()] * size}


def peer(folder: Path, tokens: list[int]) -> common.Figures:
    """Ray Data with async actors."""
    import pyarrow as pa
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=REPLICAS + 2)
    table = pa.table({"tokens": tokens})
    pieces = [table.slice(start, PEER_BLOCK) for start in range(0, len(tokens), PEER_BLOCK)]
    dataset = ray.data.from_arrow(pieces)
    done = dataset.map_batches(
        Clock,
        batch_size=PEER_BATCH,
        compute=ray.data.ActorPoolStrategy(size=REPLICAS, max_tasks_in_flight_per_actor=4),
        max_concurrency=PEER_BATCHES,
        num_cpus=0.9,
    )
    spans: dict[str, tuple[float, float]] = {}
    for row in done.iter_rows():
        first, last = spans.get(row["who"], (row["begin"], 0.0))
        spans[row["who"]] = (min(first, row["begin"]), max(last, row["end"]))
    return figures(spans, tokens)


CONTENDERS = {"gemma_batch": ours, "Ray Data batches": peer}


def speeds_table(found: dict[str, list[common.Figures]]) -> str:
    """One line."""
    columns = ("replicas", "seconds", "ideal", "after", "share", "bound", "starved")
    rows = [[name, *(common.spread(runs, c) for c in columns)] for name, runs in found.items()]
    head = ["contender", "replicas", "seconds", "ideal seconds", "last ends after first, seconds",
            "% of the run", "units bound", "starved seconds"]  # fmt: skip
    return common.markdown(head, rows)


def table(found: dict[str, list[common.Figures]]) -> str:
    """One line per contender."""
    rows = [
        [
            name,
            common.spread(runs, "seconds"),
            common.spread(runs, "ideal"),
            common.spread(runs, "idle"),
            common.spread(runs, "worst"),
        ]
        for name, runs in found.items()
    ]
    head = ["contender", "seconds", "ideal seconds", "idle %", "worst replica idle %"]
    return common.markdown(head, rows)


def main() -> None:
    """Parse, prepare, alternate, print."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--seconds", type=float, default=120.0, help="work per replica")
    parser.add_argument("--speeds", action="store_true", help="engines of two speeds instead")
    options = parser.parse_args()
    if options.child:
        import pyarrow.parquet as pq

        tokens = pq.read_table(options.folder / "in")["tokens"].to_pylist()
        known = {**CONTENDERS, "two speeds": uneven}
        common.report_figures(options.folder, known[options.child](options.folder, tokens))
        return
    rows = int(options.seconds * REPLICAS * SEQUENCES / (SHORT_TOKENS / SPEED))
    if options.speeds:
        rows = int(options.seconds * REPLICAS * sum(RATES) / len(RATES))

    def run(name: str) -> common.Figures | None:
        with tempfile.TemporaryDirectory(prefix="tail-") as one:
            folder = Path(one)
            inputs.tiny_model(folder)
            write_docs(folder, rows, 0 if options.speeds else LONG_ROWS)
            return common.measure("benchmarks.tail", name, folder)

    names = ["two speeds"] if options.speeds else list(CONTENDERS)
    found = common.in_turn(names, options.rounds, run, minutes=options.minutes)
    if options.speeds:
        about = (
            f"{rows:,} equal rows, {REPLICAS} replicas of {RATES} rows/s in turn with "
            f"{2 * FAST_SEQUENCES} requests at once."
        )
        text = speeds_table(found)
        common.publish(options, "tail, engines of two speeds", text, found, about=about)
        return
    about = (
        f"{rows:,} rows of {SHORT_TOKENS / SPEED:g} s, {LONG_ROWS} of them {TIMES} times as long, "
        f"{REPLICAS} replicas of {SEQUENCES} sequences."
    )
    common.publish(options, "tail, a few long rows", table(found), found, about=about)


if __name__ == "__main__":
    main()
