"""What vLLM says about itself, by the names that metrics have."""

from __future__ import annotations

import inspect

from gemma_batch.engines.numbers import SchedulerNumbers
from gemma_batch.reporting.metrics import COUNTERS, GAUGES


def test_vllms_own_statistics_are_added_up() -> None:
    """Gauges are the last step's, counts are of all steps; a step without numbers changes none."""
    from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats

    numbers = SchedulerNumbers()
    for hits, running in ((64, 3), (0, 2)):
        prefix = PrefixCacheStats(queries=100, hits=hits, preempted_requests=1)
        numbers.record(
            scheduler_stats=SchedulerStats(
                num_running_reqs=running, kv_cache_usage=0.25, prefix_cache_stats=prefix
            ),
            iteration_stats=None,
            mm_cache_stats=None,
        )
    numbers.record(scheduler_stats=None)
    assert numbers.values == {
        "engine_running": 2,
        "engine_waiting": 0,
        "engine_kv_cache_share": 0.25,
        "engine_prefix_tokens": 200,
        "engine_prefix_hit_tokens": 64,
        "engine_preemptions": 2,
    }
    assert numbers.values.keys() <= COUNTERS.keys() | GAUGES.keys()


def test_it_can_stand_where_vllm_has_its_own() -> None:
    """Every method that the engine calls on its loggers while it runs is there."""
    from vllm.v1.engine.llm_engine import LLMEngine

    source = inspect.getsource(LLMEngine)
    called = {part.split("(")[0] for part in source.split("self.logger_manager.")[1:]}
    assert {"record", "log"} <= called
    assert all(callable(getattr(SchedulerNumbers, name)) for name in called), called
