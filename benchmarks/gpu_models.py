"""Folders that look like Gemma checkpoints to an engine: real geometry, no weights, no hub.

A folder holds config.json, generation_config.json and a tokenizer of the real vocabulary size;
weights come from `load_format="dummy"`, which makes speed real and answers senseless. Gemma 3 4b,
12b and 27b and all of Gemma 4 are written as their text-only architecture with the numbers of the
published `text_config`: what `language_model_only` leaves of them, without the vision tower.
Also asks which GPU is there and what a plan would set for a model on it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import string
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_loads import BOS, FIRST_WORD, Load, cacheable_tokens
from gemma_batch.cluster.cards import ask_nvidia_smi, read_cards
from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.placement import Placement, place, place_on_cpu
from gemma_batch.family.speed import rows_per_second

PAD, EOS, UNK, START_OF_TURN, END_OF_TURN = 0, 1, 3, 105, 106  # as in Gemma 3
SPECIAL = {
    PAD: "<pad>",
    EOS: "<eos>",
    BOS: "<bos>",
    UNK: "<unk>",
    START_OF_TURN: "<start_of_turn>",
    END_OF_TURN: "<end_of_turn>",
}
CPU_GIB = 4.0
MOST_ROWS, TINY_ROWS = 20_000, 48

_COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "vocab_size": 262_144,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "final_logit_softcapping": None,
    "tie_word_embeddings": True,
    "use_cache": True,
    "pad_token_id": PAD,
    "eos_token_id": [EOS, END_OF_TURN],
    "bos_token_id": BOS,
}
_SLIDING = {"rope_type": "default", "rope_theta": 10_000.0}


def _gemma3(
    hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, window: int, **other: Any
) -> dict[str, Any]:
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": 1_000_000.0}
    if window > 512:  # the large ones stretch 32k positions to 128k
        full |= {"rope_type": "linear", "factor": 8.0}
    return _COMMON | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": 262_144 if window == 512 else 262_208,
        "max_position_embeddings": 32_768 if window == 512 else 131_072,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "sliding_window": window,
        "layer_types": _layer_types(layers, 6),
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": None,
        "rope_parameters": {"full_attention": full, "sliding_attention": _SLIDING},
        **other,
    }


def _gemma4(
    hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, every: int = 6, **other: Any
) -> dict[str, Any]:
    full = {
        "rope_type": "proportional",
        "partial_rotary_factor": 0.25,
        "rope_theta": 1_000_000.0,
    }
    return _COMMON | {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "global_head_dim": 512,
        "sliding_window": 512,
        "layer_types": _layer_types(layers, every),
        "final_logit_softcapping": 30.0,
        "vocab_size_per_layer_input": 262_144,
        "hidden_size_per_layer_input": 256,
        "num_kv_shared_layers": 0,
        "attention_k_eq_v": False,
        "enable_moe_block": False,
        "use_double_wide_mlp": False,
        "rope_parameters": {"full_attention": full, "sliding_attention": _SLIDING},
        **other,
    }


def _layer_types(layers: int, every: int) -> list[str]:
    return [
        "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
    ]


_LARGE4: dict[str, Any] = {
    "hidden_size_per_layer_input": 0,
    "sliding_window": 1024,
    "attention_k_eq_v": True,
    "max_position_embeddings": 262_144,
}
# (id in the catalog, config.json); the tiny one is that of family/tiny.py, for tests on CPUs.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "270m": ("google/gemma-3-270m-it", _gemma3(640, 2048, 18, 4, 1, 512)),
    "1b": ("google/gemma-3-1b-it", _gemma3(1152, 6912, 26, 4, 1, 512)),
    "4b": ("google/gemma-3-4b-it", _gemma3(2560, 10_240, 34, 8, 4, 1024)),
    "12b": ("google/gemma-3-12b-it", _gemma3(3840, 15_360, 48, 16, 8, 1024)),
    "27b": (
        "google/gemma-3-27b-it",
        _gemma3(5376, 21_504, 62, 32, 16, 1024, head_dim=128, query_pre_attn_scalar=168),
    ),
    "4-e2b": (
        "google/gemma-4-E2B-it",
        _gemma4(1536, 6144, 35, 8, 1, 5, num_kv_shared_layers=20, use_double_wide_mlp=True),
    ),
    "4-e4b": (
        "google/gemma-4-E4B-it",
        _gemma4(2560, 10_240, 42, 8, 2, num_kv_shared_layers=18),
    ),
    "4-12b": (
        "google/gemma-4-12B-it",
        _gemma4(3840, 15_360, 48, 16, 8, num_global_key_value_heads=1, **_LARGE4),
    ),
    "4-26b-a4b": (
        "google/gemma-4-26B-A4B-it",
        _gemma4(
            *(2816, 2112, 30, 16, 8),
            num_global_key_value_heads=2,
            num_experts=128,
            top_k_experts=8,
            moe_intermediate_size=704,
            **(_LARGE4 | {"enable_moe_block": True}),
        ),
    ),
    "4-31b": (
        "google/gemma-4-31B-it",
        _gemma4(5376, 21_504, 60, 32, 16, num_global_key_value_heads=4, **_LARGE4),
    ),
}
TINY = _gemma3(128, 128, 6, 4, 1, 512) | {
    "dtype": "float32",
    "vocab_size": 4096,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 64,
    "max_position_embeddings": 8192,
}


def build_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Write everything but weights into `folder` (made if needed) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "config.json", config)
    # Without sampling defaults: every contender then samples as it is told to, greedily.
    _write(folder / "generation_config.json", ids)
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
            "pad_token": SPECIAL[PAD],
            "eos_token": SPECIAL[EOS],
            "bos_token": SPECIAL[BOS],
            "unk_token": SPECIAL[UNK],
        },
    )
    _tokenizer(config["vocab_size"]).save(str(folder / "tokenizer.json"), pretty=False)
    return folder


def _tokenizer(size: int) -> Any:
    """BPE with a token for each of `size` ids and no merges; prompts are token ids anyway.

    There are no byte tokens: a model of random weights may repeat one for ever, and a detokenizer
    that waits for the end of a character then takes quadratic time, which no real answer does.
    """
    from tokenizers import Tokenizer, decoders, models

    vocab = {SPECIAL.get(i) or _word(i): i for i in range(size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=SPECIAL[UNK], fuse_unk=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    return tokenizer


def _word(id: int) -> str:
    if id < FIRST_WORD:
        return f"<unused{id}>"
    letters = ""
    while id:
        id, letter = divmod(id, 26)
        letters += string.ascii_lowercase[letter]
    return "\u2581" + letters


def served(architecture: str) -> bool:
    """Whether the vLLM at hand has this architecture, told from its source without importing it."""
    spec = importlib.util.find_spec("vllm")
    for root in (spec.submodule_search_locations if spec else None) or ():
        registry = Path(root) / "model_executor" / "models" / "registry.py"
        if registry.is_file():
            return f'"{architecture}"' in registry.read_text(encoding="utf-8")
    return True  # not to be told: trying says more


def detect_gpu() -> tuple[GPU, str]:
    """The first GPU of this machine, and how nvidia-smi describes it. Raises `PlacementError`."""
    first = read_cards(ask_nvidia_smi())[0]
    gpu = first.gpu
    return gpu, f"{first.product} ({gpu.memory_gib:.0f} GiB visible, driver {first.driver})"


def limits_for(card: ModelCard, gpu: GPU | None, max_model_len: int, engines: int) -> Placement:
    """What a plan would set for this GPU, or small limits for a CPU. Raises `PlacementError`."""
    if gpu is None:
        return place_on_cpu(
            card,
            max_model_len=max_model_len,
            memory_gib=CPU_GIB,
            max_num_seqs=16,
            max_num_batched_tokens=512,
        )
    return place(
        card,
        gpu,
        gpus_per_node=1,
        max_model_len=max_model_len,
        tensor_parallel=1,
        engines_per_gpu=engines,
    )


def rows_for(
    load: Load, card: ModelCard, gpu: GPU | None, seconds: float, placement: Placement
) -> int:
    """About `seconds` of work by the plan's own estimate, but enough to fill the engine twice."""
    if gpu is None:
        return TINY_ROWS
    rate = rows_per_second(
        card,
        gpu,
        prompt_tokens=load.prompt - load.prefix / 2,  # a prefix cache may help, or may not
        output_tokens=load.mean_output,
    )
    return max(2 * placement.max_num_seqs, min(round(rate * seconds), MOST_ROWS))


def physical_limit(
    card: ModelCard, gpu: GPU | None, load: Load, figure: dict[str, Any]
) -> float | None:
    """Output tokens per second that the hardware could give; None where nobody knows."""
    if gpu is None or not figure["rows"]:
        return None
    rows = figure["rows"]
    try:
        roofline = importlib.import_module("gemma_batch.family.roofline")
        work = roofline.Workload(
            figure["prompt_tokens"] / rows,
            figure["output_tokens"] / rows,
            cacheable_tokens(load, rows) / rows,
        )
        best = roofline.limit(card, gpu, work, precision="bf16", tensor_parallel=1)
        return float(best.output_tokens_per_second)
    except ModuleNotFoundError:
        return None
    except Exception as err:  # no figure is lost for want of something to compare it with
        print(f"no limit for {card.id}: {err!r}", file=sys.stderr)
        return None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
