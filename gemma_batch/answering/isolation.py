"""Isolation: finds the row that kills the engine among those that were in flight (GPU actor).

The rows run in smaller and smaller groups, and no other row runs meanwhile. The search ends when
the row that kills the engine runs alone. If one of N rows kills the engine, the search takes at
most log2(N) + 1 further deaths of the engine, and usually half as many.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def isolate(
    suspects: Sequence[T],
    *,
    trial: Callable[[list[T]], Awaitable[list[T]]],
    restart: Callable[[], Awaitable[None]],
    condemn: Callable[[T], Awaitable[None]],
    put_back: Callable[[list[T]], None],
) -> None:
    """Halve the `suspects` until the one that kills the engine runs alone, and condemn it.

    `trial` runs a group and returns those without an outcome, because the engine died. `restart`
    starts a new engine; `condemn` fails a suspect and starts a new engine too. `put_back` takes
    suspects against whom nothing is known.
    """
    waiting = list(suspects)
    while waiting:
        group = waiting[: max(1, len(waiting) // 2)]
        rest = waiting[len(group) :]
        left = await trial(group)
        if not left:
            waiting = rest  # no row of the group killed the engine, so look among the rest
            continue
        if len(group) == 1:
            await condemn(group[0])
        else:
            await restart()
        put_back(rest)
        waiting = left if len(group) > 1 else []
