"""Parameters: counts parameters by arithmetic, for checkpoints of unknown size.

The count of the language model is exact: the tests compare it with the classes of transformers.
The count of vision and audio towers is exact for Gemma 3, and within a tenth for the other
generations. Text jobs do not load the towers, so more exact numbers would bring nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemma_batch.family.geometry import Geometry, Layer

_GEMMA3N_TOWERS = {"vision": 300_000_000, "audio": 665_000_000}


@dataclass(frozen=True, slots=True)
class Counts:
    """Parameters of the language model, in elements.

    `embedding` counts the token table and the per-layer tables, which quantization does not change.
    `active` counts the parameters that one token passes through. `duplicated` counts K projections
    that vLLM keeps a second time as V, in layers that use keys as values
    (vllm/model_executor/models/gemma4.py).
    """

    text: int
    embedding: int
    active: int
    duplicated: int


def count_parameters(geometry: Geometry) -> Counts:
    """Count the weights of the language model, as in the classes of transformers."""
    text = geometry.text
    generation = geometry.kind.generation
    hidden, depth = text["hidden_size"], len(geometry.layers)
    per_layer = text.get("hidden_size_per_layer_input", 0)  # PLE width: Gemma 3n and Gemma 4 E*
    embedding = text["vocab_size"] * hidden * (1 if text["tie_word_embeddings"] else 2)
    other = hidden  # the last norm
    if per_layer:
        embedding += text["vocab_size_per_layer_input"] * depth * per_layer
        other += hidden * depth * per_layer + per_layer  # projection into all layers, and a norm
        other += depth * (2 * hidden * per_layer + hidden)
    if generation == "gemma3n":
        other += depth * _gemma3n_extras(text)
        other += 2 * (text["altup_num_inputs"] - 1) * hidden * hidden
    norms = (2 if generation == "gemma" else 4) * hidden
    routed = 0
    duplicated = 0
    for layer in geometry.layers:
        other += norms + _attention(geometry, layer) + 3 * hidden * layer.ffn
        if layer.full and layer.owns_kv and text.get("attention_k_eq_v"):
            duplicated += hidden * layer.kv_heads * layer.head_dim
    if text.get("enable_moe_block"):
        experts = text["num_experts"]
        routed = depth * experts * 3 * hidden * text["moe_intermediate_size"]
        other += depth * (hidden * experts + hidden + experts + 3 * hidden)  # router and norms
    used = routed * text.get("top_k_experts", 0) // text["num_experts"] if routed else 0
    return Counts(
        text=embedding + other + routed,
        embedding=embedding,
        active=embedding + other + used,
        duplicated=duplicated,
    )


def _attention(geometry: Geometry, layer: Layer) -> int:
    text = geometry.text
    hidden: int = text["hidden_size"]
    total: int = 2 * hidden * text["num_attention_heads"] * layer.head_dim  # q and o
    normed = geometry.kind.generation not in ("gemma", "gemma2")
    if normed:
        total += layer.head_dim
    if layer.owns_kv:
        shared = layer.full and text.get("attention_k_eq_v")
        total += (1 if shared else 2) * hidden * layer.kv_heads * layer.head_dim
        total += layer.head_dim if normed else 0
    return total


def _gemma3n_extras(text: Mapping[str, Any]) -> int:
    hidden: int = text["hidden_size"]
    inputs: int = text["altup_num_inputs"]
    rank: int = text["laurel_rank"]
    altup = 2 * hidden + inputs**2 + inputs**3 + hidden * inputs
    laurel = 2 * hidden * rank + hidden
    return altup + laurel


def count_towers(geometry: Geometry, config: Mapping[str, Any]) -> int:
    """Parameters of the vision and audio towers and projectors; 0 for a text checkpoint."""
    if not geometry.kind.multimodal:
        return 0
    vision, audio = config.get("vision_config"), config.get("audio_config")
    hidden = geometry.text["hidden_size"]
    if geometry.kind.generation == "gemma3n":
        return sum(
            size
            for name, size in _GEMMA3N_TOWERS.items()
            if config.get(f"{name}_config") is not None
        )
    if geometry.kind.generation == "gemma3":
        return _siglip(vision or {}, hidden)
    total = 0
    if "unified" in str(config.get("model_type")):  # no encoder: a patch projection
        if vision is not None:
            total += (48 * 48 * 3 + 2 * 1120 + hidden) * vision.get("mm_embed_dim", hidden)
        return total + (0 if audio is None else 640 * hidden)
    if vision is not None:
        v = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, **vision}
        width = v["hidden_size"]
        block = 4 * width * width + 3 * width * v["intermediate_size"]
        positions = 2 * v.get("position_embedding_size", 10_240) * width
        total += v["num_hidden_layers"] * block + positions + width * hidden
    if audio is not None:
        a = {"hidden_size": 1024, "num_hidden_layers": 12, **audio}
        total += 25 * a["num_hidden_layers"] * a["hidden_size"] ** 2
    return total


def _siglip(vision: Mapping[str, Any], hidden: int) -> int:
    """SigLIP without its pooling head, plus Gemma 3's projector (a matrix and a norm)."""
    v: dict[str, int] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        **vision,
    }
    width, inner, patch = v["hidden_size"], v["intermediate_size"], v["patch_size"]
    attention = 4 * (width * width + width)
    mlp = 2 * width * inner + inner + width
    block = attention + mlp + 4 * width
    patches = (v["image_size"] // patch) ** 2
    embed = v["num_channels"] * patch * patch * width + width + patches * width
    return embed + v["num_hidden_layers"] * block + 2 * width + width * hidden + width
