"""AWS: the policies are enough for real work and for nothing else; Ray's own schema of clusters.

moto's server checks every request against the caller's policies, as IAM does, but for conditions:
those are taken out for it and looked at separately, against the prefixes that are really listed.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import botocore.exceptions
import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import yaml

from gemma_batch.storage.table_logs import LOG_FOLDERS
from tests.conftest import S3Server
from tests.integration.helpers import assert_each_once, cli, write_spec

ROOT = Path(__file__).parent.parent.parent
AWS = ROOT / "infra" / "aws"
NAMES = {
    "INPUT-BUCKET": "policy-in",
    "INPUT-PREFIX": "2026",
    "OUTPUT-BUCKET": "policy-out",
    "OUTPUT-PREFIX": "answers",
}
CLUSTER: dict[str, Any] = yaml.safe_load((AWS / "cluster.yaml").read_text())


def policy(file: str = "iam-policy.json") -> dict[str, Any]:
    """A policy with its placeholders filled in, as the README's `sed` does."""
    text = (AWS / file).read_text()
    for name, value in NAMES.items():
        text = text.replace(name, value)
    found: dict[str, Any] = json.loads(text)
    return found


def without_conditions(document: dict[str, Any]) -> dict[str, Any]:
    """For moto, which would deny what has any, and which knows no resources but those of S3."""
    bare = copy.deepcopy(document)
    for statement in bare["Statement"]:
        statement.pop("Condition", None)
        if "s3" not in json.dumps(statement["Action"]):
            statement["Resource"] = "*"
    return bare


@dataclass(frozen=True)
class Account:
    """A user's keys, and the server that holds them to their policy."""

    s3: S3Server
    user: str
    environment: dict[str, str]

    def may(self, document: dict[str, Any]) -> None:
        """Give the user this policy and no other."""
        self.enforce(False)
        iam = self.client("iam", trusted=True)
        text = json.dumps(without_conditions(document))
        iam.put_user_policy(UserName=self.user, PolicyName="the-one", PolicyDocument=text)
        self.enforce(True)

    def enforce(self, on: bool) -> None:
        """Whether requests are checked."""
        url = f"{self.s3.endpoint}/moto-api/reset-auth"
        requests.post(url, data=b"0" if on else b"inf", timeout=10).raise_for_status()

    def client(self, service: str, *, trusted: bool = False) -> Any:
        import boto3

        keys = (
            {}
            if trusted
            else {
                "aws_access_key_id": self.environment["AWS_ACCESS_KEY_ID"],
                "aws_secret_access_key": self.environment["AWS_SECRET_ACCESS_KEY"],
            }
        )
        return boto3.client(service, endpoint_url=self.s3.endpoint, region_name="us-east-1", **keys)


@pytest.fixture
def account(s3: S3Server) -> Iterator[Account]:
    """A user without rights; afterwards the server checks nothing again."""
    import boto3

    iam = boto3.client("iam", endpoint_url=s3.endpoint, region_name="us-east-1")
    iam.create_user(UserName="job")
    key = iam.create_access_key(UserName="job")["AccessKey"]
    keys = {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
    account = Account(s3, "job", keys)
    for bucket in ("policy-in", "policy-out"):
        s3.bucket(bucket)
    try:
        yield account
    finally:
        account.enforce(False)
        for name in iam.list_user_policies(UserName="job")["PolicyNames"]:
            iam.delete_user_policy(UserName="job", PolicyName=name)
        iam.delete_access_key(UserName="job", AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName="job")


@pytest.fixture
def spec(account: Account, tmp_path: Path, tiny: str) -> Path:
    """A job over three shards, with a few rows that fail so that `errors/` is written too."""
    table = [{"id": f"r{i}", "doc": None if i % 50 == 7 else f"text {i}"} for i in range(300)]
    for shard in range(3):
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(table[shard * 100 : shard * 100 + 100]), buffer)
        account.s3.client.put_object(
            Bucket="policy-in", Key=f"2026/{shard}.parquet", Body=buffer.getvalue().to_pybytes()
        )
    return write_spec(
        tmp_path / "job.yaml",
        input={"path": "s3://policy-in/2026/*.parquet", "id": "id"},
        prompt={"user": "{{ doc }}"},
        model=tiny,
        output={"path": f"s3://policy-out/answers/{tmp_path.name}"},
        resources={"engine": "echo", "replicas": 1},
        policy={"unit_rows": 200, "max_failed": 10},
    )


