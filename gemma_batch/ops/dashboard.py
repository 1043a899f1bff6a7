"""Dashboard: connects to the dashboard of a Ray cluster: its address, its token, its job client.

One process may talk to many clusters. When an address and a token are given, nothing here depends
on the environment. Ray's job client imports Ray, so it is imported only after a dashboard has
answered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemma_batch.errors import ClusterError, ClusterLost, UserError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PROBE_SECONDS = 10.0
# In Ray's own client, these variables override an address that is given to it.
OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
_ENVIRONMENT = threading.Lock()  # all threads of a triggerer share the environment


def connect(address: str, token: str | None) -> Any:
    """Ray's `JobSubmissionClient` for the dashboard at `address`, a URL from `dashboard_url`.

    Raises `ClusterError` when no cluster answers at the address or the cluster refuses the token.
    """
    headers = _headers(token)
    _probe(address, headers)
    from ray.job_submission import JobSubmissionClient

    # The client logs uploads and each end of a log, between the lines of the log itself.
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _without(OVERRIDING):
        return JobSubmissionClient(address, headers=headers)


@contextlib.contextmanager
def asking(address: str) -> Iterator[None]:
    """Turn every error of Ray's client, while it asks the dashboard, into `ClusterLost`."""
    try:
        yield
    except (RuntimeError, OSError) as err:
        raise ClusterLost(
            f"the Ray cluster at {address!r} did not answer as it should: {last_line(err)}"
        ) from err


def dashboard_url(address: str | None) -> str:
    """The URL of a dashboard (default: the environment's address, otherwise this machine).

    Raises `UserError` for an address that is no dashboard's.
    """
    given = address or next((v for n in OVERRIDING[::-1] if (v := os.environ.get(n))), None)
    if given is None or (address is None and not given.startswith("http")):
        return DEFAULT_ADDRESS
    if given.startswith("ray://"):
        raise UserError(
            f"{given!r} is a Ray client's address; jobs are submitted to the dashboard, usually "
            "http://HOST:8265"
        )
    url = given if "://" in given else f"http://{given}"
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise UserError(f"{given!r} is not the address of a Ray dashboard: use http://HOST:8265")
    return url.rstrip("/")


def _headers(token: str | None) -> dict[str, str]:
    if token is None and os.environ.get("RAY_AUTH_MODE") != "disabled":
        token = os.environ.get("RAY_AUTH_TOKEN")
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        if token is None and path.is_file():
            token = path.read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _probe(address: str, headers: dict[str, str]) -> None:
    """Raise `ClusterError` unless a Ray dashboard answers.

    Without this check Ray's client would wait longer and give a poorer error.
    """
    import requests

    try:
        answer = requests.get(f"{address}/api/version", headers=headers, timeout=PROBE_SECONDS)
    except requests.RequestException as err:
        raise ClusterError(
            f"no Ray dashboard answers at {address!r} ({_cause(err)}): check the address, and "
            "that the cluster was started with its dashboard (pip install 'ray[default]')"
        ) from None
    if answer.status_code in {401, 403}:
        what = "refuses the token" if headers else "asks for a token"
        raise ClusterError(
            f"the Ray cluster at {address!r} {what}: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to "
            "a file with the cluster's token"
        )
    if answer.status_code != 200 or "ray_version" not in answer.text:
        raise ClusterError(
            f"what answers at {address!r} is not a Ray dashboard (HTTP {answer.status_code}): use "
            "http://HOST:8265 of the head node"
        )


def _cause(err: BaseException) -> str:
    """The operating system's words for an error of `requests`, or its type."""
    while (inner := err.__cause__ or err.__context__) is not None:
        err = inner
    return getattr(err, "strerror", None) or type(err).__name__


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    with _ENVIRONMENT:
        kept = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(kept)


def last_line(err: BaseException) -> str:
    """The last line of an error's text: Ray's errors name causes before effects."""
    lines = str(err).strip().splitlines()
    return lines[-1][:300] if lines else type(err).__name__
