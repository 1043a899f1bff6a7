"""The store on a local or mounted file system.

An object is written to a temporary file below the root and synced. Then the file is linked
(create) or renamed (put) to its name. Both steps are atomic and durable. Exclusive creation needs
hard links, which every POSIX file system has. On another file system without hard links, `create`
raises `StorageError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gemma_batch.errors import StorageError
from gemma_batch.storage.interfaces import Source, Store
from gemma_batch.storage.patience import explain, with_retries

T = TypeVar("T")
TEMP = "_run/tmp"


def _call(path: str, fn: Callable[[], T]) -> T:
    try:
        return with_retries(fn, what=repr(path))
    except FileNotFoundError as err:
        raise FileNotFoundError(f"{path!r} does not exist") from err
    except OSError as err:
        raise explain(err, path) from err


class LocalStore(Store):
    """Files below a folder. The folder is made when the first object is put."""

    def _path(self, key: str) -> str:
        return os.path.join(self.url, key)

    def read(self, key: str) -> bytes:
        path = self._path(key)

        def attempt() -> bytes:
            with open(path, "rb") as file:
                return file.read()

        return _call(path, attempt)

    def open(self, key: str) -> Source:
        return local_source(self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)

        def attempt() -> bool:
            with self._written(data, path) as temp:
                try:
                    os.link(temp, path)
                except FileExistsError:
                    return False
                except OSError as err:
                    if err.errno in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}:
                        raise StorageError(
                            f"the file system of {self.url!r} has no hard links, which exclusive "
                            "creation needs: use another file system or s3://"
                        ) from err
                    raise
            _sync_folder(os.path.dirname(path))
            return True

        return _call(path, attempt)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)

        def attempt() -> None:
            with self._written(data, path) as temp:
                os.replace(temp, path)
            _sync_folder(os.path.dirname(path))

        _call(path, attempt)

    @contextlib.contextmanager
    def _written(self, data: bytes, path: str) -> Iterator[str]:
        """Yield the path of a synced temporary file with `data`; the file is removed afterwards.

        The temporary file is on the file system of `path`.
        """
        folder = self._path(TEMP)
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temp = os.path.join(folder, uuid.uuid4().hex)
        try:
            with open(temp, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temp
        except FileNotFoundError as err:
            # A later start took the file, or an empty folder, for the leftover of a dead one.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from err
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp)

    def exists(self, key: str) -> bool:
        try:
            return _call(self._path(key), lambda: bool(os.stat(self._path(key))))
        except FileNotFoundError:
            return False

    def list(self, prefix: str = "") -> list[str]:
        def fail(err: OSError) -> None:
            if not isinstance(err, FileNotFoundError):
                raise err

        def attempt() -> list[str]:
            found = []
            for folder, _, names in os.walk(self._path(prefix.rstrip("/")), onerror=fail):
                relative = os.path.relpath(folder, self.url)
                if relative != TEMP:
                    found += [os.path.normpath(os.path.join(relative, name)) for name in names]
            return sorted(found)

        return _call(self._path(prefix), attempt)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return self._sizes(self.list(prefix))

    def temporary(self) -> dict[str, int]:
        try:
            names = _call(self._path(TEMP), lambda: sorted(os.listdir(self._path(TEMP))))
        except FileNotFoundError:
            return {}
        return self._sizes(f"{TEMP}/{name}" for name in names)

    def _sizes(self, keys: Iterable[str]) -> dict[str, int]:
        found = {}
        for key in keys:
            path = self._path(key)
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                found[key] = _call(path, lambda path=path: os.stat(path).st_size)  # type: ignore[misc]
        return found

    def delete(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError):
            _call(path, lambda: os.unlink(path))
        # An object store has no empty folders; a folder that is not empty stays.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))

    def check_writable(self) -> None:
        folders = [self.url, *(self._path(name) for name in ("results", "errors", "_run", TEMP))]
        there = [folder for folder in folders if os.path.lexists(folder)]
        above = self.url
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        for folder in there or [above]:
            if not os.path.isdir(folder):
                what = "a link that leads nowhere" if os.path.islink(folder) else "not a folder"
                raise StorageError(f"{folder!r} is {what}")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StorageError(
                    f"nothing can be written into {folder!r}: no permission, or its file system "
                    "is read-only"
                )

    def etag(self, key: str) -> str:
        path = self._path(key)
        return local_etag(_call(path, lambda: os.stat(path)))


def local_etag(status: os.stat_result) -> str:
    """The etag of a local file: modification time in nanoseconds and size in bytes, in hex."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def get_local(path: str, limit: int) -> tuple[int, str, bytes | None]:
    """Size, etag and bytes of a file, all of one state; None for more than `limit` bytes.

    Raises FileNotFoundError, `StorageError`.
    """

    def attempt() -> tuple[int, str, bytes | None]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            data = None
            if status.st_size <= limit:
                # A file that shrinks meanwhile is read short, and its reader says that.
                data = os.pread(descriptor, status.st_size, 0)
            return status.st_size, local_etag(status), data
        finally:
            os.close(descriptor)

    return _call(path, attempt)


def local_source(path: str) -> Source:
    """A local file, opened to read. Raises FileNotFoundError, `StorageError`."""
    descriptor = _call(path, lambda: os.open(path, os.O_RDONLY))
    return Source(
        path,
        os.fstat(descriptor).st_size,
        lambda start, length: _call(path, lambda: os.pread(descriptor, length, start)),
        lambda: os.close(descriptor),
    )


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as err:
        # Some network file systems cannot sync folders. The file in the folder is already synced.
        if err.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