def test_the_policy_is_enough_for_a_whole_job(
    account: Account, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run, status, retry and report; what they list meets the policy's conditions."""
    from moto.s3.responses import S3Response

    listed: set[tuple[str, str]] = set()
    real = S3Response.list_objects_v2

    def noted(self: Any) -> Any:
        listed.add((self.bucket_name, self.querystring.get("prefix", ["(none)"])[0]))
        return real(self)

    monkeypatch.setattr(S3Response, "list_objects_v2", noted)
    account.may(policy())
    output = yaml.safe_load(spec.read_text())["output"]["path"]
    for arguments in (
        ("run", str(spec)),
        ("status", output),
        ("retry", output),
        ("report", output, "--json"),
    ):
        done = cli(*arguments, **account.environment)
        assert done.returncode == 0, (arguments, done.stderr)
    account.enforce(False)
    assert {bucket for bucket, _ in listed} == {"policy-in", "policy-out"}
    for bucket, prefix in listed:
        if prefix.rstrip("/").rpartition("/")[2] in LOG_FOLDERS:
            continue  # the look for a table's log above the input, which may be refused
        (allowed,) = (
            statement["Condition"]["StringLikeIfExists"]["s3:prefix"]
            for statement in policy()["Statement"]
            if statement["Resource"] == f"arn:aws:s3:::{bucket}"
        )
        assert any(fnmatchcase(prefix, one) for one in allowed), (bucket, prefix)
    results, errors = assert_each_once(output, [f"r{i}" for i in range(300)])
    assert (len(results), len(errors)) == (294, 6)


@pytest.mark.parametrize("left_out", [s["Sid"] for s in policy()["Statement"]])
def test_no_statement_can_be_left_out(
    account: Account, spec: Path, cluster: str, left_out: str
) -> None:
    """Without any one of them the job is refused before anything is started."""
    document = policy()
    document["Statement"] = [s for s in document["Statement"] if s["Sid"] != left_out]
    account.may(document)
    done = cli("run", str(spec), RAY_ADDRESS=cluster, **account.environment)
    assert done.returncode not in {0, 3}, done.stderr
    assert "no permission for" in done.stderr


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject"])
def test_the_output_needs_reading_and_writing(
    account: Account, spec: Path, cluster: str, action: str
) -> None:
    """With only one of the two, a job does not run."""
    document = policy()
    assert document["Statement"][-1]["Action"] == ["s3:GetObject", "s3:PutObject"]
    document["Statement"][-1]["Action"] = [action]
    account.may(document)
    done = cli("run", str(spec), RAY_ADDRESS=cluster, **account.environment)
    assert done.returncode not in {0, 3}, done.stderr
    assert "no permission for" in done.stderr


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("get_object", {"Bucket": "policy-in", "Key": "2025/secret.parquet"}),
        ("get_object", {"Bucket": "policy-out", "Key": "others/part.parquet"}),
        ("put_object", {"Bucket": "policy-in", "Key": "2026/new.parquet", "Body": b""}),
        ("put_object", {"Bucket": "policy-out", "Key": "others/part.parquet", "Body": b""}),
        ("delete_object", {"Bucket": "policy-out", "Key": "answers/part.parquet"}),
        ("delete_object", {"Bucket": "policy-in", "Key": "2026/0.parquet"}),
        ("list_objects_v2", {"Bucket": "policy-other", "Prefix": "2026/"}),
        ("put_bucket_lifecycle", {"Bucket": "policy-out"}),
        ("delete_bucket", {"Bucket": "policy-out"}),
        ("list_buckets", {}),
    ],
)
def test_nothing_else_is_allowed(account: Account, call: str, arguments: dict[str, Any]) -> None:
    """Other prefixes, other buckets, writing to the input, deleting: refused."""
    account.s3.bucket("policy-other")
    for bucket, key in (
        ("policy-in", "2025/secret.parquet"),
        ("policy-out", "others/part.parquet"),
    ):
        account.s3.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    account.may(policy())
    with pytest.raises(botocore.exceptions.ClientError, match=r"AccessDenied|403|Forbidden"):
        getattr(account.client("s3"), call)(**arguments)


