"""Quickstart messages: 3,000 messages of tested packages with their languages, as Parquet files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.train_small.messages import Message, Messages, evenly

ROWS, SHARDS, SEED = 3000, 4, 0


def quickstart_messages(messages: Messages) -> list[Message]:
    """Equally many of each language, in random order; the same ones each time."""
    return evenly(messages.test, ROWS, SEED)


def write_messages(folder: Path, chosen: list[Message]) -> None:
    """Write the messages into `folder`, as shards of equal size."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"m{n:04d}", "text": one.text, "language": one.language, "source": one.source}
        for n, one in enumerate(chosen)
    ]
    size = -(-len(rows) // SHARDS)
    for shard in range(SHARDS):
        table = pa.Table.from_pylist(rows[shard * size : (shard + 1) * size])
        pq.write_table(table, folder / f"messages-{shard}.parquet", compression="zstd")


def load_messages(folder: Path) -> list[Message]:
    """What `write_messages` wrote, in the same order."""
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
    return [
        Message(row["text"], row["language"], row["source"])
        for row in table.sort_by("id").to_pylist()
    ]
