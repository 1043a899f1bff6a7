"""Tables: the data files of a Delta or Iceberg table, by the library of its format (driver).

The table's log says which files belong to a version; other files in its folder are of older
versions. The files are read as plain Parquet. A table whose rows plain Parquet would give wrongly
is refused: one with deleted rows inside files, or with columns that were renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from gemma_batch.errors import GemmaBatchError, InputError
from gemma_batch.storage.fs import is_s3, local_path
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import expand, stat

T = TypeVar("T")
TABLES = {"delta": "deltalake", "iceberg": "pyiceberg"}  # format -> extra's package
THREADS = 16


class TableFile(NamedTuple):
    """A data file, and the columns that have one value in the file and are not in it."""

    file: InputFile
    constants: tuple[tuple[str, Any], ...] = ()


def table_files(path: str, kind: str, version: int | None) -> list[TableFile]:
    """The data files of the table at `path`; `version` None stands for the newest.

    Raises `InputError` when the table cannot be read, or not as plain Parquet.
    """
    list_files = {"delta": _delta, "iceberg": _iceberg}[kind]
    try:
        found = list_files(path, version)
    except ImportError:
        raise InputError(
            f"input.format {kind!r} needs the package {TABLES[kind]}: "
            f"pip install 'gemma-batch[{kind}]'"
        ) from None
    with ThreadPoolExecutor(THREADS) as pool:
        files = pool.map(lambda one: stat(one[0]), found)
        every = [
            TableFile(file, constants) for file, (_, constants) in zip(files, found, strict=True)
        ]
    if not every:
        raise InputError(f"the {kind} table {path!r} has no data files in this version")
    return sorted(every, key=lambda one: one.file.url)


def _asked(kind: str, path: str, work: Callable[[], T]) -> T:
    """What a library gives; whatever it raises becomes an `InputError`."""
    try:
        return work()
    except (GemmaBatchError, ImportError):
        raise
    except Exception as err:
        raise InputError(
            f"the {kind} table {path!r} cannot be read: {type(err).__name__}: {err}"
        ) from err


def place_of(url: str) -> str:
    """The location as the storage room names it; tables write it in several ways."""
    for scheme in ("s3a://", "s3n://"):
        if url.startswith(scheme):
            return url.replace(scheme, "s3://", 1)
    if url.startswith("file:"):
        url = "/" + url.removeprefix("file:").lstrip("/")
    return url if is_s3(url) else local_path(url)


def _delta(path: str, version: int | None) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    import pyarrow as pa
    from deltalake import DeltaTable

    from gemma_batch.storage.s3 import plain_settings

    settings = plain_settings() if is_s3(path) else None
    place = path if is_s3(path) else local_path(path)
    table = _asked("delta", path, lambda: DeltaTable(place, version, storage_options=settings))
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise InputError(
            f"the delta table {path!r} maps its columns to other names (columnMapping.mode "
            f"{mode!r}), so its files cannot be read as plain Parquet: write the rows you need as "
            "Parquet"
        )
    if "deletionVectors" in (table.protocol().reader_features or []) and _deleted(table):
        raise InputError(
            f"the delta table {path!r} has rows that are deleted inside its files (deletion "
            "vectors): run REORG TABLE ... APPLY (PURGE) on it first"
        )
    added = _asked("delta", path, lambda: pa.table(table.get_add_actions(flatten=True)))
    columns = [f"partition.{name}" for name in table.metadata().partition_columns]
    found = []
    for row in added.select(["path", *columns]).to_pylist():
        constants = tuple((name.removeprefix("partition."), row[name]) for name in columns)
        below = unquote(row["path"])
        whole = below if "://" in below else f"{place.rstrip('/')}/{below}"
        found.append((place_of(whole), constants))
    return found


def _deleted(table: Any) -> bool:
    import pyarrow as pa

    try:
        return bool(pa.table(table.deletion_vectors()).num_rows)
    except Exception:  # of any kind: there are some, and they cannot be read
        return True


def _iceberg(path: str, version: int | None) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    from pyiceberg.table import StaticTable

    settings = {"py-io-impl": "gemma_batch.storage.iceberg_io.StorageIO"}
    newest = path if path.endswith(".metadata.json") else _newest_metadata(path)
    table = _asked("iceberg", path, lambda: StaticTable.from_metadata(newest, settings))
    snapshots = {one.snapshot_id for one in table.metadata.snapshots}
    if version is not None and version not in snapshots:
        raise InputError(
            f"input.version {version} is no snapshot of the iceberg table {path!r}, which has "
            f"{', '.join(map(str, sorted(snapshots)))}"
        )
    if renamed := _renamed(table.metadata.schemas):
        raise InputError(
            f"the iceberg table {path!r} has renamed or replaced the column {renamed!r}, so its "
            "files cannot be read as plain Parquet: rewrite its data files first"
        )
    tasks = _asked("iceberg", path, lambda: list(table.scan(snapshot_id=version).plan_files()))
    for task in tasks:
        if task.delete_files:
            raise InputError(
                f"the iceberg table {path!r} has delete files, so its data files hold rows that "
                "are deleted: run rewrite_data_files on it first"
            )
        if task.file.file_format.value != "PARQUET":
            raise InputError(
                f"the iceberg table {path!r} has data files of {task.file.file_format.value}: "
                "only Parquet is read"
            )
    return [(place_of(task.file.file_path), ()) for task in tasks]


def _newest_metadata(path: str) -> str:
    folder = f"{path.rstrip('/')}/metadata"
    try:
        files = expand([f"{folder}/*.metadata.json"])
    except InputError:
        raise InputError(
            f"input.path {path!r} is no iceberg table: it has no metadata/*.metadata.json. Name "
            "the folder of the table, or a metadata file"
        ) from None
    numbers = sorted((_number(file.url), file.url) for file in files)
    newest = [url for number, url in numbers if number == numbers[-1][0]]
    if len(newest) > 1:
        raise InputError(
            f"the iceberg table {path!r} has several newest metadata files, such as {newest[0]!r} "
            f"and {newest[1]!r}: name one of them as input.path"
        )
    return newest[0]


def _number(url: str) -> int:
    """The version in the name of a metadata file: v3.metadata.json or 00003-....metadata.json."""
    digits = url.rsplit("/", 1)[-1].removeprefix("v").split(".")[0].split("-")[0]
    return int(digits) if digits.isdigit() else -1


def _renamed(schemas: list[Any]) -> str | None:
    """A column whose name and id do not belong together in all schemas, or None."""
    names: dict[int, str] = {}
    ids: dict[str, int] = {}
    for schema in schemas:
        for field_id, name in _fields(schema):
            if (
                names.setdefault(field_id, name) != name
                or ids.setdefault(name, field_id) != field_id
            ):
                return name
    return None


def _fields(schema: Any) -> Iterator[tuple[int, str]]:
    for name in schema.column_names:
        yield schema.find_field(name).field_id, name
