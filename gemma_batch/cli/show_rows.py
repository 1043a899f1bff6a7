"""Show rows: prints prompts and answers for people, side by side where the terminal is wide."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gemma_batch.reporting.display import (
    Piece,
    blocks,
    facts,
    instead_of_prompt,
    kept,
    pieces,
    place,
    safe,
    who,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    from gemma_batch.reporting.looking import Samples
    from gemma_batch.reporting.samples import ShownAnswer, ShownRow

WIDE = 100  # columns of a terminal in which prompt and answer stand side by side
MOST, LINES = 1200, 30  # characters and lines of a text that are printed
STYLES = {"plain": "", "mark": "dim cyan", "gap": "italic yellow"}


def print_samples(found: Samples) -> None:
    """Print samples on stderr, and how much of the output was read for them."""
    print_rows(found.rows)
    print(found.sentence, file=sys.stderr, flush=True)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr, flush=True)


def print_rows(rows: Sequence[ShownRow], console: Console | None = None) -> None:
    """Print rows on stderr: the prompt left and the answers right, or one below the other."""
    from rich.console import Console

    console = console or Console(stderr=True, highlight=False)
    wide = console.is_terminal and console.width >= WIDE
    for row in rows:
        _head(console, row)
        if wide:
            from rich.table import Table

            grid = Table.grid(padding=(0, 3, 0, 0), expand=True)
            grid.add_column(ratio=1, overflow="fold")
            grid.add_column(ratio=1, overflow="fold")
            grid.add_row(_prompt(row), _answers(row))
            console.print(grid)
        else:
            # A long line stays one line, so that other programs can search the text.
            for text in (_prompt(row), _answers(row)):
                console.print(text, soft_wrap=not console.is_terminal)
        console.print()


def _head(console: Console, row: ShownRow) -> None:
    from rich.text import Text

    head = Text(safe(row.id).replace("\n", " "), style="bold")
    more = "   ".join(part for part in (place(row), kept(row)) if part)
    head.append(f"   {more}", style="dim not bold")
    console.print(head, soft_wrap=not console.is_terminal)


def _prompt(row: ShownRow) -> Text:
    text = _label("prompt", row.note or "")
    if row.prompt is not None:
        _append(text, pieces(row.prompt, MOST, LINES, row.marks))
        text.rstrip()
        return text
    text.append(f"no prompt: {safe(row.no_prompt or '')}\n", style="italic")
    return _append(text, pieces(instead_of_prompt(row), MOST, LINES))


def _answers(row: ShownRow) -> Text:
    from rich.text import Text

    text = Text()
    for answer in row.answers:
        _answer(text, answer)
    text.rstrip()
    return text


def _answer(text: Text, answer: ShownAnswer) -> None:
    failed = answer.code is not None
    told = facts(answer)
    text.append_text(
        _label("failure" if failed else "answer", who(answer) + (f", {told}" if told else ""))
    )
    for block in blocks(answer):
        if block.label:
            style = "bold red" if block.kind == "failure" else "dim"
            text.append(f"{safe(block.label)}: ", style=style)
        style = "dim italic" if block.kind == "thinking" else ""
        _append(text, pieces(block.text, MOST, LINES), style)
        text.append("\n")


def _label(name: str, more: str) -> Text:
    from rich.text import Text

    text = Text(name, style="")
    text.stylize("bold green" if name == "answer" else "bold red" if name == "failure" else "bold")
    text.append(f"  {safe(more)}\n" if more else "\n", style="dim not bold")
    return text


def _append(text: Text, found: Sequence[Piece], style: str = "") -> Text:
    for piece in found:
        around = "\n" if piece.kind == "gap" else ""
        text.append(f"{around}{piece.text}{around}", style=STYLES[piece.kind] or style)
    return text
