"""Row prompts: the prompts of some rows of an output, rendered once more (driver, laptop).

Results hold no prompts. So the rows are read from the input again, as the run read them, and are
rendered by the code that rendered them in the run. Where that cannot be done, because the input
changed or is gone, a sentence says so in place of the prompt.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from gemma_batch.committing.manifest import Manifest
from gemma_batch.errors import FailureCode, GemmaBatchError
from gemma_batch.planning.recorded import RecordedJob, Rendering
from gemma_batch.prompts.template import RowProblem
from gemma_batch.reading.source import unit_rows
from gemma_batch.rows import Row
from gemma_batch.storage.contents import digests
from gemma_batch.storage.listing import stat
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit, make_mask

GUESSED = "the model's files are not at hand: its own chat template may differ from this prompt"
# Codes of rows whose file could not be read.
NOT_READ = {FailureCode.SHARD_UNREADABLE.value, FailureCode.SHARD_CHANGED.value}
COPY = (
    "the run read this row from a sorted copy of the input, which cannot be read any more: `clean` "
    "removes such copies"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPrompt:
    """The prompt of one row: its `text`, or the sentence `missing` that says why there is none.

    `shard` is the URL of the input file, `row_number` the 0-based number of the row there. `marks`
    are the control tokens in `text` that the template wrote. `values` are the columns of the row
    that the job reads; None when the row could not be read. `note` is a sentence about the text, or
    None: the model got it in another form, as far as that is known. `tokens` is the length of the
    text in tokens; None without the model's files.
    """

    shard: str
    row_number: int
    text: str | None = None
    missing: str | None = None
    marks: tuple[str, ...] = ()
    values: dict[str, Any] | None = None
    note: str | None = None
    tokens: int | None = None


class RowPrompts:
    """Renders rows of an output once more. Threads may share it."""

    def __init__(self, manifest: Manifest) -> None:
        self._shards = manifest.by_number
        self._job: RecordedJob | None = None
        self._refused = ""
        self._now: dict[int, Shard] = {}
        try:
            self._job = RecordedJob(manifest)
        except GemmaBatchError as err:
            self._refused = f"the recorded job cannot be read: {err}"

    @property
    def kept(self) -> dict[str, str]:
        """The kept columns of the job: the name in the output -> the column of the input."""
        return {} if self._job is None else self._job.spec.output.kept

    @property
    def shortens(self) -> bool:
        """Whether the job shortens prompts that are too long."""
        return self._job is not None and self._job.prompt.overlong != "fail"

    def of(self, unit: Unit, numbers: Collection[int]) -> dict[int, RowPrompt]:
        """The prompt of each of these rows of a unit, by the row's number in the unit."""
        found = self._places(unit, numbers)
        if self._job is None:
            return {n: replace(one, missing=self._refused) for n, one in found.items()}
        try:
            wanted = _only(unit, numbers)
            shards = {place.shard: self._as_now(place.shard) for place in wanted.places}
            rows = unit_rows(shards, wanted, self._job.columns)
            rendering = self._job.rendering(unit.route)
        except GemmaBatchError as err:
            return {n: replace(one, missing=str(err)) for n, one in found.items()}
        shown = {row.number: _rendered(found[row.number], row, rendering) for row in rows}
        if unit.shard >= FIRST_STAGED:
            lost = {row.number for row in rows if row.failure and row.failure.code in NOT_READ}
            shown |= {n: replace(shown[n], missing=COPY) for n in lost}
        return shown

    def _as_now(self, number: int) -> Shard:
        """The shard of this number; of a growing input, with the etag of a file that was touched.

        Such a file has the contents that it had (see `planning/growth.py`).
        """
        shard = self._shards[number]
        if shard.digest and number not in self._now:
            found = stat(shard.url)
            same = (found.size, found.etag) == (shard.size, shard.etag)
            if not same and next(digests([shard.url])) == shard.digest:
                shard = replace(shard, etag=found.etag)
            self._now[number] = shard
        return self._now.get(number, shard)

    def without(self, unit: Unit, numbers: Collection[int], why: str) -> dict[int, RowPrompt]:
        """The same without a look at the input; `why` is the sentence about the missing prompts."""
        places = self._places(unit, numbers)
        return {number: replace(place, missing=why) for number, place in places.items()}

    def _places(self, unit: Unit, numbers: Collection[int]) -> dict[int, RowPrompt]:
        """The place of rows in the input; of rows in a staged copy, the place in the copy."""
        if unit.members is None:
            url = self._shards[unit.shard].url
            return {number: RowPrompt(shard=url, row_number=number) for number in numbers}
        every = unit.places
        begins = [place.first for place in every]
        found = {}
        for number in numbers:
            place = every[bisect_right(begins, number) - 1]
            url = self._shards[place.shard].url
            found[number] = RowPrompt(shard=url, row_number=number - place.first)
        return found


def _only(unit: Unit, numbers: Collection[int]) -> Unit:
    """The unit with only these of its rows; the rows behind the last one are not read."""
    rows = unit.rows if unit.members else max(numbers) - unit.first_row + 1
    mask = make_mask(unit.first_row, rows, sorted(numbers))
    return replace(unit, rows=rows, mask=mask, expected=len(numbers))


def _rendered(place: RowPrompt, row: Row, rendering: Rendering) -> RowPrompt:
    if row.origin is not None:
        place = replace(place, shard=row.origin.url, row_number=row.origin.row)
    try:
        text = rendering.renderer.preview(row)
    except RowProblem as problem:
        return replace(place, missing=problem.message, values=row.values)
    return replace(
        place,
        text=text,
        marks=tuple(sorted(set(rendering.tokenizer.control_pattern.findall(text)))),
        values=row.values,
        note=None if rendering.exact else GUESSED,
        tokens=len(rendering.tokenizer.encode(text)) if rendering.exact else None,
    )
