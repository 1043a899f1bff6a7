"""The address of a Ray cluster: which one is meant, and why it cannot be used (driver; no Ray)."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from tempfile import gettempdir

from gemma_batch.errors import UserError

PROBE_SECONDS = 10.0  # the time limit for a first connection to the cluster
LOCAL = "local"  # the address of a cluster that the run starts itself
# The first bytes of a connection of HTTP/2, which gRPC and so Ray speaks, with empty settings
# (RFC 9113, section 3.4). The answer to them begins with a frame of type 4, settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME = 4


def cluster_address(address: str | None) -> str:
    """The address that is meant (default: RAY_ADDRESS, otherwise a new local cluster).

    Raises `UserError` for a URL: `ray://` belongs to Ray Client, and `http://` to the dashboard.
    """
    target = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if "://" not in target:
        return target
    name = "--address" if address else "RAY_ADDRESS"
    if target.startswith(("http://", "https://")):
        what = "is the address of a dashboard, which takes jobs but no drivers"
    else:
        what = "is an address of Ray Client, and Ray Data does not run in a Ray Client driver"
    raise UserError(
        f"{name} {target!r} {what}: hand the job to the cluster with `gemma-batch submit SPEC "
        "--address http://HOST:8265`, or start it on a node of the cluster with --address HOST:6379"
    )


def check_address(address: str | None) -> None:
    """Raise `UserError` at once for an address that no run can use; connects to nothing.

    A connection that this process has to Ray counts more than RAY_ADDRESS.
    """
    ray, client = sys.modules.get("ray"), sys.modules.get("ray.util.client")
    if client is not None and client.ray.is_connected():
        raise UserError(
            "this process is connected by Ray Client (ray://), and Ray Data does not run in a Ray "
            "Client driver: hand the job to the cluster with `gemma-batch submit SPEC --address "
            "http://HOST:8265`"
        )
    if address is not None or ray is None or not ray.is_initialized():
        cluster_address(address)


def starts_here(address: str | None) -> bool:
    """Whether a run with this address starts Ray on this machine, and joins no cluster.

    Raises `UserError` like `cluster_address`.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return False
    return cluster_address(address) == LOCAL


def probe(target: str) -> None:
    """Raise `UserError` unless a gRPC server, as Ray's is, answers at HOST:PORT.

    Without this test, Ray waits many minutes for a cluster that does not exist. Other forms of an
    address are not tested.
    """
    host, found, port = target.rpartition(":")
    if not found or not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
                return
            connection.sendall(HELLO)
            head = b""
            while len(head) < 4 and (more := connection.recv(4 - len(head))):
                head += more
    except TimeoutError as err:
        raise UserError(
            f"no Ray cluster answers at {target!r} within {PROBE_SECONDS:g} s: is the head node "
            "overloaded, or does something else listen there? Check --address or RAY_ADDRESS, or "
            "leave both out to run on this machine"
        ) from err
    except OSError as err:
        raise UserError(
            f"no Ray cluster answers at {target!r} ({err}): check --address or RAY_ADDRESS, or "
            "leave both out to run on this machine"
        ) from err
    if len(head) < 4 or head[3] != SETTINGS_FRAME:
        raise UserError(
            f"what answers at {target!r} is no Ray cluster: give the address of Ray's head node, "
            "usually HOST:6379 (8265 is the dashboard, 10001 is Ray Client)"
        )


def not_up(target: str, err: BaseException) -> UserError:
    """The sentence for an error of `ray.init`: what is wrong and what to do."""
    text = " ".join(str(err).split()).rstrip(".")[:500] or type(err).__name__
    if versions := re.search(
        r"cluster was started with: Ray: (\S+) Python: (\S+) .*"
        r"was started with: Ray: (\S+) Python: (\S+)",
        text,
    ):
        theirs, our = versions.group(1, 2), versions.group(3, 4)
        return UserError(
            f"the Ray cluster at {target!r} has Ray {theirs[0]} and Python {theirs[1]}, this "
            f"machine has Ray {our[0]} and Python {our[1]}: install the same versions here"
        )
    if "authentication" in type(err).__name__.lower():
        return UserError(
            f"the Ray cluster at {target!r} asks for a token that is missing or wrong: set "
            "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
        )
    if "No node info found matching" in text:
        return UserError(
            f"a Ray cluster answers at {target!r}, and this machine is no node of it: start the "
            "run on a node, or hand the job to the cluster with `gemma-batch submit SPEC "
            "--address http://HOST:8265`"
        )
    if target == LOCAL:
        return UserError(
            f"Ray did not start on this machine: {text}. {_local_advice(err)}. Ray's logs "
            f"are in {os.environ.get('RAY_TMPDIR') or gettempdir()}/ray/session_latest/logs"
        )
    return UserError(
        f"no Ray cluster could be reached at {target!r}: {text}. Check the address and the "
        "head node, or leave the address out to run on this machine"
    )


def _local_advice(err: BaseException) -> str:
    number = getattr(err, "errno", None)
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return "Make room on the disk of /tmp, or name another folder with RAY_TMPDIR"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "Name a folder that can be written with RAY_TMPDIR"
    if "AF_UNIX" in str(err):
        return "Name a shorter folder with RAY_TMPDIR"
    return (
        "The usual causes are a machine that is very busy, too little memory, and no room in "
        "/dev/shm or /tmp (RAY_TMPDIR names another folder than /tmp): start again when there is "
        "room"
    )
