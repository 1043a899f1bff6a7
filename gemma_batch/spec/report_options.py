"""The `report` part of a spec: what the page report.html shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemma_batch.spec.spec_part import SpecPart


class ReportOptions(SpecPart):
    """What the page `_run/report.html` shows. It changes no result and may change on a resume."""

    samples: Annotated[int, Field(ge=0, le=500)] = 0
    """How many rows the page shows with their prompts and answers; then it also shows the refused
    answers of failures. Default: none, because pages are mailed. `gemma-batch show` shows rows at
    any time."""
