"""GPU actors and engine processes die or hang, at every moment of their lives."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil

from ..cluster import stop
from ..harness import Bench, Driver, Job, Lost
from ..scenarios import fault

HANG = 10  # seconds
CPU = {"engine": "vllm", "device": "cpu", "precision": "fp32", "replicas": 1, "cpu_kv_cache_gib": 1}


@fault("GPU actor dies", "SIGKILL of its process while the engine loads")
def actor_killed_loading(bench: Bench) -> Job:
    """Another one is started; no unit is blamed."""
    job = bench.job("actor-load", args={"start_seconds": 4})
    driver = job.start()
    bench.chance.choice(driver.until_workers(2)).kill()
    driver.expect(0)
    return job


@fault("GPU actor dies", "SIGKILL of its process mid-unit", quick=True)
def actor_killed(bench: Bench) -> Job:
    """Its units in flight are done again elsewhere."""
    job = bench.job("actor-unit")
    driver = job.start()
    driver.until_parts(5)
    bench.chance.choice(driver.until_workers()).kill()
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
    bench.chance.choice(driver.until_workers()).kill()
    bench.proxy.set(latency=0.0)
    driver.expect(0)
    return job


def _engines(worker: psutil.Process, name: str) -> list[psutil.Process]:
    found = []
    for child in worker.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()) or name in child.name():
                found.append(child)
    return found


def _until_engine(driver: Driver, worker: psutil.Process, name: str) -> psutil.Process:
    """The first of the engine's processes of that name, once it is there."""
    found = driver.until(lambda: _engines(worker, name), f"{name} below {worker}", 30)
    first: psutil.Process = found[0]
    return first


@fault("engine process dies or hangs", "SIGKILL, then SIGSTOP, of the echo engine's process")
def engine_killed(bench: Bench) -> Job:
    """The actor lives and starts the engine anew."""
    job = bench.job("engine-echo", rows=4000, policy={"engine_hang_timeout": 1})
    driver = job.start()
    driver.until_parts(4)
    (worker, *_) = driver.until_workers()
    _engines(worker, "cat")[0].kill()
    driver.until_parts(4)
    stop(_engines(worker, "cat")[0])
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
    (worker,) = driver.until_workers()
    _until_engine(driver, worker, "EngineCore").kill()
    driver.until_parts(3, timeout=180)
    stop(_until_engine(driver, worker, "EngineCore"))
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
    (worker,) = driver.until_workers()
    _until_engine(driver, worker, "VLLM::Worker").kill()
    driver.until_parts(3, timeout=180)
    if len(_engines(worker, "VLLM::Worker") + _engines(worker, "EngineCore")) < 3:
        raise Lost("the engine's processes were not found")
    # What would stay behind holds the memory of the GPUs; the template, some of the host's.
    engines = worker.children(recursive=True)
    worker.kill()
    killed = time.monotonic()
    _, alive = psutil.wait_procs(engines, timeout=20)
    if alive:
        raise Lost(
            f"engine processes {alive} of {len(engines)} outlived their actor by "
            f"{time.monotonic() - killed:.0f} s"
        )
    driver.expect(0)
    return job
