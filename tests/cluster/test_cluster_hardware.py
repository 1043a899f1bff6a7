"""The hardware of a real cluster: machines of their own with stand-ins for nvidia-smi."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.machines import refused
from tests.faults.separate import SeparateCluster

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(refused() is not None, reason=str(refused())),
]
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory.total": 81559, "compute_cap": "9.0"}
L4 = {"name": "NVIDIA L4", "memory.total": 23034, "compute_cap": "8.9"}
LOOK = """
import json, sys
from gemma_batch.cluster import membership, nodes
from gemma_batch.errors import PlacementError
from gemma_batch.planning.pool import GpuWish
import ray
membership.connect(sys.argv[1])

class Program:
    def answer(self):
        return 42

hogs = [ray.remote(Program).options(num_gpus=1, num_cpus=0).remote() for _ in range(3)]
ray.get([hog.answer.remote() for hog in hogs])
said = []
try:
    hardware = nodes.cluster_hardware(GpuWish(wanted=True), said.append)
    found = [hardware.describe(), hardware.gpu.name, hardware.room(2)]
except PlacementError as err:
    found = [str(err)]
print(json.dumps([found, said]))
"""


def look(cluster: SeparateCluster) -> tuple[list[object], list[str]]:
    """What a driver finds and says, while all GPUs are held by actors."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, cluster.address],
        capture_output=True,
        text=True,
        env=cluster.env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, said = json.loads(done.stdout.splitlines()[-1])
    return found, said


def test_every_node_is_asked_also_while_its_gpus_are_busy(tmp_path: Path) -> None:
    """Mixed cards are told with their nodes; a node without a usable card is refused by name."""
    cluster = SeparateCluster(tmp_path)
    try:
        cluster.add_machine(cards=[H100, H100])
        cluster.add_machine(cards=[L4])
        found, said = look(cluster)
        assert found == ["2 x H100-80 on 1 node and 1 x L4 on 1 node", "L4", 1]
        assert said == [
            "the cluster has 2 x H100-80 on 1 node and 1 x L4 on 1 node: every engine is sized "
            "for L4, the smallest"
        ]
        broken = cluster.add_machine(
            cards=[L4], env={"NVIDIA_SMI_ERROR": "couldn't communicate with the NVIDIA driver"}
        )
        (sentence,), _ = look(cluster)
        assert f"node {broken.name!r} offers 1 GPU to Ray, but has an nvidia-smi that fails" in str(
            sentence
        )
        assert "couldn't communicate with the NVIDIA driver" in str(sentence)
    finally:
        cluster.close()
