"""The order in which waiting rows go to an engine: pure queues over requests.

`input`   as they come.
`prefix`  rows that share a prefix go together. The waiting rows of all units are kept sorted by
          their token ids and served in one sweep after the other, upwards, like an elevator:
          neighbours in that order share the longest prefixes (it walks the prefix tree depth
          first, which needs the smallest cache), and no row waits longer than two sweeps.
`length`  within each unit the rows that are expected to take longest go first, so that a unit's
          commit, and the last one of a run, wait less for stragglers.
`auto`    `prefix` for a unit where it saves a share of the prompt tokens that is worth it,
          otherwise `length`. (A plan whose sample shows prefixes that units have in common makes
          it `prefix` for the whole run.)

Why prefixes matter more for Gemma: a cached prefix can be used only while the last window of
every sliding layer is still there, so interleaved prefixes push each other out early.
No queue loses or doubles a row; what they know is token ids and sampling parameters only.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from gemma_batch.prompts.prefixes import SAMPLED, SORTED_ROWS, WORTH_SHARE, prefix_gain
from gemma_batch.rows import Request
from gemma_batch.units.row_policy import Order

T = TypeVar("T")

ENOUGH_ANSWERS = 16  # before a mean length counts


class RowQueue(Generic[T]):
    """Rows that wait, in one of the orders; `request_of` gives a row's request."""

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
        """Take the rows of one unit and put them where the order wants them."""
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
        """How many rows it would like to have waiting, to find those that share a prefix."""
        return SORTED_ROWS if self._order == "prefix" or len(self._sweep) else 0

    def put_back(self, items: Sequence[T]) -> None:
        """Take rows that go before all others, in this order."""
        self._first.extendleft(reversed(items))

    def pop(self) -> T:
        """The next row. Raises IndexError when none waits."""
        if self._first:
            return self._first.popleft()
        # Units of both kinds may wait at once: neither must starve the other.
        self._line_is_next = bool(self._line) and (not self._line_is_next or not self._sweep)
        return self._line.popleft() if self._line_is_next else self._sweep.pop()

    def clear(self) -> None:
        """Forget all rows."""
        self._first.clear()
        self._line.clear()
        self._sweep = Sweep()

    def learn(self, request: Request, output_tokens: int) -> None:
        """A row was answered with so many tokens."""
        self._lengths.learn(request, output_tokens)


class Sweep(Generic[T]):
    """Items given out by ascending key, round and round.

    An item that arrives behind the last one given out waits for the next round.
    """

    def __init__(self) -> None:
        self._ahead: list[tuple[bytes, int, T]] = []
        self._behind: list[tuple[bytes, int, T]] = []
        self._next = 0  # index in `_ahead`
        self._last = b""
        self._count = 0  # breaks ties, so that items themselves are never compared

    def __len__(self) -> int:
        return len(self._ahead) - self._next + len(self._behind)

    def add(self, items: Sequence[T], keys: Sequence[bytes]) -> None:
        """Take items with their keys."""
        del self._ahead[: self._next]
        self._next = 0
        for item, key in zip(items, keys, strict=True):
            self._count += 1
            (self._ahead if key > self._last else self._behind).append((key, self._count, item))
        self._ahead.sort()

    def pop(self) -> T:
        """The item with the least key that is not behind. Raises IndexError when there is none."""
        if self._next == len(self._ahead):
            self._ahead, self._behind, self._next = sorted(self._behind), [], 0
        key, _, item = self._ahead[self._next]
        self._next += 1
        self._last = key
        return item


class LengthEstimate:
    """Expected output tokens of a request, learned from answers.

    The mean of what prompts of similar length (within a factor of two) got; a row with a
    `max_tokens` of its own is expected to use the share of it that such rows have used.
    """

    def __init__(self) -> None:
        self._means: dict[Any, tuple[int, float]] = {}

    def learn(self, request: Request, output_tokens: int) -> None:
        """A request was answered with so many tokens."""
        limit = request.sampling.get("max_tokens")
        values: dict[Any, float] = {_bucket(request): output_tokens, "all": output_tokens}
        if limit:
            values["share"] = output_tokens / limit
        for key, value in values.items():
            count, mean = self._means.get(key, (0, 0.0))
            self._means[key] = (count + 1, mean + (value - mean) / (count + 1))

    def expected(self, request: Request) -> tuple[float, int]:
        """Comparable: (tokens, or 0 while nothing is known; length of the prompt)."""
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
