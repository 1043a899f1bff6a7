"""Geometry: the shape of a Gemma checkpoint, read from its config.json.

This module knows the attribute names and the defaults of every Gemma configuration class, and the
architectures that vLLM serves. The defaults are needed because a checkpoint leaves out values that
equal the default; Gemma 3's checkpoints leave out most values. The module does not import
transformers, because a plan must be quick. The tests compare the defaults with the classes of
transformers. The trade-off: a new Gemma generation needs a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemma_batch.errors import ModelError

Generation = Literal["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A `model_type` of config.json: its generation, its names in vLLM, and its defaults."""

    generation: Generation
    architectures: tuple[str, ...]
    defaults: Mapping[str, Any]
    multimodal: bool = False
    full_every: int = 1  # without `layer_types`, every n-th layer has full attention


_COMMON: dict[str, Any] = {
    "vocab_size": 262_144,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
_GEMMA = _COMMON | {
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 8192,
}
_GEMMA2 = _COMMON | {
    "vocab_size": 256_000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}
_GEMMA3 = _COMMON | {"vocab_size": 262_208, "sliding_window": 4096}
_GEMMA3N = _COMMON | {
    "vocab_size": 262_400,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 15,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
}
_GEMMA4 = _COMMON | {
    "num_hidden_layers": 30,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 0,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "use_double_wide_mlp": False,
}
_GEMMA4_UNIFIED = _GEMMA4 | {
    "max_position_embeddings": 262_144,
    "sliding_window": 1024,
    "hidden_size_per_layer_input": 0,  # this class has no per-layer embeddings at all
}

KINDS: dict[str, Kind] = {
    "gemma": Kind("gemma", ("GemmaForCausalLM",), _GEMMA),
    "gemma2": Kind("gemma2", ("Gemma2ForCausalLM",), _GEMMA2, full_every=2),
    "gemma3_text": Kind("gemma3", ("Gemma3ForCausalLM",), _GEMMA3, full_every=6),
    "gemma3": Kind(
        "gemma3", ("Gemma3ForConditionalGeneration",), _GEMMA3, multimodal=True, full_every=6
    ),
    "gemma3n_text": Kind("gemma3n", ("Gemma3nForCausalLM",), _GEMMA3N, full_every=5),
    "gemma3n": Kind(
        "gemma3n", ("Gemma3nForConditionalGeneration",), _GEMMA3N, multimodal=True, full_every=5
    ),
    "gemma4_text": Kind("gemma4", ("Gemma4ForCausalLM",), _GEMMA4, full_every=6),
    "gemma4": Kind(
        "gemma4", ("Gemma4ForConditionalGeneration",), _GEMMA4, multimodal=True, full_every=6
    ),
    "gemma4_unified": Kind(
        "gemma4",
        ("Gemma4UnifiedForConditionalGeneration",),
        _GEMMA4_UNIFIED,
        multimodal=True,
        full_every=6,
    ),
}

# (part of an id, model_type or architecture in lower case, the reason for the refusal). The first
# match wins, so a longer name stands before a name that it contains.
REFUSED: tuple[tuple[str, str], ...] = (
    ("t5gemma", "T5Gemma is an encoder-decoder that vLLM does not serve"),
    ("recurrent", "RecurrentGemma is not a transformer that vLLM serves"),
    ("shieldgemma2", "ShieldGemma 2 classifies images and is not in vLLM's registry"),
    ("shieldgemma-2-", "ShieldGemma 2 classifies images and is not in vLLM's registry"),
    ("vaultgemma", "VaultGemma is only a pre-trained model without an instruction-tuned form"),
    ("paligemma", "PaliGemma is made to be fine-tuned on images, not to answer prompts"),
    ("embeddinggemma", "EmbeddingGemma makes vectors, not answers"),
    ("embedding_gemma", "EmbeddingGemma makes vectors, not answers"),
    ("gemma3textmodel", "EmbeddingGemma makes vectors, not answers"),
    ("diffusion", "DiffusionGemma runs 4 to 8 sequences at a time, which defeats batch work"),
    ("assistant", "this is a drafter for speculative decoding, not a model that answers alone"),
    ("eagle", "this is a drafter for speculative decoding, not a model that answers alone"),
    ("gguf", "GGUF left vLLM's core; use the original checkpoint or a compressed-tensors one"),
    ("bitsandbytes", "bitsandbytes left vLLM's core; use fp8 or a compressed-tensors checkpoint"),
    ("bnb-", "bitsandbytes left vLLM's core; use fp8 or a compressed-tensors checkpoint"),
)


def refusal(name: str) -> str | None:
    """Why a model with this id, type or architecture cannot be used; None if no reason is known."""
    lowered = name.lower()
    return next((why for part, why in REFUSED if part in lowered), None)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    `full` means full attention. `owns_kv` is False when the layer reuses the KV of another layer.
    """

    full: bool
    owns_kv: bool
    kv_heads: int
    head_dim: int
    ffn: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """Everything about the shape of a model that decides memory and speed. Sizes in elements."""

    kind: Kind
    architecture: str
    text: Mapping[str, Any]  # the text configuration with defaults filled in
    layers: tuple[Layer, ...]

    def kv_shape(self, *, full: bool) -> tuple[int, int]:
        """(KV heads, head size) of full or of sliding layers.

        When the model has no such layer, the numbers are of its first layer.
        """
        chosen = [layer for layer in self.layers if layer.full == full] or list(self.layers)
        return chosen[0].kv_heads, chosen[0].head_dim

    def owning_kv(self, *, full: bool) -> int:
        """How many full or sliding layers store their own keys and values."""
        return sum(1 for layer in self.layers if layer.owns_kv and layer.full == full)


def read_geometry(id: str, config: Mapping[str, Any]) -> Geometry:
    """Read the config.json of any Gemma model that vLLM serves.

    Raises `ModelError` for another model, and for a value that cannot be right.
    """
    kind, architecture = _kind_of(id, config)
    given = config.get("text_config") if kind.multimodal else config
    text = {**kind.defaults, **{k: v for k, v in (given or {}).items() if v is not None}}
    for name in kind.defaults:
        value = text[name]
        if isinstance(value, bool) or (name == "intermediate_size" and isinstance(value, list)):
            continue
        if not isinstance(value, int) or value < 0:
            raise ModelError(f"config.json of {id!r}: {name} is {value!r}, not a size")
    if not text["num_hidden_layers"] or not text["num_attention_heads"]:
        raise ModelError(f"config.json of {id!r} describes a model without layers or heads")
    return Geometry(kind, architecture, text, _layers(id, kind, text))


def _kind_of(id: str, config: Mapping[str, Any]) -> tuple[Kind, str]:
    model_type = str(config.get("model_type") or "")
    architectures = [str(name) for name in config.get("architectures") or ()]
    for name in (*architectures, model_type):
        if why := refusal(name):
            raise ModelError(f"{id!r} cannot be used: {why}")
    kind = KINDS.get(model_type)
    if kind is None:
        what = model_type or (architectures[0] if architectures else "nothing")
        raise ModelError(
            f"{id!r} is not a Gemma that can be used here: its config.json names {what!r}; "
            f"known are {', '.join(KINDS)}"
        )
    if not architectures:
        return kind, kind.architectures[0]
    if architectures[0] not in kind.architectures:
        raise ModelError(
            f"{id!r} has the architecture {architectures[0]!r}, which does not generate text with "
            f"vLLM; for {model_type!r} it is {kind.architectures[0]!r}"
        )
    return kind, architectures[0]


def _layers(id: str, kind: Kind, text: Mapping[str, Any]) -> tuple[Layer, ...]:
    count = text["num_hidden_layers"]
    full = _full_attention(id, kind, text)
    # transformers: the last `num_kv_shared_layers` reuse the KV of an earlier layer of their kind
    first_shared = count - text.get("num_kv_shared_layers", 0)
    ffn = text["intermediate_size"]
    # transformers writes the layer numbers as zero-padded strings
    overrides = {int(i): given for i, given in (text.get("per_layer_config") or {}).items()}
    layers = []
    for i in range(count):
        shape = {"num_key_value_heads": text["num_key_value_heads"], "head_dim": text["head_dim"]}
        if kind.generation == "gemma4" and full[i] and "per_layer_config" not in text:
            shape["head_dim"] = text.get("global_head_dim", 512)
            # the KV-head override counts only when keys are also used as values (Gemma4TextConfig)
            if text["attention_k_eq_v"]:
                shape["num_key_value_heads"] = text.get(
                    "num_global_key_value_heads", text["num_key_value_heads"]
                )
        shape |= overrides.get(i, {})
        shared = i >= first_shared > 0
        width = ffn[i] if isinstance(ffn, list) else ffn
        if shared and text.get("use_double_wide_mlp"):
            width *= 2
        layers.append(
            Layer(
                full=full[i],
                owns_kv=not shared,
                kv_heads=shape["num_key_value_heads"],
                head_dim=shape["head_dim"],
                ffn=width,
            )
        )
    return tuple(layers)


def _full_attention(id: str, kind: Kind, text: Mapping[str, Any]) -> list[bool]:
    count = text["num_hidden_layers"]
    if not text.get("sliding_window"):
        return [True] * count
    types = text.get("layer_types")
    if types is None:
        every = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern")
        every = every if kind.generation == "gemma3" and every else kind.full_every
        full = [(i + 1) % every == 0 for i in range(count)]
    else:
        if len(types) != count:
            raise ModelError(
                f"config.json of {id!r}: layer_types has {len(types)} entries for {count} layers"
            )
        full = [name != "sliding_attention" for name in types]
    if kind.generation == "gemma4":
        full[-1] = True  # the configuration class forces it
    return full
