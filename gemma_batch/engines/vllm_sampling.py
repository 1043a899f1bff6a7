"""What vLLM takes of sampling parameters, without importing it (driver, CPU task, GPU actor).

vLLM checks most of this only when a request comes in. A value that it refuses would then fail row
after row, with the engines up and paid for. A test compares these rules with the vLLM at hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from gemma_batch.engines.token_ids import check_token_ids
from gemma_batch.engines.vllm_args import MOST_LOGPROBS, fields_in_vllm

LOGPROBS = "max_logprobs"
THINKING = ("reasoning_parser", "reasoning_config")  # engine arguments: either one is enough
LEAST, MOST = -(2**63), 2**64 - 1  # of the whole numbers that vLLM can send to its core
SPECULATION = ("speculative_config", "spec_method", "spec_model")


def available_params() -> set[str] | None:
    """The names of vLLM's sampling parameters; None when vLLM is not installed here."""
    return fields_in_vllm("sampling_params.py", "SamplingParams")


def most_logprobs(job: Mapping[str, Any], args: Mapping[str, Any], vocab: int) -> int:
    """How many log probabilities per token an engine gives that is started for this job.

    `job` are the job's sampling parameters, `args` the engine arguments of the spec.
    """
    given = args.get(LOGPROBS)
    if isinstance(given, int):
        return vocab if given == -1 else given
    return max(MOST_LOGPROBS, job.get("logprobs") or 0)


def check_sampling(
    params: Mapping[str, Any], *, job: Mapping[str, Any], args: Mapping[str, Any], vocab: int
) -> None:
    """Check the sampling parameters of a job, or of a row together with the job's.

    Raises `ValueError` with a sentence that begins with the parameter's name.
    """
    known = available_params()
    for name in params:
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (its nearest is {near[0]!r})" if near else ""
            raise ValueError(f"{name}: the vLLM installed here has no such parameter{hint}")
    check_token_ids(params, vocab)
    most = min(most_logprobs(job, args, vocab), vocab)
    if (asked := params.get("logprobs") or 0) > most:
        why = f"the vocabulary of the model has {vocab:,} tokens"
        if most < vocab:
            why = f"the engine gives at most {most:,}, by "
            why += f"resources.engine_args.{LOGPROBS}" if LOGPROBS in args else "sampling.logprobs"
        raise ValueError(f"logprobs: {asked:,} is too many: {why}")
    if not all(LEAST <= number <= MOST for number in _integers(params.get("extra_args"))):
        raise ValueError(f"extra_args: holds a number that is not between {LEAST} and {MOST}")
    if params.get("thinking_token_budget") is not None and not any(map(args.get, THINKING)):
        raise ValueError(
            "thinking_token_budget: vLLM does not know where thinking ends without "
            f"resources.engine_args.{THINKING[0]}, such as 'gemma4' (`thinking: true` sets it): "
            "set it, or leave the budget out"
        )
    if any(map(args.get, SPECULATION)):
        for name in ("min_p", "logit_bias"):
            if params.get(name):
                raise ValueError(
                    f"{name}: vLLM cannot do this with speculative decoding "
                    "(resources.engine_args): leave one of the two out"
                )


def _integers(value: Any) -> Iterator[int]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, int):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
