"""Delta and Iceberg tables: the rows of one version, as their own libraries give them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from pyiceberg.types import LongType, StringType

from gemma_batch.cli.starter import starter_spec
from gemma_batch.errors import InputError, UserError
from gemma_batch.planning.survey import survey
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import parse_yaml

if TYPE_CHECKING:
    from tests.conftest import S3Server


def look(path: str, kind: str, version: int | None = None) -> list[str]:
    """The texts of all rows, sorted."""
    given = {"path": path, "format": kind, "version": version}
    looked = survey(
        JobSpec.from_dict(
            {
                "input": given,
                "prompt": {"user": "{{ text }}"},
                "model": "google/gemma-3-4b-it",
                "output": {"path": "out"},
            }
        )
    )
    rows = []
    for shard in looked.shards:
        for span in shard.reader.index(shard.file, max_rows=99, max_bytes=9999):
            rows += [
                (row.values or {})["text"] for row in shard.reader.read(shard.file, span, None)
            ]
    return sorted(rows)


def texts(*values: str) -> pa.Table:
    return pa.table({"id": list(range(len(values))), "text": list(values)})


def delta(folder: str) -> str:
    """Version 0 has a, b and c, version 1 has d too, version 2 lacks b."""
    write_deltalake(folder, texts("a", "b", "c"))
    write_deltalake(folder, texts("d"), mode="append")
    DeltaTable(folder).delete("text = 'b'")
    return folder


def test_delta(tmp_path: Path) -> None:
    """The newest version by default; its folder also holds files of older ones."""
    folder = delta(str(tmp_path / "my table"))
    assert look(folder, "delta") == ["a", "c", "d"]
    assert look(folder, "delta", 0) == ["a", "b", "c"]
    assert look(folder, "delta", 1) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_init_writes_the_format_of_a_table(tmp_path: Path, kind: str) -> None:
    """`plan` takes the spec as it is; a folder inside the table is refused."""
    if kind == "delta":
        folder = str(tmp_path / "my table")
        rows = texts("the fox", "the dog").append_column("day", pa.array(["1", "2"]))
        write_deltalake(folder, rows, partition_by=["day"])
        parts = f"{folder}/day=1"
    else:
        iceberg(tmp_path).append(texts("the fox", "the dog"))
        folder = str(tmp_path / "d" / "t")
        parts = f"{folder}/data"
    spec = JobSpec.from_dict(parse_yaml(starter_spec(folder, "google/gemma-3-4b-it"), where=""))
    assert (spec.input.path, spec.input.format, spec.input.id) == (folder, kind, "id")
    assert "{{ text }}" in (spec.prompt.user or "")
    assert ("day" in survey(spec).schema.names) == (kind == "delta")
    for path in (parts, f"{folder}/**/*.parquet"):
        with pytest.raises(InputError, match=f"set input.format to '{kind}' and input.path to"):
            starter_spec(path, "google/gemma-3-4b-it")


def test_partitions_of_delta(tmp_path: Path) -> None:
    """The table's log has the values: as whole numbers or as text, and null."""
    folder = str(tmp_path / "table")
    days = [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), None]
    rows = pa.table({"text": ["a", "b", "c"], "year": [2025, 2026, None], "day": days})
    write_deltalake(folder, rows, partition_by=["year", "day"])
    looked = survey(
        JobSpec.from_dict(
            {
                "input": {"path": folder, "format": "delta"},
                "prompt": {"user": "{{ text }}"},
                "model": "google/gemma-3-4b-it",
                "output": {"path": "out", "keep": ["year", "day"]},
            }
        )
    )
    found = []
    for shard in looked.shards:
        (span,) = shard.reader.index(shard.file, max_rows=9, max_bytes=9999)
        found += [
            row.values for row in shard.reader.read(shard.file, span, ["text", "year", "day"])
        ]
    assert sorted(found, key=str) == [
        {"text": "a", "year": 2025, "day": "2026-01-01"},
        {"text": "b", "year": 2026, "day": "2026-01-02"},
        {"text": "c", "year": None, "day": None},
    ]


def test_delta_on_s3(s3: S3Server) -> None:
    """With the endpoint and the credentials of the environment."""
    folder = f"{s3.bucket('tables')}/delta"
    settings = {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
    }
    write_deltalake(folder, texts("a", "b"), storage_options=settings)
    assert look(folder, "delta") == ["a", "b"]


