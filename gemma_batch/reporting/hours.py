"""Hours: the sentence about the time for which workers held GPUs, or engines ran without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gemma_batch.committing.ledger import Receipt


def device_kinds(receipts: Iterable[Receipt]) -> list[str]:
    """What the engines of the receipts ran on: "cpu", "gpu" or both; older receipts do not say."""
    return sorted({receipt["device"] for receipt in receipts if "device" in receipt})


def hours_text(hours: float, kinds: Sequence[str]) -> str:
    """Hours by the kinds of `device_kinds`: "0.40 GPU-hours", "0.40 engine-hours (no GPU)"."""
    if list(kinds) == ["gpu"]:
        return f"{hours:,.2f} GPU-hours"
    if list(kinds) == ["cpu"]:
        return f"{hours:,.2f} engine-hours (no GPU)"
    return f"{hours:,.2f} hours of GPUs and of engines without one"
