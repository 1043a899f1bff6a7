"""A field of the spec is honoured or refused, and the plan is where it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.cli.show_plan import plan_facts, print_plan
from gemma_batch.engines.base import EngineConfig
from gemma_batch.errors import PlacementError, SpecError
from gemma_batch.family.gpus import find_gpu
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.neutral import NEUTRAL_RESOURCES
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.sample import sample_routes
from gemma_batch.spec import JobSpec, Resources

CPU = Hardware(gpu=None, memory_gib=16)
GPU = Hardware(gpu=find_gpu("H100-80"), gpus=1, gpus_per_node=1, cpus=8)


def spec_for(folder: Path, model: str, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A small job on vLLM."""
    lines = [json.dumps(row) for row in rows or [{"doc": "the fox"}]]
    (folder / "in.jsonl").write_text("\n".join(lines))
    return {
        "input": {"path": str(folder / "in.jsonl")},
        "prompt": {"user": "{{ doc }}"},
        "model": model,
        "sampling": {"max_tokens": 4},
        "output": {"path": str(folder / "out")},
        "resources": {"max_model_len": 64, "device": "cpu"},
    }


def plan(data: dict[str, Any], **parts: dict[str, Any]) -> Plan:
    merged = {**data, **{name: {**data[name], **changes} for name, changes in parts.items()}}
    return make_plan(JobSpec.from_dict(merged))


def engine_of(made: Plan, hardware: Hardware = CPU) -> EngineConfig:
    placed = made.placed(hardware)
    return placed.job(placed.routes[0]).engine


@pytest.mark.parametrize(
    ("sampling", "args", "sentence"),
    [
        (
            {"allowed_token_ids": [5, 10**6]},
            {},
            "allowed_token_ids: the model has no token 1000000",
        ),
        ({"stop_token_ids": [10**6]}, {}, "stop_token_ids: the model has no token 1000000"),
        ({"logit_bias": {10**6: 1}}, {}, "logit_bias: the model has no token 1000000"),
        ({"logprobs": 10**6}, {}, "logprobs: 1,000,000 is too many: the vocabulary"),
        ({"logprobs": 9}, {"max_logprobs": 5}, "logprobs: 9 is too many.*engine_args.max_logprobs"),
        ({"thinking_token_budget": 9}, {}, "thinking_token_budget: .*reasoning_parser"),
        ({"min_p": 0.1}, {"speculative_config": {"method": "ngram"}}, "min_p: .*speculative"),
    ],
)
def test_a_value_that_every_row_would_fail_by_is_refused(
    tmp_path: Path, model: str, sampling: dict[str, Any], args: dict[str, Any], sentence: str
) -> None:
    """Before anything is started, with the field's name (promise 7)."""
    data = spec_for(tmp_path, model)
    with pytest.raises(SpecError, match=f"^sampling\\.{sentence}"):
        plan(data, sampling=sampling, resources={"engine_args": args})


def test_token_ids_are_looked_up_in_a_dry_run_too(tmp_path: Path, model: str) -> None:
    """The echo engine takes any id, but the run that follows would not."""
    data = spec_for(tmp_path, model)
    with pytest.raises(SpecError, match="stop_token_ids"):
        plan(data, sampling={"stop_token_ids": [10**6]}, resources={"engine": "echo"})


def test_a_thinking_budget_passes_with_a_parser_of_thoughts(tmp_path: Path, model: str) -> None:
    """As the sentence of the refusal says."""
    data, args = spec_for(tmp_path, model), {"reasoning_parser": "gemma4"}
    made = plan(data, sampling={"thinking_token_budget": 9}, resources={"engine_args": args})
    assert engine_of(made).sampling["thinking_token_budget"] == 9


def test_a_value_that_is_written_down_wins_although_it_is_the_default(
    tmp_path: Path, model: str
) -> None:
    """The model's generation_config.json must not override it, and a resume must not mix it with
    the answers of a spec that leaves it out."""
    data = spec_for(tmp_path, model)
    neutral = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1}
    written = plan(data, sampling={**neutral, "min_tokens": 0, "top_p": 1})
    expected = {"max_tokens": 4, **neutral, "min_tokens": 0, "top_p": 1}
    assert engine_of(written).sampling == expected
    assert engine_of(plan(data)).sampling == {"max_tokens": 4}
    assert written.fingerprint().digest != plan(data).fingerprint().digest
    for name, value in neutral.items():
        assert plan(data, sampling={name: value}).fingerprint() != plan(data).fingerprint()


@pytest.mark.parametrize(
    ("precision", "dtype"), [(None, "float32"), ("fp32", "float32"), ("bf16", "bfloat16")]
)
def test_the_precision_is_honoured_on_a_cpu(
    tmp_path: Path, model: str, precision: str | None, dtype: str
) -> None:
    """For a test model, whose default there is fp32; `plan` says which it is."""
    made = plan(spec_for(tmp_path, model), resources={"precision": precision})
    assert engine_of(made).dtype == dtype
    assert engine_of(made).quantization is None


