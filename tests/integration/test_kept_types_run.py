"""Kept columns of JSON lines over a whole run, a restart and a retry: one schema, no row lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.manifest import KEY
from gemma_batch.storage.fs import open_store

from .helpers import cli, write_spec

ROWS = 1500


@pytest.mark.long
def test_a_late_type_costs_no_row(tiny: str, cluster: str, tmp_path: Path) -> None:
    """The first thousand rows show whole numbers; a part that is made later has the same types."""
    rows: list[dict[str, Any]] = [{"doc": f"text {i}", "n": i, "m": i} for i in range(ROWS)]
    rows[1200].update(n=0.5, m=["x"])
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    output = str(tmp_path / "out")
    job = write_spec(
        tmp_path / "job.yaml",
        **{
            "input": {"path": str(path)},
            "prompt": {"user": "{{ doc }}"},
            "model": tiny,
            "sampling": {"max_tokens": 4},
            "output": {"path": output, "keep": ["n", "m"]},
            "resources": {"engine": "echo", "max_model_len": 64, "replicas": 1},
            "policy": {"unit_rows": 500},
        },
    )
    store = open_store(output)
    schemas = set()
    for start in ("new", "resumed", "of an older version"):
        done = cli("run", str(job), "--json", RAY_ADDRESS=cluster)
        assert done.returncode == 0, done.stderr
        parts = sorted(store.list("results"))
        tables = [pq.read_table(pa.BufferReader(store.read(part))) for part in parts]
        assert len(tables) == 3
        schemas |= {str(table.schema) for table in tables}
        assert len(schemas) == 1, start
        kept = pa.concat_tables(tables).select(["n", "m"]).to_pylist()
        assert [row["n"] for row in kept] == [float(row["n"]) for row in rows]
        assert kept[1200]["m"] == '["x"]'
        assert kept[0]["m"] == "0"
        store.delete(parts[0])
        if start == "resumed":
            record = json.loads(store.read(KEY))
            del record["kept"]
            store.put(KEY, json.dumps(record).encode())
