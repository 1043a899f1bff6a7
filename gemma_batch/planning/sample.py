"""The sample: the plan renders some rows to learn lengths and prefixes (driver, laptop).

The rows come from the start of shards that are spread over the whole input. So the sample is cheap
for every format, and it is wrong if rows at the start of shards differ from later rows. Token
counts are exact when the model's files are at hand. Otherwise four characters count as one token.
All else is the code that prepares rows in a run, so the sample shows the failures of a run.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gemma_batch.errors import FailureCode
from gemma_batch.planning.foresight import Foreseen, foresee, foreseen_facts, same_ids
from gemma_batch.planning.peek import SAMPLE_ROWS, SAMPLE_SHARDS, some_rows
from gemma_batch.planning.plan import Plan
from gemma_batch.planning.preview import renderer_for, tokenizer_for
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.planning.sharing import Sharing, measure
from gemma_batch.prompts.guess import CHARACTERS_PER_TOKEN
from gemma_batch.prompts.mentions import mention
from gemma_batch.prompts.prefixes import CACHE_BLOCK, prefix_gain, shared_share
from gemma_batch.prompts.template import Template
from gemma_batch.reading.prepare import rendered
from gemma_batch.rows import Failure, Prompt, Row
from gemma_batch.units.unit import Shard

REPEATS = 4  # a column repeats when it has at most one distinct value per so many rows
WORTH_A_HINT = 0.10  # the least share of the prompt's characters that a hint saves


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSample:
    """Lengths and prefixes of the sampled rows of one route.

    `rows` is the number of sampled rows. `prompt_tokens` is ascending and has one number per row
    that renders. `foreseen` are the failures of the other rows. `shared` is the share of prompt
    tokens, from 0 to 1, that a row has in common with the row before it when the sample is sorted
    by prefix; the whole input has at least this share. `gain` is `shared` minus the same share in
    the given order. `sharing` is a model of the share for any number of rows. `hint` and `doubled`
    are sentences for people, or None: how to share more, and which ids stand in several rows.
    `exact` is False when there was no tokenizer.
    """

    rows: int
    prompt_tokens: tuple[int, ...] = ()
    foreseen: tuple[Foreseen, ...] = ()
    shared: float = 0.0
    gain: float = 0.0
    sharing: Sharing = field(default_factory=Sharing)
    hint: str | None = None
    doubled: str | None = None
    exact: bool = True

    @property
    def failures(self) -> dict[str, int]:
        """The number of rows that will fail, by code."""
        return {one.code: one.rows for one in self.foreseen}

    @property
    def mean_tokens(self) -> float:
        """Mean prompt tokens of a row."""
        return statistics.fmean(self.prompt_tokens) if self.prompt_tokens else 0.0

    @property
    def over_context(self) -> float:
        """Share of rows, from 0 to 1, that do not fit the context."""
        return self.failures.get(FailureCode.PROMPT_TOO_LONG.value, 0) / max(self.rows, 1)

    def quantile(self, share: float) -> int:
        """The number of prompt tokens that a `share` of the rows (0 to 1) does not exceed."""
        if not self.prompt_tokens:
            return 0
        return self.prompt_tokens[min(int(share * len(self.prompt_tokens)), self.last)]

    @property
    def last(self) -> int:
        """Index of the longest row in `prompt_tokens`; -1 without rows."""
        return len(self.prompt_tokens) - 1

    def histogram(self) -> dict[int, int]:
        """Number of rows by prompt tokens: upper bound (a power of two) -> rows."""
        counts = Counter(1 << max(0, n - 1).bit_length() for n in self.prompt_tokens)
        return dict(sorted(counts.items()))


def sample_routes(plan: Plan, rows: int = SAMPLE_ROWS) -> dict[str, RouteSample]:
    """A sample for each route, by the route's name, from about `rows` rows of the whole input.

    Raises `InputError` when one of the sampled files is corrupt.
    """
    found = some_rows(plan.survey, rows, SAMPLE_SHARDS)
    mine: dict[str, list[tuple[Shard, Row]]] = {route.route.name: [] for route in plan.routes}
    names = plan.survey.router.assign([row for _, row in found])
    for one, name in zip(found, names, strict=True):
        mine[name].append(one)
    return {route.route.name: _sample(plan, route, mine[route.route.name]) for route in plan.routes}


def sample_rows(plan: Plan, rows: int) -> list[Row]:
    """About `rows` readable rows from the start of up to `SAMPLE_SHARDS` evenly spread shards.

    Raises `InputError` when one of the sampled files is corrupt.
    """
    return [row for _, row in some_rows(plan.survey, rows, SAMPLE_SHARDS) if row.values is not None]


def _sample(plan: Plan, route: RoutePlan, found: list[tuple[Shard, Row]]) -> RouteSample:
    rows = [row for _, row in found]
    renderer = renderer_for(plan, route, tokenizer_for(route))
    prompts: list[Prompt] = []
    failed: list[tuple[Shard, Row, Failure]] = []
    answers = rendered(rows, renderer, plan.survey.keep_schema)
    for (shard, row), answer in zip(found, answers, strict=True):
        if isinstance(answer, Failure):
            failed.append((shard, row, answer))
        else:
            prompts.append(answer.prompt)
    keys = [prompt.sort_key() for prompt in prompts]
    shared = shared_share(keys, in_order=False)
    return RouteSample(
        rows=len(rows),
        prompt_tokens=tuple(sorted(prompt.tokens for prompt in prompts)),
        foreseen=foresee(failed, plan.survey.id_column),
        shared=shared,
        gain=prefix_gain(keys),
        sharing=measure(keys),
        hint=_hint(plan, [row for row in rows if row.values is not None], shared),
        doubled=same_ids(found, plan.survey.id_column),
        exact=route.files is not None,
    )


def _hint(plan: Plan, rows: Sequence[Row], shared: float) -> str | None:
    """A sentence when moving columns to the front of `prompt.user` would save tokens, else None.

    Repeated values of a column share no prefix when a column without repeats stands in front.
    """
    user = plan.survey.prompt.user
    if user is None or len(rows) < REPEATS * REPEATS or Template(user).whole:
        return None
    columns = _in_order(user)
    values = {name: [str((row.values or {}).get(name) or "") for row in rows] for name in columns}
    total = sum(len(text) for texts in values.values() for text in texts) + len(user) * len(rows)
    repeating = [name for name in columns if len(set(values[name])) * REPEATS <= len(rows)]
    unique_first = next((i for i, name in enumerate(columns) if name not in repeating), None)
    if unique_first is None:
        return None
    late = [name for name in columns[unique_first:] if name in repeating]
    characters = {name: sum(map(len, values[name])) for name in late}
    least = CACHE_BLOCK * CHARACTERS_PER_TOKEN * len(rows)
    late = [name for name in late if characters[name] >= least]
    gain = sum(characters[name] for name in late) / max(total, 1)
    if not late or gain < WORTH_A_HINT or gain <= shared:
        return None
    what = " and ".join(mention(name) for name in late)
    seen = " and ".join(f"{len(set(values[name])):,}" for name in late)
    return (
        f"{what} took only {seen} values in {len(rows):,} rows but stands behind "
        f"{mention(columns[unique_first])} in prompt.user: put in front, about {100 * gain:.0f}% "
        "of the prompt tokens could come from the prefix cache"
    )


def _in_order(template: str) -> list[str]:
    """The template's columns, in the order in which the template first names them."""
    columns = Template(template, field="prompt.user").columns

    def place(name: str) -> int:
        found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", template)
        return found.start() if found else len(template)

    return sorted(columns, key=lambda name: (place(name), name))


def sample_facts(sample: RouteSample) -> dict[str, Any]:
    """The sample as plain data for `plan --json`."""
    return {
        "rows": sample.rows,
        "exact": sample.exact,
        "mean": round(sample.mean_tokens, 1),
        "p50": sample.quantile(0.5),
        "p95": sample.quantile(0.95),
        "max": sample.prompt_tokens[-1] if sample.prompt_tokens else 0,
        "histogram": sample.histogram(),
        "over_context": round(sample.over_context, 4),
        "failures": sample.failures,
        "foreseen": foreseen_facts(sample),
        "shared": round(sample.shared, 3),
        "gain": round(sample.gain, 3),
        "hint": sample.hint,
        "doubled": sample.doubled,
    }
