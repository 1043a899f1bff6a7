"""The store on S3 and on object stores with the protocol of S3, through s3fs.

Credentials, region and endpoint come from the standard AWS chain and environment; this package
adds no settings. When the token in use is refused as expired, the next try has new credentials,
where the chain has any (see `s3_credentials.py`). The retries of the client are off, so that
`patience` alone decides about retries. Each create puts a token into the metadata of the object.
When the answer to a create is lost, the HTTP library or `patience` repeats the request, and then
the key exists already. The token tells whether this create or another caller put the object.
"""

from __future__ import annotations

import errno
import functools
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from gemma_batch.errors import StorageError
from gemma_batch.storage.interfaces import Source, Store
from gemma_batch.storage.patience import (
    TRY_AGAIN,
    CredentialsUnusable,
    connection_errors,
    endpoint_url,
    explain,
    http_status,
    s3_code,
    wants_credentials,
    with_retries,
)
from gemma_batch.storage.s3_credentials import from_chain, renew

T = TypeVar("T")
CREATE_MARK = "gemma-batch-create"
SINGLE_PUT = 5 * 2**30  # bytes; S3's limit for one PUT, far above any part
CONNECT_SECONDS, READ_SECONDS, CONNECTIONS = 5, 60, 64


def file_system() -> Any:
    """The s3fs file system of this process, with the endpoint that the environment names now."""
    import s3fs

    fs = s3fs.S3FileSystem(
        endpoint_url=endpoint_url(),
        use_listings_cache=False,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "max_pool_connections": CONNECTIONS,
        },
    )
    fs.retries = 1
    return fs