def test_a_precision_that_cannot_be_honoured_is_refused(tmp_path: Path, model: str) -> None:
    """On a CPU there is no fp8, and an argument cannot say another thing than the precision. A dry
    run has no weights: the spec of a run on GPUs passes."""
    data = spec_for(tmp_path, model)
    with pytest.raises(PlacementError, match=r"'fp8', which vLLM cannot do on a CPU"):
        plan(data, resources={"precision": "fp8"}).placed(CPU)
    on_gpu = {"precision": "fp8", "device": "auto"}
    assert engine_of(plan(data, resources=on_gpu), GPU).quantization == "fp8"
    both = {**on_gpu, "engine_args": {"quantization": "fp8_per_channel"}}
    with pytest.raises(PlacementError, match="leave one of the two out"):
        plan(data, resources=both).placed(GPU)
    dry = plan(data, resources={"precision": "fp8", "engine": "echo"})
    assert engine_of(dry).quantization is None


def test_a_checkpoint_that_is_quantized_is_not_quantized_again(tmp_path: Path, model: str) -> None:
    """vLLM would fail at its start."""
    made = plan(spec_for(tmp_path, model), resources={"precision": "fp8", "device": "auto"})
    (route,) = made.routes
    card = {name: getattr(route.card, name) for name in route.card.__slots__}
    quantized = type(route.card)(**{**card, "quantization": "compressed-tensors"})
    placed = type(route)(
        route=route.route,
        resources=route.resources,
        card=quantized,
        files=route.files,
        max_model_len=64,
    )
    again = Plan(spec=made.spec, survey=made.survey, routes=(placed,))
    with pytest.raises(PlacementError, match="quantized already \\(compressed-tensors\\)"):
        again.placed(GPU)


def test_plan_says_the_precision(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has to know the default of a test model on a CPU."""
    data = spec_for(tmp_path, model)
    for precision, words in ((None, "weights in fp32"), ("bf16", "weights in bf16")):
        data["resources"]["precision"] = precision
        facts = plan_facts(JobSpec.from_dict(data), gpu=None, gpus=1)
        print_plan(facts)
        assert words in capsys.readouterr().err
        assert facts["routes"][0]["placement"]["precision"] == words[-4:]


def test_plan_says_which_fields_mean_nothing_where_the_engines_are(
    tmp_path: Path, model: str
) -> None:
    """One spec is planned for GPUs and tried on a CPU, so such a field is not refused."""
    given = {"device": "auto", "engines_per_gpu": 1, "cpu_kv_cache_gib": 1}
    made = plan(spec_for(tmp_path, model), resources=given)
    for hardware, name in ((CPU, "engines_per_gpu"), (GPU, "cpu_kv_cache_gib")):
        placed = made.placed(hardware).placed(hardware)
        (note,) = (note for note in placed.notes if "changes nothing" in note)
        assert note.startswith(f"resources.{name} is for engines on a ")
    assert not plan(spec_for(tmp_path, model)).placed(CPU).notes


@pytest.mark.parametrize(
    ("written", "on_cpu", "on_gpu"),
    [(None, True, False), ("auto", True, False), ("on", True, True), ("off", False, False)],
)
def test_the_template_of_vllms_processes_is_a_field(
    tmp_path: Path, model: str, written: str | None, on_cpu: bool, on_gpu: bool
) -> None:
    """It changes no answer, so a run goes on with another value. YAML's booleans are taken."""
    data = spec_for(tmp_path, model)
    changes = {} if written is None else {"fork_template": written}
    made = plan(data, resources={**changes, "device": "auto"})
    assert engine_of(made).fork_template == on_cpu
    assert engine_of(made, GPU).fork_template == on_gpu
    assert (
        made.fingerprint().digest == plan(data, resources={"device": "auto"}).fingerprint().digest
    )
    if written in ("on", "off"):
        same = plan(data, resources={"fork_template": written == "on", "device": "auto"})
        assert same.spec == made.spec


@pytest.mark.parametrize("files", [True, False])
def test_the_sample_counts_rows_with_bad_parameters(
    tmp_path: Path, model: str, files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rules for the job, with and without the model's files."""
    rows = [
        {"doc": "the fox", "own": own}
        for own in ({"stop_token_ids": [10**6]}, {"logprobs": 3}, {"top_p": 0.5}, {"typo": 1})
    ]
    made = plan(
        {**spec_for(tmp_path, model, rows), "prompt": {"user": "{{ doc }}", "params": "own"}}
    )
    if not files:
        (route,) = made.routes
        bare = {name: getattr(route, name) for name in route.__slots__} | {"files": None}
        made = Plan(spec=made.spec, survey=made.survey, routes=(type(route)(**bare),))
    assert sample_routes(made)["all"].failures == {"bad_params": 3}


def test_every_field_of_resources_is_in_the_fingerprint_or_neutral_with_a_reason(
    tmp_path: Path, model: str
) -> None:
    """So that a new field cannot mix answers because nobody thought of it (promise 5)."""
    fields = plan(spec_for(tmp_path, model)).fingerprint().fields
    counted = {name.rpartition(".")[2] for name in fields if name.startswith("resources.")}
    assert counted | NEUTRAL_RESOURCES.keys() == Resources.model_fields.keys()
    assert not counted & NEUTRAL_RESOURCES.keys()
    assert all(NEUTRAL_RESOURCES.values())
