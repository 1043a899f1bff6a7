"""The reader of ORC files: each stripe is a batch. Only the requested columns are read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from gemma_batch.storage.readers.batches import Batch, BatchReader, Values, values_of
from gemma_batch.storage.readers.plain import plain_schema


class OrcReader(BatchReader):
    """See the module's docstring."""

    name = "orc"

    def columns(self, source: Any) -> pa.Schema:
        return plain_schema(_opened(source).schema)

    def batches(self, source: Any, place: int, columns: list[str] | None) -> Iterator[Batch]:
        file = _opened(source)
        names = file.schema.names
        for i in range(place, file.nstripes):
            # The library does not tell the rows of a stripe: they are counted in one column.
            alone = file.nstripes == 1
            rows = file.nrows if alone else _stripe(file, i, names[:1]).num_rows
            yield Batch(i, rows, partial(_values, file, i, columns))


def _opened(source: Any) -> Any:
    from pyarrow import orc

    return orc.ORCFile(source)


def _stripe(file: Any, stripe: int, columns: list[str] | None) -> pa.RecordBatch:
    names = file.schema.names
    wanted = [name for name in names if columns is None or name in columns]
    # The library takes a dot in a name for a path into a struct.
    plain = wanted and not any("." in name for name in wanted)
    return file.read_stripe(stripe, columns=wanted if plain else None)


def _values(
    file: Any, stripe: int, columns: list[str] | None, start: int, stop: int
) -> Iterator[Values]:
    batch = _stripe(file, stripe, columns)
    batch.validate(full=True)  # the values of a damaged stripe may point anywhere
    return values_of(batch.slice(start, max(stop - start, 0)), columns)
