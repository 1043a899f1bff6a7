"""Sampling parameters as the vLLM installed here takes them; no engine is started."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.engines.base import engine_class
from gemma_batch.engines.vllm_args import MOST_LOGPROBS
from gemma_batch.engines.vllm_sampling import available_params
from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec, Sampling
from tests.engines.asked_vllm import FIELDS, JUDGED, in_vocabulary


def test_every_sampling_field_arrives_at_vllm(theirs: dict[str, Any]) -> None:
    """Under its name and with its value: a field that is accepted is honoured."""
    assert FIELDS.keys() == Sampling.model_fields.keys(), "give the new field a value in FIELDS"
    biases = {**FIELDS, "logit_bias": [[4, 2.5]]}
    assert theirs["arrived"] == biases
    assert Sampling.model_validate(FIELDS | {"temperature": 1}).model_fields_set == FIELDS.keys()


def test_the_names_are_those_of_the_vllm_installed_here(theirs: dict[str, Any]) -> None:
    """Read from its source without an import; the default of max_logprobs is vLLM's too."""
    found = available_params()
    assert found is not None
    assert set(theirs["sampling_params"]) <= found
    assert theirs["most_logprobs"] == MOST_LOGPROBS


def test_the_plan_refuses_what_vllm_would_refuse_row_by_row(theirs: dict[str, Any]) -> None:
    """And nothing else: for each case the rules of the plan and vLLM's front end agree."""
    vocab = theirs["vocab"]
    said = []
    for given, args in JUDGED:
        params = in_vocabulary(given, vocab)
        try:
            engine_class("vllm").check_sampling(params, job=params, args=args, vocab=vocab)
        except ValueError as err:
            said.append(str(err))
        else:
            said.append("")
    for (given, _), sentence in zip(JUDGED, said, strict=True):
        assert not sentence or sentence.startswith(f"{next(iter(given))}: ")
    verdicts = [not sentence for sentence in said]
    cases = [(*case, ours) for case, ours in zip(JUDGED, verdicts, strict=True)]
    disagreed = [
        case for case, vllm in zip(cases, theirs["judged"], strict=True) if case[2] != vllm
    ]
    assert not disagreed
    assert set(verdicts) == {True, False}


def test_an_engine_refuses_parameters_that_its_vllm_lacks_before_it_starts(
    theirs: dict[str, Any],
) -> None:
    """Where the plan was made on a machine without vLLM, or with another one. The error is not one
    of a start that may succeed the next time."""
    assert theirs["early"].startswith("EngineError: every row of this job would fail")
    assert "no_such_parameter" in theirs["early"]


def test_the_precision_decides_the_type_that_vllm_computes_with(theirs: dict[str, Any]) -> None:
    """On a CPU, too."""
    assert theirs["types"] == {"float32": "torch.float32", "bfloat16": "torch.bfloat16"}


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"logit_bias": {1: 101}}, "logit_bias"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -1}, "seed"),
        ({"top_k": 2**40}, "top_k"),
        ({"repetition_detection": {"max_patern_size": 3}}, "did you mean 'max_pattern_size'"),
        (
            {
                "repetition_detection": {
                    "max_pattern_size": 1,
                    "min_pattern_size": 2,
                    "min_count": 2,
                }
            },
            "min_pattern_size=2 is above max_pattern_size=1",
        ),
    ],
)
def test_values_that_no_vllm_takes_are_refused_with_the_spec(
    sampling: dict[str, Any], sentence: str
) -> None:
    """They need no model, no vLLM and no plan."""
    least = {"input": {"path": "x"}, "output": {"path": "y"}, "model": "m"}
    with pytest.raises(SpecError, match=sentence):
        JobSpec.from_dict({**least, "sampling": sampling})
