"""The page that a run writes at its end shows rows where `report.samples` asks for them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gemma_batch.driver.session import Session
from gemma_batch.reporting.progress import LogProgress
from tests.reporting.outputs import job_spec, says, start, tickets, write_rows


@pytest.mark.parametrize("samples", [0, 3])
def test_the_page_at_the_end_of_a_run(tmp_path: Path, model: str, samples: int) -> None:
    """Every unit is committed, so nothing is run; the report and the page are written."""
    write_rows(tmp_path, tickets(20))
    output = start(job_spec(tmp_path, model, report={"samples": samples}))
    for unit in output.units:
        output.commit(unit, lambda request: says("committed!"))
    session = Session(
        output.plan, output.store, LogProgress(10.0), threading.Event(), address=None, verbose=False
    )
    assert session.finish(output.manifest, output.units, output.units, 0.0).complete
    page = output.store.read("_run/report.html").decode()
    assert page.count('<section class="row">') == samples
    assert ("committed!" in page) is (samples > 0)
