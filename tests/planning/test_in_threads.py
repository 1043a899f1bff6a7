"""Reading many files at the same time: in order, and in threads only where that helps."""

from __future__ import annotations

import threading
import time

import pytest

from gemma_batch.planning.in_threads import FIRST, in_threads


@pytest.mark.parametrize("count", [0, 1, FIRST, FIRST + 1, 300])
@pytest.mark.parametrize("wait", [0.0, 0.003])
def test_each_item_is_answered_once_in_order(count: int, wait: float) -> None:
    """Whether storage makes the reader wait or not."""

    def work(item: int) -> int:
        time.sleep(wait if item < FIRST else 0)
        return item * 2

    assert list(in_threads(work, range(count))) == [item * 2 for item in range(count)]


@pytest.mark.parametrize(("wait", "helps"), [(0.0, False), (0.003, True)])
def test_threads_are_for_storage_that_makes_the_reader_wait(wait: float, helps: bool) -> None:
    """A local disk answers at once, an object store after some milliseconds."""
    seen = set()

    def work(item: int) -> None:
        seen.add(threading.get_ident())
        if wait:
            time.sleep(wait)

    list(in_threads(work, range(200)))
    assert (len(seen) > 1) == helps


def test_an_error_is_raised_in_the_place_of_its_item() -> None:
    """The answers before it come first."""

    def work(item: int) -> int:
        time.sleep(0.003)
        if item == FIRST + 5:
            raise ValueError(item)
        return item

    found = in_threads(work, range(100))
    assert [next(found) for _ in range(FIRST)] == list(range(FIRST))
    with pytest.raises(ValueError, match=str(FIRST + 5)):
        list(found)
