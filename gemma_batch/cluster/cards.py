"""Cards: the GPUs of this machine, as nvidia-smi tells them (a Ray task on each node with GPUs).

A task hands the answer of nvidia-smi to the driver as text, and the driver reads the text here.
This module does not import Ray.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace

from gemma_batch.errors import PlacementError
from gemma_batch.family.gpus import GPU, gpu_from_device

SMI_SECONDS = 30  # nvidia-smi waits for ever when a card fell off the bus
_FIELDS = "name,memory.total,compute_cap,driver_version,mig.mode.current"
_SLICE = re.compile(r"^\s+MIG (\d+)g\.(\d+)gb", re.MULTILINE)
_SLICES = 7  # compute slices of a card that is cut by MIG
_VISIBLE = 0.95  # share of a slice's memory, as its profile names it, that a process sees


@dataclass(frozen=True, slots=True)
class Answer:
    """What a machine says about its GPUs: the text of nvidia-smi, or why there is none."""

    cards: str = ""
    slices: str = ""
    problem: str = ""


def ask_nvidia_smi() -> Answer:
    """Ask the nvidia-smi of this machine. Never raises."""
    if shutil.which("nvidia-smi") is None:
        other = "; it has rocm-smi, but only NVIDIA GPUs can be used" if _is_amd() else ""
        return Answer(problem=f"has no nvidia-smi on its PATH{other}")
    try:
        cards = _run(f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")
        slices = _run("-L") if "enabled" in cards.lower() else ""
    except subprocess.CalledProcessError as err:
        said = " ".join((err.stderr or err.stdout or "").split())[:200]
        return Answer(problem=f"has an nvidia-smi that fails (exit code {err.returncode}): {said}")
    except subprocess.TimeoutExpired:
        return Answer(problem=f"has an nvidia-smi that did not answer within {SMI_SECONDS} s")
    except OSError as err:
        return Answer(problem=f"has an nvidia-smi that does not start: {err}")
    return Answer(cards, slices)


def _is_amd() -> bool:
    return shutil.which("rocm-smi") is not None


def _run(*arguments: str) -> str:
    return subprocess.run(
        ["nvidia-smi", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=SMI_SECONDS,
    ).stdout


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU, or one MIG slice of a GPU; `product` is the name that nvidia-smi gives to it."""

    gpu: GPU
    product: str
    driver: str
    sliced: bool = False


def read_cards(answer: Answer) -> list[Card]:
    """The cards in an answer. A card that MIG cuts counts as its slices.

    Raises `PlacementError` when the answer cannot be used; the message continues a sentence that
    begins with the name of the node.
    """
    if answer.problem:
        raise PlacementError(answer.problem)
    cards: list[Card] = []
    for line in filter(str.strip, answer.cards.splitlines()):
        parts = [part.strip() for part in line.split(",")]
        try:
            name, mib, capability, driver = parts[:4]
            gpu = gpu_from_device(name, memory_mib=int(mib), compute_capability=float(capability))
        except ValueError:
            raise PlacementError(f"has an nvidia-smi with the answer {line.strip()!r}") from None
        if parts[4:5] == ["Enabled"]:
            continue
        cards.append(Card(gpu, name, driver))
    cards += _slices(answer)
    if not cards:
        raise PlacementError("has an nvidia-smi that lists no GPU")
    return cards


def _slices(answer: Answer) -> list[Card]:
    """The MIG slices that `nvidia-smi -L` lists below each card."""
    found: list[Card] = []
    whole = [line for line in answer.cards.splitlines() if line.strip()]
    blocks = re.split(r"^GPU \d+:", answer.slices, flags=re.MULTILINE)[1:]
    for line, block in zip(whole, blocks, strict=False):
        name, mib, capability, driver = (part.strip() for part in line.split(",")[:4])
        card = gpu_from_device(name, memory_mib=int(mib), compute_capability=float(capability))
        for compute, gib in _SLICE.findall(block):
            share, memory = int(compute) / _SLICES, int(gib) * _VISIBLE
            gpu = replace(
                card,
                name=f"{card.name} MIG {compute}g.{gib}gb",
                memory_gib=memory,
                memory_bandwidth=card.memory_bandwidth * min(1.0, memory / card.memory_gib),
                flops_bf16=card.flops_bf16 and card.flops_bf16 * share,
                flops_fp8=card.flops_fp8 and card.flops_fp8 * share,
                aliases=(),
            )
            found.append(Card(gpu, name, driver, sliced=True))
    return found
