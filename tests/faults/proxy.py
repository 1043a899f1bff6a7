"""An HTTP proxy in front of an object store that injects faults, call by call.

It speaks plain HTTP/1.1 over TCP sockets of its own, so that it can do what a failing network
does: reset a connection, end a body in the middle, swallow an answer. Rates are probabilities
per call; choices come from a seeded generator. Refusals have the statuses, headers and bodies of
AWS; an answer to HEAD has no body, so no code.

    slow_down    503 SlowDown before anything is forwarded
    error        500 InternalError before anything is forwarded
    timeout      400 RequestTimeout: the body did not come in time; the connection is closed (PUT)
    conflict     409 ConditionalRequestConflict: another create of the key is on its way (PUT with
                 If-None-Match)
    reset        TCP reset before anything is forwarded
    cut          the answer's body ends in the middle (GET)
    latency      `latency_seconds` pass before the call is forwarded
    lost_answer  the call succeeds at the store, then the connection is reset (PUT)
    full         507, the store has no room (PUT)
    denied       403 AccessDenied: the caller's rights do not cover the call
    skewed       403 RequestTimeTooSkewed: the caller's clock is off

Beside these, every call that is signed with a session token in `expired` is refused with 400
ExpiredToken.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import os
import random
import re
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from urllib.parse import urlsplit

# kind: status, phrase, code, message
ANSWERS = {
    "slow_down": (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    "error": (
        500,
        "Internal Server Error",
        "InternalError",
        "We encountered an internal error. Please try again.",
    ),
    "timeout": (
        400,
        "Bad Request",
        "RequestTimeout",
        "Your socket connection to the server was not read from or written to within the timeout "
        "period. Idle connections will be closed.",
    ),
    "conflict": (
        409,
        "Conflict",
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this "
        "resource.",
    ),
    "exists": (
        412,
        "Precondition Failed",
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    ),
    "expired": (400, "Bad Request", "ExpiredToken", "The provided token has expired."),
    "denied": (403, "Forbidden", "AccessDenied", "Access Denied"),
    "full": (
        507,
        "Insufficient Storage",
        "XMinioStorageFull",
        "Storage backend has reached its minimum free drive threshold.",
    ),
    "skewed": (
        403,
        "Forbidden",
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    ),
}
MORE = {"exists": "<Condition>If-None-Match</Condition>"}  # what AWS says beside code and message
CLOSES = ("timeout",)
ONLY = {"cut": "GET", "lost_answer": "PUT", "full": "PUT", "timeout": "PUT", "conflict": "PUT"}
KINDS = (
    "slow_down",
    "error",
    "timeout",
    "conflict",
    "reset",
    "cut",
    "latency",
    "lost_answer",
    "full",
    "denied",
    "skewed",
)
CHUNK = 64 * 1024


def aws_answer(kind: str) -> tuple[int, str, dict[str, str], bytes]:
    """Status, phrase, headers and body of a refusal, as S3 at AWS sends it."""
    status, phrase, code, message = ANSWERS[kind]
    request, host = uuid.uuid4().hex[:16].upper(), base64.b64encode(os.urandom(56)).decode()
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{MORE.get(kind, '')}"
        f"<RequestId>{request}</RequestId><HostId>{host}</HostId></Error>"
    ).encode()
    headers = {
        "x-amz-request-id": request,
        "x-amz-id-2": host,
        "Content-Type": "application/xml",
        "Date": email.utils.formatdate(usegmt=True),
        "Server": "AmazonS3",
        **({"Connection": "close"} if kind in CLOSES else {}),
    }
    return status, phrase, headers, body


class FaultProxy:
    """See the module's docstring. `calls`, `requests` and `counts` tell what happened."""

    def __init__(self, target: str, seed: int = 0, address: str = "127.0.0.1") -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._address = address  # where it listens
        self._chance = random.Random(seed)
        self._rates: dict[str, float] = {}
        self._match: re.Pattern[str] | None = None
        self._latency = 1.0
        self._down_until = 0.0
        self.calls = 0
        self.requests: list[str] = []  # of each call "METHOD /path"
        self.counts: Counter[str] = Counter()
        self.endpoint = ""
        self.expired: set[str] = set()  # session tokens
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listen; `endpoint` is the proxy's own URL from now on."""
        self._thread.start()

        async def listen() -> int:
            server = await asyncio.start_server(self._serve, self._address, 0)
            return int(server.sockets[0].getsockname()[1])

        port = asyncio.run_coroutine_threadsafe(listen(), self._loop).result()
        self.endpoint = f"http://{self._address}:{port}"

    def stop(self) -> None:
        """Listen no more."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def set(
        self, *, match: str | None = None, latency_seconds: float | None = None, **rates: float
    ) -> None:
        """Change rates, and what calls they concern: a pattern on "METHOD /path" (None: all)."""
        unknown = rates.keys() - set(KINDS)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are no faults; there are {', '.join(KINDS)}")
        self._match = re.compile(match) if match else None
        if latency_seconds is not None:
            self._latency = latency_seconds
        self._rates = {**self._rates, **rates}

    def outage(self, seconds: float) -> None:
        """Every call fails for so long, those on their way too."""
        self._down_until = time.monotonic() + seconds

    # -- one connection ---------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            upstream = await asyncio.open_connection(self._host, self._port)
            while await self._call(reader, writer, *upstream):
                pass
        except (OSError, asyncio.IncompleteReadError, EOFError):
            pass  # one of the two went away, which is their right
        finally:
            for one in (writer, upstream[1] if upstream else None):
                if one is not None:
                    one.close()

    def _faults(self, method: str, path: str, headers: dict[str, str]) -> list[str]:
        if headers.get("x-amz-security-token") in self.expired:
            return ["expired"]
        if self._match is not None and not self._match.search(f"{method} {path}"):
            return []
        return [
            kind
            for kind in KINDS
            if (rate := self._rates.get(kind))
            and ONLY.get(kind, method) == method
            and (kind != "conflict" or "if-none-match" in headers)
            and self._chance.random() < rate
        ]

    async def _call(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether the connection can be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        headers = _headers(head)
        self.calls += 1
        self.requests.append(f"{method} {path}")
        if time.monotonic() < self._down_until:
            self.counts["outage"] += 1
            _reset(writer)
            return False
        faults = self._faults(method, path, headers)
        self.counts.update(faults)
        if "latency" in faults:
            await asyncio.sleep(self._latency)
        if "reset" in faults:
            _reset(writer)
            return False
        if headers.get("expect", "").lower() == "100-continue":
            # Answered here, so that the target is not asked twice.
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect: *100-continue", b"", head)
        for kind in ANSWERS.keys() & set(faults):
            await _copy_body(reader, None, headers)
            status, phrase, given, body = aws_answer(kind)
            body = body if method != "HEAD" else b""
            lines = [f"{name}: {value}\r\n" for name, value in given.items()]
            writer.write(f"HTTP/1.1 {status} {phrase}\r\n{''.join(lines)}".encode())
            writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            return kind not in CLOSES
        up_writer.write(head)
        await _copy_body(reader, up_writer, headers)
        return await self._answer(method, faults, writer, up_reader)

    async def _answer(
        self,
        method: str,
        faults: list[str],
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
    ) -> bool:
        head = await up_reader.readuntil(b"\r\n\r\n")
        while head.split(b" ", 2)[1] == b"100":
            head = await up_reader.readuntil(b"\r\n\r\n")
        status, headers = int(head.split(b" ", 2)[1]), _headers(head)
        if time.monotonic() < self._down_until or "lost_answer" in faults:
            _reset(writer)
            return False
        empty = method == "HEAD" or status in {204, 304}
        if "cut" in faults and not empty and int(headers.get("content-length", 0)) > 1:
            body = await up_reader.readexactly(int(headers["content-length"]))
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(head)
        if not empty:
            await _copy_body(up_reader, writer, headers, until_end=True)
        await writer.drain()
        closes = "close" in headers.get("connection", "").lower()
        framed = empty or "content-length" in headers or "transfer-encoding" in headers
        return framed and not closes and not head.startswith(b"HTTP/1.0")


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


async def _copy_body(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter | None,
    headers: dict[str, str],
    *,
    until_end: bool = False,
) -> None:
    """The body that the headers announce, unchanged; without `writer` it is thrown away."""

    async def hand_on(data: bytes) -> None:
        if writer is not None:
            writer.write(data)
            await writer.drain()

    if "chunked" in headers.get("transfer-encoding", "").lower():
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            await hand_on(line + await reader.readexactly(size + 2))
            if size == 0:
                return
    left = int(headers["content-length"]) if "content-length" in headers else None
    if left is None:
        while until_end and (data := await reader.read(CHUNK)):
            await hand_on(data)
        return
    while left > 0:
        data = await reader.read(min(left, CHUNK))
        if not data:
            raise EOFError
        left -= len(data)
        await hand_on(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a TCP reset, not with a polite FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
