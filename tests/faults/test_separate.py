"""The cluster of separate machines is what drills take it for; it needs root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .machines import Machine, Network, refused
from .separate import SeparateCluster

pytestmark = pytest.mark.skipif(refused() is not None, reason=str(refused()))
HELD = """
import pathlib, sys, time
from tests.faults.machines import Network
network = Network(pathlib.Path(sys.argv[1]))
print(network.head, *(network.machine().ip for _ in range(2)), flush=True)
time.sleep(600)
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A network without machines."""
    made = Network(tmp_path / "machines")
    try:
        yield made
    finally:
        made.close()


def connect(machine: Machine, address: str, timeout: float = 3.0) -> str:
    """What a connection from the machine to a closed port comes to: the name of the exception."""
    code = (
        "import socket\n"
        f"try: socket.create_connection(({address!r}, 9), {timeout})\n"
        "except OSError as err: print(type(err).__name__, end='')"
    )
    return machine.run(sys.executable, "-c", code)


def test_machines_share_a_network_and_no_names(network: Network) -> None:
    """Each has a name, an address and processes of its own, and they reach each other."""
    one, two = network.machine(), network.machine()
    assert {one.run("hostname").strip(), two.run("hostname").strip()} == {one.name, two.name}
    assert one.ip != two.ip
    assert connect(one, two.ip) == connect(one, network.head) == "ConnectionRefusedError"
    assert len(one.run("ps", "-A", "-o", "comm=").splitlines()) == 2, "not only cat and ps"


def test_a_folder_of_the_own_disk(network: Network, tmp_path: Path) -> None:
    """At one path each machine has its own file, and others see neither."""
    place = tmp_path / "place"
    place.mkdir()
    machines = [network.machine(private={place: "disk"}) for _ in range(2)]
    for machine in machines:
        machine.run("sh", "-c", f"hostname > {place}/name")
        assert (machine.disk / "disk" / "name").read_text().strip() == machine.name
    assert not list(place.iterdir())


def test_a_machine_loses_an_address(network: Network) -> None:
    """Only this machine, only this address, only meanwhile; with an error or in silence."""
    one, two = network.machine(), network.machine()
    for silent, seen in ((False, "OSError"), (True, "TimeoutError")):
        with one.cut(network.services, silent=silent):
            assert connect(one, network.services, 0.5) == seen
            assert connect(one, network.head) == "ConnectionRefusedError"
            assert connect(two, network.services) == "ConnectionRefusedError"
        assert connect(one, network.services) == "ConnectionRefusedError"
    with two.unplugged():
        assert connect(two, network.head, 0.5) == "TimeoutError"
    assert connect(two, network.head) == "ConnectionRefusedError"


def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    """No link, no address and no process of a namespace, even after SIGKILL."""
    before = set(psutil.net_if_addrs())
    owner = subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout is not None
    assert len(owner.stdout.readline().split()) == 3
    children = psutil.Process(owner.pid).children(recursive=True)
    assert len(children) == 5, "the bridge's process, and two for each machine"
    assert set(psutil.net_if_addrs()) > before
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 30
    while set(psutil.net_if_addrs()) != before or any(one.is_running() for one in children):
        assert time.monotonic() < deadline, (set(psutil.net_if_addrs()) - before, children)
        time.sleep(0.1)


@pytest.mark.long
def test_two_nodes_with_different_files_at_one_path(tmp_path: Path) -> None:
    """Tasks on each node see the node's address, name, disk, home, environment and cards."""
    cluster = SeparateCluster(tmp_path)
    try:
        path = cluster.private / "data.txt"
        cards = [{"name": "NVIDIA L4", "memory.total": 23034, "compute_cap": "8.9"}]
        one = cluster.add_machine(files={path: b"one"}, env={"WHO": "1"})
        two = cluster.add_machine(files={path: b"two"}, env={"WHO": "2"}, cards=cards)
        code = f"""
import json, os, pathlib, ray, shutil, subprocess, sys
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address={cluster.address!r}, log_to_driver=False)
def look():
    smi = shutil.which("nvidia-smi") and subprocess.check_output(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"], text=True)
    home = pathlib.Path.home()
    return dict(text=pathlib.Path({str(path)!r}).read_text(), home=str(home), smi=smi,
                name=os.uname().nodename, who=os.environ["WHO"], ip=ray.util.get_node_ip_address())
for node in sys.argv[1:]:
    there = ray.remote(look).options(num_cpus=0, scheduling_strategy=On(node, soft=False))
    print(json.dumps(ray.get(there.remote())))
print(json.dumps(ray.cluster_resources()))
"""
        ids = [cluster.id_of(node) for node in (one, two)]
        words = [sys.executable, "-c", code, *map(str, ids)]
        done = subprocess.run(words, capture_output=True, text=True, env=cluster.env, check=False)
        assert done.returncode == 0, done.stderr
        *seen, resources = map(json.loads, done.stdout.splitlines()[-3:])
        assert [look["text"] for look in seen] == ["one", "two"]
        assert [look["name"] for look in seen] == [one.name, two.name]
        assert [look["ip"] for look in seen] == [one.ip, two.ip]
        assert [look["who"] for look in seen] == ["1", "2"]
        assert seen[0]["home"].startswith(str(cluster.private))
        assert seen[1]["smi"].strip() == "NVIDIA L4, 23034"
        assert "L4" not in str(seen[0]["smi"])
        assert resources["GPU"] == 1
        assert one.seen(path).read_bytes() == b"one"
        assert not path.exists(), "the head sees a node's disk"
        cluster.kill_machine(two)
        deadline = time.monotonic() + 60
        while len(cluster._alive_ids()) > 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        cluster.close()
    assert not os.path.exists(cluster._session)
