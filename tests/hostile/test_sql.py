"""`when` is an expression over one row: it reaches no file, network, setting or environment."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.errors import SpecError
from gemma_batch.planning.routing import Router
from gemma_batch.rows import Row
from gemma_batch.spec import Route

SCHEMA = pa.schema([("body", pa.string()), ("n", pa.int64())])
SECRET = "canary-in-a-file"


def router(when: str) -> Router:
    return Router([Route(name="a", model="m", when=when), Route(name="b", model="m")], SCHEMA)


@pytest.fixture
def bait(tmp_path: Path) -> Path:
    """A folder with files that DuckDB could read, were it let."""
    (tmp_path / "bait.txt").write_text(SECRET)
    (tmp_path / "bait.csv").write_text(f"x\n{SECRET}\n")
    (tmp_path / "bait.json").write_text('[{"x": 1}]')
    pq.write_table(pa.table({"x": [1]}), tmp_path / "bait.parquet")
    return tmp_path


STATEMENTS = [
    "true; ATTACH '{bait}/new.db' AS d",
    "true; COPY (SELECT 1) TO '{bait}/new.csv'",
    "true; EXPORT DATABASE '{bait}/new'",
    "true; INSTALL httpfs",
    "true; LOAD httpfs",
    "true; LOAD '{bait}/bait.so'",
    "true; SET enable_external_access=true",
    "true; SET lock_configuration=false",
    "true; RESET enable_external_access",
    "true; PRAGMA database_list",
    "true; CREATE TABLE t AS SELECT 1",
    "true; CREATE MACRO f() AS 1",
    "true; CREATE SECRET s (TYPE s3)",
    "true; CALL pragma_version()",
    "true; SELECT 1",
    "true;",
    "true FROM '{bait}/bait.csv'",
    "true FROM read_text('{bait}/bait.txt')",
    "true FROM (SELECT * FROM '{bait}/bait.parquet')",
    "true FROM rows",
    "true WHERE (SELECT content FROM read_text('{bait}/bait.txt')) IS NOT NULL",
    "true UNION SELECT content = 'x' FROM read_text('{bait}/bait.txt')",
    "true ORDER BY (SELECT 1)",
    "true LIMIT (SELECT count(*) FROM '{bait}/bait.csv')",
    "true INTO OUTFILE '{bait}/new.txt'",
    "(SELECT content FROM read_text('{bait}/bait.txt')) = 'x'",
    "(FROM read_csv('{bait}/bait.csv')) = 'x'",
    "(FROM '{bait}/bait.csv') IS NOT NULL",
    "(TABLE rows) IS NOT NULL",
    "(VALUES (1)) = 1",
    "(WITH q AS (SELECT * FROM glob('{bait}/*')) SELECT count(*) FROM q) > 0",
    "n IN (SELECT x FROM '{bait}/bait.parquet')",
    "n IN (FROM read_parquet('{bait}/bait.parquet'))",
    "n = ANY (SELECT x FROM read_json('{bait}/bait.json'))",
    "ARRAY(SELECT content FROM read_text('{bait}/bait.txt')) IS NOT NULL",
    "EXISTS (FROM glob('/etc/*'))",
    "list_transform([1], x -> (SELECT 1 FROM read_text('{bait}/bait.txt'))) IS NOT NULL",
    "[x FOR x IN [1] IF (SELECT true FROM glob('/*'))] IS NOT NULL",
    "CASE WHEN true THEN (SELECT true FROM read_blob('{bait}/bait.txt')) END",
    "COLUMNS('.*') IS NOT NULL",
    "sum(n) OVER (ORDER BY (SELECT 1 FROM '{bait}/bait.csv')) > 0",
    "read_text('{bait}/bait.txt') IS NOT NULL",
    "read_csv('{bait}/bait.csv') IS NOT NULL",
    "sniff_csv('{bait}/bait.csv') IS NOT NULL",
    "parquet_metadata('{bait}/bait.parquet') IS NOT NULL",
    "glob('{bait}/*') IS NOT NULL",
    "query('SELECT 1') IS NOT NULL",
    "query_table('rows') IS NOT NULL",
    "getenv('HOME') IS NOT NULL",
    "\"getenv\"('HOME') IS NOT NULL",
    "GetEnv('HOME') IS NOT NULL",
    "system.main.getenv('HOME') IS NOT NULL",
    "'HOME'.getenv() IS NOT NULL",
    "list_transform(['HOME'], x -> getenv(x)) IS NOT NULL",
    "list_apply(['HOME'], lambda x: x.getenv()) IS NOT NULL",
    "current_setting('secret_directory') IS NOT NULL",
    "'secret_directory'.current_setting() IS NOT NULL",
    "current_user IS NOT NULL",
    "current_database() IS NOT NULL",
    "current_schemas(true) IS NOT NULL",
    "version() IS NOT NULL",
    "duckdb_settings() IS NOT NULL",
    "duckdb_secrets() IS NOT NULL",
    "which_secret('s3://x', 's3') IS NOT NULL",
    "pg_typeof(n) = 'x'; SELECT 1",
    "current_date > DATE '2020-01-01'",
    "CURRENT_TIMESTAMP IS NOT NULL",
    "current_localtimestamp() IS NOT NULL",
    "get_current_time() IS NOT NULL",
    "age(TIMESTAMP '2020-01-01') > INTERVAL 1 DAY",
    "ago(INTERVAL 1 DAY) IS NOT NULL",
    "sleep_ms(100000) IS NULL",
    "pg_sleep(100) IS NULL",
    "count(*) > 1",
    "sum(n) > 1",
    "row_number() OVER () > 1",
    "unnest([true, false])",
    "struct_extract(rows, 'n') > 0",
    "getvariable('x') IS NOT NULL",
    "json_execute_serialized_sql(json_serialize_sql('SELECT 1')) IS NOT NULL",
    "error(body)",
    "write_log(body) IS NULL",
    "parse_duckdb_log_message('a', body) IS NULL",
    "pragma_database_size() IS NOT NULL",
    "checkpoint() IS NOT NULL",
    "force_checkpoint() IS NOT NULL",
    "nextval('x') > 0",
    "txid_current() > 0",
    "random() > 0.5",
    "$1 = 1",
    "? = 1",
    "$body = 1",
    "*",
    "n, body",
    "true)), false) FROM rows; COPY (SELECT 1) TO '{bait}/new.csv' --",
    "true)), false) FROM read_text('{bait}/bait.txt') --",
    "true /*",
    "'a' = 'b",
    "rows IS NOT NULL; ATTACH ':memory:' AS x",
]


@pytest.mark.parametrize("when", STATEMENTS)
def test_what_is_more_than_an_expression_over_the_row_is_refused(when: str, bait: Path) -> None:
    """Refused before anything starts, or no different from an expression: nothing is touched."""
    when = when.replace("{bait}", str(bait))
    before = sorted(bait.iterdir())
    try:
        made = router(when)
        answers = [made.assign([Row(i, {"body": "x", "n": i})]) for i in range(2)]
    except SpecError as err:
        answers, refusal = [], str(err)
    else:
        refusal = ""
    assert sorted(bait.iterdir()) == before
    assert SECRET not in refusal
    if refusal:
        assert "routes.a.when" in refusal
        assert "\n" not in refusal
    else:
        assert when in HARMLESS, answers


HARMLESS = {"version() IS NOT NULL"}


@pytest.mark.parametrize("address", ["http", "https", "s3", "gcs", "hf", "ftp"])
def test_no_expression_reaches_the_network(address: str) -> None:
    """A server that listens sees nobody, and no extension is fetched for the scheme."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        url = f"{address}://127.0.0.1:{server.getsockname()[1]}/x.csv"
        for when in (
            f"read_text('{url}') IS NOT NULL",
            f"EXISTS (FROM '{url}')",
            f"EXISTS (FROM read_csv('{url}'))",
            f"true FROM '{url}'",
            f"true; ATTACH '{url}' AS x",
            f"true; INSTALL x FROM '{url}'",
        ):
            with pytest.raises(SpecError):
                router(when)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_value_that_looks_like_sql_or_a_path_is_a_value(bait: Path) -> None:
    """Rows are bound as data: what they hold is compared, never run or opened."""
    made = router("length(body) > 3 AND n >= 0")
    hostile = [
        f"{bait}/bait.txt",
        "bait' OR 1=1; --",
        f"'; COPY (SELECT 1) TO '{bait}/new.csv'; --",
        "(SELECT content FROM read_text('bait'))",
        "bait\x00",
    ]
    before = sorted(bait.iterdir())
    found = made.assign([Row(i, {"body": text, "n": i}) for i, text in enumerate(hostile)])
    assert found == ["a"] * len(hostile)
    assert sorted(bait.iterdir()) == before


