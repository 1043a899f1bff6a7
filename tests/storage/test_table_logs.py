"""A table's log beside its files: the files alone hold rows that the table has no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_batch.errors import InputError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.listing import expand
from gemma_batch.storage.table_logs import check_logs

UUID = "0c6b7c2a-0000-4b1c-9d5e-3f1a2b3c4d5e"
DELTA = "t/_delta_log/00000000000000000000.json"
HUDI = "t/.hoodie/hoodie.properties"
ICEBERG = f"t/metadata/00001-{UUID}.metadata.json"
PART = "t/x=1/y=2/part-0.parquet"
DATA = "t/data/x=1/part-0.parquet"

# Files that are there, the path, and the format of the table that is named in the refusal.
TABLES = [
    ([DELTA, "t/a.parquet"], "t", "Delta"),
    ([DELTA, "t/a.parquet"], "t/", "Delta"),
    ([DELTA, "t/a.parquet"], "t/*.parquet", "Delta"),
    ([DELTA, "t/a.parquet"], "t/a.parquet", "Delta"),
    ([DELTA, "t/a.parquet"], "*/a.parquet", "Delta"),
    ([DELTA, "t/a.parquet"], "", "Delta"),
    ([DELTA, "t/a.parquet"], "**", "Delta"),
    ([DELTA, PART], "t/x=1", "Delta"),
    ([DELTA, PART], "t/x=1/y=2", "Delta"),
    ([DELTA, PART], "t/x=1/y=2/part-0.parquet", "Delta"),
    ([DELTA, PART], "t/x=*/y=*/*.parquet", "Delta"),
    ([DELTA, PART, "u/a.parquet"], "u", None),
    ([DELTA, PART, "u/a.parquet"], "u*/*.parquet", None),
    ([DELTA, PART, "a.parquet"], "*.parquet", None),
    ([HUDI, PART], "t", "Hudi"),
    ([HUDI, PART], "t/x=1/y=2/*.parquet", "Hudi"),
    ([ICEBERG, DATA], "t", "Iceberg"),
    ([ICEBERG, DATA], "t/data", "Iceberg"),
    ([ICEBERG, DATA], "t/data/**/*.parquet", "Iceberg"),
    ([ICEBERG, DATA], "t/data/x=1/part-0.parquet", "Iceberg"),
    ([ICEBERG, DATA], "*/data/x=*/*.parquet", "Iceberg"),
    (["t/metadata/version-hint.text", "t/metadata/v3.metadata.json", DATA], "t/data", "Iceberg"),
    (["t/metadata/v3.gz.metadata.json", DATA], "t/data", "Iceberg"),
    # Folders and files of other tools with names that are only alike.
    (["t/metadata/photo.metadata.json", DATA], "t/data", None),
    (["t/metadata/readme.md", DATA], "t/data", None),
    (["t/v1.metadata.json", DATA], "t/data", None),
    (["t/_delta_log_old/1.json", "t/a.parquet"], "t", None),
    (["t/_old/_delta_log/1.json", "t/a.parquet"], "t", None),
    # The output of a run: its results may be read, all of it may not.
    (["t/_run/manifest.json", "t/results/a.parquet", "t/errors/b.parquet"], "t", "output"),
    (["t/_run/manifest.json", "t/results/a.parquet", "t/errors/b.parquet"], "t/*/*", "output"),
    (["t/_run/manifest.json", "t/results/a.parquet"], "*/*/*.parquet", "output"),
    (["t/_run/manifest.json", "t/results/a.parquet"], "t/results", None),
    (["t/_run/manifest.json", "t/results/a.parquet"], "t/r*/*.parquet", None),
    (["t/_run/manifest.json", "t/results/a.parquet"], "t/results/*.parquet", None),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "path", "format"), TABLES)
def test_a_table_is_found_by_its_log(
    place: str, keys: list[str], path: str, format: str | None
) -> None:
    """Beside, above and below the files; an explicit format reads the files as they are."""
    for key in keys:
        open_store(place).put(key, b"{}")
    logs = expand([f"{place}/{path}"]).logs
    assert {log.format for log in logs} == ({format} if format else set())
    if format is None:
        assert check_logs(logs, "auto") == []
        return
    with pytest.raises(InputError) as refused:
        check_logs(logs, "auto")
    notes = check_logs(logs, "parquet")
    if format == "output":
        assert f"set input.path to '{place}/t/results'" in str(refused.value)
        assert notes == []
        return
    assert f"'{place}/t' is a table of {format} " in str(refused.value)
    assert "set input.format to the format of the files" in str(refused.value)
    assert len(notes) == 1
    assert "deleted rows are read, too" in notes[0]


def test_a_table_behind_a_link_is_found(tmp_path: Path) -> None:
    """The log is above the folder that the link leads to."""
    for key in (DELTA, PART):
        open_store(str(tmp_path)).put(key, b"{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "t" / "x=1")
    for path in ("elsewhere/link", "elsewhere"):
        with pytest.raises(InputError, match="table of Delta"):
            check_logs(expand([f"{tmp_path}/{path}"]).logs, "auto")
