"""The commands that look at an output, or tidy it up. They need no cluster."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from gemma_batch.cli.app import AsJson, OutputUrl, app, say


@app.command()
def status(output: OutputUrl, as_json: AsJson = False) -> None:
    """Show the state of an output; needs no cluster."""
    from gemma_batch.cli.arguments import output_of
    from gemma_batch.cli.show import status_text
    from gemma_batch.reporting.status import status as look

    found = look(output_of(output))
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(status_text(found))


@app.command()
def show(
    output: OutputUrl,
    rows: Annotated[int, typer.Option("-n", "--rows", help="How many rows.", min=1)] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="SQL over the columns of the results, or of the errors.", metavar="SQL"),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Rows that failed.")] = False,
    seed: Annotated[int, typer.Option(help="Another number chooses other rows.")] = 0,
    html: Annotated[
        str | None, typer.Option(help="Write a page with the rows, and print nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show some rows of an output: prompts and answers, or failures."""
    from gemma_batch.cli.arguments import output_of, write_text
    from gemma_batch.reporting.looking import samples
    from gemma_batch.storage.keep import as_json as value_as_json
    from gemma_batch.texts import counted

    found = samples(output_of(output), rows, where=where, errors=errors, seed=seed)
    if html is not None:
        from gemma_batch.reporting.sample_page import sample_page

        page = sample_page(found.name, found.output, found.sentence, found.rows, found.notes)
        write_text(html, page)
        say(f"wrote {html}, a page with {counted(len(found.rows), 'row')}")
    if as_json:
        print(json.dumps(json.loads(value_as_json(found.plain())), indent=1))
    elif html is None:
        from gemma_batch.cli.show_rows import print_samples

        print_samples(found)


@app.command()
def report(
    output: OutputUrl,
    as_json: AsJson = False,
    html: Annotated[
        str | None, typer.Option(help="Write a page that can be looked at and mailed.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Rows that the page shows (default: report.samples).", min=0),
    ] = None,
) -> None:
    """Show the totals, the speed and the failures by code of a run."""
    from gemma_batch.cli.arguments import output_of, write_text
    from gemma_batch.cli.show import report_text
    from gemma_batch.reporting.status import current_page, current_report

    output = output_of(output)
    if html is not None:
        write_text(html, current_page(output, samples))
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
    tries: Annotated[bool, typer.Option("--tries", help="The answers of `try`, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only list.")] = False,
    as_json: AsJson = False,
) -> None:
    """List or remove what starts that died left in an output, and copies that nothing reads."""
    from gemma_batch.cli.arguments import output_of
    from gemma_batch.cli.show import cleaned_text
    from gemma_batch.cli.shown import shown
    from gemma_batch.driver.clean import clean as clean_output

    with shown(10.0, phase=None) as progress:
        found = clean_output(
            output_of(output),
            all_copies=all_copies,
            tries=tries,
            dry_run=not yes,
            progress=progress,
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(cleaned_text(found))