def plain_settings() -> dict[str, str]:
    """Endpoint and credentials of now, for a library that knows only AWS's environment."""
    import botocore.session

    found = {}
    if (endpoint := endpoint_url()) is not None:
        found = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint[:5] == "http:")}
    session = botocore.session.get_session()
    if credentials := session.get_credentials():
        frozen = credentials.get_frozen_credentials()
        found["AWS_ACCESS_KEY_ID"] = frozen.access_key
        found["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key
        if frozen.token:
            found["AWS_SESSION_TOKEN"] = frozen.token
    if region := session.get_config_variable("region"):
        found["AWS_REGION"] = region
    return found


def call(url: str, fn: Callable[[], T], fs: Any = None) -> T:
    """Call `fn` with retries. Raises FileNotFoundError or `StorageError` for every S3 error.

    `fs` is the file system that `fn` uses (default: `file_system()`).
    """
    import botocore.exceptions

    def attempt() -> T:
        try:
            return fn()
        except Exception as err:
            used = file_system() if fs is None else fs
            told = _told(err, url, used)
            if wants_credentials(told):
                renew(used)
            if told is not err:
                raise told from told.__cause__
            raise

    try:
        return with_retries(attempt, what=repr(url))
    except FileNotFoundError as err:
        if s3_code(err) == "NoSuchBucket":
            raise explain(err, url) from err
        raise FileNotFoundError(f"{url!r} does not exist") from err
    except (
        OSError, ValueError, botocore.exceptions.BotoCoreError, *connection_errors()
    ) as err:  # fmt: skip
        # botocore raises ValueError for a malformed endpoint, and quotes it with its password.
        raise explain(err, url) from err


def _told(err: Exception, url: str, fs: Any) -> Exception:
    """The error itself, or a clearer one in its place."""
    if from_chain(err):
        return CredentialsUnusable(errno.EAGAIN, "the AWS chain has no credentials that are usable")
    bucket, key = split(url)
    if http_status(err) != 400 or s3_code(err) != "400" or not key:
        return err
    # The answer to a HEAD has no body, so it does not say why. The answer to a GET does. No
    # object has this ETag, so the GET never sends an object.
    try:
        fs.call_s3("get_object", Bucket=bucket, Key=key, IfMatch=f'"{uuid.uuid4().hex}"')
    except Exception as told:
        if http_status(told) != 412:
            return told
    return BlockingIOError(errno.EAGAIN, "a HEAD was refused, a GET after it was not")


def head(url: str) -> tuple[int, str]:
    """Size in bytes and ETag of an object. Raises FileNotFoundError, `StorageError`."""
    found = facts_of(url)
    return int(found["ContentLength"]), etag_of(found)


def get(url: str, limit: int) -> tuple[int, str, bytes | None]:
    """Size, ETag and bytes of an object, by one request; None for more than `limit` bytes.

    Raises FileNotFoundError, `StorageError`.
    """
    from fsspec.asyn import sync

    bucket, key = split(url)
    if not key:
        raise FileNotFoundError(f"{url!r} is a bucket, not an object")
    fs = file_system()

    async def fetch() -> tuple[int, str, bytes | None]:
        found = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        size = int(found["ContentLength"])
        try:
            data = await found["Body"].read() if size <= limit else None
        finally:
            found["Body"].close()
        return size, etag_of(found), data

    answer: tuple[int, str, bytes | None] = call(url, lambda: sync(fs.loop, fetch), fs)
    return answer


def facts_of(url: str) -> dict[str, Any]:
    """The answer of S3 to a HEAD of an object. Raises the errors of `head`."""
    bucket, key = split(url)
    if not key:
        raise FileNotFoundError(f"{url!r} is a bucket, not an object")
    found: dict[str, Any] = call(
        url, lambda: file_system().call_s3("head_object", Bucket=bucket, Key=key)
    )
    return found


def split(url: str) -> tuple[str, str]:
    """The bucket and the key in an s3:// URL."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _says_exists(err: Exception) -> bool:
    """Whether the answer to a create may mean that the key exists already.

    AWS says that by 412 PreconditionFailed. A 409 with one of the codes `TRY_AGAIN` means that
    another create of the key is on its way, and nothing is settled yet. Some other stores answer
    409, with another code or none, when the key exists.
    """
    if isinstance(err, FileExistsError) or http_status(err) == 412:
        return True
    return http_status(err) == 409 and s3_code(err) not in TRY_AGAIN


class S3Store(Store):
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))

    def _url(self, key: str) -> str:
        return f"{self.url}/{key}"

    def read(self, key: str) -> bytes:
        url = self._url(key)
        return call(url, lambda: bytes(file_system().cat_file(url, max_concurrency=1)))

    def open(self, key: str) -> Source:
        return s3_source(self._url(key))

    def put(self, key: str, data: bytes) -> None:
        url = self._url(key)
        call(url, lambda: file_system().pipe_file(url, data, chunksize=SINGLE_PUT))

    def create(self, key: str, data: bytes) -> bool:
        url, token = self._url(key), uuid.uuid4().hex

        def attempt() -> bool:
            try:
                file_system().pipe_file(
                    url, data, chunksize=SINGLE_PUT, mode="create", Metadata={CREATE_MARK: token}
                )
            except Exception as err:
                if not _says_exists(err):
                    raise
                refused = err
            else:
                return True
            try:
                found = facts_of(url)
            except FileNotFoundError:
                # With its cause: the status in it decides whether there is another attempt.
                raise refused from refused.__cause__
            return bool(found.get("Metadata", {}).get(CREATE_MARK) == token)

        return call(url, attempt)

    def exists(self, key: str) -> bool:
        try:
            head(self._url(key))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        folder = self._url(prefix).rstrip("/")
        return {url.removeprefix(f"{self.url}/"): size for url, size, _ in list_below(folder)}

    def temporary(self) -> dict[str, int]:
        return {}  # an object is put by one request, and is there whole or not at all

    def delete(self, key: str) -> None:
        bucket, name = split(self._url(key))
        call(
            self._url(key),
            lambda: file_system().call_s3("delete_object", Bucket=bucket, Key=name),
        )

    def etag(self, key: str) -> str:
        return head(self._url(key))[1]


def list_below(folder: str) -> list[tuple[str, int, str]]:
    """URL, size in bytes and ETag of every object below `folder`, without placeholders of folders.

    Raises `StorageError`, also when the bucket does not exist.
    """
    bucket = split(folder)[0]
    return [
        (f"s3://{bucket}/{one['Key']}", int(one["Size"]), etag_of(one))
        for one in objects(f"{folder}/")
        if not one["Key"].endswith("/")
    ]


def objects(prefix: str, *, most: int = 1000) -> Iterator[dict[str, Any]]:
    """What S3 says of each object whose URL begins with `prefix`, sorted by key.

    `most` is the number of objects per request. Raises `StorageError`, also when the bucket does
    not exist.
    """
    # s3fs's own listing changes keys that begin with a slash, and keeps the whole listing twice.
    bucket, key = split(prefix)
    fs = file_system()
    asked = {"Bucket": bucket, "Prefix": key, "MaxKeys": most}
    while True:
        page = call(prefix, functools.partial(fs.call_s3, "list_objects_v2", **asked), fs)
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def first_keys(folder: str, most: int = 1000) -> list[str]:
    """The first keys below `folder`, for the price of one request. Raises `StorageError`."""
    return [one["Key"] for one in itertools.islice(objects(f"{folder}/", most=most), most)]


def etag_of(answer: Mapping[str, Any]) -> str:
    """The ETag in an answer of S3, without its quotes."""
    return str(answer.get("ETag", "")).strip('"')


def s3_source(url: str) -> Source:
    """One object, opened to read. Raises FileNotFoundError, `StorageError`.

    Every read asks for the same version (If-Match): it raises `StorageError` when the object was
    replaced or deleted after it was opened.
    """
    file = call(url, lambda: file_system().open(url, "rb", cache_type="none"))

    def fetch(start: int, length: int) -> bytes:
        def attempt() -> bytes:
            file.seek(start)
            return bytes(file.read(length))

        try:
            return call(url, attempt, file.fs)
        except FileNotFoundError as err:
            raise StorageError(f"{url!r} was deleted while it was being read") from err

    return Source(url, file.size, fetch, file.close)
