"""The attacks by subject; importing this puts every one of them into the table."""

from . import driver, engine, growing, machine, node, rows, shards, sort, storage

__all__ = [
    "driver", "engine", "growing", "machine", "node", "rows", "shards", "sort", "storage",
]  # fmt: skip
