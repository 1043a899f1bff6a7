"""Folder: a GGUF file of a Gemma 3 text model becomes a model folder of Hugging Face.

Runs on the laptop. The folder is made beside its place and moved there when it is whole; its last
file, `made.json`, holds the hash of every other file. A second call finds the folder by it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from jobs.real_gemma import vocabulary, weights

MADE = "made.json"
VERSION = 1  # of this conversion; a folder of another version is made anew
# llama.cpp has these two as constants, so a GGUF file does not say them. They are the same in all
# of Gemma 3 (transformers: Gemma3TextConfig).
FULL_EVERY, LOCAL_ROPE = 6, 10_000.0
NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)
CHANGED = (
    "Modified: converted to bf16 safetensors from a GGUF file that was quantised to 4 to 8 bits "
    "(Q4_K_M) from Google's Gemma 3 270M."
)
CARD = """\
---
license: gemma
base_model: google/gemma-3-270m
---
# Gemma 3 270M, from quantised weights

{notice}. The full text is in `{terms}` beside this file. You must not use it for what the Gemma
Prohibited Use Policy (ai.google.dev/gemma/prohibited_use_policy) forbids.

**This is a base model**, pretrained and not tuned to follow instructions. It has no chat template:
gemma_batch sends it the plain text of `prompt.user` behind one `<bos>`. It continues a text, so
give it examples of the task ("few-shot") and stop at the end of the line.

{changed} The rounding to 4 to 8 bits stays in the weights, so answers differ from those of
Google's own checkpoint. {parameters:,} parameters, {layers} layers, {vocab:,} tokens. The
vocabulary and its merges are Google's. Other than in Google's tokenizer.json, every control token
is marked special.
"""


def is_made(folder: Path, source: str) -> bool:
    """Whether `folder` is a whole folder that was made of the GGUF file with this SHA-256."""
    try:
        made = json.loads((folder / MADE).read_text(encoding="utf-8"))
        return (
            made["version"] == VERSION
            and made["source"] == source
            and all(_sha256(folder / name) == found for name, found in made["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def make(gguf_file: Path, folder: Path, *, source: str, terms: bytes, google: bool = True) -> None:
    """Make the model folder `folder` of `gguf_file`, whose SHA-256 is `source`.

    `terms` is the text of the licence. With `google` the vocabulary has to be that of Gemma 3.
    Raises ValueError for a file that is no Gemma 3 text model.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)
    config = read_config(reader)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parameters = weights.write_weights(
        reader,
        partial / "model.safetensors",
        layers=config["num_hidden_layers"],
        notice=f"{NOTICE}. {CHANGED}",
    )
    _write_json(partial / "config.json", config)
    _write_json(
        partial / "generation_config.json",
        {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        | {"do_sample": True, "top_k": 64, "top_p": 0.95},
    )
    _write_tokenizer(reader, partial, config["max_position_embeddings"], google)
    (partial / "NOTICE").write_text(f"{NOTICE}\n\n{CHANGED}\n", encoding="utf-8")
    (partial / "GEMMA_TERMS.html").write_bytes(terms)
    card = CARD.format(
        notice=NOTICE,
        terms="GEMMA_TERMS.html",
        changed=CHANGED,
        parameters=parameters,
        layers=config["num_hidden_layers"],
        vocab=config["vocab_size"],
    )
    (partial / "README.md").write_text(card, encoding="utf-8")
    files = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    _write_json(partial / MADE, {"version": VERSION, "source": source, "files": files})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_config(reader: Any) -> dict[str, Any]:
    """The content of config.json. Raises ValueError for a file that is no Gemma 3 text model."""

    def value(name: str) -> Any:
        if (field := reader.fields.get(name)) is None:
            raise ValueError(f"the GGUF file does not say {name!r}")
        return field.contents()

    kind = value("general.architecture")
    if kind != "gemma3":
        raise ValueError(f"the GGUF file is of a {kind!r} model, not of 'gemma3'")
    layers = value("gemma3.block_count")
    head = value("gemma3.attention.key_length")
    full = {"rope_type": "default", "rope_theta": value("gemma3.rope.freq_base")}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "bfloat16",
        "transformers_version": "5.0.0",  # the first that reads `rope_parameters` in this form
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "hidden_size": value("gemma3.embedding_length"),
        "intermediate_size": value("gemma3.feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": value("gemma3.attention.head_count"),
        "num_key_value_heads": value("gemma3.attention.head_count_kv"),
        "head_dim": head,
        "query_pre_attn_scalar": head,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": value("gemma3.context_length"),
        "rms_norm_eps": round(value("gemma3.attention.layer_norm_rms_epsilon"), 12),
        "sliding_window": value("gemma3.attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if (layer + 1) % FULL_EVERY else "full_attention"
            for layer in range(layers)
        ],
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_ROPE},
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": value("tokenizer.ggml.padding_token_id"),
    }


def _write_tokenizer(reader: Any, folder: Path, max_position: int, google: bool) -> None:
    tokens, types, scores = (
        reader.fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "token_type", "scores")
    )
    vocab = vocabulary.vocabulary(tokens, types)
    pairs = vocabulary.merges(vocab, types, scores)
    if google and (found := vocabulary.digest(vocab, pairs)) != vocabulary.GOOGLES:
        raise ValueError(
            f"the vocabulary of the GGUF file is not that of Gemma 3: its digest is {found}, not "
            f"{vocabulary.GOOGLES}"
        )
    _write_json(folder / "tokenizer.json", vocabulary.tokenizer_json(vocab, types, pairs))
    _write_json(folder / "tokenizer_config.json", vocabulary.tokenizer_config(max_position))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
