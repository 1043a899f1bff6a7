"""Fields of `resources` that are not in the fingerprint, each with the reason (driver, laptop).

A run may go on with another value of such a field: the data set still holds answers of one
configuration. A field that is not here is in the fingerprint.
"""

from __future__ import annotations

NEUTRAL_RESOURCES = {
    "device": "the same model answers on a CPU and on a GPU",
    "gpu": "only `plan` reads it",
    "replicas": "engines do not know of each other",
    "tensor_parallel": "the same sums, in another order",
    "engines_per_gpu": "engines do not know of each other",
    "order": "a row's answer does not depend on the rows before it",
    "sort": "rows are answered in another order, and stay what they are",
    "max_num_seqs": "a row's answer does not depend on the rows beside it",
    "max_num_batched_tokens": "prompts are computed in other pieces, to the same numbers",
    "gpu_memory_utilization": "room for the KV cache, not what is in it",
    "cpu_kv_cache_gib": "room for the KV cache, not what is in it",
    "fork_template": "how processes of an engine are started, not what they run",
    "price_per_hour": "only reports read it",
    "engine_args": "those that can change an answer are in the fingerprint one by one",
}
