"""The feed keeps promise 3: one bad row costs one row, also when it kills the engine."""

from __future__ import annotations

import asyncio
import math
import signal
from typing import Any

import pytest

from gemma_batch.answering.feed import Feed
from gemma_batch.engines.base import EngineConfig
from gemma_batch.engines.echo import EchoEngine
from gemma_batch.errors import EngineLost, EngineStartError, RowTransient
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.rows import Completion, Failure, Request
from gemma_batch.units.row_policy import RowPolicy

POISON = [666, 667]


def config(**args: Any) -> EngineConfig:
    return EngineConfig(
        engine="echo",
        model="none",
        max_model_len=1024,
        max_num_seqs=8,
        max_num_batched_tokens=1024,
        sampling={"max_tokens": 4},
        args={"crash_on": POISON, "reject_on": [13, 13, 13], **args},
    )


def good(number: int) -> Request:
    return Request(number, TokenPrompt([2, 10, 11, number]))


def bad(number: int) -> Request:
    return Request(number, TokenPrompt([2, *POISON, number]))


async def with_feed(
    work: Any, *, in_flight: int = 16, policy: RowPolicy | None = None, **args: Any
):
    feed = Feed(lambda: EchoEngine(config(**args)), in_flight=in_flight, policy=policy)
    await feed.start()
    try:
        return feed, await work(feed)
    finally:
        await feed.close()


def test_every_request_gets_exactly_one_outcome_across_units() -> None:
    """Several units at once: each gets its own rows, all of them, and nothing else."""

    async def work(feed: Feed) -> list[dict[int, Any]]:
        units = [[good(n) for n in range(start, start + 50)] for start in (0, 50, 100)]
        return await asyncio.gather(*(feed.run(unit) for unit in units))

    feed, outcomes = asyncio.run(with_feed(work, delay=0.001))
    for start, answers in zip((0, 50, 100), outcomes, strict=True):
        assert sorted(answers) == list(range(start, start + 50))
        assert all(answer.outputs[0].endswith(str(n)) for n, answer in answers.items())
    assert feed.stats.answered == 150
    assert feed.stats.engine_starts == 1


def test_the_age_of_the_oldest_row_is_known() -> None:
    """From when it went to the engine first; none when the engine is empty."""

    async def work(feed: Feed) -> list[float]:
        early = asyncio.ensure_future(feed.run([good(1)]))
        await asyncio.sleep(0.15)
        late = asyncio.ensure_future(feed.run([good(2)]))
        await asyncio.sleep(0.05)
        ages = [feed.stats.oldest_seconds]
        await early
        await asyncio.sleep(0.05)
        ages.append(feed.stats.oldest_seconds)
        await late
        await asyncio.sleep(0)
        return [*ages, feed.stats.oldest_seconds]

    _, (both, second, none) = asyncio.run(with_feed(work, delay=0.4))
    assert 0.2 <= both < 0.4
    assert second < 0.4
    assert none == 0


def test_units_are_loaded_when_the_engine_needs_their_rows() -> None:
    """First come, first served, each only when less than an engine's fill is waiting."""
    loaded: list[int] = []
    most_waiting = 0

    async def work(feed: Feed) -> list[dict[int, Any]]:
        def load(unit: int) -> list[Request]:
            nonlocal most_waiting
            most_waiting = max(most_waiting, feed.stats.waiting)
            loaded.append(unit)
            return [good(n) for n in range(40 * unit, 40 * unit + 40)]

        return await asyncio.gather(
            *(feed.run_when_needed(lambda unit=unit: load(unit)) for unit in range(8))  # type: ignore[misc]
        )

    feed, outcomes = asyncio.run(with_feed(work, in_flight=16, delay=0.005))
    assert loaded == list(range(8))
    assert most_waiting < 16
    for unit, answers in enumerate(outcomes):
        assert sorted(answers) == list(range(40 * unit, 40 * unit + 40))
    assert feed.stats.answered == 320


def test_a_unit_that_cannot_be_loaded_holds_up_no_other() -> None:
    """Its error is its own; and a feed that gave up lets everybody through to hear so."""

    def broken() -> list[Request]:
        raise ValueError("not this one")

    async def work(feed: Feed) -> list[Any]:
        units = [
            feed.run_when_needed(broken),
            feed.run_when_needed(lambda: [good(n) for n in range(40)]),
        ]
        found = await asyncio.gather(*units, return_exceptions=True)
        feed.fail(EngineLost("gave up"))
        async with asyncio.timeout(5):
            late = [feed.run_when_needed(lambda: [good(1)]) for _ in range(3)]
            return [*found, *await asyncio.gather(*late, return_exceptions=True)]

    _, (first, second, *late) = asyncio.run(with_feed(work))
    assert isinstance(first, ValueError)
    assert len(second) == 40
    assert [str(error) for error in late] == ["gave up"] * 3


