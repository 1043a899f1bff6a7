"""A try without Ray: real plans, draws, units and parts, and answers made by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gemma_batch.cli.show_try import print_tried, trial_lines
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.leftovers import leftovers
from gemma_batch.committing.manifest import create_manifest
from gemma_batch.committing.origin import find_run
from gemma_batch.committing.taken import FOLDER
from gemma_batch.driver.trial import Tried, _within, try_
from gemma_batch.errors import OutputError, SpecError
from gemma_batch.family.hardware import Hardware, hardware_from
from gemma_batch.planning.draw import draw, sample_units
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.unreadable import Unreadable
from gemma_batch.reporting.status import status
from gemma_batch.reporting.tried import Trial, make_trial
from gemma_batch.reporting.tried_page import tried_page
from gemma_batch.reporting.tried_rows import code_of, tried_rows
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from tests.driver.trials import commit_all
from tests.planning.placed import H100S

ROWS, ASKED = 60, 30


def spec(folder: Path, model: str) -> JobSpec:
    """Two files; in the second, the type of the kept column is seen late."""
    (folder / "in").mkdir()
    for shard in range(2):
        rows = [
            {"key": f"{shard}.{n}", "text": f"text {n}", "n": n, "size": n if n < 50 else 2.5}
            for n in range(ROWS)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "in" / f"{shard}.jsonl").write_text(text)
    return JobSpec.from_dict(
        {
            "name": "tried",
            "input": {"path": f"{folder}/in/*.jsonl", "id": "key"},
            "prompt": {"user": "Say: {{ text }}"},
            "routes": [
                {"name": "odd", "when": "n % 2 = 1", "model": model},
                {"name": "rest", "model": model},
            ],
            "sampling": {"max_tokens": 8},
            "output": {"path": str(folder / "out"), "keep": ["size"]},
            "resources": {"engine": "echo", "max_model_len": 256},
        }
    )


def asked(plan: Plan, failing: list[int]) -> Trial:
    """A try of the plan, in its own folder; rows with these numbers fail."""
    url = f"{plan.spec.output.path}/{FOLDER}/t"
    inside, store = _within(plan, url), open_store(url)
    shards = plan.survey.shards
    drawn = draw(shards, ASKED, 0, Unreadable(len(shards)))
    units = sample_units(shards, drawn, plan.survey.router, plan.spec.policy)
    gain = {"odd": 0.5, "rest": 0.0}
    facts = {"rows": ASKED, "seed": 0, "population": asdict(drawn.population), "gain": gain}
    manifest = create_manifest(
        store,
        name=plan.spec.name,
        fingerprint=inside.fingerprint(),
        shards=shards,
        units=units,
        spec=inside.spec.to_dict(),
        facts={"trial": facts},
    )
    commit_all(store, inside, manifest.by_number, units, manifest.run, "m", fail=failing)
    rows = tried_rows(store, manifest, units)
    receipts = list(Ledger(store).receipts().values())
    hardware = Hardware(gpu=None)
    return make_trial(plan, facts, receipts, rows, hardware, folder=url, fresh=True)


def test_the_rows_of_a_try_with_their_prompts_and_answers(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row once, on its route, beside its own prompt; the text and the page have them."""
    plan = make_plan(spec(tmp_path, model)).placed(Hardware(gpu=None))
    failing = [n for n in range(ROWS) if n % 5 == 0]
    trial = asked(plan, failing)
    places = {(row.shard, row.row_number) for row in trial.samples}
    assert len(trial.samples) == len(places) == trial.rows == ASKED
    for row in trial.samples:
        (answer,) = row.answers
        assert row.id.split(".")[1] == str(row.row_number)
        assert f"Say: text {row.row_number}" in str(row.prompt)
        assert answer.route == ("odd" if row.row_number % 2 else "rest")
        assert (code_of(row) is not None) == (row.row_number in failing)
        assert code_of(row) or answer.output == f"m {row.row_number}"
    assert trial.failed == sum(row.row_number in failing for row in trial.samples) > 0
    assert trial.population.rows == 2 * ROWS
    assert trial.expected_failures == round(2 * ROWS * trial.failed / ASKED)
    assert (trial.limit, trial.passes) == (0, False)
    assert json.loads(trial.to_json())["samples"][0]["prompt"]
    assert [note for note in trial.notes if "prefix" in note and "'odd'" in note]
    assert not [note for note in trial.notes if "'rest'" in note]
    print_tried(Tried(trials=(trial,)))
    said = capsys.readouterr().err
    assert "engine_error" in said
    assert f"of {2 * ROWS} rows in 2 files" in said
    assert tried_page([trial]).count('<section class="row">') == ASKED
    outer = open_store(plan.spec.output.path)
    assert find_run(outer) is None, "a try is no run of the job"
    with pytest.raises(OutputError, match="holds no run"):
        status(outer.url)
    assert leftovers(outer, None) == []
    none = replace(trial, failures=[], failed=0)
    assert any("failed   none" in line for line in trial_lines(none))


def test_a_try_has_the_fingerprint_of_the_job(tmp_path: Path, model: str) -> None:
    """So that a run takes its answers; a type that only all rows tell is text in the try."""
    plan = make_plan(spec(tmp_path, model))
    inside = _within(plan, str(tmp_path / "try"))
    assert inside.fingerprint() == plan.fingerprint()
    assert [str(field.type) for field in inside.survey.keep_schema] == ["string"]


def test_what_a_try_refuses(tmp_path: Path, model: str) -> None:
    """Before it looks at anything."""
    job = spec(tmp_path, model)
    with pytest.raises(SpecError, match="at least 1 row"):
        try_(job, 0)
    with pytest.raises(SpecError, match=r"--set routes\.0\.model"):
        try_(job, 5, models=["google/gemma-3-4b-it"])
    with pytest.raises(SpecError, match="different models"):
        try_(job, 5, models=["a", "a"])


def test_hardware_survives_its_way_into_the_manifest() -> None:
    """The bill of a try that is shown again needs no cluster."""
    assert hardware_from(json.loads(json.dumps(asdict(H100S)))) == H100S
