"""Rows that take their engine, or the whole worker, with them each time they are seen."""

from __future__ import annotations

from ..harness import POISON_TEXT, Bench, Job, Lost
from ..scenarios import fault


def _job(bench: Bench, name: str, drill: str, numbers: list[int], **policy: float) -> Job:
    job = bench.job(
        name,
        special=dict.fromkeys(numbers, POISON_TEXT),
        args={drill: bench.poison()},
        policy=policy,
    )
    job.expected_failures = {
        key: "engine_crash" for key, text in job.docs.items() if text == POISON_TEXT
    }
    if job.finish() != 3:
        raise Lost("failed rows above policy.max_failed must give exit code 3")
    return job


@fault("poison rows", "one that kills the engine each time it is seen", quick=True)
def poison_row(bench: Bench) -> Job:
    """It is isolated and becomes engine_crash; all others are answered."""
    return _job(bench, "poison-1", "crash_on", [777])


@fault("poison rows", "three in one unit")
def poison_rows(bench: Bench) -> Job:
    """Each is found by itself."""
    return _job(bench, "poison-3", "crash_on", [701, 720, 749])


@fault("poison rows", "one that makes the engine hang each time")
def hanging_row(bench: Bench) -> Job:
    """The watchdog's kills isolate it like deaths."""
    return _job(bench, "poison-hang", "hang_on", [777], engine_hang_timeout=1)


@fault("poison rows", "one that takes the whole worker process down (out of memory)")
def poison_worker(bench: Bench) -> Job:
    """The process dies with all it knew; the board outside remembers what was in flight."""
    return _job(bench, "poison-worker", "exit_on", [777])
