"""GPU actors and engine processes die or hang, at every moment of their lives."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import psutil

from ..cluster import family, lives, stop
from ..harness import Bench, Driver, Job, Lost
from ..scenarios import fault

HANG = 10  # seconds
CPU = {"engine": "vllm", "device": "cpu", "precision": "fp32", "replicas": 1, "cpu_kv_cache_gib": 1}


@fault("GPU actor dies", "SIGKILL of its process while the engine loads")
def actor_killed_loading(bench: Bench) -> Job:
    """Another one is started; no unit is blamed."""
    job = bench.job("actor-load", args={"start_seconds": 4})
    driver = job.start()
    driver.until_workers(2)
    driver.kill_worker(bench.chance)
    driver.expect(0)
    return job


@fault("GPU actor dies", "SIGKILL of its process mid-unit", quick=True)
def actor_killed(bench: Bench) -> Job:
    """Its units in flight are done again elsewhere."""
    job = bench.job("actor-unit")
    driver = job.start()
    driver.until_parts(5)
    driver.kill_worker(bench.chance)
    driver.expect(0)
    return job


@fault("GPU actor dies", "SIGKILL of its process while its parts are being put")
def actor_killed_committing(bench: Bench) -> Job:
    """A put that was on its way stands or does not; never half, never twice."""
    job = bench.job("actor-commit", s3=True)
    driver = job.start()
    driver.until_parts(3)
    bench.proxy.set(match="PUT .*/results/", latency=1.0, latency_seconds=1.5)
    slow = bench.proxy.counts["latency"]
    driver.until(lambda: bench.proxy.counts["latency"] > slow, "a slow put began")
    driver.kill_worker(bench.chance)
    bench.proxy.set(latency=0.0)
    driver.expect(0)
    return job


def _engines(worker: psutil.Process, *names: str) -> list[psutil.Process]:
    """The processes of these names below a GPU actor that are there now."""
    found = []
    for child in family(worker.pid) if lives(worker) else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            titles = (" ".join(child.cmdline()), child.name())
            if any(name in title for name in names for title in titles):
                found.append(child)
    return found


def _strike_engine(
    driver: Driver,
    worker: psutil.Process,
    name: str,
    blow: Callable[[psutil.Process], object] = psutil.Process.kill,
) -> None:
    """Deal the blow to a process of that name of the actor's engine, once it is there.

    Where the actor itself has ended meanwhile, the engine of another one is as good.
    """

    def there() -> list[psutil.Process]:
        above = [worker] if lives(worker) else driver.workers()
        return [engine for one in above for engine in _engines(one, name)]

    driver.strike(there, f"{name} below {worker}", blow)


@fault("engine process dies or hangs", "SIGKILL, then SIGSTOP, of the echo engine's process")
def engine_killed(bench: Bench) -> Job:
    """The actor lives and starts the engine anew."""
    # Slow enough that both blows fall, and their ends are seen, long before the work is done.
    args, policy = {"rows_per_second": 100}, {"engine_hang_timeout": 1}
    job = bench.job("engine-echo", rows=4000, args=args, policy=policy)
    driver = job.start()
    driver.until_parts(4)
    worker = driver.until_workers()[0]
    _strike_engine(driver, worker, "cat")
    driver.until_parts(4)
    _strike_engine(driver, worker, "cat", stop)
    driver.expect(0)
    return job


def _vllm(bench: Bench, name: str, rows: int = 600, **resources: Any) -> Job:
    policy = {"engine_hang_timeout": HANG}
    return bench.job(name, rows=rows, resources={**CPU, **resources}, policy=policy)


@fault(
    "engine process dies, then hangs",
    f"SIGKILL of vLLM's EngineCore, then SIGSTOP of the next one (watchdog {HANG} s)",
    base="vllm",
)
def vllm_core(bench: Bench) -> Job:
    """The rows in flight go on with a new core, each time."""
    job = _vllm(bench, "vllm-core", rows=3000)  # enough to be killed in, twice
    driver = job.start()
    driver.until_parts(1, timeout=180)
    worker = driver.until_workers()[0]
    _strike_engine(driver, worker, "EngineCore")
    driver.until_parts(3, timeout=180)
    _strike_engine(driver, worker, "EngineCore", stop)
    driver.expect(0)
    if (starts := max(receipt["engine_starts"] for receipt in job.receipts)) != 3:
        raise Lost(f"the engine was started {starts} times, not 3")
    return job


@fault(
    "engine process dies, then its actor",
    "SIGKILL of a tensor-parallel worker of vLLM, then of the process that runs vLLM",
    base="vllm",
)
def vllm_tp_worker_and_actor(bench: Bench) -> Job:
    """The other rank and the core go with it, and all come back; nothing stays behind."""
    job = _vllm(bench, "vllm-tp", tensor_parallel=2)
    driver = job.start()
    driver.until_parts(1, timeout=240)
    _strike_engine(driver, driver.until_workers()[0], "VLLM::Worker")
    driver.until_parts(3, timeout=180)

    def whole() -> list[psutil.Process]:
        names = ("VLLM::Worker", "EngineCore")
        return [one for one in driver.workers() if len(_engines(one, *names)) >= 3]

    worker = driver.until(whole, "the engine's processes are back", 180)[0]
    # What would stay behind holds the memory of the GPUs; the template, some of the host's.
    engines = family(worker.pid)[:-1]
    driver.strike(lambda: [worker], "the worker is killed")
    killed = time.monotonic()
    _, alive = psutil.wait_procs(engines, timeout=20)
    if alive:
        raise Lost(
            f"engine processes {alive} of {len(engines)} outlived their actor by "
            f"{time.monotonic() - killed:.0f} s"
        )
    driver.expect(0)
    return job
