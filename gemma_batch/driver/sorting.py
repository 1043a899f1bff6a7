"""Staging: the rows of a route, sorted by prefix as a whole, as shards of the run's own.

A feed sorts what waits for one engine. Where the rows of a group are further apart than that, all
are sorted once before the run: each row's prompt is rendered to text, rows are exchanged between
the cluster's nodes by it, and copies are put under `_run/`, from where the run reads them as it
would read the input. Ids, errors and retries go by a row's place in the input, which each copy
carries. Nothing counts until the manifest names the copies: whoever dies before has left some files
that nobody reads.

No Ray here; see `exchange`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from gemma_batch.errors import GemmaBatchError, SpecError
from gemma_batch.planning.estimate import is_sorted, sort_gain
from gemma_batch.planning.plan import Hardware, Plan, RoutePlan
from gemma_batch.planning.pool import make_pool
from gemma_batch.planning.routing import Router
from gemma_batch.planning.sample import RouteSample, sample_rows
from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.template import RowProblem
from gemma_batch.reading.prepare import make_renderer
from gemma_batch.reading.source import given_up, unit_rows
from gemma_batch.reporting.progress import Progress, Snapshot
from gemma_batch.rows import Row
from gemma_batch.storage.inputs import STAGED, InputFile
from gemma_batch.storage.readers.staged import staged_table
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shard, Unit, cut
from gemma_batch.units.unit import unit_rows as rows_per_unit

KEY = "key"
KEY_CHARS = 1024  # of a prompt, after what all begin with; finer order is the feed's business
CHUNK_ROWS, CHUNK_BYTES = 65_536, 64 * 2**20  # that one task reads, and about what a copy holds
COMPARED_ROWS = 64  # of the input, to see what all prompts begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """One route's sort, as its tasks need it. `types` None: values travel as JSON."""

    job: RouteJob
    types: pa.Schema | None
    skip: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Units of one shard whose rows one task reads."""

    shard: Shard
    units: tuple[Unit, ...]


class ReadLog(Protocol):
    """Who reads what, kept outside of the process that reads."""

    def begin(self, unit: str) -> bool:
        """It starts to read a unit; False when too many have died with it already."""
        ...

    def end(self, unit: str) -> None:
        """The unit was read."""


def chunks(shards: Sequence[Shard], units: Iterable[Unit]) -> list[Chunk]:
    """Neighbouring units of a shard put together, up to what one task should read."""
    found: list[Chunk] = []
    rows = weight = 0
    for unit in units:
        rows, weight = rows + unit.expected, weight + unit.bytes
        last = found[-1] if found else None
        if (
            last is not None
            and last.shard.number == unit.shard
            and rows <= CHUNK_ROWS
            and weight <= CHUNK_BYTES
        ):
            found[-1] = replace(last, units=(*last.units, unit))
        else:
            found.append(Chunk(shard=shards[unit.shard], units=(unit,)))
            rows, weight = unit.expected, unit.bytes
    return found


def read_chunk(sorting: Sorting, renderer: Renderer, chunk: Chunk, log: ReadLog) -> pa.Table:
    """A chunk's rows with their sort keys.

    Rows of a unit that the log refuses fail, for good: a retry reads the same copy.
    """
    shard, rows, keys = chunk.shard, list[Row](), list[str]()
    for unit in chunk.units:
        if log.begin(unit.name):
            mine = unit_rows(shard, unit, sorting.job.columns)
        else:
            mine = given_up(shard, unit)
        keys += [sort_text(renderer, row, sorting.skip) for row in mine]
        rows += mine
        log.end(unit.name)
    table = staged_table(rows, shard.number, shard.url, sorting.types)
    return table.append_column(KEY, pa.array(keys, pa.large_string()))


def sort_text(renderer: Renderer, row: Row, skip: int) -> str:
    """The part of a row's prompt that decides about its place; "" for one without a prompt."""
    try:
        return renderer.preview(row)[skip : skip + KEY_CHARS]
    except RowProblem:
        return ""


