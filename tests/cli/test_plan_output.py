"""`plan` looks at the output: it says what a run finds, and refuses what a run refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import yaml

from gemma_batch.cli.commands import main
from gemma_batch.cli.show_plan import plan_facts
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.lease import Lease
from gemma_batch.committing.manifest import create_manifest
from gemma_batch.errors import GemmaBatchError
from gemma_batch.planning.plan import make_plan
from gemma_batch.rows import Completion, Row
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.units.payload import Prepared
from gemma_batch.units.raw_rows import pack, raw_rows
from tests.committing.test_commit import job as route_job
from tests.storage.test_left_out import as_nobody
from tests.storage.test_left_out import denying as denying
from tests.storage.test_left_out import open_folder as open_folder

if TYPE_CHECKING:
    from tests.conftest import S3Server

ROWS = 20


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A spec whose model is not on this machine, so a part of its fingerprint is not known here."""
    (tmp_path / "in").mkdir()
    lines = (json.dumps({"id": f"r{i}", "doc": "x", "n": i}) for i in range(ROWS))
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines))
    return {
        "name": "j",
        "input": {"path": str(tmp_path / "in")},
        "prompt": {"user": "{{ doc }}"},
        "model": "google/gemma-3-4b-it",
        "output": {"path": str(tmp_path / "out"), "keep": ["n"]},
        "policy": {"unit_rows": 5},
    }


def begin(job: dict[str, Any], commit: int) -> None:
    """Put the output of a run with so many committed units, as a run with the model would."""
    plan = make_plan(JobSpec.from_dict(job), need_files=False)
    fingerprint, store = plan.fingerprint(), open_store(plan.spec.output.path)
    known = dict.fromkeys(plan.unknown - plan.wishes, "known to the run")
    manifest = create_manifest(
        store,
        name="j",
        fingerprint=replace(fingerprint, fields={**fingerprint.fields, **known}),
        shards=plan.survey.shards,
        units=plan.units(),
        spec=plan.spec.to_dict(),
        facts={},
    )
    for unit in manifest.units(store)[:commit]:
        rows = [Row(n, {"id": f"r{n}", "doc": "x", "n": n}) for n in unit.numbers]
        prepared = Prepared(
            unit=unit,
            numbers=list(unit.numbers),
            ids=[f"r{n}" for n in unit.numbers],
            keep=pa.table({"n": list(unit.numbers)}),
            raw=pack(raw_rows(rows, manifest.shards[0].url)),
            requests=[],
            failures={},
        )
        answers = {n: Completion(["a"], ["stop"], 1, 1) for n in unit.numbers}
        commit_unit(store, replace(route_job(), run=manifest.run), prepared, answers, {})


def plan(job: dict[str, Any], folder: Path, *arguments: str) -> int:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(path), *arguments])
    return int(ended.value.code or 0)


def nothing(job: dict[str, Any], folder: Path) -> None:
    """Leave everything as it is."""


def started(commit: int) -> Callable[[dict[str, Any], Path], None]:
    return lambda job, folder: begin(job, commit)


def then(commit: int, change: Callable[[dict[str, Any], Path], object]) -> Any:
    def both(job: dict[str, Any], folder: Path) -> None:
        begin(job, commit)
        change(job, folder)

    return both


def moved(job: dict[str, Any], folder: Path) -> None:
    job["output"]["path"] = f"file://{folder}/in/../out/"


def held(job: dict[str, Any], folder: Path) -> None:
    lease = Lease(open_store(job["output"]["path"]))
    lease._store.create("_run/lease.json", lease._record())


