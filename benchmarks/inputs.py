"""What several benchmarks share: documents in Parquet shards, a tiny model, a look at memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

SHORT = 60  # characters of a short document


def texts(chars: int = SHORT, count: int = 2000) -> list[str]:
    """Beginnings of real documents: docstrings of the standard library."""
    from jobs.stdlib_docs import collect

    return [doc["doc"][:chars] for doc in collect(count)]


def tiny_model(folder: Path) -> Path:
    """A Gemma 3 of a million random parameters at `folder`/model, built once."""
    from gemma_batch.family.tiny import build_tiny_gemma

    if not (folder / "model").exists():
        build_tiny_gemma(folder / "model", texts=texts())
    return folder / "model"


def write_rows(
    folder: Path, rows: int, docs: Sequence[str], *, shard_rows: int, group_rows: int
) -> str:
    """Shards with columns `id` and `doc`, the documents again and again; the glob that finds them.

    `shard_rows` and `group_rows` are the rows of a file and of a Parquet row group.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for start in range(0, rows, shard_rows):
        numbers = range(start, min(start + shard_rows, rows))
        table = pa.table(
            {
                "id": pa.array(numbers, pa.int64()),
                "doc": pa.array([docs[n % len(docs)] for n in numbers], pa.string()),
            }
        )
        path = folder / f"{start // shard_rows:05d}.parquet"
        pq.write_table(table, path, row_group_size=group_rows)
    return f"{folder}/*.parquet"


class PeakMemory(threading.Thread):
    """Samples this process's memory until `stop`; `mb` is the most that was seen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb = 0.0
        self._end = threading.Event()

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._end.wait(0.5):
            self.mb = max(self.mb, me.memory_info().rss / 2**20)

    def stop(self) -> None:
        """End the sampling."""
        self._end.set()
