"""The app: what all commands of the command line share: the app, its options, the line for people.

The API makes all decisions. Text for people goes to stderr. `--json` puts one JSON document on
stdout.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

ORDER = (
    "init", "models", "plan", "try", "run", "retry", "status", "show", "report", "clean",
    "submit", "logs", "cancel", "list",
)  # fmt: skip


class InOrder(TyperGroup):
    """The commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, as `--help` lists them."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="gemma-batch",
    cls=InOrder,
    help="Distributed offline batch inference for Gemma models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecPath = Annotated[str, typer.Argument(metavar="SPEC", help="The job's YAML file.")]
OutputUrl = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="The job's output.path, or its YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field of the spec; may be repeated."),
]
Grow = Annotated[
    bool,
    typer.Option("--grow", help="Answer files that were added since (input.grow: true)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to run on (default: RAY_ADDRESS, else this machine)."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the workers' own logs.")]


def _tell_versions(wanted: bool) -> None:
    if not wanted:
        return
    from gemma_batch.engines.installed import versions

    for package, version in versions().items():
        print(f"{package} {version or 'is not installed'}")
    raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of this package and of those below it.",
            callback=_tell_versions,
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass


def say(message: str = "") -> None:
    """Print one line for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


def with_grow(overrides: list[str] | None, grow: bool) -> list[str]:
    """The overrides of a command with the option `--grow`."""
    return [*(overrides or ()), *(["input.grow=true"] if grow else ())]
