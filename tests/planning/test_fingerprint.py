"""The fingerprint: everything that can change an answer, so that answers are not mixed."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from gemma_batch.committing.manifest import KEY, check_same, create_manifest, load_manifest
from gemma_batch.engines.echo import ARGS
from gemma_batch.engines.echo import NEUTRAL_ARGS as ECHO_NEUTRAL
from gemma_batch.engines.vllm_args import NEUTRAL_ARGS, OWN_ARGS, available_args
from gemma_batch.engines.weights import check_loaded, with_weights
from gemma_batch.errors import EngineStartError, MismatchError, ModelError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.reading.prepare import Preparer, make_renderer, tokenizer_files
from gemma_batch.rows import Row
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store


def plan(folder: Path, model: str, **resources: Any) -> Plan:
    """A plan; `resources` for vLLM by default, which is not started."""
    if not (folder / "in.jsonl").exists():
        (folder / "in.jsonl").write_text(json.dumps({"doc": "x"}))
    spec = {
        "input": {"path": str(folder / "in.jsonl")},
        "prompt": {"user": "{{ doc }}"},
        "model": model,
        "sampling": {"max_tokens": 4},
        "output": {"path": str(folder / "out")},
        "resources": {"max_model_len": 64, **resources},
    }
    return make_plan(JobSpec.from_dict(spec))


def begin(ready: Plan) -> str:
    """Put the manifest of a plan into its output."""
    output = ready.spec.output.path
    create_manifest(
        open_store(output),
        name="n",
        fingerprint=ready.fingerprint(),
        shards=ready.survey.shards,
        units=ready.units(),
        spec=ready.spec.to_dict(),
        facts={},
    )
    return output


def resume(ready: Plan) -> None:
    """What a start on the output of an earlier plan compares."""
    output = ready.spec.output.path
    manifest = load_manifest(open_store(output))
    assert manifest is not None
    check_same(manifest, ready.fingerprint(), output)


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ({"choice": ["a", "b"], "retries": 3}, True),
        ({"choice": ["a", "c"]}, False),
        ({"choice": ["a", "b"], "confidence": True}, False),
        ({"confidence": True}, False),
        ({}, False),
    ],
)
def test_answers_of_another_shape_are_another_job(
    tmp_path: Path, model: str, answer: dict[str, Any], same: bool
) -> None:
    """But a failed row may be asked more often, as by `retry OUTPUT --set answer.retries=3`."""
    ready = plan(tmp_path, model)

    def shaped(answer: dict[str, Any]) -> Plan:
        return make_plan(JobSpec.from_dict({**ready.spec.to_dict(), "answer": answer}))

    begin(shaped({"choice": ["a", "b"]}))
    if same:
        resume(shaped(answer))
    else:
        with pytest.raises(MismatchError, match="answer"):
            resume(shaped(answer))


@pytest.mark.parametrize(
    "args",
    [
        {"load_format": "dummy"},  # weights that vLLM makes up
        {"load_format": "sharded_state"},  # other files
        {"kv_cache_dtype": "fp8"},
        {"hf_overrides": {"rope_theta": 1}},
        {"attention_backend": "X"},  # nobody has said that it is neutral
    ],
)
def test_an_argument_that_can_change_an_answer_is_refused(
    tmp_path: Path, model: str, args: dict[str, Any]
) -> None:
    """In both directions: the answers so far are by another model in effect."""
    begin(plan(tmp_path, model, engine_args=args))
    resume(plan(tmp_path, model, engine_args=args))
    with pytest.raises(MismatchError, match=f"{next(iter(args))} was .*, now None"):
        resume(plan(tmp_path, model))
    (tmp_path / "out" / KEY).unlink()
    begin(plan(tmp_path, model))
    with pytest.raises(MismatchError, match=f"{next(iter(args))} was None, now "):
        resume(plan(tmp_path, model, engine_args=args))


def test_random_weights_of_an_older_version_are_told_by_its_spec(
    tmp_path: Path, model: str
) -> None:
    """Its fingerprint held `load_format` for neutral. The same trial still goes on."""
    trial = plan(tmp_path, model, engine_args={"load_format": "dummy"})
    store = open_store(begin(trial))
    record = json.loads(store.read(KEY))
    del record["fields"]["resources.engine_args.load_format"], record["run"]
    store.put(KEY, json.dumps(record).encode())
    resume(trial)
    with pytest.raises(MismatchError, match="load_format was 'dummy', now None"):
        resume(plan(tmp_path, model))


def test_an_argument_of_speed_may_change(tmp_path: Path, model: str) -> None:
    """Those of the list, and the formats that read the same files."""
    begin(plan(tmp_path, model))
    args = {"enforce_eager": True, "block_size": 32, "load_format": "runai_streamer"}
    resume(plan(tmp_path, model, engine_args=args))


def test_each_neutral_argument_exists_and_has_a_reason() -> None:
    """A name that vLLM no longer has, or that a field of the spec sets, does not belong there."""
    known = available_args()
    assert known is not None
    assert NEUTRAL_ARGS.keys() <= known - OWN_ARGS.keys()
    assert ECHO_NEUTRAL.keys() <= set(ARGS)
    assert all(NEUTRAL_ARGS.values())
    assert all(ECHO_NEUTRAL.values())


def trained(folder: Path) -> None:
    """Put the next checkpoint into the folder: same names, sizes and headers."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, path)


