"""Patience: tries a failing storage call again, and turns a lasting error into a sentence.

The type, the HTTP status and the S3 code of an error classify the error, never its text. The
sentences contain URLs, error codes and host names. They contain no text that a server or a client
library wrote, so that no credential can get into a log. The module knows no file system: it handles
the errors of local files and of S3.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gemma_batch.backoff import pause
from gemma_batch.errors import StorageError, StorageFullError

T = TypeVar("T")
logger = logging.getLogger(__name__)

TRIED = "_gemma_batch_tried"  # attribute of an error: for how many seconds the call was tried
TELL_AFTER = 5.0  # seconds of failing before a warning is logged
TRANSIENT_STATUS = {408, 409, 429, 500, 502, 503, 504}
# Codes as AWS sends them. A status alone does not tell: 400 is most often a mistake of ours.
TRY_AGAIN = {"ConditionalRequestConflict", "OperationAborted"}  # two writers of a key at once
TRANSIENT_CODES = TRY_AGAIN | {
    "InternalError", "PriorRequestNotComplete", "RequestTimeout", "ServiceUnavailable", "SlowDown",
    "Throttling", "ThrottlingException",
}  # fmt: skip
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
TRANSIENT_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR,
}  # fmt: skip
FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
FULL_CODES = {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


_patience = QUICK_SECONDS = 8.0
_patient: list[float] = []  # the seconds of each `patient` block that is open


def set_patience(seconds: float) -> None:
    """Set for how many seconds this process tries a failing call (default: `QUICK_SECONDS`).

    The time is short while a person waits for a plan. It is long (`policy.storage_patience`) when
    giving up would stop a run that costs money.
    """
    global _patience
    _patience = seconds


@contextlib.contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Try for so many seconds within the block. Where blocks overlap, the longest time counts."""
    _patient.append(seconds)
    try:
        yield
    finally:
        _patient.remove(seconds)


def patience() -> float:
    """For how many seconds this process tries a failing call."""
    return max(_patient, default=_patience)


def with_retries(
    fn: Callable[[], T], *, what: str = "storage", base: float = 0.2, cap: float = 5.0
) -> T:
    """Call `fn` again while it fails with a transient error and the process has patience left.

    `base` and `cap` go to `pause`, in seconds; `what` names the storage in a log. The last error
    is raised unchanged. A failure that lasts more than `TELL_AFTER` seconds is logged once, and
    its end is logged once.
    """
    started, told = time.monotonic(), False
    for i in itertools.count():
        try:
            answer = fn()
        except Exception as err:
            waited = time.monotonic() - started
            if not is_transient(err) or waited >= patience():
                setattr(err, TRIED, waited)
                raise
            if waited > TELL_AFTER and not told:
                told = True
                logger.warning(
                    "%s does not answer (%s): trying for up to %g s", what, brief(err), patience()
                )
        else:
            if told:
                waited = time.monotonic() - started
                logger.warning("%s answers again after %.0f s", what, waited)
            return answer
        time.sleep(pause(i, base=base, cap=cap))
    raise AssertionError("unreachable")


def brief(err: BaseException) -> str:
    """The kind of an error in one or two words, without any text that a server wrote."""
    status = http_status(err)
    return f"HTTP {status} {s3_code(err)}".strip() if status is not None else type(err).__name__


def is_transient(err: BaseException) -> bool:
    """Whether the same call may succeed later."""
    status, code = http_status(err), s3_code(err)
    if wants_credentials(err):
        return not _fixed_credentials()
    if status is not None:
        return status in TRANSIENT_STATUS or code in TRANSIENT_CODES
    if any(isinstance(e, connection_errors()) for e in chain(err)):
        return True
    if isinstance(err, (TimeoutError, ConnectionError)):
        return True
    return isinstance(err, OSError) and err.errno in TRANSIENT_ERRNO


class CredentialsUnusable(OSError):
    """The AWS chain failed, or has only credentials that have expired; no call was made."""


def wants_credentials(err: BaseException) -> bool:
    """Whether other credentials would mend the error: those in use expired, or none were found."""
    kinds: tuple[type[BaseException], ...] = (CredentialsUnusable, *credential_errors())
    return s3_code(err) in EXPIRED or any(isinstance(e, kinds) for e in chain(err))


def _fixed_credentials() -> bool:
    # The AWS chain takes these first, and the environment of a process does not change.
    return bool(os.environ.get("AWS_ACCESS_KEY_ID"))


def is_certain(err: BaseException) -> bool:
    """Whether an error of S3 would be the same with other credentials and from another network."""
    wrong = {"ParamValidationError", "InvalidBucketName"}
    kinds = {type(e).__name__ for e in chain(err)}
    return s3_code(err) in {"NoSuchBucket", *wrong} or bool(kinds & wrong)


def credential_errors() -> tuple[type[BaseException], ...]:
    """The exceptions of the S3 client when a source of credentials fails for the moment."""
    if "botocore.exceptions" not in sys.modules:
        return ()
    from botocore import exceptions

    return (
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
        exceptions.SSOError,  # until somebody signs in again
        exceptions.TokenRetrievalError,
    )


