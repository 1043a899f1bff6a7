"""`python -m gemma_batch.cli`, as a Ray job starts it."""

from gemma_batch.cli.commands import main

main()
