"""The `prompt` part of a spec: what the model is asked about each row."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from gemma_batch.spec.spec_part import SpecPart


class Prompt(SpecPart):
    """What the model is asked about each row: templates, or a column of ready conversations.

    Give `user` or `messages`. OpenAI batch files need neither.
    """

    system: str | None = None
    """The system message: a Jinja template over the columns of the row. Where the model has no
    system role, the text is put before the user's text. Default: no system message."""

    user: str | None = None
    """The user message: a Jinja template over the columns of the row, such as `{{ body }}` or
    `{{ row['Review Text'] }}` for any name. The template runs in a sandbox; the value of a column
    is never run as a template."""

    messages: str | None = None
    """The column that holds ready conversations, instead of `user`: lists of `{role, content}` or
    of `{from, value}`, or the JSON text of such a list. The last message must be the user's (see
    `last_answer`). Default for OpenAI batch files: their messages."""

    last_answer: Literal["fail", "continue", "drop"] = "fail"
    """What is done with a conversation that ends with a message of the assistant. `fail`: the row
    fails with the code `bad_messages`. `continue`: the model writes on where this message ends, and
    `output` holds only the new text; a row asks for this with `continue_final_message: true` among
    its own parameters. `drop`: the message is left out, and the model answers anew."""

    params: str | None = None
    """The column that holds the row's own sampling parameters: an object with fields of `sampling`
    (all but `n`), or its JSON text. They override the job's. OpenAI's names are taken too; fields
    that change no answer, such as `user`, are ignored. A row with a parameter that the job or the
    engine cannot follow fails with the code `bad_params`. Default for OpenAI batch files: their
    parameters."""

    overlong: Literal["fail", "truncate_start", "truncate_end"] = "fail"
    """What is done with a row whose prompt and longest answer do not fit
    `resources.max_model_len`. `fail`: the row fails with the code `prompt_too_long`, so that no
    text is lost unseen. `truncate_start` and `truncate_end` cut that end of the row's values until
    the prompt fits; the text of the template itself is never cut."""

    @model_validator(mode="after")
    def _one_source(self) -> Prompt:
        if self.user is not None and self.messages is not None:
            raise ValueError("`user` and `messages` exclude each other: keep one of them")
        if self.user is not None and self.last_answer != "fail":
            raise ValueError(
                "`last_answer` is about conversations, and `user` makes none: take "
                "`messages`, or leave it out"
            )
        return self