def describe(table: pa.Table, file: InputFile) -> dict[str, Any]:
    """What the driver has to know of a sorted piece: its file, its first key, which rows it has."""
    sums = table.group_by("shard").aggregate([("row", "count"), ("row", "sum")])
    return {
        "url": file.url,
        "size": file.size,
        "etag": file.etag,
        "first": table[KEY][0].as_py(),
        "origins": list(
            zip(
                sums["shard"].to_pylist(),
                sums["row_count"].to_pylist(),
                sums["row_sum"].to_pylist(),
                strict=True,
            )
        ),
    }


Exchange = Callable[[Sorting, Sequence[Chunk]], Iterator[dict[str, Any]]]


class Stage:
    """Sorts the routes of a placed plan that are worth it, or that the spec wants sorted."""

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

    def routes(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Shard], dict[str, Any]]:
        """The units, those of sorted routes over new shards; these shards; facts by sorted route.

        Raises `GemmaBatchError` when sorting fails or loses a row, `SpecError` when rows that are
        to be sorted cannot be copied without loss.
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
            shards = self._sort(route, mine, len(self._plan.survey.shards) + len(staged))
            took = time.time() - started
            self._show.say(f"route {name!r}: {rows:,} rows sorted by prefix in {took:,.0f} s")
            every = [unit for unit in every if unit.route != name]
            every += self._cut(route, shards)
            staged += shards
            facts[name] = {**asdict(gain), "took_seconds": round(took, 1)}
        return every, staged, facts

    def _refuse(self, route: RoutePlan) -> None:
        why = (
            f"route {route.route.name!r} cannot be sorted as a whole: the Parquet files differ in "
            "the type of a column that the job reads, or one is a map"
        )
        if route.resources.sort == "always":
            raise SpecError(
                f"resources.sort: {route.resources.sort!r}, but {why}: set it to 'never', or give "
                "the files one schema. Nothing was started"
            )
        self._show.say(why)

    def _sort(self, route: RoutePlan, units: Sequence[Unit], first: int) -> list[Shard]:
        """The rows of the units in new shards, numbered from `first`."""
        plan, survey = self._plan, self._plan.survey
        job = plan.job(route)
        renderer = make_renderer(job)
        texts = [sort_text(renderer, row, 0) for row in sample_rows(plan, COMPARED_ROWS)]
        sorting = Sorting(
            job=job,
            types=pa.schema([survey.schema.field(name) for name in survey.columns])
            if survey.uniform
            else None,
            skip=begun_alike([text for text in texts if text]),
            folder=f"_run/sorted-{plan.fingerprint().digest[:16]}",
        )
        pieces = list(self._exchange(sorting, chunks(survey.shards, units)))
        check_complete(pieces, units)
        pieces.sort(key=lambda piece: str(piece["first"]))
        return [
            Shard(
                number=first + i,
                url=piece["url"],
                size=piece["size"],
                etag=piece["etag"],
                format=STAGED,
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
        )


def begun_alike(texts: Sequence[str]) -> int:
    """How many characters all texts begin with; 0 for less than two."""
    if len(texts) < 2:
        return 0
    least, most = min(texts), max(texts)
    pairs = enumerate(zip(least, most, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(least), len(most)))


def check_complete(pieces: Iterable[dict[str, Any]], units: Iterable[Unit]) -> None:
    """Every row once: by input shard, as many rows as there were and the same sum of numbers."""
    wanted: dict[int, tuple[int, int]] = {}
    for unit in units:
        count, total = wanted.get(unit.shard, (0, 0))
        if unit.mask is None:
            mine = unit.rows * unit.first_row + unit.rows * (unit.rows - 1) // 2
        else:
            mine = sum(unit.numbers)
        wanted[unit.shard] = count + unit.expected, total + mine
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
