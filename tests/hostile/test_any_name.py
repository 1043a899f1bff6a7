"""Any name of a column: templates, `when` and `keep` reach this column and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.planning.folders import with_folders
from gemma_batch.planning.routing import Router
from gemma_batch.prompts.mentions import mention
from gemma_batch.prompts.template import Template
from gemma_batch.spec import Route
from gemma_batch.storage.keep import keep_table, kept_field
from gemma_batch.units.unit import Shard
from tests.examples import examples

KNOWN = [
    "row", "self", "loop", "range", "none", "select", "order", "rows", "id", "output", "x.y",
    "e\u0301", "\u00e9", "fi", "ﬁ", "#1", "a #1", "keep.a", "value.a", "json",
]  # fmt: skip
# Names that differ in case or in spelling alone, that have a meaning elsewhere, and any text.
NAMES = (
    st.text(st.sampled_from("aAéÉ"), min_size=1, max_size=3)
    | st.sampled_from(KNOWN)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
)


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True), parquet=st.booleans())
def test_any_name(tmp_path: Path, names: list[str], parquet: bool) -> None:
    """Each column has another value, by which it is recognised."""
    values = {name: f"v{i}" for i, name in enumerate(names)}
    path = tmp_path / f"in.{'parquet' if parquet else 'jsonl'}"
    if parquet:
        pq.write_table(pa.table({name: [value] for name, value in values.items()}), path)
    else:
        path.write_text(json.dumps(values))
    size, kind = path.stat().st_size, path.suffix[1:]
    (shard,) = with_folders([Shard(number=0, url=str(path), size=size, etag="", format=kind)])
    schema = shard.reader.schema(shard.file)
    assert schema.names == names
    (span,) = shard.reader.index(shard.file, max_rows=9, max_bytes=2**20)
    for name, value in values.items():
        (row,) = shard.reader.read(shard.file, span, [name])
        template = Template(mention(name))
        assert (template.columns, template.render(row.values or {}).text) == ({name}, value)
    (row,) = shard.reader.read(shard.file, span, [*names, "\0absent"])
    assert row.values == {**values, "\0absent": None}
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
    when = " AND ".join(f"{quoted[name]} = '{value}'" for name, value in values.items())
    router = Router([Route(name="a", model="m", when=when), Route(name="b", model="m")], schema)
    assert router.columns == set(names)
    assert router.assign([row]) == ["a"]
    kept = pa.schema([kept_field(f"new {name}", name, schema.field(name).type) for name in names])
    assert keep_table([row], kept).to_pylist() == [{f"new {n}": v for n, v in values.items()}]