@pytest.mark.parametrize("place", [0, 7, 15, 31])
def test_one_poison_row_is_isolated_within_log2_restarts(place: int) -> None:
    """A row that kills the engine becomes engine_crash; all others are answered."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([bad(n) if n == place else good(n) for n in range(32)])

    feed, outcomes = asyncio.run(with_feed(work, in_flight=32, delay=0.02))
    assert isinstance(outcomes[place], Failure)
    assert outcomes[place].code == "engine_crash"
    again = sum(outcome.attempts - 1 for outcome in outcomes.values())
    assert feed.stats.retries == {"engine_lost": again}
    assert all(isinstance(outcomes[n], Completion) for n in range(32) if n != place)
    assert feed.stats.engine_starts - 1 <= math.log2(32) + 1


def test_three_poison_rows_in_one_unit_cost_three_rows() -> None:
    """Isolation starts anew for each culprit and loses nobody else."""
    poison = {3, 4, 20}

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([bad(n) if n in poison else good(n) for n in range(40)])

    _, outcomes = asyncio.run(with_feed(work, in_flight=16, delay=0.01))
    crashed = {n for n, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert crashed == poison


def test_a_unit_of_nothing_but_poison_ends() -> None:
    """The harmless request shows that the engine works, so every row is condemned in turn."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([bad(n) for n in range(5)])

    _, outcomes = asyncio.run(with_feed(work, delay=0.01))
    assert {outcome.code for outcome in outcomes.values()} == {"engine_crash"}


def test_an_engine_that_dies_from_outside_costs_no_row() -> None:
    """A killed engine is replaced and every row in flight is answered."""

    async def work(feed: Feed) -> dict[int, Any]:
        running = asyncio.create_task(feed.run([good(n) for n in range(64)]))
        await asyncio.sleep(0.05)
        feed._engine._process.kill()  # type: ignore[union-attr]
        return await running

    feed, outcomes = asyncio.run(with_feed(work, delay=0.1))
    assert all(isinstance(outcome, Completion) for outcome in outcomes.values())
    assert feed.stats.engine_starts == 2


def test_a_refused_row_fails_alone_and_at_once() -> None:
    """engine_rejected is not retried and disturbs nobody."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([good(0), Request(1, TokenPrompt([2, 13, 13, 13])), good(2)])

    feed, outcomes = asyncio.run(with_feed(work))
    assert (outcomes[1].code, outcomes[1].attempts) == ("engine_rejected", 1)
    assert isinstance(outcomes[0], Completion)
    assert isinstance(outcomes[2], Completion)
    assert feed.stats.engine_starts == 1


def test_the_deadline_frees_the_slot() -> None:
    """A row that takes too long fails with `deadline`; others go on."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([good(n) for n in range(4)])

    policy = RowPolicy(deadline=0.05)
    feed, outcomes = asyncio.run(with_feed(work, in_flight=2, policy=policy, delay=5))
    assert {outcome.code for outcome in outcomes.values()} == {"deadline"}
    assert feed.stats.in_flight == 0


class Flaky(EchoEngine):
    """An echo engine that fails each request a number of times first."""

    def __init__(self, times: int) -> None:
        super().__init__(config())
        self._left: dict[int, int] = {}
        self._times = times

    async def generate(self, request: Request) -> Completion:
        left = self._left.setdefault(request.number, self._times)
        if left:
            self._left[request.number] = left - 1
            raise RowTransient("not now")
        return await super().generate(request)


@pytest.mark.parametrize(("times", "code", "attempts"), [(2, None, 3), (3, "engine_error", 3)])
def test_transient_errors_are_retried_up_to_the_limit(
    times: int, code: str | None, attempts: int
) -> None:
    """max_attempts counts the first try; the last error becomes the failure."""

    async def work() -> tuple[Any, Feed]:
        feed = Feed(lambda: Flaky(times), in_flight=4, policy=RowPolicy(backoff=0.001))
        await feed.start()
        try:
            return await feed.run([good(1)]), feed
        finally:
            await feed.close()

    outcomes, feed = asyncio.run(work())
    outcome = outcomes[1]
    assert (getattr(outcome, "code", None), outcome.attempts) == (code, attempts)
    assert feed.stats.retries == {"transient": attempts - 1}


class Stillborn(EchoEngine):
    """An engine that never starts."""

    async def start(self) -> None:
        raise EngineStartError("no such model")


