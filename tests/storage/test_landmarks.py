"""A machine that lacks the driver's paths is told from one that has them."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gemma_batch.storage import landmarks as module
from gemma_batch.storage.landmarks import (
    MOST_FILES,
    Landmarks,
    folder_digest,
    input_landmarks,
    put_stamp,
)
from gemma_batch.storage.listing import stat


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network file system takes part here."""
    monkeypatch.setattr(module, "CACHE_SECONDS", 0.2)
    monkeypatch.setattr(module, "PAUSE", 0.05)


@pytest.fixture
def disk(tmp_path: Path, model: str) -> Path:
    """A disk with input in two folders, a model and an output."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"s{number}.jsonl").write_text('{"doc": "x"}\n')
    shutil.copytree(model, tmp_path / "model")
    return tmp_path


def seen(disk: Path) -> Landmarks:
    """What the driver saw on the disk."""
    urls = sorted(str(path) for path in disk.glob("*/*.jsonl"))
    output, model = str(disk / "out"), str(disk / "model")
    return Landmarks(
        output=output,
        stamp=put_stamp(output),
        inputs=input_landmarks([(url, stat(url).etag) for url in urls]),
        model=model,
        digest=folder_digest(model),
    )


def test_the_same_disk_has_every_landmark(disk: Path) -> None:
    """Also when the model is a copy with other times."""
    marks = seen(disk)
    assert marks
    os.utime(disk / "model" / "config.json", (1, 1))
    assert marks.unseen() is marks.lost() is marks.lost_output() is None


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("out", "output.path '{disk}/out' with the driver: it finds no stamp there"),
        ("[ab]", "input file '{disk}/a/s0.jsonl' with the driver: it has no such file"),
        ("model", "model '{disk}/model' with the driver: it has no model there"),
    ],
)
def test_a_disk_that_is_missing(disk: Path, gone: str, words: str) -> None:
    """The sentence names the field and the path, before a run and in the middle of it."""
    marks = seen(disk)
    for folder in list(disk.glob(gone)):
        shutil.rmtree(folder)
        folder.mkdir()  # the empty mount point of a disk that is not mounted
    for said in (marks.unseen(), marks.lost()):
        assert said is not None
        assert said.startswith("does not share ")
        assert words.format(disk=disk) in said


def test_other_files_at_the_same_path(disk: Path) -> None:
    """Before a run, an own copy of the input with other times would be taken for changed shards."""
    marks = seen(disk)
    os.utime(disk / "a" / "s1.jsonl", (1, 1))
    assert "it has another file there" in str(marks.unseen())
    marks = seen(disk)
    (disk / "model" / "config.json").write_text("{}")
    assert "it has another model there" in str(marks.unseen())
    marks = seen(disk)
    put_stamp(marks.output)
    assert "the stamp there is another run's" in str(marks.lost_output())


def test_files_that_go_away_during_a_run_are_not_a_lost_disk(disk: Path) -> None:
    """They cost their own rows, as on one node; also all files of a folder of several."""
    marks = seen(disk)
    shutil.rmtree(disk / "a")
    assert marks.lost() is None
    assert "it has no such file" in str(marks.unseen())


def test_each_disk_of_the_input_counts(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have one of them and lack the other."""
    monkeypatch.setattr(module, "_disk", lambda folder: int(folder.endswith("b")))
    marks = seen(disk)
    assert len(marks.inputs) == 2
    shutil.rmtree(disk / "b")
    assert f"{disk}/b/s0.jsonl" in str(marks.lost())


def test_a_stamp_that_a_network_file_system_shows_late(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for."""
    monkeypatch.setattr(module, "CACHE_SECONDS", 30.0)
    marks, shown = seen(disk), time.monotonic() + 0.3
    real = module._stamp
    monkeypatch.setattr(
        module, "_stamp", lambda output: real(output) if time.monotonic() > shown else ""
    )
    assert marks.lost_output() is None


def test_remote_locations_need_no_landmarks() -> None:
    """Nothing is looked at, and nothing is written."""
    assert put_stamp("s3://bucket/out") == ""
    marks = Landmarks(stamp="", inputs=input_landmarks([("s3://bucket/x.parquet", "e")]))
    assert not marks
    assert marks.unseen() is marks.lost() is None


def test_few_of_many_files_are_looked_at() -> None:
    """Of a million files a node looks at a few, all over the input, the first among them."""
    files = [(f"/d/{folder:03d}/{n}.parquet", "e") for folder in range(100) for n in range(50)]
    (group,) = input_landmarks(files)
    assert MOST_FILES / 2 < len(group) <= MOST_FILES
    assert group[0] == files[0]
    assert len({os.path.dirname(url) for url, _ in group}) > MOST_FILES / 2
    assert input_landmarks(files[:3]) == (tuple(files[:3]),)


def test_a_model_with_other_weights(disk: Path) -> None:
    """Their names and sizes count, beside the small files."""
    marks = seen(disk)
    next((disk / "model").glob("*.safetensors")).write_bytes(b"x")
    assert "another model" in str(marks.lost())
    assert replace(marks, digest=folder_digest(marks.model)).lost() is None
