"""Tiny: builds a Gemma model of a million random parameters, for tests, CI and laptops.

The model is a folder in the layout of Hugging Face. Architecture, tokenizer behaviour and chat
template are those of the real family. The answers are words without sense, but they depend on the
prompt, and some answers end before their limit. The files are written with numpy and `tokenizers`,
because importing torch and transformers would take longer than everything else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from gemma_batch.family.chat_templates import CHAT_TEMPLATES

TinyGeneration = Literal["gemma3", "gemma4"]
END_SCALE = 1.6  # found by trial: most greedy answers end within 64 tokens, few end at once
SAMPLE_CHARS = 600_000  # characters to train the tokenizer on; more would not improve a test
ALPHABET = 512  # characters that are tokens; others are written as bytes
BASIC = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
TURNS: dict[str, tuple[str, str]] = {
    "gemma3": ("<start_of_turn>", "<end_of_turn>"),
    "gemma4": ("<|turn>", "<turn|>"),
}
CONTROLS: dict[str, list[str]] = {
    "gemma3": ["<start_of_image>", "<end_of_image>"],
    "gemma4": [
        "<|think|>", "<|channel>", "<channel|>", "<|tool>", "<tool|>", "<|tool_call>",
        "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
    ],
}  # fmt: skip
HTML = ["<table>", "</table>", "<b>", "</b>", "<code>", "</code>"]
NEWLINES = ["\n" * i for i in range(1, 5)]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def build_tiny_gemma(
    path: str | Path,
    *,
    generation: TinyGeneration = "gemma3",
    texts: Iterable[str],
    vocab: int = 4096,
    seed: int = 0,
    layers: int = 6,
    hidden: int = 128,
    heads: int = 4,
    kv_heads: int = 1,
    head_dim: int = 32,
    sliding_window: int = 64,
    max_position: int = 8192,
) -> Path:
    """Write a tiny model into the folder `path` (made if needed) and return it.

    The tokenizer is trained on the first `SAMPLE_CHARS` characters of `texts`. It has at most
    `vocab` tokens (but always room for the reserved ones), or fewer when the texts give fewer.
    Every sixth layer has full attention, as in the real models. Tensor parallelism n needs `heads`
    divisible by n. Equal arguments give equal files.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(generation, texts, vocab)
    config = gemma_config(
        generation,
        tokenizer,
        layers=layers,
        hidden=hidden,
        ffn=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        sliding_window=sliding_window,
        max_position=max_position,
    )
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        generation_config(config)
        | {"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95},
    )
    write_tokenizer(folder, generation, tokenizer, max_position)
    _write_weights(folder / "model.safetensors", config, tokenizer, seed)
    return folder


