"""Local paths of a spec name one place on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.manifest import create_manifest, fingerprint
from gemma_batch.driver.retry import retried_spec
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.absolute import absolute
from gemma_batch.planning.plan import make_plan
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store


def made(**changes: Any) -> JobSpec:
    """A spec with remote locations, and these changes."""
    data: dict[str, Any] = {
        "input": {"path": "s3://in/*.parquet"},
        "prompt": {"user": "{{ doc }}"},
        "model": "google/gemma-3-4b-it",
        "output": {"path": "s3://out/one"},
    }
    return JobSpec.from_dict({**data, **changes})


def test_remote_locations_stay() -> None:
    """s3:// and hub ids mean the same everywhere already; nothing that was unset becomes set."""
    spec = made()
    assert absolute(spec).to_dict() == spec.to_dict()


def test_every_local_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, with ~ and with file://, also in lists, routes and engine arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/one")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    draft = {"speculative_config": {"model": "models/tiny", "num_speculative_tokens": 2}}
    args = {"download_dir": "cache", "hf_config_path": "~/config", "seed": 1, **draft}
    spec = absolute(
        made(
            input={"path": ["in/*.jsonl", "~/more", "file:///data/x.jsonl", "s3://b/y.jsonl"]},
            output={"path": "../out"},
            model=None,
            routes=[
                {"name": "a", "model": "models/tiny", "when": "true"},
                {"name": "b", "model": "./models/none", "resources": {"engine_args": args}},
            ],
        )
    )
    here = str(tmp_path)
    more = ("/home/one/more", "/data/x.jsonl", "s3://b/y.jsonl")
    assert spec.input.paths == (f"{here}/in/*.jsonl", *more)
    assert spec.output.path == str(tmp_path.parent / "out")
    assert [route.model for route in spec.routes] == [f"{here}/models/tiny", f"{here}/models/none"]
    assert spec.routes[1].resources["engine_args"] == {
        "download_dir": f"{here}/cache",
        "hf_config_path": "/home/one/config",
        "seed": 1,
        "speculative_config": {"model": f"{here}/models/tiny", "num_speculative_tokens": 2},
    }


def test_workers_get_absolute_paths(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder, the relative path of a model would be taken for a hub id."""
    monkeypatch.chdir(tmp_path)
    Path("tiny").symlink_to(model)
    pq.write_table(pa.table({"doc": ["text"]}), "in.parquet")
    resources = {"engine": "echo", "max_model_len": 64, "engine_args": {"tally": "tally"}}
    plan = make_plan(
        made(
            input={"path": "in.parquet"},
            output={"path": "out"},
            model="tiny",
            resources=resources,
            sampling={"max_tokens": 8},
        )
    ).placed(Hardware(gpu=None, gpus=0, gpus_per_node=0, cpus=1, cpus_per_node=1, memory_gib=8.0))
    job = plan.job(plan.routes[0])
    assert (job.model, job.engine.model) == (f"{tmp_path}/tiny",) * 2
    assert job.output == f"{tmp_path}/out"
    assert job.engine.args["tally"] == f"{tmp_path}/tally"
    assert plan.survey.shards[0].url == f"{tmp_path}/in.parquet"


def test_a_retry_writes_to_the_output_that_was_named(tmp_path: Path) -> None:
    """Its folder may have been moved, or be mounted elsewhere, since the run."""
    spec = made(output={"path": str(tmp_path / "old"), "keep": ["doc"]})
    create_manifest(
        open_store(str(tmp_path / "new")),
        name="moved",
        fingerprint=fingerprint({}, []),
        shards=[],
        units=[],
        spec=spec.to_dict(),
        facts={},
    )
    found = retried_spec(str(tmp_path / "new"))
    assert (found.output.path, found.output.keep) == (str(tmp_path / "new"), ("doc",))
