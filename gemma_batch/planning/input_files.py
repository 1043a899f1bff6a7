"""Input files: the files whose rows are the input, of a plain folder or of a table (driver)."""

from __future__ import annotations

from typing import Any, NamedTuple

from gemma_batch.errors import InputError, SpecError
from gemma_batch.spec import Input
from gemma_batch.storage.hub_data import expand_hub, is_hub
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.left_out import LeftOut
from gemma_batch.storage.listing import expand
from gemma_batch.storage.saved_datasets import saved_data
from gemma_batch.storage.table_logs import check_logs
from gemma_batch.storage.tables import TABLES, table_files


class Found(NamedTuple):
    """The files, the format that the spec declares for them, and sentences for people.

    `constants` are columns that have one value in all rows of a file, by the URL of the file.
    `left_out` is what the listing left out.
    """

    files: list[InputFile]
    format: str
    notes: list[str]
    constants: dict[str, tuple[tuple[str, Any], ...]]
    left_out: tuple[LeftOut, ...] = ()


def find_files(input: Input, output: str = "") -> Found:
    """The files of the input. `output` is the place of the job's output.

    Raises `InputError` or `SpecError`.
    """
    if input.format in TABLES:
        return _of_table(input)
    if input.version is not None:
        raise SpecError(f"input.version is for tables: set input.format to {' or '.join(TABLES)}")
    hub = [path for path in input.paths if is_hub(path)]
    others = [path for path in input.paths if not is_hub(path)]
    found = {file.url: file for path in hub for file in expand_hub(path)}
    notes: list[str] = []
    left_out: tuple[LeftOut, ...] = ()
    if others:
        listing = expand(others, output=output)
        found |= {file.url: file for file in listing}
        notes = [*check_logs(listing.logs, input.format), *listing.notes]
        left_out = listing.left_out
    files, more = saved_data([found[url] for url in sorted(found)])
    if not any(file.size for file in files):
        raise InputError(
            f"input.path {input.path!r} matches {len(files):,} files, which are all empty (0 bytes)"
        )
    return Found(files, input.format, [*notes, *more], {}, left_out)


def _of_table(input: Input) -> Found:
    if len(input.paths) > 1:
        raise SpecError(f"input.format {input.format!r} takes one input.path: the table's folder")
    tables = table_files(input.paths[0], input.format, input.version)
    constants = {one.file.url: one.constants for one in tables if one.constants}
    return Found([one.file for one in tables], "parquet", [], constants)