def test_weights_that_change_in_place_are_refused(tmp_path: Path, model: str) -> None:
    """checkpoint-2000 over checkpoint-1000; the same files copied anew go on."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    begin(plan(tmp_path, str(folder)))
    shutil.rmtree(folder)
    shutil.copytree(model, folder, copy_function=shutil.copyfile)
    resume(plan(tmp_path, str(folder)))
    trained(folder)
    with pytest.raises(MismatchError, match=r"model weights was '.*', now '"):
        resume(plan(tmp_path, str(folder)))
    # An older version did not write down what the weights were.
    store = open_store(str(tmp_path / "out"))
    record = json.loads(store.read(KEY))
    del record["fields"]["model weights"], record["run"]
    store.put(KEY, json.dumps(record).encode())
    resume(plan(tmp_path, str(folder)))


def test_an_engine_refuses_another_model_than_the_planned_one(tmp_path: Path, model: str) -> None:
    """Also when it changes while it is loaded, and when a node has another copy."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    ready = plan(tmp_path, str(folder)).placed(Hardware(gpu=None))
    job = ready.job(ready.routes[0])
    config = with_weights(job.engine)
    check_loaded(config)
    trained(folder)
    with pytest.raises(EngineStartError, match="not the one that was planned"):
        check_loaded(config)
    with pytest.raises(ModelError, match="not the one that was planned"):
        with_weights(job.engine)
    shutil.copyfile(Path(model, "model.safetensors"), folder / "model.safetensors")
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ModelError, match="not the one that was planned"):
        with_weights(job.engine)
    elsewhere = replace(job.engine, model="no/folder")
    with pytest.raises(ModelError, match="does not exist on this machine"):
        with_weights(elsewhere)


def test_readers_render_with_the_planned_files(tmp_path: Path, model: str) -> None:
    """A chat template that changes after the plan changes no prompt: the files travel."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    ready = plan(tmp_path, str(folder)).placed(Hardware(gpu=None))
    job = ready.job(ready.routes[0])
    files = pickle.loads(pickle.dumps(tokenizer_files(job)))
    row = Row(0, {"doc": "quick"})
    before = make_renderer(job, files).preview(row)
    assert "<start_of_turn>" in before
    shutil.rmtree(folder)
    assert make_renderer(job, files).preview(row) == before
    assert len(Preparer(job, files).prepare(ready.survey.shards, ready.units()[0]).requests) == 1
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(ModelError, match="changed after the job was planned"):
        tokenizer_files(job)
