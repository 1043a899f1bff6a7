"""Listing: finds the files of the input, with size and etag (driver, CPU task).

A path is a file, a folder (all files below it) or a glob, local or `s3://`. A name that exists wins
over its meaning as a glob. Files below a folder or found by a glob are left out when a part of
their name starts with `_` or `.`, as is usual for data sets; `_name=value` is a partition and not
left out. Nothing is left out in silence: the listing counts it. This module reads no contents.
"""

from __future__ import annotations

import bisect
import os
import re
import stat as modes
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.fs import is_local, is_s3, local_path
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.left_out import FOLDERS, Listing, Tally
from gemma_batch.storage.local import local_etag
from gemma_batch.storage.local_listing import LocalFile, Walk, once
from gemma_batch.storage.names import Pattern, has_magic, other_forms, pattern
from gemma_batch.storage.parts import RESULTS
from gemma_batch.storage.table_logs import OUTPUT, TableLog, logs_above

T = TypeVar("T")


def expand(paths: Sequence[str], *, output: str = "") -> Listing:
    """Every file that the paths name, once, sorted by URL, and what was left out.

    `output` is the place of the job's output, whose own files are not counted as left out. Raises
    `InputError` for a path that matches no file or cannot be listed, for a folder or link that
    cannot be followed, and for archived objects.
    """
    found = _Found(output)
    for path in paths:
        expand_one = found.s3 if is_s3(path) else found.local
        _as_input_error(path, lambda path=path, one=expand_one: one(path))  # type: ignore[misc]
    files = {file.url: file for file in (*found.objects, *once(found.files, found.tally))}
    _as_input_error("s3://", found.check)
    urls = sorted(files)
    below = [log for log in dict.fromkeys(found.logs) if _holds(log, urls)]
    tables = {log.table for log in below}
    above = [log for log in logs_above(found.around) if log.table not in tables]
    return Listing(
        tuple(files[url] for url in urls), tuple(found.tally.found.values()), (*below, *above)
    )


def _holds(log: TableLog, urls: Sequence[str]) -> bool:
    """Whether one of the files, sorted by URL, is a file of the table."""
    folder = f"{log.table}/{RESULTS}/" if log.format == OUTPUT else f"{log.table}/"
    i = bisect.bisect(urls, folder)
    return i < len(urls) and urls[i].startswith(folder)


def stat(url: str) -> InputFile:
    """Size and etag of the file as it is now.

    Raises `InputError` when the file does not exist, `StorageError` when storage fails.
    """
    try:
        return _stat(url)
    except FileNotFoundError:
        raise InputError(f"the input file {url!r} does not exist") from None


def _stat(url: str) -> InputFile:
    if is_s3(url):
        from gemma_batch.storage.s3 import head

        return InputFile(url, *head(url))
    if not is_local(url):
        from gemma_batch.storage.hub_data import stat_hub

        return stat_hub(url)
    path = local_path(url)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as err:
        raise StorageError(f"{path!r}: {os.strerror(err.errno or 0)}") from err
    return InputFile(path, status.st_size, local_etag(status))


def _as_input_error(path: str, fn: Callable[[], T]) -> T:
    try:
        return fn()
    except StorageError as err:
        raise InputError(f"input.path: {err}") from err
    except ValueError as err:
        # The error text of a client library may quote an endpoint together with its password.
        said = "check AWS_ENDPOINT_URL and AWS_REGION" if is_s3(path) else str(err)
        raise InputError(f"input.path {path!r} cannot be used: {said}") from err


