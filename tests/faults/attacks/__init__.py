"""The attacks by subject; importing this puts every one of them into the table."""

from . import disks, driver, engine, growing, machine, node, rows, shards, sort, storage

__all__ = [
    "disks", "driver", "engine", "growing", "machine", "node", "rows", "shards", "sort", "storage",
]  # fmt: skip
