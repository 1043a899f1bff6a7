"""CPU cores: which of them vLLM and its workers compute on, on a node without a GPU (actor)."""

from __future__ import annotations

import contextlib
import math
import os

import psutil

from gemma_batch.engines.base import EngineConfig

# The CPU cores of this process. Read once, because `leave_workers_alone` later takes some away.
CORES = os.sched_getaffinity(0)


def cpu_environment(config: EngineConfig) -> dict[str, str]:
    """The variables by which vLLM on a CPU learns its KV cache (GiB) and its cores."""
    env = {}
    if not config.args.get("kv_cache_memory_bytes"):  # the variable would override this argument
        # In GiB; vLLM takes only whole numbers here.
        env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, math.ceil(config.cpu_kv_cache_gib or 1)))
    if config.cpu_threads is not None:
        cores = sorted(CORES)
        threads = max(1, config.cpu_threads)
        if config.tensor_parallel > 1:
            ranks = [
                cores[i * threads % len(cores) :][:threads] for i in range(config.tensor_parallel)
            ]
            env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, r)) for r in ranks)
        else:
            # Several engines share the node. None is bound to cores, because two engines on the
            # same core would take it from each other with threads that wait busily.
            env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            env["OMP_NUM_THREADS"] = str(threads)
    return env


def leave_workers_alone(children: list[psutil.Process]) -> None:
    """Keep this process off the CPU cores that the engine's workers are bound to.

    The workers compute in step: when one of them loses its core for a moment, all of them wait.
    """
    bound: set[int] = set()
    for child in children:
        with contextlib.suppress(psutil.Error):
            cores = set(child.cpu_affinity() or ())
            bound |= cores if cores < CORES else set()
    if free := CORES - bound:
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, free)
