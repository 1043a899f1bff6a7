"""A program that starts vLLM on a model folder and tells the room that its KV cache has.

`python -m tests.jobs.real_engine MODEL GIB TOKENS` prints it as JSON.
"""

from __future__ import annotations

import json
import os
import sys


def main(model: str, gib: str, tokens: str) -> None:
    """Start an engine with so much KV cache, for sequences of so many tokens."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = gib
    from vllm import LLM

    llm = LLM(model, dtype="float32", max_model_len=int(tokens), enforce_eager=True, max_num_seqs=8)
    cache = llm.llm_engine.vllm_config.cache_config
    print(json.dumps({"blocks": cache.num_gpu_blocks, "block": cache.block_size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