def test_the_lifecycle_rule_is_taken_by_s3(s3: S3Server) -> None:
    """The file is what `put-bucket-lifecycle-configuration` takes; unfinished uploads end."""
    s3.bucket("lifecycle")
    rules = json.loads((AWS / "bucket-lifecycle.json").read_text())
    s3.client.put_bucket_lifecycle_configuration(Bucket="lifecycle", LifecycleConfiguration=rules)
    (found,) = s3.client.get_bucket_lifecycle_configuration(Bucket="lifecycle")["Rules"]
    assert found["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert found["Status"] == "Enabled"
    assert "Expiration" not in found


def cluster_faults(config: dict[str, Any]) -> list[str]:
    """What Ray's own schema of cluster files has against one."""
    import ray

    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    validator = jsonschema.Draft7Validator(json.loads(path.read_text()))
    return [error.message for error in validator.iter_errors(config)]


def test_the_cluster_file_is_valid() -> None:
    """As `ray up` checks it before it does anything."""
    assert cluster_faults(CLUSTER) == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ((), "max_worker", 8),
        ((), "max_workers", "eight"),
        (("docker",), "imag", "x"),
        (("auth",), "ssh_users", "ubuntu"),
        (("available_node_types", "head"), "min_worker", 1),
        (("available_node_types", "head", "resources"), "CPU", "none"),
    ],
)
def test_a_planted_typo_in_the_cluster_file_is_caught(
    where: tuple[str, ...], key: str, value: object
) -> None:
    """The check can fail."""
    config = at = copy.deepcopy(CLUSTER)
    for part in where:
        at = at[part]
    at[key] = value
    assert cluster_faults(config)


def test_the_cluster_is_closed_and_its_workers_cheap() -> None:
    """Jobs are taken on the head's loopback, with a token; spot workers; no stopped machines."""
    starts = " ".join(CLUSTER["head_start_ray_commands"] + CLUSTER["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    assert "0.0.0.0" not in (AWS / "cluster.yaml").read_text()
    assert starts.count("RAY_AUTH_MODE=token ray start") == starts.count("ray start") == 2
    assert "~/.ray/auth_token" in CLUSTER["file_mounts"]
    assert CLUSTER["provider"]["cache_stopped_nodes"] is False
    types = CLUSTER["available_node_types"]
    assert types[CLUSTER["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["one-gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert any(kind.get("min_workers") for kind in types.values())
    for name, kind in types.items():
        assert kind["node_config"]["IamInstanceProfile"]["Name"].startswith("gemma-batch-"), name
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required", name


def test_the_head_may_start_and_end_machines(account: Account) -> None:
    """Ray's own node provider, with the autoscaler's policy: start, list, tag, end; not stop."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    ec2 = account.client("ec2", trusted=True)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    account.may(policy("iam-autoscaler-policy.json"))
    keys = {name.lower(): value for name, value in account.environment.items()}
    provider = AWSNodeProvider(
        {"region": "us-east-1", "cache_stopped_nodes": False, "aws_credentials": keys},
        CLUSTER["cluster_name"],
    )
    config = {"InstanceType": "m6i.xlarge", "ImageId": image, "SubnetIds": [subnet]}
    provider.create_node(config, {"ray-node-type": "worker"}, 1)
    (node,) = provider.non_terminated_nodes({})
    provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        account.client("ec2").stop_instances(InstanceIds=[node])
    provider.terminate_node(node)
    assert provider.non_terminated_nodes({}) == []


def test_the_head_touches_only_machines_of_its_cluster() -> None:
    """What moto can't check: every change of a machine is bound to the cluster's tag."""
    name = CLUSTER["cluster_name"]
    for statement in policy("iam-autoscaler-policy.json")["Statement"]:
        if statement["Sid"] in {"SeeMachines", "StartThemFromThese"}:
            continue
        (condition,) = statement["Condition"]["StringEquals"].items()
        assert condition in {
            ("aws:RequestTag/ray-cluster-name", name),
            ("ec2:ResourceTag/ray-cluster-name", name),
            ("ec2:CreateAction", "RunInstances"),
            ("iam:PassedToService", "ec2.amazonaws.com"),
        }
    roles = re.findall(r"role/([\w-]+)", (AWS / "iam-autoscaler-policy.json").read_text())
    profiles = {
        t["node_config"]["IamInstanceProfile"]["Name"]
        for t in CLUSTER["available_node_types"].values()
    }
    assert set(roles) == profiles - {"gemma-batch-head"}