def connection_errors() -> tuple[type[BaseException], ...]:
    """The exceptions of the S3 client for an HTTP answer that is missing or incomplete."""
    if "botocore.exceptions" not in sys.modules:
        return ()  # without botocore no such error can exist; work on local files loads no client
    import aiohttp
    from botocore import exceptions, parsers
    from fsspec.exceptions import FSTimeoutError

    return (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        parsers.ResponseParserError,
        aiohttp.ClientError,
        FSTimeoutError,
    )


def http_status(err: BaseException) -> int | None:
    """The HTTP status of the error or of its causes; None when there is none."""
    answer = _answer(err)
    status = (answer or {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def s3_code(err: BaseException) -> str:
    """The S3 error code, such as 'NoSuchBucket'; '' when there is none."""
    return str((_answer(err) or {}).get("Error", {}).get("Code", ""))


def _answer(err: BaseException) -> dict[str, Any] | None:
    for e in chain(err):
        answer = getattr(e, "response", None)
        if isinstance(answer, dict):
            return answer
    return None


def chain(err: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the error first."""
    seen: BaseException | None = err
    while seen is not None:
        yield seen
        seen = seen.__cause__


def explain(err: BaseException, url: str) -> StorageError:
    """The error as a `StorageError` with one sentence: what failed, where, and what to do."""
    status, code = http_status(err), s3_code(err)
    kinds = {type(e).__name__ for e in chain(err)}
    made: type[StorageError] = StorageError
    bucket = urlsplit(url).netloc
    shown = f"{code} {status}" if code and code != str(status) else str(status)
    if code == "NoSuchBucket":
        text = f"the bucket {bucket!r} does not exist: create it or correct {url!r}"
    elif code == "RequestTimeTooSkewed":
        text = (
            f"the object store refuses {url!r} because this machine's clock is off ({shown}): set "
            "the clock (NTP)"
        )
    elif status == 507 or code in FULL_CODES:
        made = StorageFullError
        text = f"the storage of {url!r} is full ({shown}): make room, then start again to go on"
    elif code in EXPIRED:
        text = f"the credentials for {url!r} have expired ({shown}): " + (
            "they come from AWS_ACCESS_KEY_ID in the environment, which cannot be renewed; use a "
            "role, or a credential_process in a profile"
            if _fixed_credentials()
            else f"no new ones were found ({_tried(err)}); renew them, for example with "
            "`aws sso login`, or use a role"
        )
    elif code == "InvalidObjectState":
        text = (
            f"{url!r} is in an archive of S3 and cannot be read ({shown}): restore it first "
            "(`aws s3api restore-object`)"
        )
    elif status in {401, 403} or isinstance(err, PermissionError):
        what = f" ({shown})" if status else ""
        text = f"no permission for {url!r}{what}: check the credentials in use and their rights"
    elif any(isinstance(e, (CredentialsUnusable, *credential_errors())) for e in chain(err)):
        text = (
            f"no usable credentials could be fetched for {url!r} ({_tried(err)}): check the "
            "credential_process, role, metadata service or sign-in (`aws sso login`) that provides "
            "them"
        )
    elif kinds & {"NoCredentialsError", "PartialCredentialsError"}:
        text = (
            f"no credentials for {url!r}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run where a role provides them"
        )
    elif kinds & {"ProfileNotFound", "NoRegionError", "ParamValidationError"}:
        text = f"{url!r} cannot be used ({type(err).__name__}): check AWS_PROFILE, AWS_REGION"
    elif status in {301, 307}:
        text = f"{url!r} is in another region ({shown}): set AWS_REGION to the bucket's"
    elif status == 412:
        text = f"{url!r} was replaced while it was being used"
    elif status is not None:
        text = f"the object store kept answering {shown} for {url!r} ({_tried(err)})"
    elif any(isinstance(e, connection_errors()) for e in chain(err)):
        text = (
            f"the object store of {url!r} ({_endpoint()}) cannot be reached "
            f"({type(err).__name__}, {_tried(err)}): check {ENDPOINTS[0]} and the network"
        )
    elif isinstance(err, OSError) and err.errno in FULL_ERRNO:
        made, reason = StorageFullError, os.strerror(err.errno)
        text = f"the disk of {url!r} is full ({reason}): make room, then start again to go on"
    elif isinstance(err, OSError) and err.errno is not None:
        text = f"{url!r}: {os.strerror(err.errno)}"
    else:
        text = f"{url!r} failed with {type(err).__name__}"
    return made(text)


def _tried(err: BaseException) -> str:
    seconds = next((e.__dict__[TRIED] for e in chain(err) if TRIED in e.__dict__), 0.0)
    return f"tried for {seconds:.0f} s"


def endpoint_url() -> str | None:
    """The endpoint URL in the environment; None means AWS."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)


def _endpoint() -> str:
    given = endpoint_url()
    if given is None:
        return "AWS"
    parts = urlsplit(given)  # host and port only: the URL may contain user:password@
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