def gemma_config(
    generation: TinyGeneration,
    tokenizer: dict[str, Any],
    *,
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    sliding_window: int,
    max_position: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The content of a config.json, for the tokenizer of `train_tokenizer`.

    Every sixth layer has full attention; in Gemma 4 the last layer has it too.
    """
    size = len(tokenizer["model"]["vocab"])
    end = tokenizer["model"]["vocab"][TURNS[generation][1]]
    full = [(i + 1) % 6 == 0 or (generation == "gemma4" and i + 1 == layers) for i in range(layers)]
    config: dict[str, Any] = {
        "architectures": [
            "Gemma3ForCausalLM" if generation == "gemma3" else "Gemma4ForCausalLM",
        ],
        "model_type": f"{generation}_text",
        "dtype": dtype,
        "vocab_size": size,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": max_position,
        "rms_norm_eps": 1e-6,
        "sliding_window": sliding_window,
        "layer_types": ["full_attention" if x else "sliding_attention" for x in full],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": 0,
        "eos_token_id": [1, end],
        "bos_token_id": 2,
        **_rope(generation),
    }
    if generation == "gemma3":
        config |= {"query_pre_attn_scalar": head_dim, "attn_logit_softcapping": None}
    else:
        config |= {
            "global_head_dim": head_dim,
            "attention_k_eq_v": False,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": size,
            "enable_moe_block": False,
            "use_double_wide_mlp": False,
        }
    return config


def generation_config(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a generation_config.json without a rule for sampling."""
    return {name: config[name] for name in ("bos_token_id", "pad_token_id", "eos_token_id")}


def _rope(generation: TinyGeneration) -> dict[str, Any]:
    if generation == "gemma3":
        full: dict[str, Any] = {"rope_type": "default", "rope_theta": 1_000_000.0}
    else:
        full = {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        }
    sliding = {"rope_type": "default", "rope_theta": 10_000.0}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


def train_tokenizer(
    generation: TinyGeneration, texts: Iterable[str], vocab: int, sample_chars: int = SAMPLE_CHARS
) -> dict[str, Any]:
    """The content of a tokenizer.json: BPE with byte fallback, and U+2581 for the space.

    It is trained on the first `sample_chars` characters of `texts`, and has at most `vocab` tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    controls = [*TURNS[generation], *CONTROLS[generation]]
    reserved = [*BASIC, *controls, *NEWLINES, *HTML, *BYTES]
    bpe = Tokenizer(models.BPE(unk_token=BASIC[3], fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "\u2581")
    # Only for training: tokens must not cross spaces and line ends.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\u2581", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"\n+"), "removed"),
        ]
    )
    sample = list(_bounded(texts, sample_chars))
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab, len(reserved) + 64),
        special_tokens=reserved,
        # The trainer would choose by chance among characters that are equally frequent.
        initial_alphabet=_alphabet(sample),
        limit_alphabet=ALPHABET,
        show_progress=False,
    )
    bpe.train_from_iterator(sample, trainer)
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    content: dict[str, Any] = json.loads(bpe.to_str())
    special = {*BASIC, *controls}
    byte_tokens = set(BYTES)
    content["added_tokens"] = [
        {**token, "special": token["content"] in special, "normalized": False}
        for token in content["added_tokens"]
        if token["content"] not in byte_tokens
    ]
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            bos,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
    }
    return content


def _alphabet(sample: list[str]) -> list[str]:
    """The most frequent characters; a line end is no part of a token that is learnt."""
    counts = Counter("".join(sample).replace(" ", "\u2581").replace("\n", ""))
    return sorted(counts, key=lambda char: (-counts[char], char))[:ALPHABET]


def _bounded(texts: Iterable[str], left: int) -> Iterator[str]:
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def write_tokenizer(
    folder: Path, generation: TinyGeneration, tokenizer: dict[str, Any], max_position: int
) -> None:
    """Write the tokenizer's two files, and the chat template where the generation has it."""
    names = ["pad", "eos", "bos", "unk", "mask"]
    config: dict[str, Any] = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_position,
        **{f"{name}_token": text for name, text in zip(names, BASIC, strict=True)},
    }
    template = CHAT_TEMPLATES[generation]
    if generation == "gemma3":
        config["chat_template"] = template
    else:  # newer checkpoints keep the template in a separate file
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", config)


def _write_weights(
    path: Path, config: dict[str, Any], tokenizer: dict[str, Any], seed: int
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]

    def normal(*shape: int, scale: float) -> Any:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    # Embeddings are tied and added to the stream. Small embeddings keep the model from repeating
    # its last word for ever.
    embedding = normal(config["vocab_size"], hidden, scale=0.05)
    ends = config["eos_token_id"]
    # Logits have no bias. A longer vector wins more often, so END_SCALE sets how often answers end.
    embedding[ends] *= END_SCALE
    silent = [token["id"] for token in tokenizer["added_tokens"] if token["id"] not in ends]
    silent += [tokenizer["model"]["vocab"][name] for name in BYTES]
    embedding[silent] *= 0.2  # the model should never say control tokens, or bytes that are no text
    weights = {"model.embed_tokens.weight": embedding}
    # In a norm, Gemma 3 scales by 1 + weight, Gemma 4 by the weight.
    gemma3 = config["model_type"] == "gemma3_text"
    one = np.zeros if gemma3 else np.ones
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows, columns in (
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ):
            weights[f"{layer}{name}.weight"] = normal(rows, columns, scale=columns**-0.5)
        for name, width in (
            ("self_attn.q_norm", config["head_dim"]),
            ("self_attn.k_norm", config["head_dim"]),
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
            ("pre_feedforward_layernorm", hidden),
            ("post_feedforward_layernorm", hidden),
        ):
            weights[f"{layer}{name}.weight"] = one(width, np.float32)
        if gemma3:
            # This undoes the factor 1/sqrt(head_dim), which Gemma 4 does not have. Otherwise
            # attention would be flat: every position would see the same mixture, and the model
            # would repeat one word.
            weights[f"{layer}self_attn.q_norm.weight"] += np.float32(config["head_dim"] ** 0.5 - 1)
        else:
            weights[f"{layer}layer_scalar"] = np.ones(1, np.float32)
    weights["model.norm.weight"] = one(hidden, np.float32)
    save_file(weights, str(path), metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON, readable for people."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
