"""The hardware of a cluster from the answers of its nodes, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.cluster.cards import Answer
from gemma_batch.cluster.nodes import hardware_of, read_answers
from gemma_batch.engines.placing import place_model
from gemma_batch.errors import PlacementError
from gemma_batch.family.catalog import find_model
from gemma_batch.spec import Resources

L4 = "NVIDIA L4, 23034, 8.9, 580.95.05, [N/A]\n"
H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05, Disabled\n"
SLICED = Answer(
    "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05, Enabled\n",
    "GPU 0: NVIDIA H100\n  MIG 1g.20gb     Device  0: (UUID: MIG-1)\n"
    "  MIG 1g.20gb     Device  1: (UUID: MIG-2)\n",
)


def node(name: str, gpus: int, cpus: int = 8, gib: int = 64) -> dict[str, Any]:
    """A node as `ray.nodes()` describes it."""
    return {
        "NodeID": f"id-{name}",
        "NodeManagerHostname": name,
        "NodeManagerAddress": "10.0.0.1",
        "Alive": True,
        "Resources": {"CPU": cpus, "memory": gib * 2**30, **({"GPU": gpus} if gpus else {})},
    }


def test_each_node_counts_with_its_own_cards_and_the_smallest_decides() -> None:
    """Finding the memory of the first node's first card is not enough in a mixed cluster."""
    head, big, small = node("head", 0, 4, 16), node("big", 6), node("small", 4)
    cards = read_answers([(big, Answer(H100 * 6)), (small, Answer(L4 * 4))], print)
    hardware = hardware_of([head, big, small], cards)
    assert hardware.gpu is not None
    assert hardware.gpu.name == "L4"
    assert (hardware.gpus, hardware.gpus_per_node, hardware.cpus) == (10, 6, 20)
    assert [(n.name, n.gpus, n.gpu and n.gpu.name) for n in hardware.nodes] == [
        ("head", 0, None),
        ("big", 6, "H100-80"),
        ("small", 4, "L4"),
    ]
    assert hardware.room(4) == 2
    assert hardware.describe() == "6 x H100-80 on 1 node and 4 x L4 on 1 node"
    wide = Resources(tensor_parallel=1)
    with pytest.raises(PlacementError, match="6 x H100-80 on 1 node and 4 x L4 on 1 node"):
        place_model(find_model("google/gemma-3-27b-it"), wide, hardware, 4096)


def test_slices_are_placed_one_by_one() -> None:
    """Ray counts them as GPUs; no engine can take two."""
    mine = node("cut", 2)
    hardware = hardware_of([mine], read_answers([(mine, SLICED)], print))
    assert (hardware.gpus, hardware.gpus_per_node, hardware.room(1)) == (2, 1, 2)
    card = find_model("google/gemma-3-4b-it")
    placement = place_model(card, Resources(), hardware, 4096)
    assert placement.tensor_parallel == 1
    with pytest.raises(PlacementError, match="on one slice where MIG cuts the GPUs"):
        place_model(card, Resources(tensor_parallel=2), hardware, 4096)


def test_a_node_that_is_silent_is_named_and_does_not_stop_the_others() -> None:
    """Its cards are taken to be like the others'; an engine there says the truth when it starts."""
    said: list[str] = []
    silent = Answer(problem="did not answer within 60 s")
    cards = read_answers([(node("a", 2), silent), (node("b", 2), Answer(L4 * 2))], said.append)
    assert cards["id-a"] == cards["id-b"]
    assert said == [
        "node 'a' did not answer within 60 s: it is taken to have the same GPUs as another node"
    ]


@pytest.mark.parametrize("problem", ["has no nvidia-smi on its PATH", "did not answer within 60 s"])
def test_gpus_that_cannot_be_used_are_refused_with_the_node_and_the_way_out(problem: str) -> None:
    """One such node is enough: an engine would be placed there and fail."""
    answers = [(node("n1", 8), Answer(problem=problem))]
    if not problem.startswith("did not"):
        answers.append((node("n2", 8), Answer(L4 * 8)))
    with pytest.raises(PlacementError, match=f"node 'n1'.*{problem}.*--num-gpus=0"):
        read_answers(answers, print)