def with_deleted_rows(line: dict[str, Any]) -> None:
    if "protocol" in line:
        features = ["deletionVectors"]
        line["protocol"] = {
            "minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": features, "writerFeatures": features,
        }  # fmt: skip
    if "add" in line:
        line["add"]["deletionVector"] = {
            "storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^",
            "offset": 4, "sizeInBytes": 40, "cardinality": 1,
        }  # fmt: skip


def with_mapped_columns(line: dict[str, Any]) -> None:
    if "protocol" in line:
        line["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
    if "metaData" in line:
        schema = json.loads(line["metaData"]["schemaString"])
        for i, field in enumerate(schema["fields"]):
            field["metadata"] = {
                "delta.columnMapping.id": i + 1,
                "delta.columnMapping.physicalName": f"col-{i}",
            }
        line["metaData"]["schemaString"] = json.dumps(schema)
        line["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [(with_deleted_rows, "deletion vectors"), (with_mapped_columns, "maps its columns")],
)
def test_a_delta_table_that_parquet_would_give_wrongly(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    """It is refused, with the way out."""
    write_deltalake(str(tmp_path), texts("a"))
    log = tmp_path / "_delta_log" / "00000000000000000000.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        change(line)
    log.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=reason):
        look(str(tmp_path), "delta")
    with pytest.raises(InputError, match=reason):
        starter_spec(str(tmp_path), "google/gemma-3-4b-it")


def iceberg(folder: Path) -> Table:
    """An empty table in the folder `folder`/d/t."""
    catalog = load_catalog("test", type="in-memory", warehouse=f"file://{folder}")
    catalog.create_namespace("d")
    return catalog.create_table("d.t", schema=texts("a").schema)


def test_iceberg(tmp_path: Path) -> None:
    """The newest snapshot, or one by its id; the path is the table's folder or a metadata file."""
    table = iceberg(tmp_path)
    folder = str(tmp_path / "d" / "t")
    with pytest.raises(InputError, match="no data files"):
        look(folder, "iceberg")
    table.append(texts("a", "b"))
    first = table.metadata.current_snapshot_id
    table.append(texts("c"))
    table.delete("text = 'b'")
    assert look(folder, "iceberg") == ["a", "c"]
    assert look(folder, "iceberg", first) == ["a", "b"]
    assert look(table.metadata_location.removeprefix("file://"), "iceberg") == ["a", "c"]
    with pytest.raises(InputError, match=f"no snapshot of .*{first}"):
        look(folder, "iceberg", 5)


def rename(table: Table) -> None:
    with table.update_schema() as change:
        change.rename_column("text", "body")


def replace(table: Table) -> None:
    with table.update_schema() as change:
        change.delete_column("text")
    with table.update_schema() as change:
        change.add_column("text", StringType())


@pytest.mark.parametrize("change", [rename, replace])
def test_an_iceberg_table_that_parquet_would_give_wrongly(
    tmp_path: Path, change: Callable[[Table], None]
) -> None:
    """Its files have the old names, or old values under a new column's name."""
    table = iceberg(tmp_path)
    table.append(texts("a"))
    with table.update_schema() as more:
        more.add_column("more", LongType())  # a new column is null in old files
    folder = str(tmp_path / "d" / "t")
    assert look(folder, "iceberg") == ["a"]
    change(table)
    with pytest.raises(InputError, match="renamed or replaced the column"):
        look(folder, "iceberg")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"format": "delta"}, "the delta table .* cannot be read"),
        ({"format": "iceberg"}, "no iceberg table"),
        ({"version": 3}, "input.version is for tables"),
        ({"format": "delta", "path": ["a", "b"]}, "takes one input.path"),
    ],
)
def test_what_is_no_table(tmp_path: Path, given: dict[str, Any], reason: str) -> None:
    """And fields that belong to tables alone."""
    (tmp_path / "x.csv").write_text("text\na\n")
    spec = JobSpec.from_dict(
        {
            "input": {"path": str(tmp_path), **given},
            "prompt": {"user": "{{ text }}"},
            "model": "google/gemma-3-4b-it",
            "output": {"path": "out"},
        }
    )
    with pytest.raises(UserError, match=reason):
        survey(spec)
