"""Iceberg I/O: lets pyiceberg read a table's metadata through this package's storage."""

from __future__ import annotations

from typing import Any

from pyiceberg.io import FileIO, InputFile

from gemma_batch.storage.fs import open_source
from gemma_batch.storage.listing import stat
from gemma_batch.storage.tables import place_of


class _File(InputFile):
    def __len__(self) -> int:
        return stat(place_of(self.location)).size

    def exists(self) -> bool:
        try:
            self.open().close()
        except FileNotFoundError:
            return False
        return True

    def open(self, seekable: bool = True) -> Any:
        return open_source(place_of(self.location))


class StorageIO(FileIO):
    """Reads only; nothing is ever written into a table."""

    def new_input(self, location: str) -> InputFile:
        return _File(location)

    def new_output(self, location: str) -> Any:
        raise NotImplementedError("an input is never written")

    def delete(self, location: Any) -> None:
        raise NotImplementedError("an input is never written")
