"""Weights: what an engine on this node loads, fetched before it starts (GPU actor)."""

from __future__ import annotations

from dataclasses import replace

from gemma_batch.engines.base import EngineConfig
from gemma_batch.engines.vllm_args import streams_weights
from gemma_batch.storage.models import fetch_weights


def with_weights(config: EngineConfig) -> EngineConfig:
    """The configuration with `model` a folder on this node, or the hub id unchanged.

    Weights in object storage are copied to the node first, or named in `weights` where vLLM reads
    them straight into memory. Raises `ModelError`, `StorageError`.
    """
    streamed = streams_weights(config.model, config.args)
    made_up = config.args.get("load_format") == "dummy"
    path = fetch_weights(config.model, weights=not made_up, streamed=streamed)
    return replace(config, model=path, weights=config.model if streamed else None)
