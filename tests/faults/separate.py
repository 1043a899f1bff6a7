"""A Ray cluster whose nodes are machines of their own: another network, disk, home, name, PATH.

The head and the drivers run here, on `Network.head`. A path is shared by all nodes, except below
`SeparateCluster.private`: there each node sees a folder of its own disk, and so does this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cluster import NODE_SECONDS, RAY, Cluster
from .machines import Machine, Network

PROGRAMS = Path(__file__).parent / "programs"  # stand-ins; a node with cards has them on its PATH


class Node:
    """A raylet on a machine; `name` is the machine's host name, `ip` its address."""

    def __init__(self, machine: Machine, process: subprocess.Popen[bytes], private: Path) -> None:
        self.machine, self.process = machine, process
        self.name, self.ip = machine.name, machine.ip
        self._private = private

    def seen(self, path: Path) -> Path:
        """Where this machine sees a file that the node has at `path`, below the private folder."""
        return self.machine.disk / "private" / path.relative_to(self._private)


class SeparateCluster(Cluster):
    """A head without engines' room; `add_machine` makes the nodes.

    `network` gives the addresses: an S3 server that the nodes have to reach listens on
    `network.services`, and `Machine.cut` takes it away from one node.
    """

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.private = folder / "private"
        self.private.mkdir()
        self.network = Network(folder / "machines")
        self.machines: list[Node] = []
        try:
            super().__init__(folder, nodes=0, env=env, host=self.network.head)
        except BaseException:
            self.network.close()
            raise

    def add_machine(
        self,
        *,
        cpus: int = 2,
        gpus: int | None = None,
        cards: Sequence[Mapping[str, Any]] = (),
        files: Mapping[Path, bytes] | None = None,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
        resources: Mapping[str, float] | None = None,
        shares: bool = False,
    ) -> Node:
        """One more machine with a node, registered when this returns.

        A machine that `shares` sees below the private folder what this machine sees there.

        `gpus` is declared to Ray (default: as many as there are `cards`); `cards` are those that
        nvidia-smi tells of (see programs/nvidia-smi). `files` are put on the machine's disk, below
        the private folder.
        """
        own = {Path(self._session): "ray", **({} if shares else {self.private: "private"})}
        machine = self.network.machine(name, private=own)
        for path, data in (files or {}).items():
            target = machine.disk / "private" / path.relative_to(self.private)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        home, temporary = (
            self.private / f"home-{machine.name}",
            self.private / f"tmp-{machine.name}",
        )
        disk = self.private if shares else machine.disk / "private"
        for folder in (home, temporary):
            (disk / folder.name).mkdir()
        full = {**self.env, "HOME": str(home), "TMPDIR": str(temporary)}
        full.pop("CUDA_VISIBLE_DEVICES", None)
        if cards:
            full |= {"NVIDIA_SMI_CARDS": json.dumps([dict(card) for card in cards])}
            full["PATH"] = f"{PROGRAMS}{os.pathsep}{full['PATH']}"
        gpus = len(cards) if gpus is None else gpus
        words = [f"--address={self.address}", f"--node-ip-address={machine.ip}"]
        words += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--dashboard-agent-listen-port=52365"]
        words += ["--object-store-memory=200000000", f"--resources={json.dumps(resources or {})}"]
        command = [RAY, "start", "--block", "--disable-usage-stats", *words]
        log = self._folder / f"ray-{machine.name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                machine.command(command), env={**full, **(env or {})}, stdout=out, stderr=out
            )
        self._nodes.append(process)
        node = Node(machine, process, self.private)
        self.machines.append(node)
        deadline = time.monotonic() + NODE_SECONDS
        while self.id_of(node) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{machine.name} did not come up: {log.read_text()}")
            time.sleep(0.3)
        return node

    def id_of(self, node: Node) -> str | None:
        """The node's id as Ray writes it; None when Ray does not hold the node for alive."""
        found = (info.node_id for info in self._alive() if info.node_manager_address == node.ip)
        return next((key.hex() for key in found), None)

    def kill_machine(self, node: Node) -> None:
        """The machine goes away, with everything on it but its disk."""
        node.machine.close()
        self.kill_node(node.process)
        self.machines.remove(node)

    def close(self) -> None:
        """End every process of the cluster, every machine and the network."""
        for node in self.machines:
            node.machine.close()
        super().close()
        self.network.close()
