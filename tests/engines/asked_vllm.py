"""A program that asks the vLLM installed here, without an engine: tests share one run of it.

`python -m tests.engines.asked_vllm MODEL` prints what it learnt as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from gemma_batch.engines.base import EngineConfig
from gemma_batch.engines.narrowed import narrowed
from gemma_batch.engines.vllm import VllmEngine
from gemma_batch.engines.vllm_args import engine_args
from gemma_batch.errors import EngineError
from gemma_batch.spec import Sampling
from tests.engines.structures import ENFORCED, NOT_ENFORCED

# A value of each sampling field that is not vLLM's default, and the same value as vLLM keeps it
# where vLLM keeps it in another form.
FIELDS: dict[str, Any] = {
    "n": 2,
    "max_tokens": 9,
    "min_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 7,
    "min_p": 0.25,
    "seed": 11,
    "stop": ["x"],
    "stop_token_ids": [5],
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.5,
    "logprobs": 3,
    "logit_bias": {4: 2.5},
    "allowed_token_ids": [4, 5],
    "bad_words": ["fox"],
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3},
    "thinking_token_budget": 12,
    "extra_args": {"plugin": {"depth": [1, 2]}},
}
# Sampling parameters with engine arguments: vLLM must judge them as the plan does.
JUDGED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"logprobs": 20}, {}),
    ({"logprobs": 50}, {}),
    ({"logprobs": 50}, {"max_logprobs": 40}),
    ({"logprobs": 40}, {"max_logprobs": 40}),
    ({"logprobs": 50}, {"max_logprobs": -1}),
    ({"logprobs": 10**6}, {"max_logprobs": -1}),
    ({"allowed_token_ids": [0]}, {}),
    *[
        case
        for token in (-1, 0, "last", "vocab")
        for case in (
            ({"allowed_token_ids": [3, token]}, {}),
            ({"stop_token_ids": [3, token]}, {}),
            ({"logit_bias": {token: 1.0}}, {}),
        )
    ],
    ({"extra_args": {"a": [{"b": 2**64 - 1}]}}, {}),
    ({"extra_args": {"a": [{"b": 2**64}]}}, {}),
    ({"thinking_token_budget": 5}, {}),
    ({"no_such_parameter": 5}, {}),
    ({"min_p": 0.5}, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}),
    ({"min_p": 0.0}, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}),
    (
        {"logit_bias": {4: 1.0}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
    ),
]

# Calls that are written well, by format: vLLM's parsers and ours must read the same.
WELL_FORMED: dict[str, list[str]] = {
    "gemma4": [
        'I look. <|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>',
        "<|tool_call>call:stop_now{}<tool_call|>",
        '<|tool_call>call:get_weather{city:<|"|>São "P" {a}, [b]: 漢字<|"|>,days:-1,hot:true,'
        'at:{lat:-59.5,name:<|"|>x<|"|>},tags:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|>',
        "<|tool_call>call:stop_now{}<tool_call|>"
        '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>}<tool_call|>',
        '<|channel>thought\nHm.<channel|><|tool_call>call:get_weather{city:<|"|>a<|"|>}<tool_call|>',
        "No call.",
    ],
    "functiongemma": [
        "<start_function_call>call:get_weather{city:<escape>Oslo<escape>}<end_function_call>",
        "<start_function_call>call:get_weather{city:<escape>a, {b}: c<escape>,"
        "unit:<escape>C<escape>}<end_function_call><start_function_call>call:stop_now{}<end_function_call>",
        "No call.",
    ],
    "text": [
        '[get_weather(city="Oslo", days=3)]',
        '[get_weather(city="a \\"b\\" 漢", at={"lat": -59.5}, tags=["a", "b"], hot=True), '
        "stop_now()]",
        "No call.",
    ],
}
PARSERS = {"gemma4": "gemma4", "functiongemma": "functiongemma", "text": "pythonic"}
DEFINITIONS: list[dict[str, Any]] = [
    {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "hot": {"type": "boolean"},
                "unit": {"type": "string"},
                "at": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "name": {"type": "string"}},
                },
                "tags": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
    {"name": "stop_now", "parameters": {"type": "object", "properties": {}}},
]


def config_for(model: str, **changes: Any) -> EngineConfig:
    """A small engine on a CPU."""
    least = EngineConfig(
        engine="vllm",
        model=model,
        device="cpu",
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=64,
    )
    return dataclasses.replace(least, **changes)


def in_vocabulary(params: dict[str, Any], vocab: int) -> dict[str, Any]:
    """The parameters with `last` and `vocab` as ids: of the last token, and of none."""
    known = {"last": vocab - 1, "vocab": vocab}
    return {
        name: [known.get(x, x) for x in value]
        if isinstance(value, list)
        else {known.get(k, k): v for k, v in value.items()}
        if name == "logit_bias"
        else value
        for name, value in params.items()
    }


def judged(model: str, vocab: int) -> list[bool]:
    """Whether the front end of vLLM takes each of the cases, for an engine started for it."""
    from vllm.engine.arg_utils import EngineArgs

    verdicts, front_ends = [], {}
    for given, args in JUDGED:
        params = in_vocabulary(given, vocab)
        config = config_for(model, sampling=params, args=args)
        asked = engine_args(config, EngineArgs.__dataclass_fields__)
        key = repr(sorted(asked.items(), key=str))
        if key not in front_ends:
            front_ends[key] = front_end(config)
        try:
            front_ends[key]._validate_params(sampling_of(config), ("generate",))
        except Exception:  # vLLM refuses by several types of errors
            verdicts.append(False)
        else:
            verdicts.append(True)
    return verdicts


def front_end(config: EngineConfig) -> Any:
    """What takes requests in for an engine of this configuration."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.input_processor import InputProcessor

    asked = engine_args(config, EngineArgs.__dataclass_fields__)
    return InputProcessor(EngineArgs(**asked).create_engine_config(UsageContext.LLM_CLASS))


