"""Every exception of the package, and every code that a failed row can have.

    GemmaBatchError                 exit code 1
    ├── UserError                   exit code 2: the spec or its input is wrong, nothing was started
    │   ├── SpecError               a field of the spec
    │   ├── InputError              an input file, a column, a glob without files
    │   ├── ModelError              an unknown, unsupported, gated or unreachable model
    │   ├── PlacementError          a model that does not fit the hardware named
    │   ├── OutputError             an output path that cannot be used
    │   ├── MismatchError           an output that belongs to another configuration or input
    │   └── ClusterError            no Ray cluster answers at an address, or it refuses the token
    ├── ClusterLost                 a Ray cluster that answered before no longer does
    ├── StoppedError                exit code 4: stopped by the breaker or an alert
    │   ├── BudgetError             the budget of the output is spent
    │   └── LeaseError              another driver works on the same output
    ├── StorageError                storage gave up after its retries
    └── EngineError
        ├── EngineStartError        an engine did not come up
        ├── EngineLost              the engine process died or no longer answers
        ├── RowRejected             this row will never be accepted: not retried
        └── RowTransient            this row may be accepted later: retried, bounded

The type of an exception decides whether something is tried again, never its text. All exceptions
can be pickled, because Ray passes them from process to process.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

TOO_MANY_FAILED = 3  # the exit code of a run with more failed rows than policy.max_failed
INTERRUPTED = 130  # the exit code of a run that was asked to stop


class GemmaBatchError(Exception):
    """The base of every exception that this package raises on purpose."""

    exit_code = 1


class UserError(GemmaBatchError):
    """Something is wrong that a person has to change before the run can start."""

    exit_code = 2


class SpecError(UserError):
    """A field of the spec is unknown, missing or has a value that cannot work."""


class InputError(UserError):
    """The input has no files, a corrupt file, or lacks a column that the spec names."""


class ModelError(UserError):
    """The model is unknown, not supported, gated, or its files cannot be read."""


class PlacementError(UserError):
    """The model does not fit the hardware in any allowed placement."""


class OutputError(UserError):
    """The output path cannot be used, holds no run, or lacks files or holds damaged files."""


class MismatchError(UserError):
    """The output holds a run of another configuration or of other input."""


class ClusterError(UserError):
    """No Ray dashboard answers at the address, or it refuses the token."""


class ClusterLost(GemmaBatchError):
    """A Ray dashboard that answered before no longer answers; its jobs may still be running."""


class StoppedError(GemmaBatchError):
    """The run was stopped on purpose before its end; committed parts stay."""

    exit_code = 4


class BudgetError(StoppedError):
    """The budget of the output is spent; `report` is the `Report` of what is committed."""

    report: Any = None


class LeaseError(StoppedError):
    """Another driver holds the lease of this output, or took over the lease."""


class StorageError(GemmaBatchError):
    """Object storage or disk kept failing after all retries."""


class StorageFullError(StorageError):
    """There is no room left: another node could not write there either."""


class EngineError(GemmaBatchError):
    """The base of every exception that an engine raises."""


class EngineStartError(EngineError):
    """An engine could not be started."""


class EngineLost(EngineError):
    """The engine died or stopped answering; all rows in flight have to be tried again."""


class RowRejected(EngineError):
    """The engine refuses this row for good."""


class RowTransient(EngineError):
    """The engine failed this row for a reason that may pass."""


class FailureCode(StrEnum):
    """Why a row has no answer. The values are stable: they are written to data sets."""

    BAD_ROW = "bad_row"
    NULL_VALUE = "null_value"
    MISSING_FIELD = "missing_field"
    BAD_VALUE = "bad_value"
    TEMPLATE_ERROR = "template_error"
    BAD_MESSAGES = "bad_messages"
    BAD_PARAMS = "bad_params"
    EMPTY_PROMPT = "empty_prompt"
    PROMPT_TOO_LONG = "prompt_too_long"
    SHARD_UNREADABLE = "shard_unreadable"
    SHARD_CHANGED = "shard_changed"
    ENGINE_REJECTED = "engine_rejected"
    ENGINE_CRASH = "engine_crash"
    ENGINE_ERROR = "engine_error"
    DEADLINE = "deadline"
    INVALID_ANSWER = "invalid_answer"


FAILURE_MEANING: dict[FailureCode, str] = {
    FailureCode.BAD_ROW: "the input line could not be parsed",
    FailureCode.NULL_VALUE: "a column that the prompt uses is null in this row, or absent",
    FailureCode.MISSING_FIELD: "an object in a column lacks a field that the prompt uses",
    FailureCode.BAD_VALUE: "a value cannot be rendered or kept",
    FailureCode.TEMPLATE_ERROR: "the template raised an error on this row",
    FailureCode.BAD_MESSAGES: "the row's conversation is not one the model can answer",
    FailureCode.BAD_PARAMS: "the row's own sampling parameters are invalid",
    FailureCode.EMPTY_PROMPT: "every document value in the prompt is empty",
    FailureCode.PROMPT_TOO_LONG: "prompt and answer do not fit the model's context",
    FailureCode.SHARD_UNREADABLE: "the input file could not be read",
    FailureCode.SHARD_CHANGED: "the input file changed after the run was planned",
    FailureCode.ENGINE_REJECTED: "the engine refused the request",
    FailureCode.ENGINE_CRASH: "the engine process dies when it is given this row",
    FailureCode.ENGINE_ERROR: "the engine failed this row on every attempt",
    FailureCode.DEADLINE: "the row took longer than policy.row_deadline",
    FailureCode.INVALID_ANSWER: "no answer had the shape that the job asks for",
}


GO_ON = "What is committed stays; mend the cause and start again to go on"
