"""Arguments: the spec or the output will do, and a wrong path is one sentence with exit code 2."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from gemma_batch.cli.arguments import output_of
from gemma_batch.cli.commands import main
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store

if TYPE_CHECKING:
    from tests.conftest import S3Server

SPEC = {
    "input": {"path": "in.jsonl", "id": "key"},
    "prompt": {"user": "{{ text }}"},
    "model": "google/gemma-3-4b-it",
    "output": {"path": "out"},
    "resources": {"engine": "echo"},
}
PLACES = {  # what is said of it: a part of the one sentence
    "": "is empty",
    "nowhere": "nowhere",
    "folder": "folder",
    "text.txt": "text.txt",
    "text.txt/below": "text.txt",
    "bytes.parquet": "bytes.parquet",
    "nowhere.yaml": "there is no such file",
    "nowhere/job.yaml": "there is no such file",
    "folder.yaml": "folder",
    "wrong.yaml": "modle",
    "s3://": "names no bucket",
    "s3a://b/job.yaml": "write s3://",
    "ftp://host/x": "scheme that is not supported",
    "ftp://host/job.yaml": "scheme that is not supported",
    "a\0b": "null",
    f"{'long' * 100}": "name too long",
}
# All commands take their argument by one function, so only the first gets every place.
FEW = ("nowhere", "folder", "text.txt/below", "wrong.yaml", "s3://")
READERS = [("status", place) for place in PLACES] + [
    (command, place)
    for command in ("report --html page.html", "retry", "clean --yes", "show")
    for place in FEW
]
SPEC_READERS = [("plan", place) for place in PLACES] + [
    (command, place) for command in ("try", "run", "submit") for place in FEW
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = ({"key": f"k{i}", "text": "the fox"} for i in range(3))
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("job.yaml").write_text(yaml.safe_dump(SPEC))
    Path("wrong.yaml").write_text(yaml.safe_dump({**SPEC, "modle": "x"}))
    Path("text.txt").write_text("hello")
    Path("bytes.parquet").write_bytes(b"PAR1\xff\xfe\xa5")
    Path("folder").mkdir()
    Path("folder.yaml").mkdir()
    Path("taken").mkdir()
    Path("taken/in.jsonl").symlink_to(tmp_path / "in.jsonl")
    Path("nothing").symlink_to("nowhere-at-all")
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    *before, said = err.strip().splitlines()
    assert ended.value.code == 2, err
    assert said.startswith("error: "), err
    assert not any("Traceback" in line for line in before)
    assert len(before) <= 1, f"beside one line of progress, only the sentence: {err}"
    assert out == ""
    return said


@pytest.mark.parametrize(("command", "place"), READERS)
def test_no_output_is_there(
    command: str, place: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence that names the place, and nothing is written."""
    before = sorted(here.rglob("*"))
    name, *options = command.split()
    said = refused([name, *options, place], capsys)
    assert PLACES[place].lower() in said.lower()
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(("command", "place"), SPEC_READERS)
def test_no_spec_is_there(
    command: str, place: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Ray, before a look at the input."""
    said = refused([command, place], capsys)
    assert "spec" in said or place in said or "modle" in said


FIELDS = [
    ("plan", "output.path=text.txt", "text.txt"),
    ("run", "output.path=text.txt", "text.txt"),
    ("run", "output.path=text.txt/below", "text.txt"),
    ("run", "output.path=nothing", "nothing"),
    ("run", "output.path=ftp://x/y", "scheme"),
    ("run", "output.path=taken", "taken"),
    ("run", "output.path=a\0b", "null"),
    ("run", f"output.path={'long' * 100}", "name too long"),
    ("plan", "input.path=text.txt/x", "text.txt/x"),
    ("plan", "input.path=folder", "no files"),
    ("plan", "input.path=nothing", "nothing"),
    ("plan", "input.path=a\0b", "null"),
    ("plan", f"input.path={'long' * 100}", "long"),
    ("plan", "model=folder", "config.json"),
    ("plan", "model=text.txt", "text.txt"),
    ("plan", "model=./nowhere", "nowhere"),
    ("plan", "answer.schema=folder", "folder"),
    ("plan", "answer.schema=nowhere.json", "nowhere.json"),
    ("plan", "answer.schema=text.txt", "text.txt"),
    ("plan", "tools.definitions=folder", "folder"),
]


@pytest.mark.parametrize(("command", "field", "named"), FIELDS)
def test_wrong_paths_in_a_spec(
    command: str, field: str, named: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder is meant, a folder where a file is meant, places that cannot be."""
    if field == "output.path=taken":
        field = "output.path=taken/in.jsonl"
    before = sorted(here.rglob("*"))
    said = refused([command, "job.yaml", "--set", field], capsys)
    assert named.lower() in said.lower()
    assert sorted(here.rglob("*")) == before


WRITTEN = [
    ("init in.jsonl --to text.txt/x.yaml", "text.txt"),
    ("init in.jsonl --to folder --force", "is a folder"),
    ("init in.jsonl --to folder", "exists"),
    ("init in.jsonl --to new/", "is a folder"),
    ("init in.jsonl --to job.yaml", "--force"),
    ("init in.jsonl --to ftp://x/y.yaml", "scheme"),
    ("init in.jsonl --to /proc/x.yaml", "/proc/x.yaml"),
    ("init nowhere.jsonl", "nowhere.jsonl"),
    ("init folder", "no files"),
    ("init bytes.parquet", "bytes.parquet"),
]


@pytest.mark.parametrize(("command", "named"), WRITTEN)
def test_places_where_no_file_can_be_written(
    command: str, named: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by an administrator, who may write everywhere."""
    assert named in refused(shlex.split(command), capsys)


def test_init_makes_the_folder_of_its_spec(here: Path) -> None:
    """As every program that writes a file where it is told to."""
    with pytest.raises(SystemExit) as ended:
        main(["init", "in.jsonl", "--to", "new/folder/job.yaml"])
    assert not ended.value.code
    assert JobSpec.load("new/folder/job.yaml").input.path == "in.jsonl"


@pytest.mark.parametrize(
    ("argument", "output"),
    [
        ("job.yaml", "out"),
        ("./job.yaml", "out"),
        ("job-without-a-suffix", "out"),
        ("out", "out"),
        ("folder", "folder"),
        ("folder.yaml", "folder.yaml"),
        ("s3://bucket/2026", "s3://bucket/2026"),
    ],
)
def test_the_spec_or_the_output(argument: str, output: str, here: Path) -> None:
    """A relative path in the spec counts from the current folder, as for a run."""
    os.link("job.yaml", "job-without-a-suffix")
    assert output_of(argument) == output
    assert output_of(str(here / argument) if "://" not in argument else argument).endswith(output)


def test_a_spec_in_an_object_store(
    s3: S3Server, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` and `status` read it there; where there is none, the sentence says so."""
    store = open_store(s3.bucket("specs"))
    store.put("in.jsonl", (here / "in.jsonl").read_bytes())
    spec = {**SPEC, "input": {"path": f"{store.url}/*.jsonl"}, "output": {"path": f"{store.url}/o"}}
    store.put("job.yaml", yaml.safe_dump(spec).encode())
    with pytest.raises(SystemExit) as ended:
        main(["plan", f"{store.url}/job.yaml", "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert output_of(f"{store.url}/job.yaml") == f"{store.url}/o"
    assert f"{store.url}/o/_run/manifest.json" in refused(
        ["status", f"{store.url}/job.yaml"], capsys
    )
    assert "there is no such file" in refused(["run", f"{store.url}/jobs.yaml"], capsys)
    assert "bucket" in refused(["run", "s3://no-such-bucket-here/job.yaml"], capsys)
    with pytest.raises(SystemExit) as ended:
        main(["init", f"{store.url}/*.jsonl", "--to", f"{store.url}/new/job.yaml"])
    assert not ended.value.code
    assert JobSpec.load(f"{store.url}/new/job.yaml").input.path == f"{store.url}/*.jsonl"
