"""Preview: prompts of some rows as the model will see them (driver, laptop).

`plan` shows the first prompt, and the sample measures prompts. Without the model's files, the
preview uses the chat template of the model's generation.
"""

from __future__ import annotations

from typing import Any

from gemma_batch.planning.plan import Plan, RoutePlan
from gemma_batch.prompts.chat import default_chat_template
from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.template import RowProblem, Template
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reading.own_params import OwnParams
from gemma_batch.reading.prepare import renderer_of
from gemma_batch.rows import Row


def first_prompt(plan: Plan) -> dict[str, Any]:
    """`text` and `tokens` (a number) of the first readable row's prompt, and a `note` for people.

    Each of the three may be None.
    """
    rows = plan.survey.sample(1)
    if not rows:
        return _answer(None, None, "the first input file holds no readable row")
    (name,) = plan.survey.router.assign(rows)
    route = next(route for route in plan.routes if route.route.name == name)
    try:
        if route.files is None:
            return _answer(
                offline_prompt(plan, route, rows[0]), None, "rendered without the model's files"
            )
        tokenizer = Tokenizer.from_folder(route.files.path)
        text = renderer_for(plan, route, tokenizer).preview(rows[0])
        return _answer(text, len(tokenizer.encode(text)), None)
    except RowProblem as problem:
        return _answer(None, None, f"the first row will fail: {problem.code}: {problem.message}")


def _answer(text: str | None, tokens: int | None, note: str | None) -> dict[str, Any]:
    return {"text": text, "tokens": tokens, "note": note}


def renderer_for(plan: Plan, route: RoutePlan, tokenizer: Tokenizer) -> Renderer:
    """The renderer of a route. The route need not be placed."""
    return renderer_of(
        plan.survey.prompt,
        tokenizer,
        max_model_len=route.max_model_len,
        own_params=own_params(plan, route),
    )


def own_params(plan: Plan, route: RoutePlan) -> OwnParams:
    """The check of the rows' own sampling parameters. The route need not be placed."""
    return OwnParams(
        engine=route.resources.engine,
        job=plan.spec.sampling.engine_params(),
        args=route.resources.engine_args,
        vocab=route.card.vocab,
    )


def offline_prompt(plan: Plan, route: RoutePlan, row: Row) -> str:
    """A row's prompt by the chat template of the model's generation, without the model's files.

    Raises `RowProblem` when the row cannot be rendered.
    """
    prompt, values = plan.survey.prompt, row.values or {}
    messages = []
    if prompt.system is not None:
        rendered = Template(prompt.system, field="prompt.system").render(values)
        messages.append({"role": "system", "content": rendered.text})
    if prompt.user is not None:
        rendered = Template(prompt.user, field="prompt.user").render(values)
        messages.append({"role": "user", "content": rendered.text})
    else:
        messages += values.get(prompt.messages or "") or []
    return default_chat_template(route.card.generation).render(messages)
