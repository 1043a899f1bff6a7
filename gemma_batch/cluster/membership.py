"""The connection to a Ray cluster (driver): opened for a run, or lent by the caller of the run.

Runs share one connection per process, as Ray allows only one. Ray that the caller has started
stays up, with the caller's settings. Ray that a run has started ends with the last run, and the
settings of the process are restored.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import ray
import ray._private.auto_init_hook as auto_init
import ray.data
import ray.util

from gemma_batch.cluster.address import LOCAL, check_address, cluster_address, not_up, probe
from gemma_batch.cluster.quiet import level, no_log_of_its_own, our_sigterm, quiet
from gemma_batch.errors import UserError

# Variables of the environment that `ray.init` sets begin with these.
RAYS_OWN = ("RAY_", "PYTHONBREAKPOINT")
LANE = "gemma_batch-lane"  # how the names of threads begin that consume a pipeline
PIPELINES = (LANE, "StreamingExecutor")  # also Ray Data's own threads

# A raylet of Ray 2.60 ends itself when an agent of its node needs more than 15 s to start, as on a
# busy machine (https://github.com/ray-project/ray/issues/65983). A local Ray is started again then.
STARTS = 3


class _Connection:
    """The connection that the runs of this process share: how many use it, and what to undo."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._undo = contextlib.ExitStack()

    def enter(self, address: str | None, *, verbose: bool) -> None:
        with self._lock:
            if ray.is_initialized():
                _check_lent(address)
            elif self._runs:
                raise UserError(
                    "Ray was shut down while another run in this process used it: start again "
                    "when that run has ended"
                )
            if not self._runs:
                with contextlib.ExitStack() as undo:
                    if not ray.is_initialized():
                        undo.enter_context(_opened(cluster_address(address), verbose=verbose))
                    undo.enter_context(level("ray.data", logging.CRITICAL))
                    self._undo = undo.pop_all()
            self._runs += 1

    def leave(self) -> None:
        with self._lock:
            self._runs -= 1
            if not self._runs:
                self._undo.close()


_connection = _Connection()


@contextlib.contextmanager
def joined(address: str | None, *, verbose: bool = False) -> Iterator[None]:
    """Be connected to the cluster at `address` within the block.

    Without an address, it is the Ray that this process is connected to, otherwise the cluster at
    RAY_ADDRESS, otherwise a new local cluster. `verbose` shows the logs of Ray and of the workers,
    where this function connects. Raises `UserError` when the cluster cannot be reached, or when
    the process is connected to another cluster.
    """
    _connection.enter(address, verbose=verbose)
    try:
        yield
    finally:
        _connection.leave()


def _check_lent(address: str | None) -> None:
    """Raise `UserError` when the Ray of this process cannot be used, or is not at `address`."""
    check_address(address)
    if address is None:
        return
    target, here = cluster_address(address), str(ray.get_runtime_context().gcs_address)
    if target == LOCAL:
        node = ray._private.worker._global_node
        same = node is not None and node.is_head()
    else:
        same = target == "auto" or _places(target) & _places(here)
    if not same:
        raise UserError(
            f"address {address!r} is not the Ray cluster that this process is connected to, "
            f"{here!r}: leave the address out to run there, or call ray.shutdown() first"
        )


def _places(address: str) -> set[tuple[str, str]]:
    """The IP addresses and the port that HOST:PORT stands for; loopback is this node's."""
    host, _, port = address.rpartition(":")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        found = {host}
    if any(ip == "::1" or ip.startswith("127.") for ip in found):
        found.add(ray.util.get_node_ip_address())
    return {(ip, port) for ip in found}


@contextlib.contextmanager
def _opened(target: str, *, verbose: bool) -> Iterator[None]:
    """Connect to the cluster at `target`, and leave it and restore the process at the end."""
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.WARNING}
    probe(target)
    silence = contextlib.nullcontext if verbose else quiet
    with _kept_process(), level("ray"), _no_second_cluster(), no_log_of_its_own(verbose):
        if target == LOCAL:
            options["include_dashboard"] = False
            os.environ.setdefault("RAY_worker_niceness", "0")  # see worker._ask_for_normal_priority
        if not verbose:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            with silence(), our_sigterm():
                _connect(target, options)
            yield
        finally:
            with silence():
                ray.shutdown()


def _connect(target: str, options: dict[str, Any]) -> None:
    """Connect to Ray, or start a local one. Raises `UserError`."""
    for left in reversed(range(STARTS)):
        try:
            with _whole_or_nothing():
                ray.init(address=target, **options)
        except Exception as err:  # Ray has no type of its own for most of its failures
            slow = target == LOCAL and "timed out" in str(err).lower()
            if not (slow and left):
                raise not_up(target, err) from err
        else:
            return


@contextlib.contextmanager
def _whole_or_nothing() -> Iterator[None]:
    """Kill the processes that a start of Ray leaves when it fails: Ray forgets them."""
    home = os.path.dirname(ray.__file__)
    before = {child.pid for child in psutil.Process().children()}
    try:
        yield
    except BaseException:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.pid not in before and any(home in word for word in child.cmdline()):
                    for process in [*child.children(recursive=True), child]:
                        process.kill()
                    child.wait()
        raise


@contextlib.contextmanager
def _no_second_cluster() -> Iterator[None]:
    # A thread of a pipeline may outlive an interrupted run. Its next call of Ray must not start
    # another cluster, as calls of Ray do in a process that is not connected.
    before, auto_init.enable_auto_connect = auto_init.enable_auto_connect, False
    try:
        yield
    finally:
        if not any(thread.name.startswith(PIPELINES) for thread in threading.enumerate()):
            auto_init.enable_auto_connect = before


@contextlib.contextmanager
def _kept_process() -> Iterator[None]:
    """Undo at the end what `ray.init` changes in the process, except signal handlers."""

    def rays_own() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith(RAYS_OWN)}

    before, traces = rays_own(), faulthandler.is_enabled()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield
    finally:
        for name in rays_own().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        if not traces:
            faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
