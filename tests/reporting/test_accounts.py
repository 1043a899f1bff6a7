"""The accounts: every engine-second is booked once, from receipts alone."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.reporting.accounts import RouteFacts, limit_share, make_accounts


def receipt(worker: str, *, born: float, ready: float, finished: float, **more: Any) -> Any:
    return {
        "route": "all",
        "worker": worker,
        "born": born,
        "engine_ready": ready,
        "finished": finished,
        "completion_tokens": 100,
        **more,
    }


FACTS = {"all": RouteFacts(engines=2, prefill_share=0.25, limit_tokens_per_second=10.0)}


def test_every_engine_second_is_booked_once() -> None:
    """Two engines from 100 to 200: one ready at 120 and done at 190, one at 110 and 200."""
    receipts = [
        receipt("a", born=105, ready=120, finished=150, starved=1.0),
        receipt("a", born=105, ready=120, finished=190, starved=4.0, recovering=6.0),
        receipt("b", born=105, ready=110, finished=200),
    ]
    accounts = make_accounts(receipts, 100.0, FACTS)
    assert accounts.start == 20 + 10
    assert (accounts.starved, accounts.retries, accounts.tail) == (4.0, 6.0, 10.0)
    assert accounts.prefill == pytest.approx(0.25 * (60 + 90))
    assert accounts.decode == pytest.approx(0.75 * (60 + 90))
    assert accounts.total == pytest.approx(200.0), "2 engines for 100 seconds"
    assert sum(accounts.shares().values()) == pytest.approx(1.0, abs=0.001)


def test_an_actor_that_died_is_booked_until_its_last_commit() -> None:
    """Its successor starts when it is born, not when the run began; nobody has a tail twice."""
    receipts = [
        receipt("dead", born=100, ready=110, finished=130),
        receipt("heir", born=140, ready=150, finished=200),
        receipt("b", born=100, ready=110, finished=200),
    ]
    accounts = make_accounts(receipts, 100.0, FACTS)
    assert accounts.start == 10 + 10 + 10
    assert accounts.tail == 0
    assert accounts.total == pytest.approx(30 + 60 + 100)


def test_an_engine_that_joined_later_is_booked_from_its_birth() -> None:
    """A pool that grew from one engine to three: nobody paid for the others before."""
    grown = {"all": RouteFacts(engines=3, at_start=1, prefill_share=0.25)}
    receipts = [
        receipt("a", born=105, ready=110, finished=200),
        receipt("b", born=150, ready=160, finished=200),
    ]
    accounts = make_accounts(receipts, 100.0, grown)
    assert accounts.start == 10 + 10
    assert accounts.total == pytest.approx(100 + 50)


def test_share_of_the_limit() -> None:
    """300 tokens where two engines at 10 tokens/s had 80 and 90 seconds once ready."""
    receipts = [
        receipt("a", born=105, ready=120, finished=150),
        receipt("a", born=105, ready=120, finished=190),
        receipt("b", born=105, ready=110, finished=200),
    ]
    assert limit_share(receipts, 100.0, FACTS) == pytest.approx(300 / (10 * (80 + 90)), abs=1e-4)
    unknown = {"all": RouteFacts(engines=2, prefill_share=0.5)}
    assert limit_share(receipts, 100.0, unknown) is None


def test_a_run_with_nothing_to_do_has_no_accounts() -> None:
    """A resumed output that was complete; and receipts of older versions are left out."""
    assert make_accounts([], 100.0, FACTS).shares() == {}
    assert limit_share([], 100.0, FACTS) is None
    old = [{"route": "all", "worker": "a", "engine_ready": 1.0, "finished": 2.0}]
    assert make_accounts(old, 0.0, FACTS).total == 0


def test_answers_of_trials_are_no_work_of_an_engine() -> None:
    """An engine that was never ready got no request; tokens of trials were made by nobody here."""
    known = {"reused": 5, "reused_tokens": {"completion_tokens": 100}}
    waited = [receipt("a", born=100, ready=0.0, finished=130, **known)]
    accounts = make_accounts(waited, 100.0, FACTS)
    assert (accounts.start, accounts.total) == (30, 30)
    both = [receipt("a", born=100, ready=110, finished=130), *waited]
    alone = [receipt("a", born=100, ready=110, finished=130)]
    assert limit_share(both, 100.0, FACTS) == limit_share(alone, 100.0, FACTS) == 0.5
