"""`init` on inputs as people have them: `plan` accepts each spec without an edit.

A report of an input on which `init` fails becomes one entry of `INPUTS`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.cli.starter import starter_spec
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import make_plan
from gemma_batch.planning.preview import first_prompt
from gemma_batch.planning.sample import sample_routes
from gemma_batch.prompts.template import Template
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import parse_yaml


class Started(NamedTuple):
    """Files of an input, and what `init` makes of them: text of the first prompt, and id."""

    files: dict[str, Any]
    prompt: str
    id: str | None = None
    path: str = "."


def columns(**values: Any) -> pa.Table:
    """A table of one row."""
    return pa.table({name: [value] for name, value in values.items()})


def doubled(*names: str) -> pa.Table:
    """A table of one row with the name of each column as its value, by which it is recognised."""
    return pa.table([pa.array([f"the {name}"]) for name in names], names=list(names))


SENTENCE = "the quick brown fox"
INPUTS: dict[str, Started] = {
    "spaces": Started(
        {"a.parquet": columns(**{"Order ID": "o1", "Review Text": SENTENCE, "Stars": 5})},
        SENTENCE, "Order ID",
    ),
    "dots": Started(
        {"a.parquet": columns(**{"meta.user_id": 7, "meta.text": SENTENCE, "meta": {"text": 1}})},
        SENTENCE, "meta.user_id",
    ),
    "unicode": Started(
        {"a.csv": "número,描述 文本,👍\n1,the quick brown fox,x\n".encode()}, SENTENCE,
    ),
    "emoji as the only text": Started({"a.jsonl": [{"👍 \u2028": SENTENCE, "n": 1}]}, SENTENCE),
    "names of the output": Started(
        {"a.parquet": columns(id=1, output=SENTENCE, model="m", route="r", prompt_tokens=3)},
        SENTENCE, "id",
    ),
    "an id of texts": Started(
        {"a.jsonl": [{"ID": "x", "body": SENTENCE}, {"ID": "y", "body": "b"}]}, SENTENCE, "ID",
    ),
    "names of Jinja": Started(
        {"a.jsonl": [{"loop": 1, "range": 2, "true": 3, "self": SENTENCE}]}, SENTENCE,
    ),
    "a column named row": Started({"a.parquet": columns(row=SENTENCE, n=1)}, SENTENCE),
    "a column named none": Started({"a.parquet": columns(none=SENTENCE, n=1)}, SENTENCE),
    "words of SQL": Started(
        {"a.parquet": columns(select=SENTENCE, order=2)}, SENTENCE,
    ),
    "a doubled column": Started(
        {"a.parquet": doubled("x", "x", "y", "y", "note")}, "the note",
    ),
    "a spreadsheet": Started(
        {"a.csv": "\ufeffTicket Nr.,Comment,,\n1,the quick brown fox,,\n".encode()}, SENTENCE,
    ),
    "partitions": Started(
        {"year=2026/lang=de/a.parquet": columns(doc=SENTENCE),
         "year=2025/lang=__HIVE_DEFAULT_PARTITION__/b.parquet": columns(doc=SENTENCE)},
        SENTENCE,
    ),
    "one partition": Started(
        {"id=7/a.parquet": columns(doc=SENTENCE)}, SENTENCE, path="id=7",
    ),
    "only a folder tells": Started({"text=fox/n=1/a.jsonl": [{"x": 3}]}, "3"),
    "only numbers": Started({"a.parquet": columns(a=1.5, b=20.25)}, "20.25"),
    "only a struct": Started({"a.parquet": columns(**{"a b": {"c": SENTENCE}})}, SENTENCE),
    "binary beside text": Started({"a.parquet": columns(photo=b"\xff", alt=SENTENCE)}, SENTENCE),
    "quotes and braces": Started(
        {"a.parquet": columns(**{"it's \"}}{% raw %}\\": SENTENCE, "{{ x }}_id": "k"})},
        SENTENCE, "{{ x }}_id",
    ),
    "line ends": Started(
        {"a.parquet": columns(**{"a\nmodel: x": SENTENCE, "b\r\n_id": 3})},
        SENTENCE, "b\r\n_id",
    ),
    "case": Started(
        {"a.parquet": columns(TEXT="upper", Text=SENTENCE, text="lower")}, SENTENCE,
    ),
    "two spellings": Started(
        {"a.jsonl": [{"e\u0301": SENTENCE, "\u00e9": "no"}]}, SENTENCE,
    ),
    "no name": Started({"a.csv": b",n\nthe quick brown fox,1\n"}, SENTENCE),
    "ids that repeat": Started(
        {"a.jsonl": [{"user_id": 1, "key": "a", "text": SENTENCE},
                     {"user_id": 1, "key": "b", "text": "x"}]},
        SENTENCE, "key",
    ),
    "the longest text": Started(
        {"a.parquet": columns(title="fox", story=f"{SENTENCE} jumps", url="http://x")}, SENTENCE,
    ),
    "a text that is empty": Started(
        {"a.parquet": pa.table({"text": pa.array([None], pa.string()), "note": [SENTENCE]})},
        SENTENCE,
    ),
    "columns that drift": Started(
        {"a.parquet": columns(text=SENTENCE, n=1), "b.parquet": columns(text="x", m=2)}, SENTENCE,
    ),
}  # fmt: skip


def put(folder: Path, files: dict[str, Any]) -> None:
    """Write the files: a list is JSON lines, a table Parquet."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, list):
            lines = [json.dumps(row, ensure_ascii=False) for row in content]
            path.write_text("\n".join(lines), encoding="utf-8")
        else:
            pq.write_table(content, path)


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_what_init_writes_is_planned_without_an_edit(
    tmp_path: Path, model: str, given: Started
) -> None:
    """The echo engine answers every row of it, and the first prompt holds the first row's text."""
    put(tmp_path / "in", given.files)
    path = str(tmp_path / "in" / given.path)
    data = parse_yaml(starter_spec(path, model), where="job.yaml")
    data["resources"] = {"engine": "echo", "device": "cpu"}
    data["sampling"]["max_tokens"] = 8
    data["resources"]["max_model_len"] = 256
    spec = JobSpec.from_dict(data)
    assert (spec.input.path, spec.input.id, spec.output.keep) == (path, given.id, ())
    made = make_plan(spec).placed(Hardware(gpu=None, memory_gib=8))
    shown = first_prompt(made)
    assert given.prompt in (shown["text"] or ""), shown
    assert "What is this about?" in shown["text"]
    assert sample_routes(made)["all"].failures == {}
    assert made.units()


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_the_example_of_routes_that_init_writes_can_be_used(
    tmp_path: Path, model: str, given: Started
) -> None:
    """People take the comment sign away: its `when` is valid for the column with the text."""
    put(tmp_path / "in", given.files)
    text = starter_spec(str(tmp_path / "in" / given.path), model)
    lines = text.splitlines()
    start = lines.index("# routes:")
    lines[start : start + 3] = [line.removeprefix("# ") for line in lines[start : start + 3]]
    lines.remove(next(line for line in lines if line.startswith("model:")))
    text = "\n".join(lines).replace("google/gemma-3-27b-it", json.dumps(model))
    data = parse_yaml(text.replace("google/gemma-3-4b-it", json.dumps(model)), where="job.yaml")
    data["output"]["path"] = str(tmp_path / "out")
    data["resources"] = {"max_model_len": 400, "engine": "echo"}
    made = make_plan(JobSpec.from_dict(data))
    assert made.survey.router.columns == Template(made.survey.prompt.user or "").columns - {""}
