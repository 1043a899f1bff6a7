"""Weights: the tensors of a Gemma 3 text model, from a GGUF file to bf16 safetensors.

Runs on the laptop. The names and the norms follow llama.cpp's conversion of Gemma 3, which this
module undoes: llama.cpp stores a norm as 1 + weight. The trade-off: a quantised weight has fewer
bits than bf16, so the bf16 file holds the same model in twice the bytes; in return every engine
reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS = 16_384  # rows of a matrix that are dequantised at once: the embedding has 262,144

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hugging_face_name(name: str) -> str:
    """The name in Hugging Face's Gemma 3 of a tensor of a GGUF file.

    Raises ValueError for a tensor that Gemma 3 does not have.
    """
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem in _OUTER:
        return f"{_OUTER[stem]}.weight"
    outer, _, rest = stem.partition(".")
    number, _, inner = rest.partition(".")
    if kind != "weight" or outer != "blk" or not number.isdigit() or inner not in _INNER:
        raise ValueError(f"the GGUF file has the tensor {name!r}, which Gemma 3 does not have")
    return f"model.layers.{number}.{_INNER[inner]}.weight"


def expected_names(layers: int) -> set[str]:
    """The names of all tensors of a Gemma 3 text model with so many layers."""
    inner = {f"model.layers.{n}.{name}.weight" for n in range(layers) for name in _INNER.values()}
    return inner | {f"{name}.weight" for name in _OUTER.values()}


def dequantise(tensor: Any) -> Any:
    """A tensor of a GGUF file (`gguf.ReaderTensor`) as a torch tensor in bf16, as Gemma 3 uses it.

    float32 values are rounded to the nearest bf16. From a norm, 1 is taken away before that.
    """
    import torch
    from gguf.quants import dequantize

    norm = tensor.name.endswith("norm.weight")
    pieces = []
    for start in range(0, len(tensor.data), ROWS):
        values = dequantize(tensor.data[start : start + ROWS], tensor.tensor_type)
        # A copy: float32 values are still in the file, which must not be written to.
        pieces.append(torch.tensor(values - 1 if norm else values).to(torch.bfloat16))
    return torch.cat(pieces).contiguous()


def write_weights(reader: Any, path: Path, *, layers: int, notice: str) -> int:
    """Write all tensors of a GGUF file (`gguf.GGUFReader`) to `path`; how many parameters it has.

    `notice` goes into the header. Raises ValueError when tensors are missing or unknown.
    """
    from safetensors.torch import save_file

    tensors = {hugging_face_name(one.name): dequantise(one) for one in reader.tensors}
    if missing := sorted(expected_names(layers) - tensors.keys()):
        raise ValueError(
            f"the GGUF file has no tensor for {missing[0]!r} and {len(missing) - 1} others"
        )
    save_file(tensors, str(path), metadata={"format": "pt", "notice": notice})
    path.chmod(0o644)  # safetensors makes files that only their owner can read
    return sum(tensor.numel() for tensor in tensors.values())
