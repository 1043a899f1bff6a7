"""The `sampling` part of a spec: how the model chooses its answer, by vLLM's own names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from gemma_batch.spec.spec_part import Positive, SpecPart

DEFAULT_MAX_TOKENS = 256


class Sampling(SpecPart):
    """How the model chooses its answer: vLLM's sampling parameters by their own names.

    A field that is left out, or set to its default, has the value of the model's own
    `generation_config.json`, else vLLM's default. Only `max_tokens` never comes from there.
    """

    n: Annotated[int, Field(ge=1, le=128)] = 1
    """Answers for each row. With more than one, `output` and `finish_reason` are lists."""

    max_tokens: Positive = DEFAULT_MAX_TOKENS
    """The longest answer, in tokens. An answer that reaches it is cut off, and its `finish_reason`
    is `length`. Must be less than `resources.max_model_len`."""

    min_tokens: Annotated[int, Field(ge=0)] = 0
    """The shortest answer, in tokens. At most `max_tokens`."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """How freely tokens are drawn. 0 takes the most likely token each time."""

    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the most likely tokens that together have this probability. 1: from all."""

    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Draw from this many of the most likely tokens. 0 or -1: from all."""

    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out tokens less likely than this share of the most likely token. 0: leave out none."""

    seed: int | None = None
    """Start of the random numbers, the same for every row. Default: not fixed for a row."""

    stop: str | tuple[str, ...] | None = None
    """Text, or a list of texts, at which an answer ends."""

    stop_token_ids: tuple[int, ...] | None = None
    """Token ids at which an answer ends, beside the model's own end token."""

    ignore_eos: bool = False
    """Go on after the model's end token until `max_tokens`. For measurements."""

    include_stop_str_in_output: bool = False
    """Keep the text of `stop` at the end of the answer."""

    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Above 0: tokens that the answer holds already become less likely."""

    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Above 0: tokens become less likely each time the answer repeats them."""

    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1: tokens that prompt or answer hold already become less likely."""

    logprobs: Annotated[int, Field(ge=0)] | None = None
    """Adds a column `logprobs` to the results: for each token of the answer its log probability
    and those of this many of the most likely tokens, as JSON. Default: no such column."""

    logit_bias: dict[int, float] | None = None
    """Token id to a number that is added to the token's score. 100 all but forces a token, -100
    all but forbids it."""

    allowed_token_ids: tuple[int, ...] | None = None
    """The only token ids that an answer may hold."""

    bad_words: tuple[str, ...] | None = None
    """Words that an answer may not hold."""

    skip_special_tokens: bool = True
    """Leave out special tokens, such as the end of a turn, from the text of an answer."""

    spaces_between_special_tokens: bool = True
    """Put spaces between special tokens in the text of an answer."""

    repetition_detection: dict[str, Any] | None = None
    """vLLM's settings to end an answer that repeats itself. Needs a vLLM that has them."""

    thinking_token_budget: int | None = None
    """The most tokens that a thinking model may think, where the vLLM at hand has this limit."""

    extra_args: dict[str, Any] | None = None
    """Handed on to vLLM as they are, for its plug-ins."""

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
        """Only what was set or differs from vLLM's own default (`max_tokens` always)."""
        given = self.model_dump(exclude_defaults=True)
        given["max_tokens"] = self.max_tokens
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
