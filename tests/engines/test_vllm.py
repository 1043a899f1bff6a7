"""What can be said about vLLM's arguments without importing it; running it is in integration/."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest
import tokenizers

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.calls import Calls
from gemma_batch.engines.base import EngineConfig, engine_class
from gemma_batch.engines.cpu_cores import cpu_environment
from gemma_batch.engines.vllm_answers import marks_of
from gemma_batch.engines.vllm_args import available_args, engine_args, streams_weights
from gemma_batch.errors import SpecError
from gemma_batch.spec import Tools
from tests.engines.asked_vllm import DEFINITIONS, WELL_FORMED


def test_the_arguments_are_those_of_the_vllm_installed_here(theirs: dict[str, Any]) -> None:
    """Read from its source, so equal to what its class has."""
    assert available_args() == set(theirs["engine_args"])


@pytest.mark.parametrize("form", list(WELL_FORMED))
def test_vllm_reads_the_same_calls(theirs: dict[str, Any], form: str) -> None:
    """Where a call is written well, our parsers and vLLM's agree."""
    tools = Tools(definitions=tuple(DEFINITIONS))
    for text, wanted in zip(WELL_FORMED[form], theirs["calls"][form], strict=True):
        sample = Sample(text, "stop")
        assert Calls(tools, form).read(sample) is None
        calls = sample.values["tool_calls"]
        assert [[call["name"], json.loads(call["arguments"])] for call in calls] == wanted, text
        assert all(call["valid"] for call in calls)


def test_control_tokens_are_found_in_the_text_of_an_answer(model: str) -> None:
    """By their ids: letters that spell one are none, and a stop string may cut the text."""
    tokens = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
    decode = functools.partial(tokens.decode, skip_special_tokens=False)
    control = {tokens.token_to_id(mark): mark for mark in ("<end_of_turn>", "<start_of_turn>")}
    spelled = tokens.encode("<end_of_tu", add_special_tokens=False).ids
    spelled += tokens.encode("rn> \u00e9", add_special_tokens=False).ids
    end, start = control
    broken = [tokens.token_to_id("<0xC3>")]  # half of a character
    ids = [*spelled, end, start, *spelled, *broken, end, start]
    text = decode(ids)
    assert text.count("<end_of_turn>") == 4
    found = marks_of(text, ids, control, decode)
    assert [text[mark.start : mark.end] for mark in found] == [
        control[i] for i in ids if i in control
    ]
    assert [ids[mark.token] for mark in found] == [end, start, end, start]
    assert found[0].start == len(decode(spelled))
    assert marks_of(text[: found[1].end + 3], ids, control, decode) == found[:2]
    assert marks_of("", [end], control, decode) == [], "the end of an answer is not in its text"


def test_a_person_who_sets_the_size_of_the_cache_gets_it() -> None:
    """vLLM on CPU takes the variable first, so it is set only where the argument is not."""
    config = EngineConfig(
        engine="vllm",
        model="-",
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        device="cpu",
        cpu_kv_cache_gib=1.5,
    )
    assert cpu_environment(config)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    theirs = dataclasses.replace(config, args={"kv_cache_memory_bytes": 2**24})
    assert "VLLM_CPU_KVCACHE_SPACE" not in cpu_environment(theirs)


def test_weights_are_streamed_from_object_storage_where_vllm_can() -> None:
    """By its loader for that, from the URL; everything else is a local folder or the hub."""
    assert streams_weights("s3://models/x", {})
    assert streams_weights("s3://models/x", {"load_format": "runai_streamer"})
    for other in ("safetensors", "dummy"):
        assert not streams_weights("s3://models/x", {"load_format": other})
    assert not streams_weights("/models/x", {})
    assert not streams_weights("google/gemma-3-1b-it", {})
    accepts = {"model", "model_weights", "load_format"}
    config = EngineConfig(
        engine="vllm", model="/x", max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64
    )
    assert engine_args(config, accepts) == {"model": "/x", "load_format": "safetensors"}
    remote = dataclasses.replace(config, weights="s3://models/x")
    assert engine_args(remote, accepts) == {
        "model": "/x",
        "model_weights": "s3://models/x",
        "load_format": "runai_streamer",
    }


def test_prefixes_are_kept_where_rows_that_share_one_come_together() -> None:
    """By an argument that older vLLM lacks; what a person sets stands."""
    newer, older = {"model", "prefix_cache_retention_interval"}, {"model"}
    config = EngineConfig(
        engine="vllm", model="-", max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64
    )
    grouped = dataclasses.replace(config, keep_prefixes=True)
    assert engine_args(config, newer) == {"model": "-"}, "vLLM's default"
    assert engine_args(grouped, older) == {"model": "-"}
    kept = engine_args(grouped, newer)
    assert kept == {"model": "-", "prefix_cache_retention_interval": None}
    theirs = dataclasses.replace(grouped, args={"prefix_cache_retention_interval": 256})
    assert engine_args(theirs, newer)["prefix_cache_retention_interval"] == 256


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"enforce_eagr": True}, "no argument 'enforce_eagr'; did you mean 'enforce_eager'"),
        ({"tensor_parallel_size": 2}, "set it as `resources.tensor_parallel`"),
        ({"hf_token": "x"}, "HF_TOKEN"),
        ({"load_format": "auto"}, "'auto' may load pickles.*safetensors"),
        ({"load_format": "pt"}, "may load pickles"),
        ({"load_format": "of_a_plugin"}, "may load pickles"),
        ({"load_format": ["dummy"]}, "may load pickles"),
        ({"pipeline_parallel_size": 2}, "2: an engine is spread by `resources.tensor_parallel`"),
        ({"skip_tokenizer_init": True}, "answers would have no text"),
        ({"runner": "pooling"}, "'pooling': a run answers prompts"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    args: dict[str, object], sentence: str
) -> None:
    """Unknown ones, ones that contradict the plan, and secrets."""
    with pytest.raises(SpecError, match=sentence):
        engine_class("vllm").check_args(args)
    harmless = {"enforce_eager": True, "block_size": 32, "load_format": "sharded_state"}
    engine_class("vllm").check_args({**harmless, "pipeline_parallel_size": 1, "runner": "auto"})
