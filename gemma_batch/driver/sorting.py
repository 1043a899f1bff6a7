"""Sorting: sorts all rows of a route by prefix before the run and puts them as staged shards.

The feed sorts only the rows that wait for one engine. Rows with the same prefix may be further
apart in the input. Then sorting the whole route once, before the run, saves more prompt tokens.
Each row's prompt is rendered to text, and the cluster's nodes exchange rows by that text. The
sorted copies are put under `_run/`, and the run reads the copies as it reads input files. Each
copy carries the row's place in the input, and ids, errors and retries use that place. The copies
count only once the manifest names them. When the driver dies earlier, it leaves behind files
that nobody reads.

This module does not know Ray; `cluster/exchange.py` exchanges the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from gemma_batch.committing.leftovers import copies_folder
from gemma_batch.errors import GemmaBatchError, SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.cut import cut, rows_per_unit
from gemma_batch.planning.estimate import is_sorted, sort_gain
from gemma_batch.planning.plan import Plan
from gemma_batch.planning.pool import make_pool
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.planning.routing import Router
from gemma_batch.planning.sample import RouteSample, sample_rows
from gemma_batch.reading.prepare import make_renderer
from gemma_batch.reading.sort_keys import Chunk, Sorting, chunks, sort_text
from gemma_batch.reporting.progress import Progress, Snapshot
from gemma_batch.storage.formats import STAGED
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit

COMPARED_ROWS = 64  # rows of the input that are compared, to find how all prompts begin


Exchange = Callable[[Sorting, Sequence[Chunk]], Iterator[dict[str, Any]]]


class Stage:
    """Sorts routes of a placed plan: each route where sorting pays or the spec demands it."""

    def __init__(
        self,
        plan: Plan,
        samples: Mapping[str, RouteSample],
        hardware: Hardware,
        exchange: Exchange,
        show: Progress,
    ) -> None:
        self._plan, self._samples, self._hardware = plan, samples, hardware
        self._exchange, self._show = exchange, show

    def routes(
        self, units: Sequence[Unit], increment: int = 0, before: int = 0
    ) -> tuple[list[Unit], list[Shard], dict[str, Any]]:
        """Sort routes and return all units, the staged shards, and facts by sorted route.

        `increment` is the number of the increment that `units` belong to, `before` the number of
        staged shards that the output has already.

        The units of a sorted route are replaced by units over its staged shards. Raises
        `GemmaBatchError` when sorting fails or loses a row, `SpecError` when the spec demands
        sorting but the rows cannot be copied without loss.
        """
        every, facts = list(units), dict[str, Any]()
        staged: list[Shard] = []
        for route in self._plan.routes:
            name = route.route.name
            mine = [unit for unit in every if unit.route == name]
            if not mine:
                continue
            rows = sum(unit.expected for unit in mine)
            gain = sort_gain(
                route,
                self._samples[name],
                rows,
                self._hardware,
                output_tokens=self._plan.spec.sampling.max_tokens,
            )
            if not is_sorted(route, gain):
                continue
            if not self._plan.survey.copyable:
                self._refuse(route)
                continue
            started = time.time()
            self._show.update(Snapshot(phase="sorting the input by prefix"))
            first = FIRST_STAGED + before + len(staged)
            shards = self._sort(route, mine, first, increment)
            took = time.time() - started
            self._show.say(f"route {name!r}: {rows:,} rows sorted by prefix in {took:,.0f} s")
            every = [unit for unit in every if unit.route != name]
            every += self._cut(route, shards)
            staged += shards
            facts[name] = {**asdict(gain), "took_seconds": round(took, 1)}
        return every, staged, facts

    def _refuse(self, route: RoutePlan) -> None:
        why = (
            f"route {route.route.name!r} cannot be sorted as a whole: the files differ in the "
            "type of a column that the job reads"
        )
        if route.resources.sort == "always":
            raise SpecError(
                f"resources.sort: {route.resources.sort!r}, but {why}: set it to 'never', or give "
                "the files one schema. Nothing was started"
            )
        self._show.say(why)

    def _sort(
        self, route: RoutePlan, units: Sequence[Unit], first: int, increment: int
    ) -> list[Shard]:
        """Put the rows of `units` as staged shards, numbered from `first`; returns the shards."""
        plan, survey = self._plan, self._plan.survey
        job = plan.job(route)
        by_number = {shard.number: shard for shard in survey.shards}
        renderer = make_renderer(job)
        texts = [sort_text(renderer, row, 0) for row in sample_rows(plan, COMPARED_ROWS)]
        sorting = Sorting(
            job=job,
            types=pa.schema([survey.schema.field(name) for name in survey.columns])
            if survey.uniform
            else None,
            skip=begun_alike([text for text in texts if text]),
            folder=copies_folder(plan.fingerprint().digest, increment),
        )
        pieces = list(self._exchange(sorting, chunks(by_number, units)))
        check_complete(pieces, units)
        pieces.sort(key=lambda piece: str(piece["first"]))
        return [
            Shard(
                number=first + i,
                url=piece["url"],
                size=piece["size"],
                etag=piece["etag"],
                format=STAGED,
                options=survey.shards[0].options,
            )
            for i, piece in enumerate(pieces)
        ]

    def _cut(self, route: RoutePlan, shards: Sequence[Shard]) -> list[Unit]:
        policy, only = self._plan.spec.policy, route.route.model_copy(update={"when": None})
        return cut(
            shards,
            Router([only], self._plan.survey.schema),
            max_rows=rows_per_unit(policy, route.rows_per_second),
            max_bytes=policy.unit_bytes,
            replicas=make_pool(route, self._hardware).most if policy.unit_rows is None else None,
            in_flight=route.in_flight,
        )


def begun_alike(texts: Sequence[str]) -> int:
    """How many characters at the beginning are the same in all texts; 0 for fewer than two."""
    if len(texts) < 2:
        return 0
    least, most = min(texts), max(texts)
    pairs = enumerate(zip(least, most, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(least), len(most)))


def check_complete(pieces: Iterable[dict[str, Any]], units: Iterable[Unit]) -> None:
    """Check that the sorted pieces hold every row of `units` once.

    For each input shard, the pieces must have the same number of rows as the units, and the same
    sum of row numbers. Raises `GemmaBatchError` when they differ.
    """
    wanted: dict[int, tuple[int, int]] = {}
    for unit in units:
        for place in unit.places:
            count, total = wanted.get(place.shard, (0, 0))
            wanted[place.shard] = count + len(place.numbers), total + sum(place.numbers)
    found: dict[int, tuple[int, int]] = {}
    for piece in pieces:
        for shard, rows, numbers in piece["origins"]:
            count, total = found.get(shard, (0, 0))
            found[shard] = count + rows, total + numbers
    if found != wanted:
        wrong = sorted(
            shard for shard in wanted.keys() | found.keys() if wanted.get(shard) != found.get(shard)
        )
        raise GemmaBatchError(
            f"sorting the input lost or doubled rows of {len(wrong)} shard(s), for example number "
            f"{wrong[0]}: nothing was started. Start again, or set resources.sort to never"
        )
