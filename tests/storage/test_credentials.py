"""Credentials that expire while a run goes on: new ones are taken, and waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.errors import StorageError
from gemma_batch.storage.fs import open_source, open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.patience import QUICK_SECONDS, set_patience
from tests.faults.proxy import FaultProxy
from tests.faults.tokens import Tokens

if TYPE_CHECKING:
    from tests.conftest import S3Server


SSO = """[default]
sso_start_url = https://nobody.invalid/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = reader
"""


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that refuses the tokens in `expired`, and all of our own calls go by it."""
    made = FaultProxy(s3.endpoint)
    made.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    set_patience(20)
    yield made
    set_patience(QUICK_SECONDS)
    made.stop()


@pytest.fixture
def tokens(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tokens:
    """A profile with a `credential_process`; its first token is 'first'."""
    made = Tokens(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(made.config))
    return made


@pytest.fixture
def store(s3: S3Server, tokens: Tokens) -> Store:
    """A store with one object, put with the first token."""
    found = open_store(f"{s3.bucket('tokens')}/x")
    found.put("a", b"0123456789")
    return found


CALLS: dict[str, Callable[[Store], object]] = {
    "exists": lambda store: store.exists("a"),
    "read": lambda store: store.read("a") == b"0123456789",
    "list": lambda store: "a" in store.list(),
    "open": lambda store: store.open("a").read() == b"0123456789",
    "create": lambda store: store.create(f"new-{time.time_ns()}", b""),
}


@pytest.mark.parametrize(
    ("call", "hours"),
    [
        ("exists", None),
        ("create", None),
        ("read", 12),
        *(pytest.param(call, None, marks=pytest.mark.long) for call in ("read", "list", "open")),
    ],
)
def test_a_token_that_is_refused_is_renewed(
    store: Store, proxy: FaultProxy, tokens: Tokens, call: str, hours: float | None
) -> None:
    """By any call, a HEAD too, whose answer has no code; also before the time it should last."""
    tokens.give("first", hours=hours)
    thread = threading.Thread(target=store.exists, args=("a",))  # a client of its own
    thread.start()
    thread.join()
    proxy.expired.add("first")
    tokens.give("second", hours=hours)
    started = time.monotonic()
    assert CALLS[call](store)
    assert proxy.counts["expired"] > 0
    assert time.monotonic() - started < 10


def test_an_object_that_is_open_goes_on(store: Store, proxy: FaultProxy, tokens: Tokens) -> None:
    """Also where another thread reads on, whose client is not that of the object."""
    with open_source(f"{store.url}/a") as source:
        assert source.read(4) == b"0123"
        proxy.expired.add("first")
        tokens.give("second")
        rest: list[bytes] = []
        thread = threading.Thread(target=lambda: rest.append(source.read()))
        thread.start()
        thread.join(30)
        assert rest == [b"456789"]


def test_new_credentials_are_waited_for(store: Store, proxy: FaultProxy, tokens: Tokens) -> None:
    """Until somebody renews them: as long as patience lasts, for several threads at once."""
    proxy.expired.add("first")
    timer = threading.Timer(1, tokens.give, ["second"])
    timer.start()
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(store.read("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    timer.join()
    assert results == [b"0123456789"] * 4


@pytest.mark.parametrize(
    "broken",
    [
        "expired already",
        "missing",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("fails", "half", "signed out")),
    ],
)
def test_a_source_of_credentials_that_is_broken_for_a_while(
    s3: S3Server, tokens: Tokens, broken: str
) -> None:
    """The next try asks it again; nothing that it says is taken for an answer of the store."""
    store = open_store(f"{s3.bucket('tokens')}/{broken.replace(' ', '-')}")
    before = tokens.config.read_text()
    if broken == "expired already":
        tokens.give("old", hours=-1)
    elif broken == "fails":
        tokens.remove()
    elif broken == "half":
        tokens.put('{"Version": 1, "Acc')
    elif broken == "missing":
        tokens.config.write_text(before.replace("/bin/cat", "/no/such/program"))
    else:
        tokens.config.write_text(SSO)
    set_patience(0.2)
    with pytest.raises(StorageError, match=r"no usable credentials could be fetched .*\d s"):
        store.exists("a")
    set_patience(20)

    def mend() -> None:
        tokens.config.write_text(before)
        tokens.give("second", hours=1)

    timer = threading.Timer(0.5, mend)
    timer.start()
    store.put("a", b"")
    timer.join()
    assert store.exists("a")


def test_without_new_credentials_it_says_that_they_expired(store: Store, proxy: FaultProxy) -> None:
    """After patience; the token itself is in no message."""
    proxy.expired.add("first")
    set_patience(1)
    with pytest.raises(
        StorageError, match=r"'.*/a' have expired \(ExpiredToken 400\).*\d s"
    ) as err:
        store.read("a")
    assert "first" not in str(err.value)


def test_credentials_of_the_environment_are_not_waited_for(
    s3: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay what they are; the sentence names them, and what renews itself."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "fixed")
    store = open_store(f"{s3.bucket('tokens')}/env")
    proxy.expired.add("fixed")
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"expired .*AWS_ACCESS_KEY_ID.*cannot be renewed"):
        store.put("a", b"")
    assert time.monotonic() - started < 5
