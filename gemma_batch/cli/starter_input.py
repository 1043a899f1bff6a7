"""Starter input: how `init` says that the files of an input are read, by a look at one (laptop)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from gemma_batch.errors import InputError
from gemma_batch.planning.input_files import Found, find_files
from gemma_batch.spec import Input
from gemma_batch.storage.formats import (
    COMPRESSIONS,
    TEXTS,
    detect_format,
    formats_of,
    guess_format,
    has_known_name,
)
from gemma_batch.storage.formats import several_formats as counted
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.csv_guess import guess_options
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.table_logs import TableError


def listed(path: str) -> tuple[Found, str]:
    """The files of the input, and the line of the spec when they are those of a table.

    Raises `InputError` when no input can be used.
    """
    try:
        return find_files(Input(path=path)), ""
    except TableError as refused:
        kind = refused.format
        try:
            return find_files(Input(path=path, format=kind)), f"  format: {kind}\n"  # type: ignore[arg-type]
        except InputError as err:
            whole = refused.table.rstrip("/") in (path.rstrip("/"), os.path.abspath(path))
            # Of a path that is a part of a table, only the first message says so.
            raise (err if whole else refused) from None


def look(path: str, files: Sequence[InputFile]) -> tuple[InputFile, str, ReadOptions, str]:
    """A file with contents, its format, how it is read, and the lines of the spec that say so.

    Raises `InputError` when no file can be used, or when the files have several formats.
    """
    full = [file for file in files if file.size]
    if not full:
        raise InputError(f"{path!r} matches {len(files):,} files, which are all empty (0 bytes)")
    file = full[0]
    lines = ""
    try:
        several = len(formats_of(full)) > 1
    except InputError:
        named = [one.url for one in full if has_known_name(one.url)]
        if len(named) == len(full):
            raise  # the file cannot be read
        if named:
            other = next(one.url for one in full if not has_known_name(one.url))
            raise InputError(
                f"the names of {len(named):,} of {len(full):,} files in {path!r} tell a format, "
                f"such as {named[0]!r}, and other names do not, such as {other!r}: name files of "
                f"one format, for example with {_glob(path, named[0])!r}"
            ) from None
        kind = guess_format(file.url)  # its name tells nothing
        lines = f"  format: {kind}              # a guess by the first bytes\n"
    else:
        if several:
            raise InputError(
                f"{path!r} matches files of several formats ({counted(full)}): name those of one"
            )
        kind = detect_format(file.url)
    options = guess_options(file, kind) if kind in TEXTS else ReadOptions()
    return file, kind, options, lines + _lines(options)


def _glob(path: str, example: str) -> str:
    """A path for the files below `path` whose names end like that of the example."""
    folder = path.partition("*")[0].rpartition("/")[0] if "*" in path else path.rstrip("/")
    ends = PurePosixPath(example).suffixes
    packed = len(ends) > 1 and ends[-1] in COMPRESSIONS
    return f"{folder or '.'}/**/*{''.join(ends[-2:] if packed else ends[-1:])}"


def _lines(options: ReadOptions) -> str:
    lines = ""
    if options.encoding is not None:
        lines += f"  encoding: {options.encoding}          # a guess by the first bytes\n"
    csv = {
        name: json.dumps(getattr(options, name))
        for name in ("delimiter", "quote", "escape")
        if getattr(options, name) is not None
    }
    if options.header is not True:
        csv["header"] = "false"
    if csv:
        pairs = ", ".join(f"{name}: {value}" for name, value in csv.items())
        lines += f"  csv: {{{pairs}}}   # a guess by the first records\n"
    return lines
