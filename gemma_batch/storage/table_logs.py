"""Table logs: finds the log of a table format beside the files of the input (driver, laptop).

Delta, Iceberg and Hudi keep old versions of a table as files beside the present version. Only the
log of the table says which files count. Whoever reads all files gets deleted and doubled rows.
"""

from __future__ import annotations

import os
import posixpath
import re
import typing
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.fs import is_s3
from gemma_batch.storage.parts import RESULTS

LEVELS = 4  # folders above the input that are looked at: a table has partitions in folders
LOOKERS = 16
FOLDERS = {"_delta_log": "Delta", ".hoodie": "Hudi"}  # the folder of a log -> the table format
ICEBERG_FOLDER = "metadata"
# Other tools name files *.metadata.json, too. These are the names of the Iceberg specification.
ICEBERG_LOG = re.compile(
    r"version-hint\.text|(v\d+|\d{5,}-[0-9a-f-]{36})(\.gz)?\.metadata\.json(\.gz)?"
)
OUTPUT_LOG = "manifest.json"  # in the folder _run of an output of this software
OUTPUT_FOLDER = "_run"
OUTPUT = "output"
LOG_FOLDERS = (*FOLDERS, ICEBERG_FOLDER)


@dataclass(frozen=True, slots=True)
class TableLog:
    """A log that was found: its `format` (Delta, Hudi, Iceberg or `OUTPUT`), table and place."""

    format: str
    table: str
    place: str


def log_at(root: str, names: Sequence[str]) -> TableLog | None:
    """The table whose log holds the file `names`, the names of folders and file below `root`."""
    names = list(names)
    for i, name in enumerate(names[:-1]):
        if name in FOLDERS:
            return TableLog(FOLDERS[name], _below(root, names[:i]), _below(root, names[: i + 1]))
    if names[-2:-1] == [ICEBERG_FOLDER] and ICEBERG_LOG.fullmatch(names[-1]):
        return TableLog("Iceberg", _below(root, names[:-2]), _below(root, names))
    if list(names[-2:]) == [OUTPUT_FOLDER, OUTPUT_LOG]:
        return TableLog(OUTPUT, _below(root, names[:-2]), _below(root, names))
    return None


def _below(root: str, names: Iterable[str]) -> str:
    return "/".join([root.rstrip("/"), *names])


def logs_above(folders: Iterable[str]) -> list[TableLog]:
    """The logs in these folders and up to `LEVELS` folders above each.

    A folder that cannot be looked into has no log.
    """
    asked: dict[str, None] = {}
    for place in folders:
        folder = place.rstrip("/")
        for _ in range(LEVELS + 1):
            if folder in {"", "s3:"}:
                break
            asked[folder] = None
            folder = posixpath.dirname(folder).rstrip("/")
    looks = [(folder, name) for folder in asked for name in LOG_FOLDERS]
    if not looks:
        return []
    with ThreadPoolExecutor(min(LOOKERS, len(looks))) as pool:
        names = pool.map(lambda look: _names(f"{look[0]}/{look[1]}"), looks)
        found = zip(looks, names, strict=True)
        logs = [log_at(folder, (name, one)) for (folder, name), some in found for one in some]
    return list({log.table: log for log in logs if log is not None}.values())


def _names(folder: str) -> list[str]:
    """The names of some files in a folder; [] when it cannot be looked into."""
    if not is_s3(folder):
        try:
            return os.listdir(folder)
        except OSError:
            return []
    from gemma_batch.storage.s3 import first_keys

    try:
        return [posixpath.basename(key) for key in first_keys(folder)]
    except (StorageError, FileNotFoundError):
        return []


class TableError(InputError):
    """A path that is a table, or a part of one.

    `format` is the value of input.format that reads the table, `table` its folder.
    """

    def __init__(self, message: str, format: str, table: str) -> None:
        super().__init__(message)
        self.format, self.table = format, table


def check_logs(logs: Sequence[TableLog], declared: str) -> list[str]:
    """Sentences about tables whose files are read as they are.

    `declared` is input.format. A format of files, such as parquet, asks for the files as they are.
    Raises `InputError` for a table when no format is declared: `TableError` when one can be.
    """
    if declared == "auto":
        for log in logs:
            kind = log.format.lower()
            if log.format != OUTPUT and kind in _formats():
                raise TableError(_refusal(log), kind, log.table)
            raise InputError(_refusal(log))
    return [
        f"input.format {declared!r} reads every file of the {log.format} table {log.table!r} as it "
        "is: rows of its old versions and deleted rows are read, too"
        for log in logs
        if log.format != OUTPUT and declared != log.format.lower()
    ]


def _refusal(log: TableLog) -> str:
    if log.format == OUTPUT:
        return (
            f"the input holds the output of a run in {log.table!r}: answers and failures would be "
            f"read as rows. To read the answers, set input.path to {f'{log.table}/{RESULTS}'!r}"
        )
    name = log.format.lower()
    way = (
        f"set input.format to {name!r} and input.path to the folder of the table"
        if name in _formats()
        else "write the present rows of the table into files of their own, for example with Spark"
    )
    return (
        f"{log.table!r} is a table of {log.format} (its log is {log.place!r}): its files hold rows "
        f"of old versions and deleted rows, too. To read the table as it is now, {way}. To read "
        "every file as it is, set input.format to the format of the files, such as 'parquet'"
    )


def _formats() -> Sequence[str]:
    from gemma_batch.spec.input import Input

    return typing.get_args(Input.model_fields["format"].annotation)
