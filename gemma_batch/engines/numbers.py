"""SchedulerNumbers: keeps vLLM's scheduler statistics for the metrics; runs in the GPU actor.

It replaces vLLM's own stat loggers. Those count every token of every request, which costs more time
than a small model needs to answer, and the one that reports to Ray needs Ray Serve. This class
reads six numbers per step, which takes about 10 microseconds. It imports nothing of vLLM; it only
has the method names that vLLM calls.
"""

from __future__ import annotations

from typing import Any


class SchedulerNumbers:
    """Stands in the place of vLLM's logger manager and keeps the newest numbers in `values`.

    The keys of `values` are names of metrics (`reporting/metrics.py`). `engine_running` and
    `engine_waiting` are requests now, `engine_kv_cache_share` is the used part of the KV cache
    (0 to 1); the other three only grow: prompt tokens looked up in the prefix cache, prompt tokens
    found there, and preempted requests. The stepper's thread writes; any thread may read.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {
            "engine_running": 0,
            "engine_waiting": 0,
            "engine_kv_cache_share": 0.0,
            "engine_prefix_tokens": 0,
            "engine_prefix_hit_tokens": 0,
            "engine_preemptions": 0,
        }

    def record(self, scheduler_stats: Any, iteration_stats: Any = None, **_: Any) -> None:
        """Take the scheduler's statistics of one step; vLLM calls this after every step."""
        if scheduler_stats is None:
            return
        values, prefix = self.values, scheduler_stats.prefix_cache_stats
        values["engine_running"] = scheduler_stats.num_running_reqs
        values["engine_waiting"] = scheduler_stats.num_waiting_reqs
        values["engine_kv_cache_share"] = scheduler_stats.kv_cache_usage
        if prefix is not None:  # vLLM declares it as optional
            values["engine_prefix_tokens"] += prefix.queries
            values["engine_prefix_hit_tokens"] += prefix.hits
            values["engine_preemptions"] += getattr(prefix, "preempted_requests", 0)

    def log(self) -> None:
        """Do nothing: the numbers are not written to a log."""

    def log_engine_initialized(self) -> None:
        """Do nothing: vLLM calls this once at the start."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """Do nothing: our engines never use vLLM's sleep mode."""
