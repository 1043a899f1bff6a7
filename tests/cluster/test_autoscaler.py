"""Telling a cluster that can grow from one of a fixed size, by the reports of Ray 2.60."""

from __future__ import annotations

import pytest

from gemma_batch.cluster.autoscaler import kinds_can_grow, kinds_of

HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
# What `ray start --head` reports without and with --autoscaling-config, as it was seen.
FIXED = {"active_nodes": {f"node_{HEAD}": 1}, "node_type_mapping": {HEAD: f"node_{HEAD}"}}
GROWING = {"active_nodes": {}, "node_type_mapping": {HEAD: "ray.head.default"}}


@pytest.mark.parametrize(
    ("report", "can_grow"), [(FIXED, False), (GROWING, True), ({}, False), (None, False)]
)
def test_the_autoscaler_of_a_fixed_cluster_is_none(
    report: dict[str, object] | None, can_grow: bool
) -> None:
    """It reports too; waiting for it would be waiting for nothing."""
    assert kinds_can_grow(kinds_of({"autoscaler_report": report})) is can_grow
