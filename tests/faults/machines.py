"""Machines on this machine: namespaces with their own network, disk, processes and host name.

    this machine (the root namespaces): Ray's head, drivers, S3 servers
       │ veth: `Network.head`, `Network.services`, two addresses
    a namespace with only a bridge
       │ veth     │ veth
    Machine 1   Machine 2: an address, a host name, a /proc, a /dev/shm and a disk of their own

All links belong to namespaces that die with their last process, and the first process of each
namespace ends when its pipe from this process closes. So nothing is left behind, even when this
process is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shlex
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

# The first process of a namespace: it ends when its standard input closes, and the kernel then
# kills all processes of a PID namespace. Children without a parent are reaped by nobody else.
INIT = "trap '' CHLD; {setup} echo up; exec cat"
UNREACHABLE = "02:00:00:00:00:99"  # a network card that nobody has


@functools.cache
def refused() -> str | None:
    """Why this machine cannot have such namespaces; None when it can."""
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian's iproute2 and util-linux)"
    probe = (
        "ip link add name bridge0 type bridge && ip link add name one type veth peer name two "
        "&& mount -t tmpfs none /dev/shm && hostname probe"
    )
    words = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run([*words, "sh", "-c", probe], capture_output=True, text=True, check=False)
    return f"the kernel refuses namespaces: {done.stderr.strip()}" if done.returncode else None


def _ip(*words: str, inside: int | None = None) -> None:
    """Run `ip` here, or in the network namespace of the process `inside`."""
    enter = ["nsenter", "-t", str(inside), "-n"] if inside is not None else []
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _first_process(words: Sequence[str], setup: str) -> tuple[subprocess.Popen[str], int]:
    """New namespaces (options of `unshare`), set up by a shell; their first process and its id."""
    script = INIT.format(setup=setup)
    process = subprocess.Popen(
        ["unshare", *words, "sh", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "up":
        raise RuntimeError(f"a namespace did not come up: {process.communicate()[1]}")
    children = psutil.Process(process.pid).children()  # with --fork the first process is a child
    return process, children[0].pid if children else process.pid


def _free_subnet() -> str:
    """The first three numbers of 256 addresses that no link of this machine has."""
    taken = {
        address.address.rpartition(".")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    }
    while True:
        subnet = f"10.{random.randint(128, 254)}.{random.randint(0, 255)}"
        if subnet not in taken:
            return subnet


class Machine:
    """A machine of a network. `disk` is its disk, as processes outside see it."""

    def __init__(
        self, network: Network, name: str, ip: str, disk: Path, private: Mapping[Path, Path]
    ) -> None:
        self.name, self.ip, self.disk = name, ip, disk
        self._network = network
        for folder in private.values():
            folder.mkdir(parents=True, exist_ok=True)
        hosts = disk / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{ip} {name}\n")
        nowhere = disk / "resolv.conf"  # no name server: a look-up fails at once
        nowhere.write_text("")
        mounts = [
            f"hostname {name}",
            "mount -t tmpfs -o size=1g tmpfs /dev/shm",
            *(
                f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(path))}"
                for path, source in (
                    *private.items(),
                    (Path("/etc/hosts"), hosts),
                    (Path("/etc/resolv.conf"), nowhere),
                )
            ),
            "ip link set lo up",
        ]  # fmt: skip
        options = ["--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc"]
        options += ["--fork", "--kill-child=KILL"]
        self._process, self._init = _first_process(options, "".join(f"{m}; " for m in mounts))
        self._port = network.plug(self._init, ip)

    def command(self, words: Sequence[str]) -> list[str]:
        """A command that runs on this machine, as words of a command for here."""
        options = ["-m", "-u", "-i", "-n", "-p"]
        return ["nsenter", "-t", str(self._init), *options, f"--wdns={os.getcwd()}", *words]

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command on this machine to its end, and return its output."""
        done = subprocess.run(
            self.command(words), capture_output=True, text=True, check=True, env=env
        )
        return done.stdout

    @contextlib.contextmanager
    def cut(self, address: str, *, silent: bool = False) -> Iterator[None]:
        """Meanwhile the machine does not reach `address`, while everything else goes on.

        Calls fail at once, or get no answer when it is `silent`. Of an address of this machine's
        own network, all ports are cut, so `Network.services` and `Network.head` differ.
        """
        if silent:
            entry = [address, "lladdr", UNREACHABLE, "dev", "eth0", "nud", "permanent"]
            _ip("neigh", "replace", *entry, inside=self._init)
        else:
            _ip("route", "add", "unreachable", f"{address}/32", inside=self._init)
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # the machine may be gone
                if silent:
                    _ip("neigh", "del", address, "dev", "eth0", inside=self._init)
                else:
                    _ip("route", "del", "unreachable", f"{address}/32", inside=self._init)

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Meanwhile the machine reaches nothing and nobody reaches it."""
        self._network.set_port(self._port, up=False)
        try:
            yield
        finally:
            self._network.set_port(self._port, up=True)

    def close(self) -> None:
        """End the machine, with every process on it and its network card."""
        self._process.kill()
        self._process.communicate()


class Network:
    """A bridge and the machines on it. `head` and `services` are addresses of this machine.

    `folder` holds the machines' disks. Raises RuntimeError where `refused` is not None.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._machines: list[Machine] = []
        self._subnet = _free_subnet()
        self.head, self.services = f"{self._subnet}.1", f"{self._subnet}.2"
        setup = "ip link set lo up; ip link add name bridge0 type bridge; ip link set bridge0 up; "
        self._process, self._init = _first_process(["--net"], setup)
        self._link = f"gb{uuid.uuid4().hex[:8]}"
        try:
            port = self._wire(self._link, os.getpid())
            for address in (self.head, self.services):
                _ip("address", "add", f"{address}/24", "dev", self._link)
            _ip("link", "set", self._link, "up")
            self.set_port(port, up=True)
        except RuntimeError:
            self.close()
            raise

    def _wire(self, name: str, pid: int) -> str:
        """A link from the bridge to the namespace of process `pid`; the bridge's end."""
        port = f"p{uuid.uuid4().hex[:8]}"
        pair = ["name", port, "type", "veth", "peer", "name", name, "netns", str(pid)]
        _ip("link", "add", *pair, inside=self._init)
        _ip("link", "set", port, "master", "bridge0", inside=self._init)
        return port

    def plug(self, pid: int, ip: str) -> str:
        """Give the namespace of process `pid` a network card; the name of the bridge's port."""
        port = self._wire("eth0", pid)
        _ip("address", "add", f"{ip}/24", "dev", "eth0", inside=pid)
        _ip("link", "set", "eth0", "up", inside=pid)
        # So that a program which asks for its own address by a route to anywhere gets this one.
        _ip("route", "add", "default", "via", self.head, inside=pid)
        self.set_port(port, up=True)
        return port

    def set_port(self, port: str, *, up: bool) -> None:
        """Switch a port of the bridge on or off."""
        _ip("link", "set", port, "up" if up else "down", inside=self._init)

    def machine(
        self, name: str | None = None, *, private: Mapping[Path, str] | None = None
    ) -> Machine:
        """One more machine, with a host name that no other machine has.

        At each path of `private` it sees the folder of this name on its own disk; processes outside
        see there what is in the real folder.
        """
        number = len(self._machines) + 1
        name = name or f"machine{number}"
        disk = self._folder / name
        disk.mkdir(parents=True)
        mounts = {path: disk / place for path, place in (private or {}).items()}
        made = Machine(self, name, f"{self._subnet}.{10 + number}", disk, mounts)
        self._machines.append(made)
        return made

    def close(self) -> None:
        """End every machine and remove the network."""
        for machine in self._machines:
            machine.close()
        self._process.kill()
        self._process.communicate()
        # The kernel removes the link with the namespace, but not at once.
        with contextlib.suppress(RuntimeError):
            _ip("link", "del", self._link)
