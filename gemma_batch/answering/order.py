"""The order in which waiting rows go to an engine: pure queues over requests (GPU actor).

`input`   Rows go in the order in which they come.
`prefix`  Rows that share a prefix go together. The queue keeps the waiting rows of all units sorted
          by token ids. It serves the rows upwards, in one sweep after the other, like an elevator.
          Neighbours in this order share the longest prefixes: the order walks the prefix tree
          depth first, and so needs the smallest cache. No row waits longer than two sweeps.
`length`  Within each unit, the rows that are expected to take longest go first. So the commit of a
          unit, and the end of a run, wait less for slow rows.
`auto`    `prefix` for a unit in which this order saves at least the share `WORTH_SHARE` of the
          prompt tokens, otherwise `length`. (The driver replaces `auto` by `prefix` for a whole
          route if the plan's sample shows this saving, or if the route was sorted as a whole.)

Prefixes matter more for Gemma than for other models: vLLM can use a cached prefix only while the
last window of every sliding layer is still cached, so interleaved prefixes evict each other early.
No queue loses or doubles a row. A queue knows only the prompts' sort keys (token ids), the prompts'
lengths and the sampling parameters.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from gemma_batch.prompts.prefixes import SAMPLED, SORTED_ROWS, WORTH_SHARE, prefix_gain
from gemma_batch.rows import Request
from gemma_batch.units.row_policy import Order

T = TypeVar("T")

ENOUGH_ANSWERS = 16  # a mean of fewer answers does not count


class RowQueue(Generic[T]):
    """The rows that wait, in one of the orders. `request_of` returns the request of a row."""

    def __init__(self, order: Order, request_of: Callable[[T], Request]) -> None:
        self._order, self._request_of = order, request_of
        self._first: collections.deque[T] = collections.deque()
        self._line: collections.deque[T] = collections.deque()
        self._sweep: Sweep[T] = Sweep()
        self._lengths = LengthEstimate()
        self._line_is_next = False

    def __len__(self) -> int:
        return len(self._first) + len(self._line) + len(self._sweep)

    def add(self, items: Sequence[T]) -> None:
        """Add the rows of one unit at the places that the order gives them."""
        requests = [self._request_of(item) for item in items]
        order = self._order
        if order == "auto":
            saved = prefix_gain([request.prompt.sort_key() for request in requests[:SAMPLED]])
            order = "prefix" if saved >= WORTH_SHARE else "length"
        if order == "prefix":
            self._sweep.add(items, [request.prompt.sort_key() for request in requests])
        elif order == "length":
            expected = [self._lengths.expected(request) for request in requests]
            longest_first = sorted(range(len(items)), key=expected.__getitem__, reverse=True)
            self._line.extend(items[i] for i in longest_first)
        else:
            self._line.extend(items)

    @property
    def reach(self) -> int:
        """How many rows should wait, so that rows with a shared prefix meet; 0 if unsorted."""
        return SORTED_ROWS if self._order == "prefix" or len(self._sweep) else 0

    def put_back(self, items: Sequence[T]) -> None:
        """Add rows in front of all other rows, in the given order."""
        self._first.extendleft(reversed(items))

    def pop(self) -> T:
        """Remove and return the next row. Raises IndexError when no row waits."""
        if self._first:
            return self._first.popleft()
        # Rows in a line and rows in a sweep may wait at the same time. They take turns, so that
        # neither kind starves the other.
        self._line_is_next = bool(self._line) and (not self._line_is_next or not self._sweep)
        return self._line.popleft() if self._line_is_next else self._sweep.pop()

    def clear(self) -> None:
        """Remove all rows."""
        self._first.clear()
        self._line.clear()
        self._sweep = Sweep()

    def learn(self, request: Request, output_tokens: int) -> None:
        """Learn that the answer to a request had so many tokens."""
        self._lengths.learn(request, output_tokens)


class Sweep(Generic[T]):
    """Gives out items by ascending key, in one sweep after the other.

    An item whose key is not above the last key given out waits for the next sweep.
    """

    def __init__(self) -> None:
        self._ahead: list[tuple[bytes, int, T]] = []
        self._behind: list[tuple[bytes, int, T]] = []
        self._next = 0  # index in `_ahead` of the next item
        self._last = b""
        self._count = 0  # breaks ties between equal keys, so that items are never compared

    def __len__(self) -> int:
        return len(self._ahead) - self._next + len(self._behind)

    def add(self, items: Sequence[T], keys: Sequence[bytes]) -> None:
        """Add items, one key for each item."""
        del self._ahead[: self._next]
        self._next = 0
        for item, key in zip(items, keys, strict=True):
            self._count += 1
            (self._ahead if key > self._last else self._behind).append((key, self._count, item))
        self._ahead.sort()

    def pop(self) -> T:
        """Remove and return the next item of the sweep. Raises IndexError when there is no item."""
        if self._next == len(self._ahead):
            self._ahead, self._behind, self._next = sorted(self._behind), [], 0
        key, _, item = self._ahead[self._next]
        self._next += 1
        self._last = key
        return item


class LengthEstimate:
    """Expected output tokens of a request, learned from answers.

    The expectation is the mean over answers to prompts of similar length (within a factor of two).
    A row that sets `max_tokens` is instead expected to use the mean share of `max_tokens` that such
    rows have used so far.
    """

    def __init__(self) -> None:
        self._means: dict[Any, tuple[int, float]] = {}

    def learn(self, request: Request, output_tokens: int) -> None:
        """Learn that the answer to a request had so many tokens."""
        limit = request.sampling.get("max_tokens")
        values: dict[Any, float] = {_bucket(request): output_tokens, "all": output_tokens}
        if limit:
            values["share"] = output_tokens / limit
        for key, value in values.items():
            count, mean = self._means.get(key, (0, 0.0))
            self._means[key] = (count + 1, mean + (value - mean) / (count + 1))

    def expected(self, request: Request) -> tuple[float, int]:
        """Expected output tokens, then prompt tokens: longer requests compare as greater.

        Before enough answers are known, the output tokens are the row's `max_tokens`, or 0.
        """
        limit = request.sampling.get("max_tokens")
        if limit:
            tokens = limit * (self._mean("share") or 1.0)
        else:
            tokens = self._mean(_bucket(request)) or self._mean("all") or 0.0
        return tokens, request.prompt.tokens

    def _mean(self, key: Any) -> float | None:
        count, mean = self._means.get(key, (0, 0.0))
        return mean if count >= ENOUGH_ANSWERS else None


def _bucket(request: Request) -> int:
    return request.prompt.tokens.bit_length()
