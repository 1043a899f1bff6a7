"""Who holds the GPUs of the connected cluster, as far as Ray tells (driver)."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import ray

logger = logging.getLogger(__name__)
MOST = 5  # holders that are named


def gpu_holders() -> list[str]:
    """The actors and placement groups with GPUs, a phrase for each job, largest first.

    Ray has no public call for this that works without its dashboard. So an empty list means only
    that nothing is known; tasks, for example, are never in the list.
    """
    try:
        held = _of_actors() + _of_groups()
    except Exception as err:  # no run may fail because its waiting cannot be explained
        logger.debug("the holders of GPUs are not known: %s", err)
        return []
    phrases = [f"{name} ({gpus:g} GPUs)" for name, gpus in held.most_common()]
    more = len(phrases) - MOST
    return phrases[:MOST] + ([f"{more} others"] if more > 0 else [])


def _of_actors() -> Counter[str]:
    from ray.core.generated.gcs_pb2 import ActorTableData, JobTableData

    accessor = ray._private.state.state._connect_and_get_accessor()
    programs = {}
    for raw in accessor.get_job_table():
        job = JobTableData.FromString(raw)
        programs[job.job_id] = " ".join(job.entrypoint.split())[:80]
    held: Counter[str] = Counter()
    for raw in accessor.get_actor_table(None, None):
        actor = ActorTableData.FromString(raw)
        gpus = actor.required_resources.get("GPU", 0.0)
        if actor.state != ActorTableData.ALIVE or not gpus or _in_a_group(actor):
            continue
        program = programs.get(actor.job_id) or "an unknown program"
        name = f"{actor.name or actor.class_name!r} of job {actor.job_id.hex()} ({program})"
        held[f"actor {name}"] += gpus
    return held


def _in_a_group(actor: Any) -> bool:
    return any("_group_" in name for name in actor.required_resources)


def _of_groups() -> Counter[str]:
    held: Counter[str] = Counter()
    for group_id, group in ray.util.placement_group_table().items():
        if group["state"] == "CREATED":
            gpus = sum(bundle.get("GPU", 0.0) for bundle in group["bundles"].values())
            if gpus:
                held[f"placement group {group['name'] or group_id}"] += gpus
    return held
