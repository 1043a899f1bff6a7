"""Distributed offline batch inference for Gemma models.

This module is the public API: a spec (`JobSpec` and its parts), the functions that plan, run and
look at a job, their results, and every exception that they raise. Each name is loaded on first use,
so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemma_batch.driver.clean import (
        Cleaned,
        clean,
    )
    from gemma_batch.driver.retry import (
        retry,
    )
    from gemma_batch.driver.run import (
        run,
    )
    from gemma_batch.driver.trial import (
        Tried,
        try_,
    )
    from gemma_batch.errors import (
        BudgetError,
        ClusterError,
        ClusterLost,
        EngineError,
        EngineLost,
        EngineStartError,
        FailureCode,
        GemmaBatchError,
        InputError,
        LeaseError,
        MismatchError,
        ModelError,
        OutputError,
        PlacementError,
        RowRejected,
        RowTransient,
        SpecError,
        StoppedError,
        StorageError,
        StorageFullError,
        UserError,
    )
    from gemma_batch.planning.plan import (
        Plan,
    )
    from gemma_batch.planning.plan import (
        make_plan as plan,
    )
    from gemma_batch.reporting.looking import (
        Samples,
        samples,
    )
    from gemma_batch.reporting.report import (
        Report,
    )
    from gemma_batch.reporting.status import (
        Status,
        status,
    )
    from gemma_batch.reporting.status import (
        current_report as report,
    )
    from gemma_batch.spec import (
        Alerts,
        Answer,
        Budget,
        Csv,
        Input,
        JobSpec,
        NamedTool,
        Output,
        Policy,
        Prompt,
        Replicas,
        ReportOptions,
        Resources,
        Route,
        Sampling,
        Stop,
        Tools,
        Txt,
    )

    __version__: str

# Name -> its module, and its name there where it has another one.
_WHERE = {
    "Alerts": "spec",
    "Answer": "spec",
    "Budget": "spec",
    "BudgetError": "errors",
    "Cleaned": "driver.clean",
    "ClusterError": "errors",
    "ClusterLost": "errors",
    "Csv": "spec",
    "EngineError": "errors",
    "EngineLost": "errors",
    "EngineStartError": "errors",
    "FailureCode": "errors",
    "GemmaBatchError": "errors",
    "Input": "spec",
    "InputError": "errors",
    "JobSpec": "spec",
    "LeaseError": "errors",
    "MismatchError": "errors",
    "ModelError": "errors",
    "NamedTool": "spec",
    "Output": "spec",
    "OutputError": "errors",
    "PlacementError": "errors",
    "Plan": "planning.plan",
    "Policy": "spec",
    "Prompt": "spec",
    "Replicas": "spec",
    "Report": "reporting.report",
    "ReportOptions": "spec",
    "Resources": "spec",
    "Route": "spec",
    "Samples": "reporting.looking",
    "RowRejected": "errors",
    "RowTransient": "errors",
    "Sampling": "spec",
    "SpecError": "errors",
    "Status": "reporting.status",
    "Stop": "spec",
    "StoppedError": "errors",
    "StorageError": "errors",
    "StorageFullError": "errors",
    "Tools": "spec",
    "Tried": "driver.trial",
    "Txt": "spec",
    "UserError": "errors",
    "clean": "driver.clean",
    "plan": "planning.plan:make_plan",
    "report": "reporting.status:current_report",
    "retry": "driver.retry",
    "run": "driver.run",
    "samples": "reporting.looking",
    "status": "reporting.status",
    "try_": "driver.trial",
}

__all__ = [
    "Alerts",
    "Answer",
    "Budget",
    "BudgetError",
    "Cleaned",
    "ClusterError",
    "ClusterLost",
    "Csv",
    "EngineError",
    "EngineLost",
    "EngineStartError",
    "FailureCode",
    "GemmaBatchError",
    "Input",
    "InputError",
    "JobSpec",
    "LeaseError",
    "MismatchError",
    "ModelError",
    "NamedTool",
    "Output",
    "OutputError",
    "PlacementError",
    "Plan",
    "Policy",
    "Prompt",
    "Replicas",
    "Report",
    "ReportOptions",
    "Resources",
    "Route",
    "RowRejected",
    "RowTransient",
    "Samples",
    "Sampling",
    "SpecError",
    "Status",
    "Stop",
    "StoppedError",
    "StorageError",
    "StorageFullError",
    "Tools",
    "Tried",
    "Txt",
    "UserError",
    "__version__",
    "clean",
    "plan",
    "report",
    "retry",
    "run",
    "samples",
    "status",
    "try_",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and rarely needed

        return version("gemma-batch")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
