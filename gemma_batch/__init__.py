"""Distributed offline batch inference for Gemma models.

The public API, loaded on first use so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from gemma_batch.run.driver import run
    from gemma_batch.run.plan import Plan
    from gemma_batch.run.plan import make_plan as plan
    from gemma_batch.run.report import Report
    from gemma_batch.run.retry import retry
    from gemma_batch.run.status import Status, status
    from gemma_batch.spec import JobSpec

# The room is named `run`, and so is the function that people call. Loading the (empty) room now
# lets the name be taken away from it for good: submodules loaded later do not set it again.
importlib.import_module("gemma_batch.run")
delattr(sys.modules[__name__], "run")

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
    "Plan": "run.plan",
    "Report": "run.report",
    "SpecError": "errors",
    "Status": "run.status",
    "StoppedError": "errors",
    "StorageError": "errors",
    "UserError": "errors",
    "plan": "run.plan:make_plan",
    "retry": "run.retry",
    "run": "run.driver",
    "status": "run.status",
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
