"""Row fields: what becomes of a field that a row's own parameters have beside `sampling`'s.

The rows of a batch file are written for a service: OpenAI's, or vLLM's server. Some of their fields
change no answer, some have another name here, and some ask for what a job cannot do. Each such
field has one line in a table of this module. A field of no table is a field of `sampling`, or it
is unknown. Data only (Ray CPU task, driver, laptop).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_batch.texts import shortened

# Fields that change no answer, whatever their value: field -> the reason.
IGNORED: dict[str, str] = {
    "model": "the job's routes choose the model",
    "user": "a label for the service's own accounts",
    "metadata": "labels for people who look at stored answers",
    "store": "says whether the service keeps the answer",
    "service_tier": "says how the service puts the request in line and what it costs",
    "safety_identifier": "a label for the service's own accounts",
    "prompt_cache_key": "helps the service's cache; the engine's cache needs no help",
    "prompt_cache_retention": "helps the service's cache; the engine's cache needs no help",
    "prediction": "makes the service faster, not other",
    "stream": "says how an answer is sent; here all answers are put into files",
    "stream_options": "says how an answer is sent; here all answers are put into files",
    "priority": "vLLM's order of requests; here the feed orders rows",
    "request_id": "a label",
    "cache_salt": "keeps users of vLLM's prefix cache apart; it changes no answer",
    "return_tokens_as_token_ids": "says how log probabilities are shown",
    "guided_decoding_backend": "says which program keeps an answer to its shape",
    "guided_whitespace_pattern": "says how many blanks stand in an answer; the engine writes none",
    "include_reasoning": "says whether thoughts are sent along; here they have a column",
}

EFFORTS = ("minimal", "low", "medium", "high", "xhigh")  # of thinking: Gemma knows on and off

# Values with which a field asks for nothing beyond an answer of text. Another value is refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "reasoning": ({"effort": "none"}, {"enabled": False}),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "best_of": (1,),
    "length_penalty": (1,),
    "add_generation_prompt": (True,),
    "chat_template_kwargs": ({"enable_thinking": False},),
    "detokenize": (True,),
    "add_special_tokens": (False,),
}

_THINK = "whether the model thinks is the job's to say, by `thinking`"

# The same in a job in which the model thinks.
NEUTRAL_THINKING: dict[str, tuple[Any, ...]] = {
    **NEUTRAL,
    "reasoning": ({"enabled": True}, *({"effort": effort} for effort in EFFORTS)),
    "reasoning_effort": EFFORTS,
    "chat_template_kwargs": ({"enable_thinking": True},),
}

# Fields that ask for what a job cannot do: field -> the reason. A value that is empty or false asks
# for nothing.
REFUSED: dict[str, str] = {
    "structural_tag": "an answer of this kind cannot be checked",
    "web_search_options": "nothing is looked up for a row",
    "modalities": "answers are text alone",
    "audio": "answers are text alone",
    "reasoning_effort": _THINK,
    "reasoning": _THINK,
    "chat_template_kwargs": _THINK + ", and nothing else is known to chat templates",
    "chat_template": "the chat template is the model's own",
    "documents": "the chat template gets the messages alone",
    "verbosity": "Gemma models know no verbosity",
    "best_of": "each row has as many answers as sampling.n says",
    "use_beam_search": "vLLM samples each answer by itself",
    "length_penalty": "it belongs to beam search",
    "add_generation_prompt": "only a conversation with continue_final_message has none",
    "prompt_logprobs": "the results have no column for it",
    "return_token_ids": "the results have no column for it",
    "detokenize": "the results hold text",
    "add_special_tokens": "a prompt has one BOS token, from the chat template",
    "truncate_prompt_tokens": "set prompt.overlong for the job",
    "mm_processor_kwargs": "only text can be given to the model",
    "logits_processors": "a row cannot bring code",
    "kv_transfer_params": "each engine works by itself",
    "system": "put it first into the messages, with the role 'system'",
    "stop_sequences": "its name here is 'stop'",
    "max_output_tokens": "its name here is 'max_tokens'",
}

# Other names of fields of `sampling`.
RENAMED: dict[str, str] = {
    "max_completion_tokens": "max_tokens",
    "vllm_xargs": "extra_args",
}


def without_neutral(params: dict[str, Any], *, thinking: bool = False) -> dict[str, Any]:
    """The parameters of a row without those that change no answer.

    `thinking` says whether the model thinks in this job. Raises `ValueError` with the name of a
    parameter that asks for what a job cannot do.
    """
    left, neutral = {}, NEUTRAL_THINKING if thinking else NEUTRAL
    for name, value in params.items():
        if name in IGNORED or (name in REFUSED and _asks_nothing(name, value, params, neutral)):
            continue
        if name in REFUSED:
            raise ValueError(
                f"{name!r} cannot be set by a row: {REFUSED[name]} (it is {shortened(value)})"
            )
        left[name] = value
    return left


def _asks_nothing(
    name: str, value: Any, params: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]]
) -> bool:
    if name == "add_generation_prompt" and value is False:
        return params.get("continue_final_message") is True
    if value is False or (isinstance(value, str | list | tuple | dict) and not value):
        return True
    value = without_nulls(value)
    # In Python True == 1, and here the two differ.
    return any(
        value == one and (type(value) is bool) == (type(one) is bool)
        for one in neutral.get(name, ())
    )


def without_nulls(value: Any) -> Any:
    """An object without its nulls: a Parquet struct has every field in every row.

    Another value comes back as it is.
    """
    if not isinstance(value, dict):
        return value
    return {name: one for name, one in value.items() if one is not None}


def renamed(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters by the names of `sampling`.

    Raises `ValueError` when a parameter is given by two names with two values.
    """
    named: dict[str, Any] = {}
    for name, value in params.items():
        here = RENAMED.get(name, name)
        if here in named and named[here] != value:
            others = sorted(one for one in params if RENAMED.get(one, one) == here)
            raise ValueError(
                f"{' and '.join(map(repr, others))} mean the same and differ: leave one out"
            )
        named[here] = value
    return named
