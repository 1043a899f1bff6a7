"""Rows that take their engine, or the whole worker, with them each time they are seen."""

from __future__ import annotations

from ..harness import POISON_TEXT, Bench, Job, Lost
from ..scenarios import fault
from .engine import CPU


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


@fault("poison rows", "one that kills the engine each time it is seen")
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


@fault("poison rows", "one that makes vLLM's engine run out of memory", base="vllm")
def poison_memory(bench: Bench) -> Job:
    """A MemoryError in the engine core is a death like any other."""
    drill = {"poison": bench.poison(), "memory": True}
    job = bench.job(
        "poison-memory",
        rows=60,
        special={31: POISON_TEXT},
        resources={**CPU, "max_num_seqs": 1},
        args={"logits_processors": ["benchmarks.killer:Poison"], "additional_config": drill},
    )
    job.expected_failures = {
        key: "engine_crash" for key, text in job.docs.items() if text == POISON_TEXT
    }
    job.start().expect(3)
    return job


@fault("circuit breaker", "engines fail most rows: the run stops itself, and goes on when told to")
def breaker_trips(bench: Bench) -> Job:
    """Exit code 4 with the cause; what is committed stays."""
    job = bench.job(
        "breaker",
        special=dict.fromkeys(range(300, 1900), POISON_TEXT),
        args={"reject_on": bench.poison()},
        policy={"stop": {"failed_share": 0.5, "last_rows": 500}},
    )
    job.expected_failures = {
        key: "engine_rejected" for key, text in job.docs.items() if text == POISON_TEXT
    }
    job.start().expect(4, "policy.stop.failed_share=0.5", "engine_rejected")
    if not 0 < len(job.parts()) < 40:
        raise Lost(f"{len(job.parts())} of 40 units were committed when it stopped")
    job.start("run", str(job.path), "--set", "policy.stop.failed_share=1").expect(3)
    return job