def test_a_column_named_like_sql_is_a_column() -> None:
    """A hostile header does not become part of the query."""
    name = "x\") FROM read_text('/etc/passwd') --"
    schema = pa.schema([(name, pa.string()), ("n", pa.int64())])
    quoted = name.replace('"', '""')
    routes = [Route(name="a", model="m", when=f"\"{quoted}\" = 'y'"), Route(name="b", model="m")]
    made = Router(routes, schema)
    assert made.columns == {name}
    assert made.assign([Row(0, {name: "y", "n": 1}), Row(1, {name: "z"})]) == ["a", "b"]


BOMBS = [
    "length(repeat(body, 10000000000)) > 5",
    "length(range(10000000000)) > 5",
    "len(list_transform(range(1000000000), x -> x)) > 5",
    "length(repeat(repeat(body, 100000), 100000)) > 5",
]


@pytest.mark.parametrize("when", BOMBS)
def test_an_expression_cannot_eat_the_machine(when: str) -> None:
    """One that asks for gigabytes is refused, or matches no row; the process goes on."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    answers: Any = None
    try:
        answers = router(when).assign([Row(0, {"body": "x", "n": 1})])
    except SpecError as err:
        answers = str(err)
    assert answers in (["a"], ["b"]) or "routes.a.when" in answers
    assert time.process_time() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * 2**20  # KiB
