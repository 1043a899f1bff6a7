"""Weights: what an engine on this node loads, fetched before it starts (GPU actor)."""

from __future__ import annotations

from dataclasses import replace

from gemma_batch.engines.base import EngineConfig
from gemma_batch.engines.vllm_args import streams_weights
from gemma_batch.errors import EngineStartError, GemmaBatchError
from gemma_batch.storage.models import check_unchanged, fetch_weights


def with_weights(config: EngineConfig) -> EngineConfig:
    """The configuration with `model` a folder on this node.

    Models on the hub and in object storage are copied to the node first; weights are only named in
    `weights` where vLLM reads them straight into memory. Raises `ModelError`, also for a model
    that is not the planned one, and `StorageError`.
    """
    streamed = streams_weights(config.model, config.args)
    made_up = config.args.get("load_format") == "dummy"
    path = fetch_weights(config.model, config.files, weights=not made_up, streamed=streamed)
    return replace(config, model=path, weights=config.model if streamed else None)


def check_loaded(config: EngineConfig) -> None:
    """Raise `EngineStartError` when the model was changed in place before it was loaded.

    Copies on this node do not change. A local folder may, and so may weights that vLLM streams: an
    engine that starts anew after hours would load others.
    """
    try:
        if config.weights is not None:
            check_unchanged(config.weights, config.files)
        elif config.files is not None and config.files.weights is not None:
            check_unchanged(config.model, config.files)
    except GemmaBatchError as err:
        raise EngineStartError(str(err)) from err
