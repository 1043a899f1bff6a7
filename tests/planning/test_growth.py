"""Files of a growing input: known, new, touched or changed, by number (promises 1 and 5)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.manifest import create_manifest, fingerprint, load_manifest
from gemma_batch.errors import InputError
from gemma_batch.planning.growth import check_kept, tell, with_digests
from gemma_batch.planning.survey import survey
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.listing import stat
from gemma_batch.units.unit import Shard


def shard(path: Path, number: int = 0, **more: object) -> Shard:
    file = stat(str(path))
    base = Shard(number=number, url=file.url, size=file.size, etag=file.etag, format="jsonl")
    return replace(base, **more)  # type: ignore[arg-type]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Four files; the names of the later ones come first."""
    found = [tmp_path / f"{name}.jsonl" for name in "dcba"]
    for number, path in enumerate(found):
        path.write_text(f'{{"a": {number}}}\n')
    return found


def test_known_files_keep_their_numbers_and_new_ones_follow(paths: list[Path]) -> None:
    """Whatever their names are, and also where a known file is gone by now."""
    known = [shard(paths[0], 0), shard(paths[1], 1), shard(paths[2], 2)]
    found = [shard(path, number) for number, path in enumerate(sorted(paths))]
    told = tell([one for one in found if one.url != str(paths[2])], known)
    assert [(one.url, one.number) for one in told.known] == [
        (str(paths[0]), 0),
        (str(paths[1]), 1),
    ]
    assert [(one.url, one.number) for one in told.new] == [(str(paths[3]), 3)]
    first = tell(found, ())
    assert [one.number for one in first.new] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("contents", "with_digest", "touched"),
    [
        ('{"a": 0}\n', True, True),
        ('{"a": 7}\n', True, False),
        ('{"a": 0}\n\n', True, False),
        ('{"a": 0}\n', False, False),
    ],
    ids=["touched", "changed", "longer", "of an output without digests"],
)
def test_a_touched_file_is_told_from_a_changed_one(
    paths: list[Path], contents: str, with_digest: bool, touched: bool
) -> None:
    """By the digest of its contents, which the output keeps."""
    known = shard(paths[0])
    (known,) = with_digests([known]) if with_digest else (known,)
    assert bool(known.digest) == with_digest
    paths[0].write_text(contents)
    os.utime(paths[0], (5, 5))
    told = tell([shard(paths[0])], [known])
    assert [one.number for one in told.touched] == ([0] if touched else [])
    assert told.known[0].etag == stat(str(paths[0])).etag


def test_a_file_that_changes_while_it_is_planned_has_no_digest(paths: list[Path]) -> None:
    """Its digest would be that of contents that no row was planned from."""
    planned = shard(paths[0])
    os.utime(paths[0], (5, 5))
    assert with_digests([planned]) == (planned,)


def test_touched_files_are_read_as_they_are_now(paths: list[Path], tmp_path: Path) -> None:
    """A retry would take them for replaced otherwise."""
    store, shards = open_store(str(tmp_path / "out")), with_digests([shard(paths[0])])
    create_manifest(
        store, name="n", fingerprint=fingerprint({}, shards), shards=shards, units=[], spec={},
        facts={},
    )  # fmt: skip
    os.utime(paths[0], (5, 5))
    manifest = load_manifest(store)
    assert manifest is not None
    told = tell([shard(paths[0])], manifest.shards)
    now = manifest.with_shards(told.touched)
    assert now.by_number[0].etag == stat(str(paths[0])).etag
    assert now.fingerprint.inputs == fingerprint({}, told.known).inputs


@pytest.mark.parametrize(
    ("output", "new", "said"),
    [
        (pa.int64(), pa.int64(), None),
        (pa.int64(), pa.int32(), None),
        (pa.string(), pa.int32(), None),
        (pa.int32(), pa.int64(), "is int64 in the new files and int32 in the output"),
        (pa.int32(), pa.float64(), "is double in the new files"),
        (pa.int32(), pa.string(), InputError),
        (pa.timestamp("us"), pa.bool_(), InputError),
    ],
)
def test_types_of_kept_columns_stay_those_of_the_output(
    output: pa.DataType, new: pa.DataType, said: object
) -> None:
    """A wider type is told, and one of which no value fits is refused before anything starts."""
    if said is InputError:
        with pytest.raises(InputError, match="'n', which the output keeps"):
            check_kept({"n": new}, {"n": output}, 3)
        return
    notes = check_kept({"n": new}, {"n": output}, 3)
    assert bool(notes) == (said is not None)
    assert all(str(said) in note for note in notes)


def spec(folder: Path, **changes: object) -> JobSpec:
    data = {
        "input": {"path": f"{folder}/**/*.parquet", "grow": True},
        "prompt": {"user": "{{ text }}"},
        "model": "google/gemma-3-1b-it",
        "output": {"path": f"{folder}-out"},
    }
    return JobSpec.from_dict({**data, **changes})


def test_the_survey_of_new_files_knows_columns_of_old_ones(tmp_path: Path) -> None:
    """A column that only one of many old files has is a column of the input."""
    for number in range(40):
        column = {"rare": ["x"]} if number == 5 else {}
        pq.write_table(pa.table({"text": ["a"], **column}), tmp_path / f"{number:02d}.parquet")
    job = spec(tmp_path, output={"path": f"{tmp_path}-out", "keep": ["rare"]})
    first = survey(job)
    assert (len(first.shards), first.known) == (40, ())
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "00-new.parquet")
    later = survey(job, first.shards)
    assert [one.number for one in later.shards] == [40]
    assert later.known == first.shards
    assert later.schema.names == first.schema.names
    only = survey(job, first.shards, only_known=True)
    assert (only.shards, only.known) == (first.shards, ())
    assert "1 new input file(s) are left for the next run" in only.notes[0]


def test_numbers_in_the_names_of_folders_stay_numbers(tmp_path: Path) -> None:
    """A new folder whose value is a number, beside one whose value is none, changes no type."""
    for part in ("1", "2"):
        (tmp_path / f"part={part}").mkdir()
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / f"part={part}" / "f.parquet")
    first = survey(spec(tmp_path))
    assert first.schema.field("part").type == pa.int64()
    for part in ("3", "x4"):
        (tmp_path / f"part={part}").mkdir()
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / f"part={part}" / "f.parquet")
    later = survey(spec(tmp_path), first.shards)
    assert [dict(one.constants)["part"] for one in later.shards] == [3, "x4"]
    assert [dict(one.constants)["part"] for one in later.known] == [1, 2]
