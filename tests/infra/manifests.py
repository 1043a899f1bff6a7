"""Rendering the overlays as `kubectl apply -k` would, and finding one's way in the result."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
KUBERAY = ROOT / "infra" / "kuberay"
OVERLAYS = sorted(path.parent.name for path in KUBERAY.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in KUBERAY.glob("components/*/kustomization.yaml"))
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay-v1.7.0.json"

Object = dict[str, Any]


@functools.cache
def _rendered(folder: Path) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders the overlays, is not installed")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization, fresh for each caller."""
    return list(yaml.safe_load_all(_rendered(folder)))


def render(overlay: str) -> list[Object]:
    """The objects of an overlay."""
    return build(KUBERAY / "overlays" / overlay)


def ray(objects: list[Object]) -> Object:
    """The one RayJob or RayCluster among them."""
    (found,) = (one for one in objects if one["apiVersion"] == "ray.io/v1")
    return found


def one(objects: list[Object], kind: str) -> Object:
    """The one object of a kind."""
    (found,) = (obj for obj in objects if obj["kind"] == kind)
    return found


def cluster_spec(obj: Object) -> Object:
    """The RayClusterSpec of either kind."""
    spec: Object = obj["spec"]
    return spec["rayClusterSpec"] if obj["kind"] == "RayJob" else spec


def pod_specs(obj: Object) -> Iterator[tuple[str, Object]]:
    """Name and pod spec of everything that runs: head, worker groups, submitter."""
    spec = cluster_spec(obj)
    yield "head", spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]
    if "submitterPodTemplate" in obj["spec"]:
        yield "submitter", obj["spec"]["submitterPodTemplate"]["spec"]


@functools.cache
def schemas() -> dict[str, Any]:
    """KubeRay's own, unknown fields forbidden."""
    if not SCHEMAS.is_file():
        pytest.skip(f"KubeRay's schemas are not at {SCHEMAS}")
    found: dict[str, Any] = json.loads(SCHEMAS.read_text())
    return found
