"""A Ray cluster of several raylets on this machine, whose nodes and processes can be killed.

Every process is found by its parentage and ended by its id, so that no other cluster on the
machine is touched.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from ray.exceptions import RayError

from tests.integration.helpers import WARM_RAY, environment

NODE_SECONDS = 180  # for a node to register itself, on a busy machine
# A raylet ends itself when its agents are slow, as on a busy machine (see `membership.STARTS`).
STARTS = 3
RAY = str(Path(sys.executable).parent / "ray")
WORKER = "MapBatches(Worker)"  # as Ray names the process of a GPU actor


def free_port() -> int:
    """A TCP port that is free now on every address.

    It is below the ports that the kernel gives to outgoing connections: one of those can be taken
    before a server has started that wants it.
    """
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it, children first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [*reversed(process.children(recursive=True)), process]
    return []


def end(processes: list[psutil.Process]) -> None:
    """SIGKILL them and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has waited for yet has ended too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Cluster:
    """A head without engines' room and `nodes` nodes with `cpus` logical CPUs each.

    The head listens on the address `host`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        cpus: int = 2,
        env: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._folder, self._cpus = folder, cpus
        self.env = environment(**(env or {}))
        self._host = host
        self._nodes: list[subprocess.Popen[bytes]] = []
        for left in reversed(range(STARTS)):
            try:
                self._start_all(nodes)
                break
            except (RuntimeError, RayError) as err:
                said = f"{err!r}: {self._said()}"
                self.close()
                if not left:
                    raise RuntimeError(f"the cluster did not start: {said}") from err
                print(f"the cluster starts once more after {said}", file=sys.stderr)
            except BaseException:
                self.close()
                raise

    def _start_all(self, nodes: int) -> None:
        self._session = tempfile.mkdtemp(prefix="gb")  # short: sockets' paths may not be long
        self._port = free_port()
        self.address = f"{self._host}:{self._port}"
        head = ["--head", f"--port={self._port}", "--num-cpus=0"]
        if self._host != "127.0.0.1":
            head.append(f"--node-ip-address={self._host}")
        self._head = self._start("head", *head)
        self._wait_for_port()
        for _ in range(nodes):
            self.add_node()

    def _said(self) -> str:
        """What the nodes printed, and which of them has ended."""
        ended = {"head": self._head.poll(), "nodes": [node.poll() for node in self._nodes]}
        logs = sorted(self._folder.glob("ray-*.log"))
        return "\n".join(
            [f"exit codes: {ended}", *(f"{log.name}: {log.read_text()}" for log in logs)]
        )

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        self._log = self._folder / f"ray-{name}-{free_port()}.log"
        command = [*WARM_RAY, "start", "--block", "--disable-usage-stats", *arguments]
        if "--head" in arguments:
            command += ["--include-dashboard=false", f"--temp-dir={self._session}"]
        command += [
            f"--dashboard-agent-listen-port={free_port()}",
            "--object-store-memory=200000000",
        ]
        with self._log.open("wb") as log:
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + NODE_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((self._host, self._port)) == 0:
                    return
            if self._head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the cluster did not start: {self._log.read_text()}")
            time.sleep(0.3)

    def add_node(self) -> subprocess.Popen[bytes]:
        """One more node, registered when this returns."""
        # One at a time: two that start at once on one machine can take each other's sockets.
        # Known by its id: a count would wait for ever where another node dies meanwhile.
        before = self._alive_ids()
        node = self._start("node", f"--address={self.address}", f"--num-cpus={self._cpus}")
        self._nodes.append(node)
        deadline = time.monotonic() + NODE_SECONDS
        while not self._alive_ids() - before:
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not come up: {self._log.read_text()}")
            time.sleep(0.3)
        return node

    def _alive_ids(self) -> set[bytes]:
        """The nodes that the cluster itself holds for alive."""
        return {info.node_id for info in self._alive()}

    def _alive(self) -> list[Any]:
        from ray._raylet import GcsClient

        nodes = GcsClient(address=self.address).get_all_node_info(timeout=10)
        return [node for node in nodes.values() if node.state == node.ALIVE]

    def describe(self) -> str:
        """What runs where, for the message of a scenario that got stuck."""
        lines = [f"{len(self._alive_ids())} nodes alive"]
        for node in [self._head, *self._nodes]:
            for process in family(node.pid):
                with contextlib.suppress(psutil.Error):
                    words = " ".join(process.cmdline())[:80]
                    lines.append(f"  {node.pid} {process.pid} {process.status()} {words}")
        return "\n".join(lines)

    def node_of(self, worker: psutil.Process) -> subprocess.Popen[bytes] | None:
        """The node that a worker process runs on; None for one that has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            ancestors = {process.pid for process in worker.parents()}
            return next((node for node in self._nodes if node.pid in ancestors), None)
        return None

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL of everything on the node at once, as when its machine goes away."""
        end(family(node.pid))
        node.wait()
        self._nodes.remove(node)

    @property
    def nodes(self) -> list[subprocess.Popen[bytes]]:
        """The living nodes besides the head."""
        return [node for node in self._nodes if node.poll() is None]

    def processes(self, part: str) -> list[psutil.Process]:
        """The cluster's processes whose title or command line holds `part`."""
        found = []
        for node in [self._head, *self._nodes]:
            for process in family(node.pid):
                with contextlib.suppress(psutil.Error):
                    if part in " ".join(process.cmdline()) or part in process.name():
                        found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes of the GPU actors."""
        return self.processes(WORKER)

    def close(self) -> None:
        """End every process of the cluster."""
        end([p for node in [*self._nodes, self._head] for p in family(node.pid)])
        for node in [*self._nodes, self._head]:
            node.wait()
        self._nodes.clear()
        shutil.rmtree(self._session, ignore_errors=True)


def stop(process: psutil.Process) -> None:
    """SIGSTOP: the process is there and does nothing."""
    process.send_signal(signal.SIGSTOP)
