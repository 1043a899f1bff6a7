"""The page of a try: one self-contained HTML file with every row that was asked (laptop).

It looks like report.html. Prompts and answers are texts of strangers: everything is escaped, and
the page has no scripts and loads no other files.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemma_batch.reporting.agreement import Agreement
from gemma_batch.reporting.sample_page import shower
from gemma_batch.reporting.samples import together
from gemma_batch.reporting.templates import template
from gemma_batch.reporting.tried import Trial
from gemma_batch.texts import duration


def tried_page(trials: Sequence[Trial], agreements: Sequence[Agreement] = ()) -> str:
    """The page as HTML. The tries are of the same rows, each of another model."""
    return template("tried.html.jinja").render(
        trials=trials,
        agreements=agreements,
        rows=together([trial.samples for trial in trials]),
        duration=duration,
        d=shower(),
    )
