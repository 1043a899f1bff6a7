"""Plan and preparation together, without Ray: each row becomes a request or its own failure."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gemma_batch.errors import InputError, SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reading.prepare import Preparer
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.units.payload import Prepared, decode, encode

ROWS = [{"key": f"k{i}", "text": f"the fox number {i}", "n": i} for i in range(10)]


def plan_for(path: str, model: str, **changes: Any) -> Plan:
    data = {
        "input": {"path": path, "id": "key"},
        "prompt": {"user": "Say: {{ text }}"},
        "model": model,
        "sampling": {"max_tokens": 8},
        "output": {"path": "./out", "keep": ["n"]},
        "resources": {"engine": "echo", "max_model_len": 256},
        "policy": {"unit_rows": 4},
        **changes,
    }
    return make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None))


def prepare(plan: Plan) -> list[Prepared]:
    """Every unit of the first route, by way of what Ray would carry."""
    preparer = Preparer(plan.job(plan.routes[0]))
    found = []
    for unit in plan.units():
        table = encode(preparer.prepare(plan.survey.shards, unit))
        found.append(decode(table["unit"][0].as_py(), table["rows"][0].as_buffer()))
    return found


def write(folder: Path, kind: str) -> str:
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "in.parquet", row_group_size=3)
        return str(folder / "in.parquet")
    if kind == "csv":
        text = "key,text,n\n" + "".join(f"{r['key']},{r['text']},{r['n']}\n" for r in ROWS)
        (folder / "in.csv").write_text(text)
        return str(folder / "in.csv")
    packed = {
        "jsonl": lines,
        "jsonl.gz": gzip.compress(lines),
        "jsonl.zst": zstandard.compress(lines),
    }
    (folder / f"in.{kind}").write_bytes(packed[kind])
    return str(folder / f"in.{kind}")


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst", "csv"])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_every_format_gives_the_same_requests(
    tmp_path: Path, model: str, s3: Any, kind: str, where: str
) -> None:
    """Same rows, same ids, same tokens, whatever file they come from, local or S3."""
    path = write(tmp_path, kind)
    if where == "s3":
        url = s3.bucket("formats")
        open_store(url).put(Path(path).name, Path(path).read_bytes())
        path = f"{url}/{Path(path).name}"
    prepared = prepare(plan_for(path, model))
    tokenizer = Tokenizer.from_folder(model)
    expected = [
        tokenizer.encode(tokenizer.chat.render([{"role": "user", "content": f"Say: {r['text']}"}]))
        for r in ROWS
    ]
    assert [request.prompt.token_ids for unit in prepared for request in unit.requests] == expected
    assert [key for unit in prepared for key in unit.ids] == [row["key"] for row in ROWS]
    kept = [value for unit in prepared for value in unit.keep["n"].to_pylist()]
    assert [int(value) for value in kept] == [row["n"] for row in ROWS]
    assert not any(unit.failures for unit in prepared)


def test_openai_batch_lines_need_no_prompt_and_keep_their_parameters(
    tmp_path: Path, model: str
) -> None:
    """custom_id is the id, messages the prompt, and each row's parameters are its own."""

    def line(key: str, **body: Any) -> str:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        return json.dumps({"custom_id": key, "body": {"messages": messages, **body}})

    lines = [
        line("a", model="x", temperature=0.5, max_tokens=5),
        line("b", max_completion_tokens=7),
        line("c", temperature=-1),
        line("d", n=2),
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    plan = plan_for(
        str(tmp_path / "in.jsonl"), model, input={"path": str(tmp_path / "in.jsonl")},
        prompt={}, output={"path": "./out"},
    )  # fmt: skip
    (unit,) = prepare(plan)
    assert unit.ids == ["a", "b", "c", "d"]
    assert [r.sampling for r in unit.requests] == [
        {"temperature": 0.5, "max_tokens": 5},
        {"max_tokens": 7},
    ]
    assert {n: f.code for n, f in unit.failures.items()} == {2: "bad_params", 3: "bad_params"}
    assert "temperature" in unit.failures[2].message
    assert "'n'" in unit.failures[3].message


def test_a_rows_own_parameters_arrive_as_it_wrote_them(tmp_path: Path, model: str) -> None:
    """Through the payload that goes to the GPU actor: token ids are numbers there, not text."""
    own = {"logit_bias": {"5": 1.5}, "stop_token_ids": [7], "stop": ["x"]}
    row = {"key": "a", "text": "the fox", "n": 1, "own": own}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    prompt = {"user": "Say: {{ text }}", "params": "own"}
    (unit,) = prepare(plan_for(str(tmp_path / "in.jsonl"), model, prompt=prompt))
    (request,) = unit.requests
    assert request.sampling == {**own, "logit_bias": {5: 1.5}}


def test_a_shard_that_goes_bad_after_planning_costs_its_own_rows(
    tmp_path: Path, model: str
) -> None:
    """Corrupt, replaced or deleted: as many failures as rows were planned, the others unharmed."""
    for name in ("bad", "gone", "good", "other"):
        rows = [{"key": f"{name}{i}", "text": "the fox " * 30, "n": i} for i in range(5)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet", compression="zstd")
    # Damage the data but not the footer: planning can't see it.
    path = tmp_path / "bad.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    plan = plan_for(f"{tmp_path}/*.parquet", model)
    units = plan.units()
    (tmp_path / "gone.parquet").unlink()
    pq.write_table(
        pa.Table.from_pylist([{"key": "x", "text": "y", "n": 1}]), tmp_path / "other.parquet"
    )
    preparer = Preparer(plan.job(plan.routes[0]))
    codes: dict[str, set[str]] = {}
    for unit in units:
        shard = plan.survey.shards[unit.shard]
        prepared = preparer.prepare(plan.survey.shards, unit)
        assert len(prepared.numbers) == unit.expected
        assert len(prepared.requests) + len(prepared.failures) == unit.expected
        found = {f.code for f in prepared.failures.values()} or {"fine"}
        codes.setdefault(Path(shard.url).stem, set()).update(found)
        assert all(shard.url in f.message for f in prepared.failures.values())
    assert codes == {
        "bad": {"shard_unreadable"},
        "gone": {"shard_unreadable"},
        "other": {"shard_changed"},
        "good": {"fine"},
    }


def test_rows_without_an_id_column_are_named_by_shard_and_row(tmp_path: Path, model: str) -> None:
    """The default key is stable and unique."""
    path = write(tmp_path, "jsonl")
    prepared = prepare(plan_for(path, model, input={"path": path}))
    assert [key for unit in prepared for key in unit.ids][:2] == [
        "00000-0000000000",
        "00000-0000000001",
    ]


def test_what_is_kept_must_fit_its_column(tmp_path: Path, model: str) -> None:
    """A value of another type than the rest fails its row, before the row costs anything."""
    rows = [{"key": "a", "text": "x", "n": 1}] * 1500 + [{"key": "b", "text": "x", "n": "many"}]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    prepared = prepare(plan_for(str(tmp_path / "in.jsonl"), model, policy={"unit_rows": 5000}))
    (unit,) = prepared
    assert {n: f.code for n, f in unit.failures.items()} == {1500: "bad_value"}


def test_files_of_two_formats_are_refused(tmp_path: Path, model: str) -> None:
    """One job, one format: the sentence says which were found."""
    write(tmp_path, "csv")
    write(tmp_path, "parquet")
    with pytest.raises(InputError, match=r"1 of csv such as .*, 1 of parquet such as "):
        plan_for(str(tmp_path), model)


@pytest.mark.parametrize("column", ["typo", "txt"])
def test_a_missing_column_is_refused_when_planning(tmp_path: Path, model: str, column: str) -> None:
    """Not row by row, hours later."""
    with pytest.raises(SpecError, match=f"prompt.user names the column '{column}'"):
        plan_for(write(tmp_path, "parquet"), model, prompt={"user": "{{ %s }}" % column})  # noqa: UP031


def test_a_row_cannot_ask_for_log_probabilities_beside_those_of_the_confidence(
    tmp_path: Path, model: str
) -> None:
    """One engine takes one such request. The engine's are asked for by the shape."""
    own = [{**row, "own": {"logprobs": 2} if row["n"] == 3 else {"seed": 1}} for row in ROWS]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    changes: dict[str, Any] = {
        "prompt": {"user": "{{ text }}", "params": "own"},
        "answer": {"confidence": True},
    }
    plan = plan_for(str(tmp_path / "in.jsonl"), model, **changes)
    job = plan.job(plan.routes[0])
    assert (job.sampling["logprobs"], job.engine.token_logprobs) == (0, True)
    failures = {number: one for unit in prepare(plan) for number, one in unit.failures.items()}
    assert {number: one.code for number, one in failures.items()} == {3: "bad_params"}
    assert "'logprobs' cannot be set by a row" in failures[3].message
    without = plan_for(str(tmp_path / "in.jsonl"), model, prompt=changes["prompt"])
    assert plan.fingerprint() != without.fingerprint(), "the columns differ"
    args = {"engine": "vllm", "engine_args": {"logprobs_mode": "processed_logits"}}
    with pytest.raises(SpecError, match=r"logprobs_mode: 'processed_logits' gives numbers"):
        plan_for(str(tmp_path / "in.jsonl"), model, **changes, resources=args)
