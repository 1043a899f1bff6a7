"""An S3 server of a benchmark's own: in another process, with a bucket that is filled from inside.

100,000 puts over HTTP would take minutes.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

BUCKET = "benchmark"
DAY = 24 * 3600  # seconds


class Server:
    """A running server. `port` is its port on 127.0.0.1."""

    def __init__(self, port: int, told: Any, objects: Any) -> None:
        self.port, self._told, self._objects = port, told, objects

    def put(self, keys: Sequence[str], data: bytes) -> None:
        """Put the same object under each key of the bucket, without waiting for it."""
        self._objects.put((keys, data))

    def filled(self) -> None:
        """Wait until every object is there."""
        self._objects.put(None)
        assert self._told.recv() == "filled"


@contextlib.contextmanager
def s3_server() -> Iterator[Server]:
    """A server; within the block, the environment names it and its credentials."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    objects = spawn.Queue(1000)
    process = spawn.Process(target=_serve, args=(there, objects), daemon=True)
    process.start()
    port = here.recv()
    address = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(address)
    try:
        yield Server(port, here, objects)
    finally:
        process.kill()
        for name in address:
            del os.environ[name]


def _serve(port: Any, objects: Any) -> None:
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    port.send(server.get_host_and_port()[1])
    while (item := objects.get()) is not None:
        keys, data = item
        for key in keys:
            backend.put_object(BUCKET, key, data)
    port.send("filled")
    time.sleep(DAY)
