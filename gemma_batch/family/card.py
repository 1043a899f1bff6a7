"""ModelCard: the facts about one Gemma model that a plan needs.

A card comes from the catalog (known models, no network) or from the config.json of a checkpoint.
At run time the config.json wins. A card does not know about GPUs, and it trusts the numbers in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemma_batch.errors import ModelError
from gemma_batch.family.geometry import Generation, Geometry, read_geometry, refusal
from gemma_batch.family.parameters import count_parameters, count_towers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Geometry, size and licence of one model. Counts are in elements, lengths in tokens.

    `kv_heads` and `head_dim` are of sliding layers, `global_*` of full-attention layers.
    `kv_layers_*` do not count layers that reuse the KV of another layer; `layers_full` counts them.
    `params` includes vision and audio towers; `text_params` is the language model alone.
    `chat_template` is False for a known model without one: it was not trained on conversations.
    `calls` is the format in which the model writes calls of functions, by its chat template:
    "gemma4", "functiongemma", or "text" for a model whose template knows none. `thinks` says that
    the template can ask for thoughts.
    """

    id: str
    architecture: str
    generation: Generation
    params: int
    text_params: int
    vocab: int
    context: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    global_kv_heads: int
    global_head_dim: int
    sliding_window: int | None
    kv_layers_sliding: int
    kv_layers_full: int
    licence: str
    gated: bool
    modalities: tuple[str, ...]
    source: Literal["catalog", "folder"]
    quantization: str | None = None
    weight_bits: int | None = None  # of a quantized checkpoint's linear layers
    layers_full: int
    embedding_params: int
    active_params: int
    duplicated_params: int = 0
    checkpoint_bytes: int | None = None
    min_vllm: str | None = None
    min_vram_gib: float | None = None
    variant_of: str | None = None
    chat_template: bool = True
    calls: str = "text"
    thinks: bool = False
    note: str = ""

    @property
    def tower_params(self) -> int:
        """Parameters that a text-only engine does not load."""
        return self.params - self.text_params


def card_from_config(
    id: str, config: Mapping[str, Any], *, weight_bytes: int | None = None
) -> ModelCard:
    """Make a card from a parsed config.json.

    `weight_bytes` is the size of the checkpoint's weight files in bytes. Without it, parameters
    are counted by arithmetic. Raises `ModelError` for a model that cannot be used.
    """
    quantization, bits = _quantization(id, config)
    geometry = read_geometry(id, config)
    counts = count_parameters(geometry)
    text = geometry.text
    params = counts.text + count_towers(geometry, config)
    if weight_bytes is not None and geometry.kind.multimodal and quantization is None:
        params = max(counts.text, weight_bytes // _element_bytes(config))
    kv_heads, head_dim = geometry.kv_shape(full=False)
    global_kv_heads, global_head_dim = geometry.kv_shape(full=True)
    any_sliding = any(not layer.full for layer in geometry.layers)
    return ModelCard(
        id=id,
        architecture=geometry.architecture,
        generation=geometry.kind.generation,
        params=params,
        text_params=counts.text,
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
        hidden=text["hidden_size"],
        layers=len(geometry.layers),
        heads=text["num_attention_heads"],
        kv_heads=kv_heads,
        head_dim=head_dim,
        global_kv_heads=global_kv_heads,
        global_head_dim=global_head_dim,
        sliding_window=text["sliding_window"] if any_sliding else None,
        kv_layers_sliding=geometry.owning_kv(full=False),
        kv_layers_full=geometry.owning_kv(full=True),
        licence="apache-2.0" if geometry.kind.generation == "gemma4" else "gemma",
        gated=False,  # the config.json could be read, so the licence is already accepted
        modalities=_modalities(geometry, config),
        source="folder",
        quantization=quantization,
        weight_bits=bits,
        layers_full=sum(layer.full for layer in geometry.layers),
        embedding_params=counts.embedding,
        active_params=counts.active,
        duplicated_params=counts.duplicated,
        checkpoint_bytes=weight_bytes,
    )


def _modalities(geometry: Geometry, config: Mapping[str, Any]) -> tuple[str, ...]:
    if not geometry.kind.multimodal:
        return ("text",)
    if geometry.kind.generation == "gemma3":
        return ("text", "image")
    found = ["text"]
    if config.get("vision_config") is not None:
        found += ["image"] if geometry.kind.generation == "gemma3n" else ["image", "video"]
    if config.get("audio_config") is not None:
        found.append("audio")
    return tuple(found)


def _element_bytes(config: Mapping[str, Any]) -> int:
    text = config.get("text_config") or {}
    name = (
        config.get("dtype")
        or config.get("torch_dtype")
        or text.get("dtype")
        or text.get("torch_dtype")
        or "bfloat16"
    )
    return 4 if "32" in str(name) else 2


def _quantization(id: str, config: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """(method, bits per linear weight) of a quantized checkpoint; None for unknown values."""
    text = config.get("text_config") or {}
    found = config.get("quantization_config") or text.get("quantization_config")
    if not found:
        return None, None
    method = str(found.get("quant_method") or found.get("quant_algo") or "unknown").lower()
    if why := refusal(method):
        raise ModelError(f"{id!r} cannot be used: {why}")
    if method == "fp8":
        return method, 8
    bits = found.get("bits") or found.get("w_bit")
    for group in (found.get("config_groups") or {}).values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and weights.get("num_bits"):
            bits = max(int(weights["num_bits"]), int(bits or 0))
    if bits is None and "fp4" in str(found.get("quant_algo")).lower():
        bits = 4
    if bits is None and "fp8" in str(found.get("quant_algo")).lower():
        bits = 8
    return method, int(bits) if bits else None
