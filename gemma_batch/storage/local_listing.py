"""Local listing: walks the local folders of the input (driver, laptop).

Links to files and folders are followed. A file that is reached by several names is read once.
Whatever is left out is counted. A folder or link that cannot be followed is refused, because the
rows in it would be missing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gemma_batch.errors import InputError
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.left_out import GONE, HIDDEN, MOST_COUNTED, SPECIAL, TWICE, UPWARD, Tally
from gemma_batch.storage.local import local_etag
from gemma_batch.storage.names import Pattern, is_known
from gemma_batch.storage.table_logs import LOG_FOLDERS, OUTPUT_FOLDER, TableLog, log_at


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that was found: its path and its place without links; `linked` below a link."""

    file: InputFile
    real: str
    linked: bool


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    real: str
    names: tuple[str, ...]
    linked: bool


class Walk:
    """One walk over the folders of a path. `output` is the place of the job's output, or ""."""

    def __init__(self, pattern: Pattern, tally: Tally, output: str = "") -> None:
        self._pattern, self._tally, self._output = pattern, tally, output
        self.logs: list[TableLog] = []
        self.folders: list[str] = []  # that the pattern itself matches
        self.targets: dict[str, None] = {}  # the folders that links lead into
        self._base = os.path.realpath(pattern.base)
        self._seen: set[str] = set()
        self._next: deque[_Folder] = deque()
        self._linked: deque[_Folder] = deque()  # last: a file counts by its name without links

    def files(self) -> Iterator[LocalFile]:
        """Every file that the path means. Raises `InputError` for what cannot be followed."""
        self._next.append(_Folder(self._pattern.base, self._base, (), False))
        while self._next or self._linked:
            folder = (self._next or self._linked).popleft()
            if folder.real in self._seen:
                self._tally.add(TWICE, folder.path)
                continue
            self._seen.add(folder.real)
            for entry in self._entries(folder):
                yield from self._entry(folder, entry)

    def _entries(self, folder: _Folder) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder.path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            if folder.names:
                self._tally.add(GONE, folder.path)
            return []
        except OSError as err:
            raise _unreadable(folder.path, err) from err

    def _entry(self, folder: _Folder, entry: os.DirEntry[str]) -> Iterator[LocalFile]:
        names = (*folder.names, entry.name)
        hidden, meant = self._pattern.hides(entry.name), self._pattern.matches(names)
        try:
            is_link, is_folder = entry.is_symlink(), entry.is_dir()
        except OSError as err:
            if meant and not hidden:
                raise _unreadable(entry.path, err) from err
            return
        real = os.path.realpath(entry.path) if is_link else os.path.join(folder.real, entry.name)
        if is_folder:
            self._folder(_Folder(entry.path, real, names, folder.linked or is_link))
            return
        if hidden and meant and not is_known(entry.name):
            self._tally.add(HIDDEN, entry.path)
        if hidden or not meant:
            return
        try:
            status = entry.stat()
        except OSError as err:
            if is_link or not isinstance(err, FileNotFoundError):
                raise _unreadable(entry.path, err) from err
            self._tally.add(GONE, entry.path)
            return
        if stat.S_ISREG(status.st_mode):
            file = InputFile(entry.path, status.st_size, local_etag(status))
            if is_link:
                self.targets[os.path.dirname(real)] = None
            yield LocalFile(file, real, folder.linked or is_link)
        else:
            self._tally.add(SPECIAL, entry.path)

    def _folder(self, folder: _Folder) -> None:
        name, asked = folder.names[-1], self._pattern.may_hold(folder.names)
        if name in LOG_FOLDERS or (asked and name == OUTPUT_FOLDER):
            self._log(folder)
        if folder.real == self._output and (not asked or self._pattern.hides(name)):
            return  # the job's own files are no rows that somebody misses
        if not asked:
            if self._pattern.matches(folder.names) and not self._pattern.hides(name):
                self.folders.append(folder.path)
        elif self._pattern.hides(name):
            if not is_known(name):
                self._count(folder)
        elif self._base.startswith(folder.real.rstrip("/") + "/"):
            self._tally.add(UPWARD, folder.path)
        else:
            if folder.linked:
                self.targets[folder.real] = None
            (self._linked if folder.linked else self._next).append(folder)

    def _log(self, folder: _Folder) -> None:
        try:
            names = os.listdir(folder.path)
        except OSError:
            return
        found = (log_at(self._pattern.base, (*folder.names, name)) for name in names)
        self.logs += [log for log in found if log is not None][:1]

    def _count(self, folder: _Folder) -> None:
        """Count the files below a hidden folder that the pattern would have asked for."""
        count, example = 0, ""
        for path, below_it, found in os.walk(folder.path):
            if os.path.realpath(path) == self._output:
                below_it.clear()
                continue
            below = os.path.relpath(path, self._pattern.base).split(os.sep)
            for name in sorted(found):
                if not is_known(name) and self._pattern.matches((*below, name)):
                    count, example = count + 1, example or os.path.join(path, name)
                    if count == MOST_COUNTED:
                        self._tally.add(HIDDEN, example, count, more=True)
                        return
        self._tally.add(HIDDEN, example, count)


def _unreadable(path: str, err: OSError) -> InputError:
    if err.errno == errno.ELOOP:
        text = f"the link {path!r} leads back to itself: remove it"
    elif isinstance(err, FileNotFoundError):
        text = (
            f"the link {path!r} leads to {_target(path)!r}, which does not exist: remove the link, "
            "or bring the file back"
        )
    elif isinstance(err, PermissionError):
        text = f"no permission for {path!r}: its files would be missing from the results"
    else:
        text = f"{path!r}: {os.strerror(err.errno or 0)}"
    return InputError(f"input.path: {text}")


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return path


def once(found: Iterable[LocalFile], tally: Tally) -> list[InputFile]:
    """Each file once: of several names of a file, a name without links counts."""
    kept: dict[str, InputFile] = {}
    for one in sorted(found, key=lambda one: (one.linked, one.file.url)):
        known = kept.setdefault(one.real, one.file)
        if known.url != one.file.url:
            tally.add(TWICE, one.file.url)
    return list(kept.values())
