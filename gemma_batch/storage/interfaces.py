"""Interfaces of the storage room: Store, Source and InputFile. Every file system implements them.

A Store writes whole objects only and never streams, so no half-written object can appear; its
`create` is the primitive that every commit rests on. Listings are never cached. Errors come out
as `StorageError` (or FileNotFoundError) in words, after the retries of `patience`.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Store(ABC):
    """Objects under a root, by keys relative to it such as 'results/part-00000.parquet'.

    Holds its URL and nothing else that matters, so it is cheap to build and can be pickled.
    Every method raises `StorageError` when storage fails for good.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError when there is none."""

    @abstractmethod
    def open(self, key: str) -> Source:
        """The object as a seekable binary file. Raises FileNotFoundError."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put the object unless the key exists: True if this call made it, False otherwise.

        Of any number of callers at once exactly one gets True; nobody ever sees a part of it.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Put or replace the object, atomically."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is such an object, as of now."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """The keys of all objects below the folder `prefix`, sorted; [] when there are none."""

    @abstractmethod
    def etag(self, key: str) -> str:
        """What changes whenever the object does. Raises FileNotFoundError."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class Source(io.RawIOBase):
    """A file to read from by position; `fetch(start, length)` returns exactly those bytes.

    Its own failures are `StorageError`, so that whoever parses the bytes can tell a storage
    that fails from a file that is corrupt. Sizes in bytes.
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
    """One input file. `size` in bytes; `etag` changes whenever the contents do."""

    url: str
    size: int
    etag: str
