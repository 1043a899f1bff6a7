"""Ray Data's source of work: one read task per item of work (driver)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """One read task: the call that reads, and the rows that it gives.

    `bytes` is what the item's rows take in the input, as the readers estimated it.
    """

    read: Callable[[], list[pa.Table]]
    rows: int
    bytes: int


class WorkSource(Datasource):  # type: ignore[misc]  # ray is not typed for mypy's reading
    """A source with one read task and one block per item. `name` is for Ray's displays."""

    def __init__(self, name: str, items: Sequence[WorkItem]) -> None:
        super().__init__()
        self._name, self._items = name, items

    def get_name(self) -> str:
        """The stage's name in Ray's displays."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all items in the input."""
        return sum(item.bytes for item in self._items)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task per item, for any `parallelism`."""
        return [
            ReadTask(
                item.read,
                BlockMetadata(
                    num_rows=item.rows,
                    size_bytes=max(1, item.bytes),
                    input_files=None,
                    exec_stats=None,
                ),
            )
            for item in self._items
        ]