STATES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("new", nothing, {"state": "new"}, ": new"),
    ("begun", started(0), {"state": "resumes", "rows": 20, "rows_done": 0}, "0 of 20 rows"),
    ("half", started(2), {"state": "resumes", "units_done": 2, "units": 4, "rows_done": 10},
     "a run goes on where another stopped: 10 of 20 rows are committed (2 of 4 units)"),
    ("complete", started(4), {"state": "complete", "rows_done": 20}, "complete, 20 rows in 4"),
    ("named in another way", then(2, moved), {"state": "resumes"}, "goes on"),
    ("held", then(2, held), {"state": "resumes"}, f"the output is held by process {os.getpid()}"),
    ("a policy changed", then(2, lambda job, _: job["policy"].update(max_failed=3)),
     {"state": "resumes"}, "goes on"),
    ("foreign files beside", lambda _, d: open_store(f"{d}/out").put("notes.txt", b"x"),
     {"state": "new"}, ": new"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "facts", "said"), [one[1:] for one in STATES], ids=[one[0] for one in STATES]
)
def test_the_state_of_the_output(
    job: dict[str, Any],
    tmp_path: Path,
    make: Any,
    facts: dict[str, Any],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For people and as data; nothing is written."""
    make(job, tmp_path)
    before = open_store(str(tmp_path / "out")).list()
    assert plan(job, tmp_path, "--json") == 0
    assert facts.items() <= json.loads(capsys.readouterr().out)["output_state"].items()
    assert plan(job, tmp_path) == 0
    assert said in capsys.readouterr().err
    assert open_store(str(tmp_path / "out")).list() == before


def changed(path: str, value: Any) -> Any:
    def change(job: dict[str, Any], folder: Path) -> None:
        holder, last = path.split(".")
        job.setdefault(holder, {})[last] = value

    return change


def lose_the_run_folder(job: dict[str, Any], folder: Path) -> None:
    store = open_store(job["output"]["path"])
    for key in store.list("_run"):
        store.delete(key)


def add_a_strange_part(job: dict[str, Any], folder: Path) -> None:
    store = open_store(job["output"]["path"])
    (name, *_) = store.list("results")
    store.put(name.replace("part-00000-", "part-00007-"), store.read(name))


def below_a_file(job: dict[str, Any], folder: Path) -> None:
    (folder / "file").write_text("x")
    job["output"]["path"] = str(folder / "file" / "out")


def behind_a_broken_link(job: dict[str, Any], folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    job["output"]["path"] = str(folder / "link")


def a_new_file(job: dict[str, Any], folder: Path) -> None:
    (folder / "in" / "b.jsonl").write_text('{"id": "x", "doc": "x", "n": 1}')


REFUSED: list[tuple[str, Any, str]] = [
    ("another prompt", then(2, changed("prompt.user", "{{ n }}")), "prompt.user was"),
    ("another model", then(2, lambda job, _: job.update(model="google/gemma-3-1b-it")),
     "model was 'google/gemma-3-4b-it', now 'google/gemma-3-1b-it'"),
    ("another input", then(2, a_new_file), "1 input file(s) new"),
    ("the run's folder is gone", then(2, lose_the_run_folder), "Restore _run/"),
    ("a part of no unit", then(2, add_a_strange_part), "no unit of this run"),
    ("below a file", below_a_file, "cannot be used"),
    ("a link that leads nowhere", behind_a_broken_link, "is a link that leads nowhere"),
    ("a manifest that is broken",
     lambda _, d: open_store(f"{d}/out").put("_run/manifest.json", b"{"), "not valid JSON"),
    ("inside the input", changed("output.path", "IN/out"), "Name an output.path outside"),
    ("the folder of the input", changed("output.path", "IN"), "is the folder of the input"),
    ("a table's log in the input",
     lambda _, d: open_store(f"{d}/in").put("_delta_log/0.json", b"{}"), "is a table of Delta"),
    ("a link that leads nowhere in the input",
     lambda _, d: (d / "in" / "b.jsonl").symlink_to("gone"), "leads to 'gone'"),
    ("another host", changed("output.path", "file://host/x/out"), "names the host 'host'"),
    ("another scheme", changed("output.path", "gs://bucket/out"), "use a local path or s3://"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "change", "said"),
    [
        pytest.param(command, *one[1:], id=f"{command}: {one[0]}")
        for command in ("plan", "run")
        for one in REFUSED
        if (command, one[0]) != ("run", "another model")  # neither is on this machine
    ],
)
def test_plan_refuses_what_run_refuses(
    job: dict[str, Any],
    tmp_path: Path,
    model: str,
    command: str,
    change: Any,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and one sentence, the same of both commands, and nothing is written."""
    if command == "run":  # run needs the files of a model
        job.update(model=model, resources={"engine": "echo", "max_model_len": 512})
        job["sampling"] = {"max_tokens": 8}
    change(job, tmp_path)
    job["output"]["path"] = job["output"]["path"].replace("IN", str(tmp_path / "in"))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    with pytest.raises(SystemExit) as ended:
        main([command, str(path)])
    out, err = capsys.readouterr()
    (line,) = (one for one in err.splitlines() if not one.rstrip(" .").endswith("planning"))
    assert ended.value.code == 2
    assert line.startswith("error: ")
    assert said in line
    assert out == ""
    lease = tmp_path / "out" / "_run" / "lease.json"  # which a run takes before it looks at parts
    own = {lease, lease.parent} if command == "run" else set()
    assert set(tmp_path.rglob("*")) - own <= {*before, path}


@pytest.mark.parametrize("shut", ["", "out", "out/_run"])
def test_an_output_without_permission_is_refused(
    job: dict[str, Any], open_folder: Path, shut: str
) -> None:
    """Of the folder, of a folder in it, or of the folder that it would be made in."""
    job["input"]["path"] = str(open_folder / "a.jsonl")
    job["output"]["path"] = str(open_folder / "out")
    (open_folder / "a.jsonl").write_text('{"id": "x", "doc": "x", "n": 1}')
    (open_folder / "job.yaml").write_text(yaml.safe_dump(job))
    if shut:
        (open_folder / "out" / "_run").mkdir(parents=True)
        (open_folder / "out").chmod(0o777 if shut != "out" else 0o755)

    def planned() -> str:
        try:
            plan_facts(JobSpec.load(open_folder / "job.yaml"), gpu=None, gpus=1)
        except GemmaBatchError as err:
            return f"{err.exit_code} {err}"
        return "planned"

    said = as_nobody(planned)
    place = os.path.join(open_folder, shut).rstrip("/")
    assert said.startswith(f"2 output.path '{open_folder}/out' cannot be used: nothing"), said
    assert f"'{place}': no permission" in said


@pytest.mark.parametrize(
    ("bucket", "endpoint", "code", "said"),
    [
        ("no-such-bucket-anywhere", None, 2, "the bucket 'no-such-bucket-anywhere' does not exist"),
        ("Not_A_Bucket", None, 2, "cannot be used"),
        ("outputs", None, 0, ": new"),
        ("outputs", "http://127.0.0.1:1", 0, "could not be looked at from this machine"),
        ("outputs", "denied", 0, "from this machine: no permission for 's3://outputs"),
    ],
)
def test_an_output_in_s3(
    s3: S3Server,
    request: pytest.FixtureRequest,
    job: dict[str, Any],
    tmp_path: Path,
    bucket: str,
    endpoint: str | None,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bucket that is missing is missing everywhere; a cluster may see what a laptop cannot."""
    if bucket == "outputs":
        s3.bucket(bucket)
    if endpoint == "denied":
        endpoint = request.getfixturevalue("denying")
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setattr("gemma_batch.storage.patience._patience", 0.1)
    job["output"]["path"] = f"s3://{bucket}/out"
    assert plan(job, tmp_path) == code
    assert said in capsys.readouterr().err


def test_an_output_in_s3_goes_on(
    s3: S3Server, job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a disk."""
    job["output"]["path"] = f"{s3.bucket('outputs')}/goes-on"
    begin(job, 1)
    assert plan(job, tmp_path) == 0
    assert "5 of 20 rows are committed (1 of 4 units)" in capsys.readouterr().err
    job["prompt"]["user"] = "other {{ doc }}"
    assert plan(job, tmp_path) == 2
    assert "prompt.user was '{{ doc }}'" in capsys.readouterr().err


def test_what_is_left_out_is_in_the_plan(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a note for people, and as data."""
    (tmp_path / "in" / "_old").mkdir()
    for name in "bc":
        (tmp_path / "in" / "_old" / f"{name}.jsonl").write_text("{}")
    assert plan(job, tmp_path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    first = f"{tmp_path}/in/_old/b.jsonl"
    assert facts["input"]["left_out"] == [
        {"reason": "hidden", "count": 2, "example": first, "more": False}
    ]
    assert plan(job, tmp_path) == 0
    note = (
        f"left out of the input: 2 files below names that start with _ or . (for example '{first}')"
    )
    assert note in capsys.readouterr().err
