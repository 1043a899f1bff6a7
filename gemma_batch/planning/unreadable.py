"""Unreadable: input files that cannot be read when the job is planned (driver, laptop).

One broken file among many costs its rows and not the job. How many rows it has, nobody knows: it
counts as one, which fails with `shard_unreadable`. Where more than a small share of the files is
broken, something else is wrong, and the job is refused before it costs anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from gemma_batch.errors import FailureCode, InputError
from gemma_batch.planning.in_threads import in_threads
from gemma_batch.units.unit import Shard

PER_CENT = 1  # of the files may be unreadable; so an input of fewer than 100 files has to be whole


class Unreadable:
    """The unreadable ones among `files` input files."""

    def __init__(self, files: int) -> None:
        self.numbers: set[int] = set()
        self._files, self._example = files, ""

    def add(self, shard: Shard, err: InputError) -> None:
        """Note that the shard cannot be read. Raises the error when it is one too many."""
        if shard.number in self.numbers:
            return
        self.numbers.add(shard.number)
        self._example = self._example or str(err)
        if len(self.numbers) * 100 > self._files * PER_CENT:
            if len(self.numbers) == 1:
                raise err
            raise InputError(
                f"more than {PER_CENT}% of the {self._files:,} input files cannot be read, for "
                f"example: {self._example}. Mend these files, or leave them out of input.path"
            ) from err

    @property
    def notes(self) -> list[str]:
        """A sentence for people, if any file is unreadable."""
        if not self.numbers:
            return []
        count = len(self.numbers)
        what = "1 of the" if count == 1 else f"{count:,} of the"
        each = "it" if count == 1 else "each"
        return [
            f"{what} {self._files:,} input files cannot be read: {each} counts as one row, "
            f"which fails with {FailureCode.SHARD_UNREADABLE.value}. For example: {self._example}"
        ]


def readable(
    shards: Sequence[Shard], unreadable: Unreadable
) -> tuple[list[Shard], list[pa.Schema]]:
    """The shards whose schema can be read, and their schemas; others are added to `unreadable`.

    Raises `InputError` when none can be read, or too few.
    """

    def look(shard: Shard) -> InputError | pa.Schema:
        try:
            return shard.reader.schema(shard.file)
        except InputError as err:
            return err

    found, schemas, errors = list[Shard](), list[pa.Schema](), list[InputError]()
    for shard, looked in zip(shards, in_threads(look, shards), strict=True):
        if isinstance(looked, InputError):
            errors.append(looked)
            unreadable.add(shard, looked)
        else:
            found.append(shard)
            schemas.append(looked)
    if not found:
        raise errors[0]
    return found, schemas
