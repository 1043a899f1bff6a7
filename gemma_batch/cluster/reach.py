"""Whether the nodes share the job's local paths with the driver (driver, tasks and GPU actors).

The driver asks every node on which work can run before anything is paid. A node that joins later
asks itself, in each process that reads or commits: it stops with a sentence and does not write to
a disk of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gemma_batch.errors import StorageError, UserError
from gemma_batch.planning.plan import Plan
from gemma_batch.storage.landmarks import Landmarks, put_stamp

logger = logging.getLogger(__name__)
REACH_SECONDS = 60.0  # for the nodes to answer; a process that answers may have to start first
CURE = (
    "On several nodes use s3://, or a folder that every node mounts at the same path from a disk "
    "that they share"
)


def shared(plan: Plan) -> Plan:
    """Put a stamp into the output, ask the nodes with `check_nodes`, and return the stamped plan.

    Raises `UserError`, and `StorageError` when the stamp cannot be put.
    """
    plan = replace(plan, stamp=put_stamp(plan.spec.output.path))
    check_nodes([plan.landmarks(route) for route in plan.routes])
    return plan


def check_nodes(landmarks: Sequence[Landmarks]) -> None:
    """Ask each node on which work can run whether it sees all `landmarks`.

    Does nothing when no path is local, or when work can run on the driver's node only. Raises
    `UserError` that names the node and the path. A node that does not answer is left to the checks
    of its own processes.
    """
    landmarks = [one for one in landmarks if one]
    nodes = {node["NodeID"]: node for node in ray.nodes() if _works(node)}
    if not landmarks or not nodes.keys() - {ray.get_runtime_context().get_node_id()}:
        return
    tasks: dict[Any, str] = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        tasks[ray.remote(_look).options(**options).remote(landmarks)] = node
    ready, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=REACH_SECONDS)
    for task in late:
        address = nodes[tasks[task]]["NodeManagerAddress"]
        logger.warning("node %s did not say within %g s what it sees", address, REACH_SECONDS)
        ray.cancel(task, force=True)
    found = {}
    for task in ready:
        address = nodes[tasks[task]]["NodeManagerAddress"]
        try:
            found[address] = ray.get(task)
        except ray.exceptions.RayTaskError as err:
            found[address] = f"could not look at the paths of the job: {err.cause}"
        except ray.exceptions.RayError as err:
            logger.warning("node %s did not say what it sees: %s", address, err)
    unfit = {address: unseen for address, unseen in found.items() if unseen is not None}
    for address, unseen in sorted(unfit.items()):
        others = f" (as {len(unfit) - 1} more of {len(nodes)} nodes)" if len(unfit) > 1 else ""
        raise UserError(f"node {address} {unseen}{others}. {CURE}. No engine was started")


def _works(node: Mapping[str, Any]) -> bool:
    resources = node.get("Resources", {})
    return bool(node["Alive"] and (resources.get("CPU") or resources.get("GPU")))


def _look(landmarks: Sequence[Landmarks]) -> str | None:
    """The first landmark that this node does not see, as the end of a sentence (Ray task)."""
    return next((unseen for one in landmarks if (unseen := one.unseen())), None)


def missing_here(landmarks: Landmarks) -> str | None:
    """What this node lacks to work on a job, as a sentence; None when it has everything.

    Raises `StorageError` when a file system fails.
    """
    return _sentence(landmarks.lost())


def require(landmarks: Landmarks) -> None:
    """Raise `StorageError`, with a sentence, when this node cannot work on a job."""
    if said := missing_here(landmarks):
        raise StorageError(said)


def require_output(landmarks: Landmarks) -> None:
    """The same for the output alone, before something is put into it."""
    if said := _sentence(landmarks.lost_output()):
        raise StorageError(said)


def _sentence(lost: str | None) -> str | None:
    if lost is None:
        return None
    return f"node {ray.util.get_node_ip_address()} {lost}. {CURE}"
