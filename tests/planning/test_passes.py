"""Passes: units derived from what is committed; each row is taken at most once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.generations import last_pass, settle_pass
from gemma_batch.committing.ledger import Ledger
from gemma_batch.planning.passes import Failed, Pick, derive
from gemma_batch.rows import Failure, Outcome
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared
from tests.committing.test_commit import OUTCOMES, answer, job
from tests.committing.test_commit import prepared as prepared
from tests.committing.test_commit import store as store


def derived(store: Store, prepared: Prepared, pick: Pick, generation: int = 1) -> list[Any]:
    return derive(store, [prepared.unit], Ledger(store).receipts(), pick, generation)


def test_a_retry_takes_the_rows_that_failed_with_a_code(store: Store, prepared: Prepared) -> None:
    """And no others; a unit without such a row has no part in the pass."""
    commit_unit(store, job(), prepared, OUTCOMES, {})
    (unit,) = derived(store, prepared, Failed({"deadline"}))
    assert (unit.numbers, unit.expected, unit.generation) == ([1], 1, 1)
    assert unit.path == "results/part-00000-0000000000-retry1.parquet"
    assert derived(store, prepared, Failed({"null_value"})) == []


def test_the_newest_part_decides(store: Store, prepared: Prepared) -> None:
    """A row that a retry has answered is not taken by the next one."""
    two: dict[int, Outcome] = {**OUTCOMES, 2: Failure("deadline", "late")}
    commit_unit(store, job(), prepared, two, {})
    (unit,) = derived(store, prepared, Failed({"deadline"}))
    assert unit.numbers == [1, 2]
    again = replace(prepared, unit=unit, numbers=[1, 2], ids=["r1", "r2"])
    again.keep = prepared.keep.slice(1)
    commit_unit(store, job(), again, {1: answer("b"), 2: Failure("deadline", "late")}, {})
    (last,) = derived(store, prepared, Failed({"deadline"}), 2)
    assert (last.numbers, last.generation) == ([2], 2)


class Stubborn:
    """The next kind of pass: rows that were tried several times go to it, whatever they got."""

    def wanted(self, receipt: Mapping[str, Any]) -> bool:
        return bool(receipt["attempts"] > receipt["rows"])

    def rows(self, failures: Sequence[Mapping[str, Any]]) -> list[int]:
        return [failure["number"] for failure in failures if failure["attempts"] > 1]


def test_a_new_kind_of_pass_is_one_class(store: Store, prepared: Prepared) -> None:
    """It says which rows it takes; deriving, keeping and numbering its units is there."""
    commit_unit(store, job(), prepared, OUTCOMES, {})
    (unit,) = derived(store, prepared, Stubborn())
    settled = settle_pass(store, 1, [unit])
    assert settled == last_pass(store)
    assert [one.numbers for one in settled.units] == [[1]]


def test_a_pass_is_settled_once(store: Store, prepared: Prepared) -> None:
    """Of two drivers that derived different rows, the first one's list counts for both."""
    commit_unit(store, job(), prepared, OUTCOMES, {})
    (unit,) = derived(store, prepared, Failed({"deadline"}))
    first = settle_pass(store, 1, [unit])
    assert settle_pass(store, 1, [replace(unit, mask=b"\x07", expected=3)]) == first
    assert last_pass(store) == first
