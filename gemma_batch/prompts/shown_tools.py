"""ShownTools: functions as a prompt shows them to the model (Ray CPU task, driver, laptop)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.conversation import document, harmless, literal
from gemma_batch.prompts.template import Segment, check_text
from gemma_batch.prompts.tokens import TextTokenizer
from gemma_batch.prompts.tool_schema import shown_function
from gemma_batch.prompts.tool_text import beside_template, tool_prompt


class ShownTools(NamedTuple):
    """`native` goes to the chat template, in OpenAI's form; `said` stands first in the prompt."""

    native: tuple[dict[str, Any], ...] = ()
    said: tuple[Segment, ...] = ()


def shown_tools(
    functions: Sequence[dict[str, Any]], choice: str, tokenizer: TextTokenizer, *, own: bool = False
) -> ShownTools:
    """How functions ({name, description, parameters}) are shown.

    `choice` is "auto", "none" or "required". With `own` the functions come from a row: control
    tokens in them are broken. Raises `RowProblem` for text in them that cannot be tokenized.
    """
    if not functions:
        return ShownTools()
    form = tokenizer.chat.calls
    said = beside_template(form, choice) if form else tool_prompt(functions, choice)
    if own:
        check_text(said)
        functions = harmless(list(functions), tokenizer.control_pattern)
        said = neutralise([document(said)], tokenizer.control_pattern)[0].text
    native = tuple(map(shown_function, functions)) if form else ()
    # As literal text: it is never cut, whatever the row.
    return ShownTools(native, (literal(said),) if said else ())
