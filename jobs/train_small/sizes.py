"""Sizes: the two models, and how long each is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Shape of a model and of its training. `messages` are looked at in all, evenly by language."""

    vocab: int
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    messages: int
    learning_rate: float
    batch_tokens: int  # in one step, padding included


SIZES = {
    "small": Size(
        vocab=6144, layers=2, hidden=192, ffn=512, heads=6, kv_heads=2, head_dim=32,
        messages=48_000, learning_rate=2e-3, batch_tokens=4096,
    ),
    "tiny": Size(
        vocab=4096, layers=2, hidden=128, ffn=512, heads=4, kv_heads=1, head_dim=32,
        messages=19_200, learning_rate=2e-3, batch_tokens=2048,
    ),
}  # fmt: skip
