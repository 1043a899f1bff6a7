"""Cards: what nvidia-smi says becomes GPUs that a plan can place engines on, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_batch.cluster.cards import Answer, ask_nvidia_smi, read_cards
from gemma_batch.errors import PlacementError

H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05, "
LIST = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-9c4f)
  MIG 3g.40gb     Device  0: (UUID: MIG-1)
  MIG 1g.10gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-9c50)
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi of the test's making, the only program on the PATH besides the system's."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "nvidia-smi"


def write(smi: Path, script: str) -> None:
    """Let it run this shell script."""
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)


def test_every_card_of_a_node_is_told(smi: Path) -> None:
    """Not only the first."""
    write(smi, f'echo "{H100}Disabled"\necho "NVIDIA L4, 23034, 8.9, 580.95.05, [N/A]"')
    cards = read_cards(ask_nvidia_smi())
    assert [(card.gpu.name, card.driver) for card in cards] == [
        ("H100-80", "580.95.05"),
        ("L4", "580.95.05"),
    ]
    assert not any(card.sliced for card in cards)


def test_a_card_that_mig_cuts_counts_as_its_slices(smi: Path) -> None:
    """A slice has its own memory and its share of the speed; the whole card beside it stays."""
    write(
        smi,
        f"if [ \"$1\" = -L ]; then cat <<'END'\n{LIST}END\n"
        f'else echo "{H100}Enabled"; echo "{H100}Disabled"; fi',
    )
    whole, *slices = sorted(read_cards(ask_nvidia_smi()), key=lambda card: card.sliced)
    assert whole.gpu.name == "H100-80"
    assert [card.gpu.name for card in slices] == ["H100-80 MIG 3g.40gb", "H100-80 MIG 1g.10gb"]
    large, small = (card.gpu for card in slices)
    assert 35 < large.memory_gib < 40
    assert 9 < small.memory_gib < 10
    assert small.flops_bf16 == pytest.approx((whole.gpu.flops_bf16 or 0) / 7)
    assert small.memory_bandwidth < whole.gpu.memory_bandwidth / 7


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "has no nvidia-smi on its PATH"),
        ("echo 'No devices were found'", "has an nvidia-smi with the answer 'No devices"),
        ("exit 0", "has an nvidia-smi that lists no GPU"),
        ("echo 'Unable to determine' >&2; exit 15", r"fails \(exit code 15\): Unable to determine"),
        ("echo 'AMD, much, more, x'", "has an nvidia-smi with the answer 'AMD, much"),
    ],
)
def test_a_node_without_a_usable_gpu_gets_a_sentence(
    smi: Path, script: str | None, sentence: str
) -> None:
    """And never a trace; the driver puts the node's name before it."""
    if script is not None:
        write(smi, script)
    with pytest.raises(PlacementError, match=sentence):
        read_cards(ask_nvidia_smi())


def test_gpus_of_amd_are_refused_by_name(smi: Path) -> None:
    """Ray counts them as GPUs all the same."""
    write(smi.with_name("rocm-smi"), "exit 0")
    with pytest.raises(PlacementError, match="has rocm-smi, but only NVIDIA GPUs can be used"):
        read_cards(ask_nvidia_smi())


def test_slices_that_nobody_made_are_no_gpu() -> None:
    """MIG is on, and the card has no slice yet."""
    with pytest.raises(PlacementError, match="lists no GPU"):
        read_cards(Answer(f"{H100}Enabled\n", "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-9c4f)\n"))
