"""Spec: JobSpec and its parts, the one place where input from people is validated."""

from gemma_batch.spec.jobspec import (
    SINGLE_ROUTE,
    AlertName,
    Alerts,
    Input,
    JobSpec,
    Output,
    Policy,
    Prompt,
    Replicas,
    Resources,
    Route,
    Sampling,
    Stop,
)

__all__ = [
    "SINGLE_ROUTE",
    "AlertName",
    "Alerts",
    "Input",
    "JobSpec",
    "Output",
    "Policy",
    "Prompt",
    "Replicas",
    "Resources",
    "Route",
    "Sampling",
    "Stop",
]