def test_an_engine_that_never_starts_fails_every_waiting_unit() -> None:
    """Rows are not turned into failures for it: nothing may be committed."""

    async def work() -> None:
        feed = Feed(lambda: Stillborn(config()), in_flight=4, policy=RowPolicy(backoff=0.001))
        waiting = asyncio.create_task(feed.run([good(1)]))
        await asyncio.sleep(0)
        with pytest.raises(EngineStartError, match="no such model"):
            await feed.start()
        with pytest.raises(EngineStartError, match="no such model"):
            await waiting
        with pytest.raises(EngineStartError, match="no such model"):
            await feed.run([good(2)])

    asyncio.run(work())


def test_an_engine_that_dies_on_everything_ends_the_run() -> None:
    """A broken engine must not turn a million rows into engine_crash one by one."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([Request(n, TokenPrompt([2, 2, n])) for n in range(64)])

    # Token 2 (BOS) is in every prompt, the harmless one included.
    with pytest.raises(EngineLost, match="also on a harmless one"):
        asyncio.run(with_feed(work, in_flight=8, crash_on=[2]))


def test_a_hanging_engine_is_replaced_and_its_rows_go_on() -> None:
    """Stopped from outside (SIGSTOP) the engine says nothing more; the watchdog ends it."""

    async def work(feed: Feed) -> dict[int, Any]:
        task = asyncio.create_task(feed.run([good(n) for n in range(200)]))
        await asyncio.sleep(0.1)
        feed._engine._process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        return await task

    feed, answers = asyncio.run(
        with_feed(work, policy=RowPolicy(hang=0.5), rows_per_second=400, in_flight=16)
    )
    assert all(isinstance(answer, Completion) for answer in answers.values())
    assert (len(answers), feed.stats.engine_hangs, feed.stats.engine_starts) == (200, 1, 2)


def test_a_row_that_hangs_the_engine_costs_itself_alone() -> None:
    """Found like a row that kills it: in ever smaller groups, by the watchdog's deaths."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([*(good(n) for n in range(15)), bad(15)])

    feed, answers = asyncio.run(
        with_feed(work, policy=RowPolicy(hang=0.3), crash_on=[999], hang_on=POISON)
    )
    assert [number for number, a in answers.items() if isinstance(a, Failure)] == [15]
    assert answers[15].code == "engine_crash"
    assert 1 <= feed.stats.engine_hangs <= math.log2(16) + 1


def test_a_busy_engine_is_no_hanging_one() -> None:
    """Rows that take longer than the hang limit are left alone while pings are answered."""

    async def work(feed: Feed) -> dict[int, Any]:
        return await feed.run([good(n) for n in range(4)])

    feed, answers = asyncio.run(with_feed(work, policy=RowPolicy(hang=0.2), delay=1.0))
    assert all(isinstance(answer, Completion) for answer in answers.values())
    assert (feed.stats.engine_hangs, feed.stats.engine_starts) == (0, 1)


@pytest.mark.parametrize("poison", [None, 3])
def test_when_no_more_begins_the_units_that_have_begun_are_finished(poison: int | None) -> None:
    """The others come back whole and at once, and no row of them was sent; after a death too."""

    async def work(feed: Feed) -> list[Any]:
        async def unit(start: int) -> dict[int, Any] | None:
            rows = [bad(n) if n == poison else good(n) for n in range(start, start + 20)]
            return await feed.run_when_needed(lambda: rows)

        calls = [asyncio.create_task(unit(start)) for start in (0, 20, 40, 60)]
        async with asyncio.timeout(30):
            while feed.stats.answered < 10:
                await asyncio.sleep(0.001)
            assert feed.stats.in_hand + feed.stats.answered + feed.stats.failed in (20, 40)
            begun = (feed.stats.in_hand + feed.stats.answered + feed.stats.failed) // 20
            feed.begin_no_more()
            late = await feed.run_when_needed(lambda: pytest.fail("nobody needs these rows"))
            assert late is None
            return [begun, *await asyncio.gather(*calls)]

    feed, (begun, *outcomes) = asyncio.run(with_feed(work, in_flight=16, delay=0.02))
    given = [outcome is not None for outcome in outcomes]
    assert given == [True] * begun + [False] * (4 - begun)
    for number, outcome in enumerate(outcomes[:begun]):
        assert sorted(outcome) == list(range(20 * number, 20 * number + 20))
    stats = feed.stats
    assert (stats.in_hand, stats.waiting, stats.in_flight) == (0, 0, 0)
    assert stats.answered + stats.failed == 20 * begun
    assert stats.failures == ({} if poison is None else {"engine_crash": 1})


def test_a_unit_that_is_taken_apart_is_finished_when_no_more_begins() -> None:
    """Its groups come one after the other by `run`: the unit has begun with the first."""

    async def work(feed: Feed) -> dict[int, Any]:
        feed.begin_no_more()
        return await feed.run([good(n) for n in range(5)])

    _, outcomes = asyncio.run(with_feed(work))
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
