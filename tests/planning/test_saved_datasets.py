"""Data sets of Hugging Face on disk, as `save_to_disk` of the library lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gemma_batch.cli.starter import starter_spec
from gemma_batch.errors import InputError
from gemma_batch.planning.survey import Survey, survey
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import parse_yaml


def save(folder: Path, texts: list[list[str]], **state: Any) -> None:
    """A saved data set with one file for each list of texts."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{len(texts):05}.arrow" for i in range(len(texts))]
    for name, some in zip(names, texts, strict=True):
        write(folder / name, some)
    facts = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(facts, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}, indent=2))


def write(path: Path, texts: list[str]) -> None:
    table = pa.table({"text": texts})
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def look(path: Path) -> tuple[Survey, list[str]]:
    """The survey of the spec that `init` writes, and the texts of all rows."""
    spec = JobSpec.from_dict(parse_yaml(starter_spec(str(path), "google/gemma-3-4b-it"), where="x"))
    looked = survey(spec)
    rows = []
    for shard in looked.shards:
        for span in shard.reader.index(shard.file, max_rows=2, max_bytes=99):
            rows += [
                (row.values or {})["text"] for row in shard.reader.read(shard.file, span, None)
            ]
    return looked, rows


def test_a_data_set(tmp_path: Path) -> None:
    """Its files that describe it are no rows, and neither are copies that the library keeps."""
    save(tmp_path / "set", [["a", "b", "c"], ["d"]])
    assert look(tmp_path / "set")[1] == ["a", "b", "c", "d"]
    write(tmp_path / "set" / "cache-0123456789abcdef.arrow", ["a", "b", "c", "d"])
    looked, rows = look(tmp_path / "set")
    assert rows == ["a", "b", "c", "d"]
    (note,) = looked.notes
    assert "1 Arrow files" in note
    assert "left out" in note


def test_a_data_set_with_splits(tmp_path: Path) -> None:
    """All splits are read, and the plan says so."""
    save(tmp_path / "set" / "train", [["a"]])
    save(tmp_path / "set" / "test", [["b"]])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    looked, rows = look(tmp_path / "set")
    assert rows == ["b", "a"]
    assert "2 saved data sets or splits ('test', 'train')" in looked.notes[0]
    assert look(tmp_path / "set" / "train")[1] == ["a"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "data-00001-of-00002.arrow").unlink(), "lacks 'data-00001-of"),
        (
            lambda folder: (folder / "state.json").write_text(
                '{"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}'
            ),
            "picks its rows by an index",
        ),
    ],
)
def test_a_data_set_that_is_not_whole_is_refused(tmp_path: Path, damage: Any, reason: str) -> None:
    """Rows would be missing, or be others."""
    save(tmp_path / "set", [["a"], ["b"]])
    damage(tmp_path / "set")
    with pytest.raises(InputError, match=reason):
        look(tmp_path / "set")


def test_other_files_of_these_names_are_rows(tmp_path: Path) -> None:
    """Only a folder with Arrow files and their list is a saved data set."""
    (tmp_path / "state.json").write_text('{"text": "a"}')
    (tmp_path / "dataset_info.json").write_text('{"text": "b"}')
    assert look(tmp_path)[1] == ["b", "a"]
