"""Spec: JobSpec and its parts, the one place where input from people is validated."""

from gemma_batch.spec.answer import Answer
from gemma_batch.spec.input import Csv, Input, Txt
from gemma_batch.spec.jobspec import JobSpec
from gemma_batch.spec.output import Output
from gemma_batch.spec.policy import AlertName, Alerts, Budget, Policy, Stop
from gemma_batch.spec.prompt import Prompt
from gemma_batch.spec.report_options import ReportOptions
from gemma_batch.spec.resources import Replicas, Resources
from gemma_batch.spec.route import SINGLE_ROUTE, Route
from gemma_batch.spec.sampling import Sampling
from gemma_batch.spec.tools import NamedTool, Tools

__all__ = [
    "SINGLE_ROUTE",
    "AlertName",
    "Alerts",
    "Answer",
    "Budget",
    "Csv",
    "Input",
    "JobSpec",
    "NamedTool",
    "Output",
    "Policy",
    "Prompt",
    "Replicas",
    "ReportOptions",
    "Resources",
    "Route",
    "Sampling",
    "Stop",
    "Tools",
    "Txt",
]
