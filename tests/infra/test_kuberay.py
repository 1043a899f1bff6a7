"""The Kubernetes manifests: each overlay rendered, validated strictly, and beyond the schema."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gemma_batch.ops.ray_jobs import STOP_SECONDS
from gemma_batch.spec import JobSpec
from tests.infra.manifests import (
    COMPONENTS,
    KUBERAY,
    OVERLAYS,
    ROOT,
    Object,
    build,
    cluster_spec,
    one,
    pod_specs,
    ray,
    render,
    schemas,
)
from tests.infra.rules import broken_rules

KUBERNETES = "1.32"
JOBS = [overlay for overlay in OVERLAYS if overlay.startswith("job")]
PART_OF = ("app.kubernetes.io/part-of", "gemma-batch")


def faults(obj: Object) -> list[str]:
    """What KubeRay's schema has against an object."""
    validator = jsonschema.Draft202012Validator(schemas()[obj["kind"]])
    return [error.message for error in validator.iter_errors(obj)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid(overlay: str) -> None:
    """KubeRay's kinds by its own schema, core kinds by Kubernetes' own; unknown fields refused."""
    objects = render(overlay)
    assert faults(ray(objects)) == []
    for obj in objects:
        if obj["apiVersion"] not in {"ray.io/v1", "monitoring.coreos.com/v1"}:
            kubernetes_validate.validate(obj, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_keeps_the_rules_beside_the_schema(overlay: str) -> None:
    """What the controller would refuse only once it is applied."""
    assert broken_rules(ray(render(overlay))) == []


def test_every_component_is_in_an_overlay() -> None:
    """So each is rendered and validated here."""
    used = "\n".join(path.read_text() for path in KUBERAY.glob("overlays/*/kustomization.yaml"))
    assert [name for name in COMPONENTS if f"components/{name}\n" not in used] == []


def put(path: str, value: Any) -> Callable[[Object], None]:
    """A change at a dotted path."""

    def change(obj: Object) -> None:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
        at: Any = obj
        for part in way:
            at = at[part]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("spec.backoffLimt", 2), "backoffLimt"),
        (put("spec.backoffLimit", "two"), "'two'"),
        (put("spec.shutdownAfterJobFinishes", "yes"), "'yes'"),
        (put("spec.rayClusterSpec.autoscalerOptions.version", "v3"), "v3"),
        (put("spec.rayClusterSpec.authOptions.secret", "x"), "secret"),
        (put("spec.rayClusterSpec.workerGroupSpecs.0.minReplica", 1), "minReplica"),
        (
            put("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.tolerations.0.efect", "x"),
            "efect",
        ),
        (
            put("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.readinessProb", {}),
            "readinessProb",
        ),
        (put("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0), "0 is not"),
        (put("spec.rayClusterSpec.headGroupSpec.template.spec.volumes.1.emptyDir.size", 1), "size"),
    ],
)
def test_a_planted_typo_in_a_ray_job_is_caught(change: Callable[[Object], None], says: str) -> None:
    """The validation can fail: unknown fields and wrong types at every depth."""
    job = ray(render("job"))
    change(job)
    assert any(says in fault for fault in faults(job)), faults(job)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("NetworkPolicy", put("spec.podSelecter", {})),
        ("NetworkPolicy", put("spec.ingress.0.from.0.podSelector.matchLabel", {})),
        ("ServiceAccount", put("automountServiceAccountTokens", False)),
        ("ConfigMap", put("immutable", "true")),
        ("PersistentVolumeClaim", put("spec.accessMode", ["ReadWriteMany"])),
    ],
)
def test_a_planted_typo_in_a_core_kind_is_caught(
    kind: str, change: Callable[[Object], None]
) -> None:
    """The same for what Kubernetes itself defines."""
    obj = one(render("job-tensor-parallel"), kind)
    change(obj)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(obj, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("overlay", "changes", "rule"),
    [
        ("job", {"spec.shutdownAfterJobFinishes": False}, "ttlSecondsAfterFinished needs"),
        ("job", {"spec.suspend": True, "spec.shutdownAfterJobFinishes": False}, "suspend needs"),
        ("job", {"spec.submissionMode": "SidecarMode"}, "SidecarMode forbids"),
        ("job", {"spec.clusterSelector": {"ray.io/cluster": "x"}}, "clusterSelector excludes"),
        ("job", {"spec.deletionStrategy": {"deletionRules": []}}, "deletionRules exclude"),
        ("job", {"spec.rayClusterSpec.authOptions.enableK8sTokenAuth": True}, "not for RayJobs"),
        ("job", {"spec.entrypointNumGpus": 1}, "no GPU"),
        ("job", {"spec.rayClusterSpec.enableInTreeAutoscaling": False}, "without the autoscaler"),
        ("job", {"metadata.name": "a" * 48}, "too long"),
        ("job", {"spec.rayClusterSpec.workerGroupSpecs.0.minReplicas": 9}, "out of bounds"),
        (
            "job",
            {"spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy": "Always"},
            "not restarted",
        ),
        ("job-spot", {"spec.rayClusterSpec.rayVersion": "2.55.0"}, "priority needs"),
        (
            "cluster",
            {
                f"spec.workerGroupSpecs.{i}.{k}": 0
                for i in (0, 2)
                for k in ("replicas", "minReplicas")
            },
            "no GPU is there",
        ),
        ("job-kueue", {"spec.rayClusterSpec.enableInTreeAutoscaling": True}, "fixed number"),
        ("job-kueue", {"spec.suspend": True}, "Kueue's to set"),
    ],
)
def test_a_broken_rule_is_caught(overlay: str, changes: dict[str, Any], rule: str) -> None:
    """Each of the controller's rules can fail."""
    obj = ray(render(overlay))
    for path, value in changes.items():
        put(path, value)(obj)
    assert any(rule in broken for broken in broken_rules(obj)), broken_rules(obj)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined_and_have_what_engines_need(overlay: str) -> None:
    """What the namespace's `restricted` demands; /cache and /dev/shm; memory limited, CPU not."""
    objects = render(overlay)
    account = one(objects, "ServiceAccount")["metadata"]["name"]
    for name, pod in pod_specs(ray(objects)):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 1000, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["serviceAccountName"] == account, name
        if name != "head":
            assert pod["automountServiceAccountToken"] is False, name
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert {k: v for k, v in requests.items() if k != "cpu"}.keys() == limits.keys(), name
        assert "cpu" not in limits, name
        if name == "submitter":
            continue
        assert limits["memory"] == requests["memory"], name
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == volumes.keys(), name
        assert all(len(volume) == 2 for volume in volumes.values()), name  # a name and one source
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory", name
        assert "/cache" in mounts, name
        assert {"name": "metrics", "containerPort": 8080} in container["ports"], name
        assert container["envFrom"] == [
            {"secretRef": {"name": "gemma-batch-env", "optional": True}}
        ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_computes_nothing_and_lets_drivers_end(overlay: str) -> None:
    """No CPU or GPU for Ray there; more grace than a driver has; workers have a unit's time."""
    objects = render(overlay)
    spec = cluster_spec(ray(objects))
    head, pods = spec["headGroupSpec"], dict(pod_specs(ray(objects)))
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in pods["head"]["containers"][0]["resources"]["limits"]
    assert pods["head"]["terminationGracePeriodSeconds"] > STOP_SECONDS
    assert spec["authOptions"] == {"mode": "token", "secretName": "gemma-batch-ray"}
    for group in spec["workerGroupSpecs"]:
        assert pods[group["groupName"]]["terminationGracePeriodSeconds"] > 60
        assert pods[group["groupName"]]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    if "runtimeEnvYAML" in ray(objects)["spec"]:
        given = yaml.safe_load(ray(objects)["spec"]["runtimeEnvYAML"])["env_vars"]
        assert given == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_ray_answers_without_a_token(overlay: str) -> None:
    """The very paths that tests/docker/test_compose.py asks a real, token-guarded cluster."""
    answered = set(
        re.findall(r"localhost:(\d+)(/api/\w+)", (ROOT / "docker/compose.yaml").read_text())
    )
    for name, pod in pod_specs(ray(render(overlay))):
        if name != "submitter":
            for kind in ("readinessProbe", "livenessProbe"):
                probe = pod["containers"][0][kind]["httpGet"]
                assert (str(probe["port"]), probe["path"]) in answered, (name, kind)


@pytest.mark.parametrize("overlay", JOBS)
def test_the_spec_of_a_run_is_valid_and_fits_its_nodes(overlay: str) -> None:
    """The ConfigMap is what the head mounts; the groups can give the engines it asks for."""
    objects = render(overlay)
    config, job = one(objects, "ConfigMap"), ray(objects)
    assert config["immutable"] is True
    spec = JobSpec.from_dict(yaml.safe_load(config["data"]["job.yaml"]))
    head = dict(pod_specs(job))["head"]
    (volume,) = (v["name"] for v in head["volumes"] if "configMap" in v)
    assert {"name": volume, "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume)
    assert job["spec"]["entrypoint"] == f"gemma-batch run {mount['mountPath']}/job.yaml"
    groups = cluster_spec(job)["workerGroupSpecs"]
    gpus = [
        int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in groups
    ]
    most, least = (
        sum(n * group[key] for n, group in zip(gpus, groups, strict=True))
        for key in ("maxReplicas", "minReplicas")
    )
    parallel = spec.resources.tensor_parallel or 1
    assert all(n % parallel == 0 for n in gpus)
    replicas = spec.resources.replicas
    bounds = (replicas, replicas) if isinstance(replicas, int) else (replicas.min, replicas.max)  # type: ignore[union-attr]
    assert (least, most) == (bounds[0] * parallel, bounds[1] * parallel)
    assert spec.resources.device == "gpu"


def test_a_run_and_a_cluster_have_the_same_nodes() -> None:
    """The two bases write the same pods down; here they are held to it."""
    job = yaml.safe_load((KUBERAY / "base/job/rayjob.yaml").read_text())
    cluster = yaml.safe_load((KUBERAY / "base/cluster/raycluster.yaml").read_text())
    ours = copy.deepcopy(job["spec"]["rayClusterSpec"])
    pod = ours["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [v for v in pod["volumes"] if v["name"] != "job"]
    container = pod["containers"][0]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] != "job"]
    assert ours == cluster["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_labels_select_the_pods_that_are_there(overlay: str) -> None:
    """Network policy and pod monitor find every pod; the monitor scrapes a port by its name."""
    objects = render(overlay)
    spec = ray(objects)["spec"]
    templates = [cluster_spec(ray(objects))["headGroupSpec"]["template"]]
    templates += [group["template"] for group in cluster_spec(ray(objects))["workerGroupSpecs"]]
    templates += [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    for template in templates:
        assert PART_OF in template["metadata"]["labels"].items()
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() == {PART_OF}
    open_ports = {port["port"] for rule in policy["ingress"] for port in rule.get("ports", [])}
    assert open_ports == {8265, 8080}
    assert all(rule["from"] for rule in policy["ingress"])
    for monitor in (obj for obj in objects if obj["kind"] == "PodMonitor"):
        assert monitor["spec"].keys() == {"selector", "podTargetLabels", "podMetricsEndpoints"}
        assert monitor["spec"]["selector"]["matchLabels"].items() == {PART_OF}
        assert [end["port"] for end in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_versions_and_images_are_one(overlay: str) -> None:
    """Ray's version is the locked one; head, workers and submitter run one pinned image."""
    obj = ray(render(overlay))
    lock = (ROOT / "requirements" / "gpu.lock").read_text()
    assert f"\nray=={cluster_spec(obj)['rayVersion']}\n" in lock
    (image,) = {pod["containers"][0]["image"] for _, pod in pod_specs(obj)}
    assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+", image)


def test_the_namespace_is_restricted_and_outlives_every_overlay() -> None:
    """It holds the secrets, so no `kubectl delete -k` may take it away; all overlays live in it."""
    namespace = yaml.safe_load((KUBERAY / "namespace.yaml").read_text())
    kubernetes_validate.validate(namespace, KUBERNETES, strict=True)
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for overlay in OVERLAYS:
        for obj in render(overlay):
            assert obj["kind"] != "Namespace"
            assert obj["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_a_run_takes_nothing_from_the_cluster_that_stays() -> None:
    """Deleting a run's overlay deletes no object of the cluster's."""
    names = {
        overlay: {(obj["kind"], obj["metadata"]["name"]) for obj in render(overlay)}
        for overlay in OVERLAYS
    }
    for overlay in JOBS:
        assert not names[overlay] & names["cluster"]


def test_runs_side_by_side_have_a_name_each(tmp_path: Path) -> None:
    """A `nameSuffix` reaches every place where one object names another, Ray's kinds included."""
    folder = tmp_path / "tonight"
    folder.mkdir()
    base = os.path.relpath(KUBERAY / "overlays" / "job-tensor-parallel", folder.resolve())
    (folder / "kustomization.yaml").write_text(
        f"kind: Kustomization\nnameSuffix: -tonight\nresources: [{base}]\n"
    )
    objects = build(folder)
    assert all(obj["metadata"]["name"].endswith("-tonight") for obj in objects)
    job, claim = ray(objects), one(objects, "PersistentVolumeClaim")["metadata"]["name"]
    account, config = (
        one(objects, kind)["metadata"]["name"] for kind in ("ServiceAccount", "ConfigMap")
    )
    assert {pod["serviceAccountName"] for _, pod in pod_specs(job)} == {account}
    pods = dict(pod_specs(job))
    assert {"name": "job", "configMap": {"name": config}} in pods["head"]["volumes"]
    cache = {"name": "cache", "persistentVolumeClaim": {"claimName": claim}}
    assert cache in pods["four-gpus"]["volumes"]


def test_spot_nodes_are_preferred_and_the_head_is_not_on_one() -> None:
    """Losing spot machines never loses the driver; they are labelled for those who look."""
    spec = cluster_spec(ray(render("job-spot")))
    demand, spot = spec["workerGroupSpecs"]
    assert spot["priority"] > demand.get("priority", 0)
    assert spot["labels"] == {"ray.io/market-type": "spot"}
    assert spot["minReplicas"] == 0 < demand["minReplicas"]
    key = "karpenter.sh/capacity-type"
    wanted = [group["template"]["spec"]["nodeSelector"][key] for group in (demand, spot)]
    assert wanted == ["on-demand", "spot"]
    assert spec["headGroupSpec"]["template"]["spec"]["nodeSelector"] == {key: "on-demand"}


def test_a_leaving_node_goes_on_while_it_answers_rows(tmp_path: Path) -> None:
    """The hook before a worker's end waits for its engine, and not for one that is idle.

    Run by a real shell on files as in /proc; `ray::MapWorker(...)` is the title of a replica.
    """
    worker = dict(pod_specs(ray(render("job"))))["one-gpu"]["containers"][0]
    shell, flag, script = worker["lifecycle"]["preStop"]["exec"]["command"]
    (seconds,) = re.findall(r"seq (\d+)", script)
    assert int(seconds) < 120  # of the pod's grace, so that Ray still ends in order
    hook = [shell, flag, script.replace("/proc/", f"{tmp_path}/")]
    line = tmp_path / "4711" / "cmdline"
    line.parent.mkdir()
    line.write_bytes(b"ray::IDLE\0")
    started = time.monotonic()
    assert subprocess.run(hook, timeout=120).returncode == 0
    assert time.monotonic() - started < 5
    line.write_bytes(b"ray::MapWorker(MapBatches(Worker)).submit\0")
    process = subprocess.Popen(hook)
    try:
        time.sleep(3)
        assert process.poll() is None
        line.write_bytes(b"ray::IDLE\0")
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
