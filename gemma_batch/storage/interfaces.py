"""Interfaces of the storage room: Store, Source and InputFile. Every file system implements them.

A Store writes whole objects only and never streams, so that a half-written object never exists.
Every commit rests on the method `create`. Listings are never cached. A failing call is first tried
again (see `patience`). Then it raises `StorageError`, with a sentence for people, or
FileNotFoundError.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Store(ABC):
    """Objects under a root URL. A key such as 'results/part-00000.parquet' is relative to the root.

    A store holds only its URL, so it is cheap to build and can be pickled. Every method raises
    `StorageError` when storage fails for good.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError when the object does not exist."""

    @abstractmethod
    def open(self, key: str) -> Source:
        """The object as a seekable binary file. Raises FileNotFoundError like `read`."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put the object unless the key exists; returns True only if this call put the object.

        When any number of callers create the same key at once, exactly one gets True. Readers see
        the whole object or no object.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Put the object, or replace an existing one, atomically."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether the object exists now."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """The keys of all objects below the folder `prefix`, sorted; [] when it has no objects."""

    @abstractmethod
    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The keys that `list` gives, each with the size of its object in bytes."""

    @abstractmethod
    def temporary(self) -> dict[str, int]:
        """Keys and sizes in bytes of files of puts that have not ended, or never will.

        Such a file is no object. A living writer whose file is deleted writes it again.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object, if it exists."""

    @abstractmethod
    def etag(self, key: str) -> str:
        """A text that changes whenever the object changes. Raises FileNotFoundError."""

    def check_writable(self) -> None:
        """Raise `StorageError` where it is certain, without a write, that no object can be put.

        For most stores nothing is certain before the first write.
        """
        return

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class Source(io.RawIOBase):
    """A file that is read by position. All sizes and positions are in bytes.

    `fetch(start, length)` returns exactly these bytes; `size` is the size of the file. A failing
    read raises `StorageError`. A parser can therefore tell storage that fails from a file that is
    corrupt.
    """

    def __init__(
        self,
        url: str,
        size: int,
        fetch: Callable[[int, int], bytes],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.name, self.size = url, size
        self._fetch, self._close, self._at = fetch, close, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; never asks for memory beyond the end of the file."""
        left = max(self.size - self._at, 0)
        return super().read(left if size is None or size < 0 else min(size, left)) or b""

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self.size - self._at)
        if length <= 0:
            return 0
        data = self._fetch(self._at, length)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file. `size` is in bytes; `etag` changes whenever the contents change."""

    url: str
    size: int
    etag: str
