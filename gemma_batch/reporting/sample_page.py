"""Sample page: one self-contained HTML file of rows with their prompts and answers (laptop).

Prompts and answers are texts of strangers: everything is escaped, and the page has no scripts and
loads no other files. It looks like report.html.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace

from gemma_batch.reporting import display
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.templates import template

MOST, LINES = 6000, 200  # characters and lines of a text on a page


def sample_page(
    title: str, subtitle: str, sentence: str, rows: Sequence[ShownRow], notes: Sequence[str] = ()
) -> str:
    """A page of rows. The texts above them are for people: a title, a place, what is shown."""
    return template("sample_page.html.jinja").render(
        title=title,
        subtitle=subtitle,
        sentence=sentence,
        notes=notes,
        rows=rows,
        d=shower(),
    )


@functools.cache
def shower() -> SimpleNamespace:
    """The functions of `display`, and the limits of texts, for the templates."""
    names = ("blocks", "facts", "instead_of_prompt", "kept", "pieces", "place", "safe", "who")
    functions = {name: getattr(display, name) for name in names}
    return SimpleNamespace(**functions, MOST=MOST, LINES=LINES)
