"""An output where the input is listed is refused: the next start would read its own results."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.errors import UserError
from gemma_batch.planning.places import check_places
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import expand
from gemma_batch.storage.parts import RESULTS

if TYPE_CHECKING:
    from tests.conftest import S3Server

# The input, the output, and the refusal (None: allowed).
PLACES = [
    ("in", "out", None),
    ("in", "in-out", None),
    ("in", "in/out", "where input.path"),
    ("in/", "in/sub/out/", "where input.path"),
    ("in", "in", "is the folder of the input"),
    ("in/", "in", "is the folder of the input"),
    ("in/**", "in/out", "where input.path"),
    ("in/**/*.parquet", "in/out", "where input.path"),
    ("in/*/results/*.parquet", "in/out", "where input.path"),
    # The path does not mean the results.
    ("in/*.jsonl", "in/out", None),
    ("in/*", "in/out", None),
    ("in/**/*.jsonl", "in/out", None),
    ("in/a.jsonl", "in", None),
    ("in/a.jsonl", "in/out", None),
    ("in", "in/_out", None),
    ("in", "in/.out/x", None),
    # The input is inside the output.
    ("in/a.jsonl", ".", None),
    ("in/results/a.jsonl", "in", "is in the job's own output.path"),
    ("in/results", "in", "where input.path"),
    ("in/results/*.jsonl", "in", "is in the job's own output.path"),
    ("in/results", "out", None),
    ("in/sub", "in", None),
]  # fmt: skip


@pytest.mark.parametrize(("given", "output", "refusal"), PLACES)
def test_input_and_output_in_each_other(
    tmp_path: Path, given: str, output: str, refusal: str | None
) -> None:
    """Refused before anything starts. What is allowed stays allowed when the results are there."""
    check(str(tmp_path), given, output, refusal)


@pytest.mark.parametrize(
    ("given", "output", "refusal"),
    [PLACES[i] for i in (0, 1, 2, 3, 4, 5, 7, 9, 14, 17)],
)
def test_input_and_output_in_each_other_in_s3(
    s3: S3Server, given: str, output: str, refusal: str | None
) -> None:
    """The same by keys."""
    check(f"{s3.bucket('each-other')}/{uuid.uuid4().hex}", given, output, refusal)


def check(place: str, given: str, output: str, refusal: str | None) -> None:
    store = open_store(place)
    for key in ("in/a.jsonl", "in/sub/b.jsonl", "in/results/a.jsonl", "in/x/results/c.parquet"):
        store.put(key, b"{}")
    spec = job(f"{place}/{given}", f"{place}/{output}")
    files = expand(spec.input.paths, output=spec.output.path)
    if refusal is not None:
        with pytest.raises(UserError, match=refusal):
            check_places(spec, files)
        return
    check_places(spec, files)
    for key in (f"{RESULTS}/part-00000-0000000000.parquet", "_run/manifest.json"):
        open_store(spec.output.path).put(key, b"{}")
    again = expand(spec.input.paths, output=spec.output.path)
    check_places(spec, again)
    assert list(again) == list(files)
    assert again.left_out == files.left_out
    assert again.logs == ()


def job(given: str, output: str) -> JobSpec:
    return JobSpec.from_dict(
        {
            "input": {"path": given},
            "prompt": {"user": "x"},
            "model": "m",
            "output": {"path": output},
        }
    )


def test_links_and_dots_do_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are compared, not texts."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("{}")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "in" / "outwards").symlink_to("../elsewhere")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    for given, output in (
        ("in", "link/out"), ("link", "in/out"), ("link", "link/../in/out"), ("in", "./in/../in/x"),
        (f"file://{tmp_path}/in", "in/out"), ("in", "link"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"output.path .* (is where|is the folder)"):
            check_places(job(given, output), expand([given]))
    check_places(job("in/*.jsonl", "elsewhere/out"), expand(["in/*.jsonl"]))
    results = tmp_path / "elsewhere" / "out" / RESULTS
    results.mkdir(parents=True)
    (results / "part-00000-0000000000.parquet").write_text("x")
    with pytest.raises(UserError, match="is in the job's own"):
        check_places(job("in", "elsewhere/out"), expand(["in"]))


def test_a_path_of_another_kind_hides_no_other(tmp_path: Path) -> None:
    """Each path of the input is looked at."""
    (tmp_path / "a.jsonl").write_text("{}")
    spec = job("x", f"{tmp_path}/out")
    both = ["hf://data/set", str(tmp_path)]
    given = spec.input.model_copy(update={"path": tuple(both)})
    with pytest.raises(UserError, match=r"output.path .* is where"):
        check_places(spec.model_copy(update={"input": given}), expand(both[1:]))
    check_places(job(str(tmp_path), "gs://bucket/out"), expand(both[1:]))
    check_places(job("hf://data/set", f"{tmp_path}/out"), [InputFile("hf://data/set/a", 1, "e")])
