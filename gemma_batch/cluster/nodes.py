"""The hardware of the connected cluster (driver; `ask_nvidia_smi` is a Ray task on a GPU node)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gemma_batch.cluster.autoscaler import can_add_nodes
from gemma_batch.cluster.cards import Answer, Card, ask_nvidia_smi, read_cards
from gemma_batch.cluster.holders import gpu_holders
from gemma_batch.errors import PlacementError
from gemma_batch.family.hardware import Hardware, Node
from gemma_batch.planning.pool import GpuWish, spare_cpus

ANSWER_SECONDS = 60.0  # for a node to start a process and run nvidia-smi
SAY_SECONDS = 30.0  # between two sentences about a wait
DEFAULT_MEMORY = 8 * 2**30  # bytes, for a node that does not tell Ray its memory

Say = Callable[[str], object]


def cluster_hardware(wish: GpuWish, say: Say) -> Hardware:
    """The hardware of the connected cluster, as Ray and the nodes tell it.

    Each node with GPUs is asked for its cards, also while its GPUs are busy. `say` gets sentences
    for people: what is waited for and what was assumed. Raises `PlacementError` when the GPUs
    cannot be used, or do not come within `wish.seconds`.
    """
    nodes = _alive()
    if not wish.wanted:
        return hardware_of(nodes, {})
    if wish.needed and not _gpu_nodes(nodes, wish.gpus) and can_add_nodes():
        nodes = _wait_for_gpus(wish, say)
    if not _gpu_nodes(nodes):
        if not wish.needed:  # otherwise the placement refuses, and says what to do
            say(_on_cpus())
        return hardware_of(nodes, {})
    hardware = hardware_of(nodes, read_answers(_ask(_gpu_nodes(nodes)), say))
    if hardware.is_mixed:
        assert hardware.gpu is not None
        say(
            f"the cluster has {hardware.describe()}: every engine is sized for "
            f"{hardware.gpu.name}, the smallest"
        )
    return hardware


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _gpu_nodes(nodes: Sequence[dict[str, Any]], gpus: int = 1) -> list[dict[str, Any]]:
    return [node for node in nodes if node["Resources"].get("GPU", 0) >= gpus]


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'s' if gpus > 1 else ''}"


def _name(node: Mapping[str, Any]) -> str:
    return str(node["NodeManagerHostname"] or node["NodeManagerAddress"])


def _on_cpus() -> str:
    text = "the cluster has no GPU: engines run on CPUs"
    if can_add_nodes():
        text += (
            ". Its autoscaler may add nodes; with resources.device: gpu the run waits for a node "
            "with a GPU"
        )
    return text


def hardware_of(nodes: Sequence[dict[str, Any]], cards: Mapping[str, list[Card]]) -> Hardware:
    """The hardware of the nodes. GPUs of nodes that are not in `cards` do not count.

    `cards` has the cards of a node by its id.
    """
    found = []
    for node in nodes:
        mine, has = cards.get(node["NodeID"], []), node["Resources"]
        found.append(
            Node(
                name=_name(node),
                gpus=int(has.get("GPU", 0)) if mine else 0,
                gpu=min((card.gpu for card in mine), key=_size, default=None),
                sliced=any(card.sliced for card in mine),
                cpus=has.get("CPU", 0),
                memory_gib=has.get("memory", DEFAULT_MEMORY) / 2**30,
            )
        )
    with_gpus = [node for node in found if node.gpu is not None]
    cpus = [node.cpus for node in found if node.cpus]
    spare = [spare_cpus(node.cpus, node.gpus) for node in with_gpus]
    # MIG slices cannot talk to each other, so an engine on slices has one of them.
    per_node = max((1 if node.sliced else node.gpus for node in with_gpus), default=0)
    return Hardware(
        gpu=min((node.gpu for node in with_gpus if node.gpu), key=_size, default=None),
        gpus=sum(node.gpus for node in found),
        gpus_per_node=per_node,
        cpus=max(1, int(sum(cpus))),
        cpus_per_node=max(1, int(min(cpus, default=1))),
        memory_gib=min((node.memory_gib for node in found), default=0.0),
        nodes=tuple(found),
        spare_cpus_per_gpu=min(spare, default=0.0),
    )


def _size(gpu: Any) -> tuple[float, tuple[int, int], float]:
    """GPUs in this order: the first fits least."""
    return gpu.memory_gib, gpu.compute_capability, gpu.memory_bandwidth


def _ask(nodes: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], Answer]]:
    """The answer of each node. The tasks need no free GPU and no free CPU."""
    ask = ray.remote(ask_nvidia_smi)
    calls = [
        ask.options(
            num_cpus=0,
            num_gpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote()
        for node in nodes
    ]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=ANSWER_SECONDS)
    answers = []
    for node, call in zip(nodes, calls, strict=True):
        if call not in done:
            ray.cancel(call, force=True)
            answer = Answer(problem=f"did not answer within {ANSWER_SECONDS:g} s")
        else:
            try:
                answer = ray.get(call)
            except ray.exceptions.RayError as err:
                first = str(err).strip().splitlines()[0]
                answer = Answer(problem=f"did not answer: {first}")
        answers.append((node, answer))
    return answers


def read_answers(
    answers: Sequence[tuple[dict[str, Any], Answer]], say: Say
) -> dict[str, list[Card]]:
    """The cards of the nodes, by the node's id.

    A node that did not answer is taken to have the cards of the first node that did, and `say`
    gets its name. Raises `PlacementError` when a node answered that its GPUs cannot be used, or
    when no node answered.
    """
    cards, silent, useless = {}, [], []
    for node, answer in answers:
        if answer.problem.startswith("did not answer"):
            silent.append((node, f"node {_name(node)!r} {answer.problem}"))
            continue
        try:
            cards[node["NodeID"]] = read_cards(answer)
        except PlacementError as err:
            gpus = _count(int(node["Resources"]["GPU"]))
            useless.append(f"node {_name(node)!r} offers {gpus} to Ray, but {err}")
    if useless or not cards:
        raise PlacementError(
            f"{'; '.join([*useless, *(text for _, text in silent)])}: mend it or start it without "
            "GPUs (ray start --num-gpus=0), or set resources.device to cpu"
        )
    for node, text in silent:
        say(f"{text}: it is taken to have the same GPUs as another node")
        cards[node["NodeID"]] = next(iter(cards.values()))
    return cards


def _wait_for_gpus(wish: GpuWish, say: Say) -> list[dict[str, Any]]:
    """Ask the autoscaler for a node with GPUs, by a task that needs them; the nodes then."""
    demand = ray.remote(ask_nvidia_smi).options(num_cpus=0, num_gpus=wish.gpus, max_retries=0)
    waiting = demand.remote()
    started, said = time.monotonic(), -SAY_SECONDS
    try:
        while not _gpu_nodes(nodes := _alive(), wish.gpus):
            waited = time.monotonic() - started
            if waited > wish.seconds:
                raise PlacementError(
                    f"resources.device is 'gpu', and the cluster's autoscaler brought no node with "
                    f"{_count(wish.gpus)} within {waited:.0f} s: look at `ray status` and at the "
                    "cluster's groups of nodes, or raise policy.gpu_wait"
                )
            if waited - said >= SAY_SECONDS:
                said = waited
                say(
                    f"the cluster has no node with {_count(wish.gpus)} yet: waiting for its "
                    f"autoscaler to add one ({waited:.0f} of at most {wish.seconds:g} s)"
                )
            time.sleep(1)
    finally:
        ray.cancel(waiting, force=True)
    return nodes


def say_who_holds_gpus(wanted: float, say: Say) -> None:
    """Say who holds the GPUs, when fewer than `wanted` are free."""
    free = ray.available_resources().get("GPU", 0.0)
    total = ray.cluster_resources().get("GPU", 0.0)
    if free + 1e-6 >= wanted or not total:
        return
    holders = gpu_holders()
    by = f" They are held by {'; '.join(holders)}." if holders else ""
    say(
        f"waiting for GPUs: {free:g} of {total:g} are free, and the run starts with engines on "
        f"{wanted:g}.{by}"
    )
