"""Preview: prompts of some rows as the model will see them (driver, laptop).

`plan` shows the first prompt, and the sample measures prompts. Without the model's files, a guess
stands in for the model's tokenizer; everything else is the same code.
"""

from __future__ import annotations

from typing import Any

from gemma_batch.family.chat_templates import CHAT_TEMPLATES
from gemma_batch.planning.asking import all_sampling, args_of, asked_of
from gemma_batch.planning.peek import some_rows
from gemma_batch.planning.plan import Plan
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.prompts.guess import GuessedTokenizer
from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.template import RowProblem
from gemma_batch.prompts.tokens import TextTokenizer, Tokenizer
from gemma_batch.reading.own_params import OwnParams
from gemma_batch.reading.prepare import renderer_of
from gemma_batch.spec import JobSpec, Prompt

TRIED_ROWS = 16  # rows of which the first that can be rendered is shown


def first_prompt(plan: Plan) -> dict[str, Any]:
    """The prompt of the first row that has one: its `text` and `tokens` (a number).

    `note` is a sentence for people. Each of the three may be None. Raises `InputError` when a file
    is corrupt.
    """
    rows = [row for _, row in some_rows(plan.survey, TRIED_ROWS)]
    if not rows:
        return _answer(None, None, "the input has no rows")
    routes = {route.route.name: route for route in plan.routes}
    notes: list[str] = []
    for row, name in zip(rows, plan.survey.router.assign(rows), strict=True):
        route = routes[name]
        tokenizer = tokenizer_for(route)
        try:
            text = renderer_for(plan, route, tokenizer).preview(row)
        except RowProblem as problem:
            if not notes and row is rows[0]:
                notes.append(f"the first row will fail: {problem.code}: {problem.message}")
            continue
        if route.files is None:
            return _answer(text, None, *notes, "rendered without the model's files")
        return _answer(text, len(tokenizer.encode(text)), *notes)
    return _answer(None, None, *notes)


def _answer(text: str | None, tokens: int | None, *notes: str | None) -> dict[str, Any]:
    said = [note for note in notes if note]
    return {"text": text, "tokens": tokens, "note": "; ".join(said) or None}


def tokenizer_for(route: RoutePlan) -> TextTokenizer:
    """The tokenizer of a route's model; a guess when the model's files are not at hand.

    Raises `ModelError` when the files are broken.
    """
    if route.files is not None:
        return Tokenizer.from_folder(route.files.path)
    card = route.card
    format_ = card.calls if card.calls in CHAT_TEMPLATES else card.generation
    return GuessedTokenizer(format_, chat_template=card.chat_template)


def renderer_for(plan: Plan, route: RoutePlan, tokenizer: TextTokenizer) -> Renderer:
    """The renderer of a route. The route need not be placed."""
    return route_renderer(plan.spec, plan.survey.prompt, route, tokenizer)


def route_renderer(
    spec: JobSpec, prompt: Prompt, route: RoutePlan, tokenizer: TextTokenizer
) -> Renderer:
    """The renderer of a route; `prompt` is the spec's, with the defaults of the input's format."""
    asked = asked_of(spec, route.card)
    return renderer_of(
        prompt,
        tokenizer,
        max_model_len=route.max_model_len,
        own_params=OwnParams(
            engine=route.resources.engine,
            job=all_sampling(spec, asked),
            args=args_of(route.resources, asked),
            vocab=route.card.vocab,
            asked=asked,
        ),
        asked=asked,
    )
