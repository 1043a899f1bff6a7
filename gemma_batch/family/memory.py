"""Memory: the GPU memory of a Gemma model: its weights, and its KV cache in vLLM's layout.

The KV arithmetic reproduces vllm/v1/core/kv_cache_utils.py of vLLM 0.32 (page unification, layers
per group, blocks per request), and the tests compare the two. The module does not know activations
or CUDA graphs: `limits` has a reserve for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gemma_batch.family.card import ModelCard

GIB = 2**30
Precision = Literal["bf16", "fp8", "w4a16", "fp32"]

# Bytes per weight of linear layers, and of embeddings. fp8 and w4a16 leave embeddings in bf16.
# w4a16 has one scale of 2 bytes per 32 weights (Gemma's quantization-aware checkpoints).
_BYTES: dict[Precision, tuple[float, float]] = {
    "bf16": (2, 2),
    "fp8": (1, 2),
    "w4a16": (0.5 + 2 / 32, 2),
    "fp32": (4, 4),
}
_BITS: dict[int, Precision] = {4: "w4a16", 8: "fp8"}


def weights_bytes(
    card: ModelCard,
    *,
    precision: Precision = "bf16",
    text_only: bool = True,
    tensor_parallel: int = 1,
) -> int:
    """Bytes of weights on each GPU.

    A quantized checkpoint keeps its precision. Linear layers and embeddings are divided among the
    GPUs. The towers (left out with `text_only`) count in full on every GPU, because vLLM replicates
    much of them. Norms, and KV heads that are replicated when there are more GPUs than KV heads,
    are small and ignored.
    """
    own = _BITS.get(card.weight_bits or 0) if card.quantization else None
    linear, embedding = _BYTES[own or precision]
    dtype = 4 if precision == "fp32" else 2
    towers = card.tower_params * dtype
    if card.quantization and card.checkpoint_bytes:
        text = max(card.checkpoint_bytes - card.tower_params * 2, card.embedding_params * 2)
    else:
        body = card.text_params - card.embedding_params
        text = round(body * linear + card.embedding_params * embedding)
    text += round(card.duplicated_params * linear)
    return -(-text // tensor_parallel) + (0 if text_only else towers)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """How vLLM divides the KV memory of one GPU.

    One block id costs `bytes_per_block` bytes. A sequence takes block ids in `groups_full` groups
    for its whole length, and in `groups_sliding` groups for its window. `block_full` and
    `block_sliding` are tokens per block.
    """

    bytes_per_block: int
    block_full: int
    block_sliding: int
    groups_full: int
    groups_sliding: int

    def blocks(self, tokens: int, *, window: int | None, inflight: int) -> int:
        """How many block ids one sequence of `tokens` tokens holds."""
        full = self.groups_full * -(-tokens // self.block_full)
        if not self.groups_sliding or window is None:
            return full
        kept = min(window - 1 + inflight, tokens)
        return full + self.groups_sliding * (-(-kept // self.block_sliding) + 1)


def kv_layout(
    card: ModelCard, *, kv_bytes: int = 2, tensor_parallel: int = 1, block: int = 16
) -> KVLayout:
    """The layout for `block` tokens per block (16 on GPUs, 128 on CPUs).

    `kv_bytes` is the size of an element of the KV cache in bytes.

    Source: unify_kv_cache_spec_page_size, _get_kv_cache_groups_uniform_page_size in
    vllm/v1/core/kv_cache_utils.py.
    """
    sliding, full = card.kv_layers_sliding, card.kv_layers_full
    page_sliding = _page(card.kv_heads, card.head_dim, kv_bytes, tensor_parallel, block)
    page_full = _page(card.global_kv_heads, card.global_head_dim, kv_bytes, tensor_parallel, block)
    if not sliding:
        return KVLayout(full * page_full, block, block, 1, 0)
    if not full:
        return KVLayout(sliding * page_sliding, block, block, 0, 1)
    page = max(page_sliding, page_full)
    fewer, more = sorted((sliding, full))
    per_group = more if more < 1.5 * fewer else fewer
    return KVLayout(
        bytes_per_block=per_group * page,
        block_full=_unified(block, page, page_full),
        block_sliding=_unified(block, page, page_sliding),
        groups_full=-(-full // per_group),
        groups_sliding=-(-sliding // per_group),
    )


def _page(heads: int, head_dim: int, kv_bytes: int, tensor_parallel: int, block: int) -> int:
    # with more GPUs than KV heads, every GPU holds a copy of one head: no memory is saved
    return 2 * max(1, heads // tensor_parallel) * head_dim * kv_bytes * block


def _unified(block: int, page: int, own: int) -> int:
    # when a page does not divide the largest page, vLLM pads it and it holds no more tokens
    return block * (page // own) if page % own == 0 else block


def kv_bytes_per_sequence(
    card: ModelCard,
    tokens: int,
    *,
    kv_bytes: int = 2,
    tensor_parallel: int = 1,
    inflight: int = 1,
    block: int = 16,
) -> int:
    """KV bytes on each GPU for one sequence of `tokens` tokens.

    `inflight` is the number of tokens that are scheduled but not settled. It is 1 in steady decode.
    When vLLM admits a request, and in its check at start, it is 2 x max_num_batched_tokens with
    async scheduling.
    """
    layout = kv_layout(card, kv_bytes=kv_bytes, tensor_parallel=tensor_parallel, block=block)
    blocks = layout.blocks(tokens, window=card.sliding_window, inflight=inflight)
    return blocks * layout.bytes_per_block


def concurrency(
    card: ModelCard,
    budget: int,
    tokens: int,
    *,
    kv_bytes: int = 2,
    tensor_parallel: int = 1,
    inflight: int = 1,
    block: int = 16,
) -> int:
    """How many sequences of `tokens` tokens fit in `budget` bytes of KV memory per GPU.

    One block id is vLLM's null block, which holds no tokens.
    """
    layout = kv_layout(card, kv_bytes=kv_bytes, tensor_parallel=tensor_parallel, block=block)
    ids = budget // layout.bytes_per_block - 1
    return max(0, ids // layout.blocks(tokens, window=card.sliding_window, inflight=inflight))
