"""Runs the command line as `python -m gemma_batch.cli`; a Ray job starts the driver this way."""

from gemma_batch.cli.commands import main

main()
