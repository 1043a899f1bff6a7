"""Whether the connected cluster has an autoscaler that can add nodes (driver).

Every Ray cluster has a process that writes the status of an autoscaler; it reports only the nodes
that are there when the cluster has a fixed size. Such a process calls the kind of each node after
the node. The autoscaler of a cluster that can grow calls it after the groups of its configuration.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

import ray
import ray.experimental.internal_kv as kv

logger = logging.getLogger(__name__)
STATUS_KEY = "__autoscaling_status"
OF_A_NODE = "node_"  # how a kind begins that is called after a node


def can_add_nodes() -> bool:
    """Whether an autoscaler with groups of nodes reports to this cluster. False when in doubt."""
    try:
        status = kv._internal_kv_get(STATUS_KEY)
        kinds = kinds_of(json.loads(status)) if status else _kinds_of_nodes()
    except Exception as err:  # Ray's reports are no public interface
        logger.debug("whether the cluster has an autoscaler is not known: %s", err)
        return False
    return kinds_can_grow(kinds)


def kinds_can_grow(kinds: Iterable[str]) -> bool:
    """Whether one of these kinds of nodes is a group of a configuration."""
    return any(not kind.startswith(OF_A_NODE) for kind in kinds)


def kinds_of(status: dict[str, Any]) -> set[str]:
    """The kinds of nodes in a status of the autoscaler's first version."""
    report = status.get("autoscaler_report") or {}
    mapping: dict[str, str] = report.get("node_type_mapping") or {}
    return {*mapping.values(), *(report.get("active_nodes") or {})}


def _kinds_of_nodes() -> set[str]:
    """The kinds of nodes as the autoscaler's second version knows them."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes = [*status.active_nodes, *status.idle_nodes, *status.pending_nodes]
    return {node.ray_node_type_name for node in nodes if node.ray_node_type_name}
