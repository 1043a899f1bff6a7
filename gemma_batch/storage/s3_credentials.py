"""S3 credentials: gives a file system new ones when the object store says that its own expired.

The client renews by itself all credentials that carry a time of expiry: those of a role, a web
identity, the metadata service, or a `credential_process` that tells the time. The client never
asks again for credentials without such a time, nor for a token that was revoked early. So this
module asks the standard AWS chain anew when the token in use is refused. Credentials in
environment variables stay the same as long as the process lives: `patience` does not wait for them.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

logger = logging.getLogger(__name__)


def from_chain(err: Exception) -> bool:
    """Whether the AWS chain raised the error, and not as an error of its own kind.

    A `credential_process` that is missing or writes half a file makes the chain raise errors of
    Python (FileNotFoundError, ValueError), and one that gives credentials which have expired
    already a RuntimeError. None of them says anything about an object.
    """
    import botocore.exceptions

    if isinstance(err, botocore.exceptions.BotoCoreError) or hasattr(err.__cause__, "response"):
        return False
    frames = traceback.walk_tb(err.__traceback__)
    return any(
        str(frame.f_globals.get("__name__", "")).endswith("botocore.credentials")
        for frame, _ in frames
    )


def renew(fs: Any) -> None:
    """Give the s3fs file system `fs` the credentials that the AWS chain has now, if they differ.

    When the chain fails, the old credentials stay, and the caller's next try comes here again.
    """
    import botocore.exceptions
    from fsspec.asyn import sync

    try:
        renewed = sync(fs.loop, _renew, fs)
    except Exception as err:
        if not (from_chain(err) or isinstance(err, (OSError, botocore.exceptions.BotoCoreError))):
            raise
        logger.debug("no new credentials yet: %s", type(err).__name__)
    else:
        if renewed:
            logger.info("the credentials of the object store had expired and were renewed")


async def _renew(fs: Any) -> bool:
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]

    # A client costs megabytes, and the old one cannot be closed while others use it. So there is a
    # new client only for new credentials.
    found = await _identity(AioSession(**fs.kwargs))
    if found is None:
        return False
    try:
        if found == await _identity(fs.session):
            return False
    except Exception as err:  # of any kind: what comes from the old source is over
        logger.debug("the old source of credentials fails: %s", type(err).__name__)
    await fs.set_session(refresh=True)
    return True


async def _identity(session: Any) -> tuple[str, str | None] | None:
    credentials = await session.get_credentials()
    if credentials is None:
        return None
    frozen = await credentials.get_frozen_credentials()
    return frozen.access_key, frozen.token
