"""What KubeRay's controller and Kueue refuse although the schema allows it.

From `validation.go` of KubeRay 1.7.0 and Kueue's page on RayJobs; each is a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.infra.manifests import Object, cluster_spec, pod_specs

QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GROUPS = 7
NAME_LENGTH = 47  # a cluster's and its service's names are made of a job's


def broken_rules(obj: Object) -> list[str]:
    """The rules that a RayJob or RayCluster breaks."""
    found = [*_cluster_rules(obj)]
    if obj["kind"] == "RayJob":
        found += _job_rules(obj["spec"])
    if QUEUE in obj["metadata"].get("labels", {}):
        found += _kueue_rules(obj)
    if len(obj["metadata"]["name"]) > NAME_LENGTH:
        found.append("the name is too long")
    return found


def _job_rules(spec: Object) -> Iterator[str]:
    ends = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not ends:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("suspend") and not ends:
        yield "suspend needs shutdownAfterJobFinishes"
    sidecar = spec.get("submissionMode") == "SidecarMode"
    if spec.get("clusterSelector"):
        if "suspend" in spec or "backoffLimit" in spec or sidecar:
            yield "clusterSelector excludes suspend, backoffLimit and SidecarMode"
        return
    if sidecar:
        if "submitterPodTemplate" in spec or "submitterConfig" in spec:
            yield "SidecarMode forbids submitterPodTemplate and submitterConfig"
        head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        if head.get("restartPolicy", "Never") != "Never":
            yield "SidecarMode needs a head that is not restarted"
    if "deletionRules" in spec.get("deletionStrategy", {}) and (
        ends or "ttlSecondsAfterFinished" in spec
    ):
        yield "deletionRules exclude shutdownAfterJobFinishes and ttlSecondsAfterFinished"
    if spec["rayClusterSpec"].get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "Kubernetes' own tokens are not for RayJobs"
    if spec.get("entrypointNumGpus", 0):
        yield "the driver takes no GPU"


def _cluster_rules(obj: Object) -> Iterator[str]:
    spec = cluster_spec(obj)
    version = tuple(int(part) for part in spec["rayVersion"].split("."))
    v2 = spec.get("autoscalerOptions", {}).get("version") == "v2"
    scaled = spec.get("enableInTreeAutoscaling", False)
    if "autoscalerOptions" in spec and not scaled:
        yield "autoscalerOptions without the autoscaler"
    if v2 and any(
        pod.get("restartPolicy", "Never") != "Never"
        for name, pod in pod_specs(obj)
        if name != "submitter"
    ):
        yield "the autoscaler v2 needs pods that are not restarted"
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    if len(names) != len(set(names)):
        yield "two worker groups of one name"
    for group in spec["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: replicas out of bounds"
        if "priority" in group and not (scaled and v2 and version >= (2, 56)):
            yield f"{group['groupName']}: priority needs the autoscaler v2 of Ray 2.56"
    if not any(group["minReplicas"] for group in spec["workerGroupSpecs"]):
        yield "no GPU is there when a job is planned"


def _kueue_rules(obj: Object) -> Iterator[str]:
    spec = obj["spec"]
    if spec.get("clusterSelector") or not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue needs a cluster of the job's own that ends with it"
    if cluster_spec(obj).get("enableInTreeAutoscaling"):
        yield "Kueue needs a fixed number of nodes"
    if len(cluster_spec(obj)["workerGroupSpecs"]) > KUEUE_GROUPS:
        yield f"Kueue takes at most {KUEUE_GROUPS} worker groups"
    if "suspend" in spec:
        yield "suspend is Kueue's to set"
