"""The commands that look at an output, or tidy it up. They need no cluster."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from gemma_batch.cli.app import AsJson, OutputUrl, app, say


@app.command()
def status(output: OutputUrl, as_json: AsJson = False) -> None:
    """Show the state of an output; needs no cluster."""
    from gemma_batch.cli.show import status_text
    from gemma_batch.reporting.status import status as look

    found = look(output)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(status_text(found))


@app.command()
def report(
    output: OutputUrl,
    as_json: AsJson = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page that can be looked at and mailed.")
    ] = None,
) -> None:
    """Show the totals, the speed and the failures by code of a run."""
    from gemma_batch.cli.show import report_text
    from gemma_batch.reporting.status import current_page, current_report

    if html is not None:
        html.write_text(current_page(output), encoding="utf-8")
        say(f"wrote {html}")
        return
    found = current_report(output)
    if as_json:
        print(found.to_json())
    else:
        say(report_text(found))


@app.command()
def clean(
    output: OutputUrl,
    all_copies: Annotated[
        bool,
        typer.Option("--all-copies", help="Sorted copies that a retry would read, too."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only list.")] = False,
    as_json: AsJson = False,
) -> None:
    """List or remove what starts that died left in an output, and copies that nothing reads."""
    from gemma_batch.cli.show import cleaned_text
    from gemma_batch.driver.clean import clean as clean_output
    from gemma_batch.reporting.progress import make_progress

    progress = make_progress(10.0)
    try:
        found = clean_output(output, all_copies=all_copies, dry_run=not yes, progress=progress)
    finally:
        progress.close()
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(cleaned_text(found))