class _Found:
    """The files of all paths, as they are found."""

    def __init__(self, output: str) -> None:
        self._output = output if is_s3(output) or not output else os.path.realpath(output)
        self.tally = Tally()
        self.objects: list[InputFile] = []
        self.files: list[LocalFile] = []
        self.logs: list[TableLog] = []
        self.around: dict[str, None] = {}  # folders that a table's log may be in or above
        self._archived: list[str] = []

    def local(self, given: str) -> None:
        """Add the files of a local path."""
        path = local_path(given)
        for form in (path, *other_forms(path)):
            if self._local(form):
                return
        raise _nothing(given, self.tally)

    def _local(self, path: str) -> bool:
        try:
            status = os.stat(path)
        except OSError:
            status = None
        if status is not None and not modes.S_ISDIR(status.st_mode):
            if not modes.S_ISREG(status.st_mode):
                raise InputError(
                    f"input.path {path!r} is no file but a pipe, socket or device: write its "
                    "contents into a file"
                )
            file = InputFile(path, status.st_size, local_etag(status))
            self.files.append(LocalFile(file, os.path.realpath(path), os.path.islink(path)))
            self._around(os.path.dirname(path))
            self._around(os.path.dirname(os.path.realpath(path)))
            return True
        found = self._walk(pattern(path, os.path.isdir))
        self.files += found
        return bool(found)

    def _walk(self, means: Pattern) -> list[LocalFile]:
        walk = Walk(means, self.tally, self._output)
        found = list(walk.files())
        self.logs += walk.logs
        self._around(means.base)
        self.around.update(walk.targets)
        if not found and walk.folders:
            return [file for one in walk.folders for file in self._walk(Pattern(one, (), None))]
        for folder in walk.folders:
            self.tally.add(FOLDERS, folder)
        return found

    def _around(self, folder: str) -> None:
        self.around.update(dict.fromkeys([folder, os.path.realpath(folder)]))

    def s3(self, given: str) -> None:
        """Add the objects of a path in s3://."""
        bucket, _, key = given.removeprefix("s3://").partition("/")
        if not bucket or has_magic(bucket):
            raise InputError(f"input.path {given!r} names no bucket: use s3://bucket/prefix")
        # Two slashes are a part of a key like any other character, but people rarely mean them.
        single = f"s3://{bucket}/{re.sub('/+', '/', key).removeprefix('/')}"
        for form in dict.fromkeys((given, *other_forms(given), single)):
            if self._s3(form):
                return
        raise _nothing(given, self.tally)

    def _s3(self, path: str) -> bool:
        from gemma_batch.storage.s3 import first_keys, split
        from gemma_batch.storage.s3_listing import one_object

        key = split(path)[1]
        if key and not key.endswith("/"):
            try:
                file = one_object(path, self._archived)  # also for a name that looks like a glob
            except FileNotFoundError:
                pass
            else:
                return self._single(path, file)
        base = path.removesuffix("/")
        found = self._list(pattern(base, lambda folder: bool(first_keys(folder, 1))))
        self.objects += found
        return bool(found)

    def _single(self, path: str, file: InputFile) -> bool:
        from gemma_batch.storage.s3 import first_keys

        if "." not in PurePosixPath(path).name and first_keys(path, 1):
            if file.size:
                raise InputError(
                    f"input.path {path!r} is an object and a folder: write {path + '/'!r} for the "
                    "objects in the folder"
                )
            self.objects += self._list(Pattern(path, (), None))  # an empty mark of the folder
            return True
        self.objects.append(file)
        self.around[os.path.dirname(path)] = None
        return True

    def _list(self, means: Pattern) -> list[InputFile]:
        from gemma_batch.storage.s3_listing import Objects

        walk = Objects(means, self.tally, self._output)
        found = walk.files()
        self.logs += walk.logs
        self._archived += walk.archived
        self.around[means.base] = None
        if not found and walk.folders:
            return [file for one in walk.folders for file in self._list(Pattern(one, (), None))]
        for folder in walk.folders:
            self.tally.add(FOLDERS, folder)
        return found

    def check(self) -> None:
        """Raise `InputError` when files that were found cannot be read."""
        if self._archived:
            from gemma_batch.storage.s3_listing import check_archived

            check_archived(self._archived)


def covers(path: str, url: str) -> bool:
    """Whether a path of the input means a file at `url`, which need not be there.

    Local paths are compared without links. Raises `StorageError`, ValueError for an unknown scheme.
    """
    if is_s3(path) != is_s3(url) or not (is_s3(path) or is_local(path)):
        return False
    if is_s3(path):
        from gemma_batch.storage.s3 import first_keys

        base = path.removesuffix("/")
        means = pattern(base, lambda folder: bool(first_keys(folder, 1)))
        below, place = means.base, url
    else:
        means = pattern(local_path(path), os.path.isdir)
        below, place = os.path.realpath(means.base), os.path.realpath(local_path(url))
    if not place.startswith(below.rstrip("/") + "/"):
        return False
    names = place[len(below.rstrip("/")) + 1 :].split("/")
    return means.matches(names) and not any(map(means.hides, names))


def _nothing(given: str, tally: Tally) -> InputError:
    hints = [one.note for one in tally.found.values()]
    if "{" in given and "}" in given:
        hints.append("{a,b} is no wildcard: make input.path a list of paths")
    if "%" in given:
        hints.append(f"percent signs are taken as they are: was {unquote(given)!r} meant?")
    return InputError(
        f"input.path {given!r} matches no files: "
        + "; ".join(hints or ["check the spelling (names that start with _ or . are left out)"])
    )
