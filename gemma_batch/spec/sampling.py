"""The `sampling` part of a spec: how the model chooses its answer, by vLLM's own names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, field_validator, model_validator

from gemma_batch.spec.spec_part import Positive, SpecPart
from gemma_batch.spec.yaml_text import MAX_DEPTH

DEFAULT_MAX_TOKENS = 256
INT32, INT64 = 2**31 - 1, 2**63 - 1  # the most that engines keep in numbers of this size

TokenId = Annotated[int, Field(ge=0)]


class RepetitionDetection(SpecPart):
    """When an answer that repeats itself is ended early: its `finish_reason` is `repetition`."""

    max_pattern_size: Annotated[int, Field(ge=1, le=INT32)]
    """The longest run of tokens whose repetition is looked for."""

    min_pattern_size: Annotated[int, Field(ge=0, le=INT32)] = 0
    """The shortest run of tokens whose repetition is looked for. 0 means 1."""

    min_count: Annotated[int, Field(ge=2, le=INT32)]
    """How often the run has to stand in the answer, one time after the other."""

    @model_validator(mode="after")
    def _ordered(self) -> RepetitionDetection:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError(
                f"min_pattern_size={self.min_pattern_size} is above "
                f"max_pattern_size={self.max_pattern_size}"
            )
        return self


class Sampling(SpecPart):
    """How the model chooses its answer: vLLM's sampling parameters by their own names.

    A field that is left out has the value of the model's own `generation_config.json`, else vLLM's
    default. A value that is written here always wins, and `max_tokens` never comes from there. The
    plan refuses values that the model or the vLLM at hand cannot take. The `echo` engine looks at
    `n` and `max_tokens` only.
    """

    n: Annotated[int, Field(ge=1, le=128)] = 1
    """Answers for each row. With more than one, `output` and `finish_reason` are lists."""

    max_tokens: Positive = DEFAULT_MAX_TOKENS
    """The longest answer, in tokens. An answer that reaches it is cut off, and its `finish_reason`
    is `length`. Must be less than `resources.max_model_len`."""

    min_tokens: Annotated[int, Field(ge=0)] = 0
    """The shortest answer, in tokens. At most `max_tokens`."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """How freely tokens are drawn. 0 takes the most likely token each time."""

    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the most likely tokens that together have this probability. 1: from all."""

    top_k: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    """Draw from this many of the most likely tokens. 0 or -1: from all."""

    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out tokens less likely than this share of the most likely token. 0: leave out none."""

    seed: Annotated[int, Field(ge=-INT64, le=INT64)] | None = None
    """Start of the random numbers, the same for every row; not -1, which vLLM takes for no seed.
    Default: not fixed for a row."""

    stop: str | tuple[str, ...] | None = None
    """Text, or a list of texts, at which an answer ends."""

    stop_token_ids: tuple[TokenId, ...] | None = None
    """Token ids at which an answer ends, beside the model's own end token. They have to be in the
    model's vocabulary."""

    ignore_eos: bool = False
    """Go on after the model's end token until `max_tokens`. For measurements."""

    include_stop_str_in_output: bool = False
    """Keep the text of `stop` at the end of the answer."""

    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Above 0: tokens that the answer holds already become less likely. 0: no penalty."""

    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Above 0: tokens become less likely each time the answer repeats them. 0: no penalty."""

    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    """Above 1: tokens that prompt or answer hold already become less likely. 1: no penalty."""

    logprobs: Annotated[int, Field(ge=0, le=INT32)] | None = None
    """Adds a column `logprobs` to the results: for each token of the answer its log probability
    and those of this many of the most likely tokens, as JSON. Default: no such column. A row may
    ask for another number only in a job that sets this field."""

    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Token id to a number that is added to the token's score. 100 all but forces a token, -100
    all but forbids it. The ids have to be in the model's vocabulary."""

    allowed_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1)] | None = None
    """The only token ids that an answer may hold. They have to be in the model's vocabulary."""

    bad_words: tuple[str, ...] | None = None
    """Words that an answer may not hold."""

    skip_special_tokens: bool = True
    """Leave out special tokens, such as the end of a turn, from the text of an answer."""

    spaces_between_special_tokens: bool = True
    """Put spaces between special tokens in the text of an answer."""

    repetition_detection: RepetitionDetection | None = None
    """Ends an answer that repeats itself, where the vLLM at hand can. Default: never."""

    thinking_token_budget: Annotated[int, Field(ge=0, le=INT32)] | None = None
    """The most tokens that a thinking model may think. vLLM needs to know where thinking ends, so
    it is refused without `reasoning_parser` or `reasoning_config` in `resources.engine_args`."""

    extra_args: dict[str, Any] | None = None
    """Handed on to vLLM as they are, for its plug-ins."""

    @field_validator("seed")
    @classmethod
    def _is_a_seed(cls, value: int | None) -> Any:
        if value == -1:
            raise ValueError("vLLM takes -1 for no seed: leave the seed out, or take another one")
        return value

    @field_validator("stop")
    @classmethod
    def _stops_at_something(cls, value: str | tuple[str, ...] | None) -> Any:
        if "" in ((value,) if isinstance(value, str) else value or ()):
            raise ValueError(f"{value!r} holds an empty text, at which no answer can end")
        return value

    @field_validator("bad_words")
    @classmethod
    def _words(cls, value: tuple[str, ...] | None) -> Any:
        if any(not word.strip() for word in value or ()):
            raise ValueError(f"{list(value or ())!r} holds a word of spaces only")
        return value

    @field_validator("extra_args")
    @classmethod
    def _not_deep(cls, value: dict[str, Any] | None) -> Any:
        # What is nested without a bound cannot be sent from process to process.
        level: list[Any] = [value]
        for _ in range(MAX_DEPTH):
            inner = [one.values() if isinstance(one, dict) else one for one in level]
            level = [x for one in inner if isinstance(one, Collection) for x in one]
            level = [x for x in level if isinstance(x, dict | list | tuple)]
        if level:
            raise ValueError(f"has more than {MAX_DEPTH} levels of nesting")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Sampling:
        if self.n > 1 and self.temperature == 0:
            raise ValueError(
                f"n={self.n} with temperature 0 would give the same answer {self.n} times: "
                "raise the temperature or set n to 1"
            )
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}")
        return self

    def engine_params(self) -> dict[str, Any]:
        """The fields that were set, under vLLM's names; `max_tokens` always.

        A value that was written down counts, also where it is the default: it has to win over the
        model's `generation_config.json`.
        """
        given = self.model_dump(include=self.model_fields_set | {"max_tokens"}, exclude_none=True)
        return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, SpecPart):
        return value.model_dump()
    return list(value) if isinstance(value, tuple) else value


_TYPES: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind)
    for name, field in Sampling.model_fields.items()
    if (kind := field.annotation) is not None
}


def params_from_json(params: dict[str, Any]) -> dict[str, Any]:
    """Sampling parameters that went through JSON, in the types that they had before.

    JSON has only text as a key, so the token ids of `logit_bias` come back as text.
    """
    return {
        name: _plain(_TYPES[name].validate_python(value)) if name in _TYPES else value
        for name, value in params.items()
    }
