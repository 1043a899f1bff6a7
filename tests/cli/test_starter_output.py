"""The output that `init` proposes: beside the input, never in it, and a plan takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.cli.starter import starter_spec
from gemma_batch.cli.starter_output import beside
from gemma_batch.planning.plan import make_plan
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import parse_yaml
from gemma_batch.storage.fs import open_store

if TYPE_CHECKING:
    from tests.conftest import S3Server

ROWS = "".join(json.dumps({"key": f"k{i}", "text": f"the fox {i}"}) + "\n" for i in range(3))


def planned(path: str) -> JobSpec:
    """The spec that `init` writes, which can be planned as it stands."""
    spec = JobSpec.from_dict(parse_yaml(starter_spec(path, "google/gemma-3-4b-it"), where="-"))
    make_plan(spec, need_files=False)
    return spec


LOCAL = [
    ("docs", "docs-out"),
    ("docs/", "docs-out"),
    ("./docs", "./docs-out"),
    ("docs/*.jsonl", "docs-out"),
    ("docs/**", "docs-out"),
    ("docs/a.jsonl", "docs/a-out"),
    ("more/*/b.jsonl", "more-out"),
    ("*.jsonl", "out"),
    ("c.jsonl", "c-out"),
    (".", "../work-out"),
    ("**/*.jsonl", "out"),
    ("../work", "../work-out"),
]


@pytest.mark.parametrize(("path", "output"), LOCAL)
def test_beside_a_local_input(
    path: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with the input's name, as the person wrote it; also by an absolute path."""
    work = tmp_path / "work"
    for name in ("docs/a.jsonl", "docs/d.jsonl", "more/x/b.jsonl", "c.jsonl"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(ROWS)
    monkeypatch.chdir(work)
    assert planned(path).output.path == output
    if path not in (".", "*.jsonl", "**/*.jsonl"):
        found = beside(f"{work}/{path}", "x", is_file=Path(path).is_file())
        assert Path(found).resolve() == Path(output).resolve()


def test_beside_an_input_in_an_object_store(s3: S3Server) -> None:
    """In the same bucket, also when the input is all of the bucket."""
    bucket = s3.bucket("beside")
    store = open_store(bucket)
    for name in ("2026/a.jsonl", "b.jsonl"):
        store.put(name, ROWS.encode())
    outputs = {
        "2026/*.jsonl": "2026-out",
        "2026/": "2026-out",
        "2026/a.jsonl": "2026/a-out",
        "*.jsonl": "out",
        "b.jsonl": "b-out",
        "": "_out",
    }
    for path, output in outputs.items():
        found = planned(f"{bucket}/{path}").output.path
        assert found == f"{bucket}/{output}", path


def test_beside_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, as for an input on the hub."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr("os.access", lambda *_: False)  # an administrator may write everywhere
    assert beside(str(tmp_path / "docs"), "docs", is_file=False) == "docs-out"
    assert beside("hf://datasets/a/b", "b", is_file=False) == "b-out"
