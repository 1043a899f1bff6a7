"""The hours of a run are said in one way: of GPUs, or of engines without one."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.cli.show import report_text
from gemma_batch.reporting.hours import device_kinds, hours_text
from gemma_batch.reporting.report import Report


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        (["gpu", "gpu"], "0.40 GPU-hours"),
        (["cpu"], "0.40 engine-hours (no GPU)"),
        (["cpu", "gpu"], "0.40 hours of GPUs and of engines without one"),
        ([None], "0.40 hours of GPUs and of engines without one"),  # an older version's receipts
    ],
)
def test_hours_are_of_gpus_or_of_engines(devices: list[str | None], text: str) -> None:
    """By the receipts of all runs."""
    receipts = [{} if device is None else {"device": device} for device in devices]
    assert hours_text(0.4, device_kinds(receipts)) == text


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"cost": 1.2, "device_hours": 0.4, "device_kinds": ["gpu"]},
         "  cost     1.20 for 0.40 GPU-hours in all runs"),
        ({"device_hours": 0.4, "device_kinds": ["gpu"]}, "  hours    0.40 GPU-hours in all runs"),
        ({"device_hours": 0.4, "device_kinds": ["cpu"]},
         "  hours    0.40 engine-hours (no GPU) in all runs"),
        ({}, None),
    ],
)  # fmt: skip
def test_a_report_has_one_line_of_hours(facts: dict[str, Any], line: str | None) -> None:
    """With a price and without."""
    report = Report(name="a", output="out", complete=True, rows=1, answered=1, failed=0, **facts)
    found = [
        one for one in report_text(report).splitlines() if one.startswith(("  cost", "  hours"))
    ]
    assert found == ([] if line is None else [line])
