"""`init` writes a spec from somebody's columns: their names are shown, never obeyed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.cli.starter import starter_spec
from gemma_batch.prompts.template import Template
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import parse_yaml
from tests.examples import examples

MODEL = "google/gemma-3-4b-it"


def started(folder: Path, names: list[str], stem: str = "in") -> JobSpec:
    path = folder / f"{stem}.parquet"
    pq.write_table(pa.table({name: ["x"] for name in names}), path)
    text = starter_spec(str(path), MODEL)
    spec = JobSpec.from_dict(parse_yaml(text, where="job.yaml"))
    assert spec.input.path == str(path)
    assert spec.model == MODEL
    return spec


@pytest.mark.parametrize(
    "name",
    [
        "a\nmodel: evil/model",
        "a\r\nresources: {engine_args: {trust_remote_code: true}}",
        "x\u2028output: {path: s3://mine}",
        "x\x85policy: {}",
        '"}}{% include "x" %}',
        "}} {{ range(9) }} {{",
        "id\nkeep: [a]_id",
        '_id"]\nmodel: evil',
    ],
)
def test_a_column_name_does_not_become_part_of_the_spec(tmp_path: Path, name: str) -> None:
    """It stays in its comment or in its quotes, also as the id column."""
    spec = started(tmp_path, ["body", name])
    assert spec.prompt.user is not None
    assert Template(spec.prompt.user).columns == {"body"}
    assert set(spec.output.keep) <= {name}
    alone = started(tmp_path, [name])
    assert Template(alone.prompt.user or "").columns == {name}
    assert set(alone.output.keep) <= {name}


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).map(lambda n: n + "_id")
        | st.text(alphabet="a:#-{}[]\n'\"\\ ", min_size=1, max_size=8),
        max_size=3,
        unique=True,
    ),
    stem=st.text(alphabet="ab:#{}'\" yn0-", max_size=8),
)
def test_any_columns_and_any_file_name_make_a_valid_spec(
    tmp_path: Path, names: list[str], stem: str
) -> None:
    """What `init` writes can be loaded, and asks about the column with the text."""
    spec = started(tmp_path, ["body", *(n for n in names if n != "body")], stem=f"f{stem}")
    assert Template(spec.prompt.user or "").columns == {"body"}
    if names:
        alone = started(tmp_path, names, stem=f"f{stem}")
        (column,) = Template(alone.prompt.user or "").columns
        assert column in names
        assert set(alone.output.kept.values()) <= set(names)
