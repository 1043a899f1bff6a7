"""Distributed offline batch inference for Gemma models.

This module is the public API. Each name is loaded on first use, so that importing the package
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemma_batch.driver.retry import retry
    from gemma_batch.driver.run import run
    from gemma_batch.errors import (
        EngineError,
        FailureCode,
        GemmaBatchError,
        InputError,
        LeaseError,
        MismatchError,
        ModelError,
        OutputError,
        PlacementError,
        SpecError,
        StoppedError,
        StorageError,
        UserError,
    )
    from gemma_batch.planning.plan import Plan
    from gemma_batch.planning.plan import make_plan as plan
    from gemma_batch.reporting.report import Report
    from gemma_batch.reporting.status import Status, status
    from gemma_batch.spec import JobSpec

_WHERE = {
    "EngineError": "errors",
    "FailureCode": "errors",
    "GemmaBatchError": "errors",
    "InputError": "errors",
    "JobSpec": "spec",
    "LeaseError": "errors",
    "MismatchError": "errors",
    "ModelError": "errors",
    "OutputError": "errors",
    "PlacementError": "errors",
    "Plan": "planning.plan",
    "Report": "reporting.report",
    "SpecError": "errors",
    "Status": "reporting.status",
    "StoppedError": "errors",
    "StorageError": "errors",
    "UserError": "errors",
    "plan": "planning.plan:make_plan",
    "retry": "driver.retry",
    "run": "driver.run",
    "status": "reporting.status",
}

__all__ = [
    "EngineError",
    "FailureCode",
    "GemmaBatchError",
    "InputError",
    "JobSpec",
    "LeaseError",
    "MismatchError",
    "ModelError",
    "OutputError",
    "PlacementError",
    "Plan",
    "Report",
    "SpecError",
    "Status",
    "StoppedError",
    "StorageError",
    "UserError",
    "plan",
    "retry",
    "run",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)