def structures(model: str) -> dict[str, list[bool]]:
    """Whether vLLM takes the schemas of `structures.py`, and lets the texts through that break
    them. Those that can be enforced are asked for in the form in which a job asks."""
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    takes = front_end(config_for(model, structured=True))

    def taken(schema: Any) -> bool:
        params = {"structured_outputs": {"json": json.dumps(schema)}}
        try:
            takes._validate_params(sampling_of(config_for(model, sampling=params)), ("generate",))
        except Exception:
            return False
        return True

    def lets_through(schema: Any, text: str) -> bool:
        grammar = xgrammar.Grammar.from_json_schema(
            json.dumps(schema), any_whitespace=False, separators=(",", ":")
        )
        return bool(_is_grammar_accept_string(grammar, text))

    return {
        "enforced": [taken(narrowed(schema)) for schema in ENFORCED],
        "not enforced": [
            taken(schema) if text is None else lets_through(schema, text)
            for schema, _, text in NOT_ENFORCED
        ],
    }


def sampling_of(config: EngineConfig) -> Any:
    """The parameters that an engine of this configuration gives to vLLM."""
    return VllmEngine(config)._sampling_params(config.sampling)


def parsed_calls(model: str) -> dict[str, list[Any]]:
    """What vLLM's own parsers find in `WELL_FORMED`: names and arguments of each text's calls."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    made = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
    marks = "<|tool_call> <tool_call|> <|channel> <channel|> <|turn> <turn|> <|tool_response>"
    made.add_special_tokens([*marks.split(), '<|"|>'])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    tools = [{"type": "function", "function": one} for one in DEFINITIONS]
    asked = [{"role": "user", "content": "x"}]
    request = ChatCompletionRequest(messages=asked, model="m", tools=tools)
    found: dict[str, list[Any]] = {}
    for form, texts in WELL_FORMED.items():
        parser = ToolParserManager.get_tool_parser(PARSERS[form])
        found[form] = [
            [
                [call.function.name, json.loads(call.function.arguments)]
                for call in parser(tokenizer, request.tools)
                .extract_tool_calls(text, request)
                .tool_calls
            ]
            for text in texts
        ]
    return found


def refused_before_the_start(model: str) -> str:
    """The error of an engine that is started with a parameter that this vLLM lacks."""
    import asyncio

    engine = VllmEngine(config_for(model, sampling={"max_tokens": 4, "no_such_parameter": 1}))
    try:
        asyncio.run(engine.start())
    except EngineError as err:
        return f"{type(err).__name__}: {err}"
    return "it came up"


def main(model: str) -> None:
    """Ask everything, and print the answers."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs

    arrived = {}
    for name, value in FIELDS.items():
        job = Sampling.model_validate({name: value})
        found = getattr(sampling_of(config_for(model, sampling=job.engine_params())), name)
        arrived[name] = dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found
    arrived["logit_bias"] = list(arrived["logit_bias"].items())
    plain = EngineArgs(model=model, max_model_len=64).create_model_config()
    types = {
        dtype: str(
            EngineArgs(
                **engine_args(config_for(model, dtype=dtype), EngineArgs.__dataclass_fields__)
            )
            .create_model_config()
            .dtype
        )
        for dtype in ("float32", "bfloat16")
    }
    answers = {
        "engine_args": sorted(EngineArgs.__dataclass_fields__),
        "sampling_params": sorted(SamplingParams.__struct_fields__),
        "arrived": arrived,
        "most_logprobs": plain.max_logprobs,
        "vocab": plain.get_vocab_size(),
        "judged": judged(model, plain.get_vocab_size()),
        "types": types,
        "structures": structures(model),
        "early": refused_before_the_start(model),
        "calls": parsed_calls(model),
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
