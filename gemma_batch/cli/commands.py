"""The command line: all commands, and the process that runs one and ends with its exit code."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import typer

from gemma_batch.cli import job_commands, output_commands, run_commands, try_command
from gemma_batch.cli.app import app, say
from gemma_batch.cli.shown import end_interrupted, libraries_quiet, library_log, sigterm_interrupts
from gemma_batch.errors import INTERRUPTED, GemmaBatchError

__all__ = ["app", "job_commands", "main", "output_commands", "run_commands", "try_command"]
UNEXPECTED = 1


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with one of the exit codes in the README."""
    try:
        # With standalone_mode off, typer returns the exit code and does not end the process.
        with sigterm_interrupts(), libraries_quiet():
            code = app(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except GemmaBatchError as err:
        say(f"error: {err}")
        _name_the_log()
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        end_interrupted()
    except Exception as err:
        # typer wraps click. A usage error of click can print itself and has an exit code.
        if hasattr(err, "show") and hasattr(err, "exit_code"):
            err.show()
            sys.exit(err.exit_code)
        traceback.print_exc()
        say(f"unexpected: {type(err).__name__}: {err}")
        _name_the_log()
        sys.exit(UNEXPECTED)
    sys.exit(code or 0)


def _name_the_log() -> None:
    if library_log.path:
        say(f"the warnings of this command are in {library_log.path}")
