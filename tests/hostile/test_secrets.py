"""Secrets of the environment appear in nothing that a job prints, writes or logs.

Real commands with canaries for credentials; then everything they left behind is searched.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.storage.fs import open_store
from tests.integration.helpers import cli, data_set, write_spec

if TYPE_CHECKING:
    from tests.conftest import S3Server

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary/secret+key/0wJ7rXUtnFEMIK7MDENGbPxRfi",
    "AWS_SESSION_TOKEN": "canary-session-token-FwoGZXIvYXdzEJr0000000000",
    "HF_TOKEN": "hf_canaryQmVyZ2VyIGlzIGEgY2FuYXJ5",
    "HUGGING_FACE_HUB_TOKEN": "hf_canaryQmVyZ2VyIGlzIGEgY2FuYXJ5",
    "PASSWORD_IN_URL": "canary-p4ssw0rd-in-a-url",
    "IN_THE_SPEC": "hf_canaryINaSpecFile000000000000",
}
ENVIRONMENT = {k: v for k, v in CANARIES.items() if k not in {"PASSWORD_IN_URL", "IN_THE_SPEC"}}


def leaks(data: bytes) -> list[str]:
    """The canaries in some bytes: as they are, as in a URL, as base64."""
    found = []
    for name, value in CANARIES.items():
        forms = [value, quote(value, safe=""), json.dumps(value)[1:-1]]
        # Base64 of a part, wherever the value starts within three bytes.
        inner = [base64.b64encode(value.encode()[i:])[:-4].decode() for i in range(3)]
        if any(form.encode() in data for form in [*forms, *inner]):
            found.append(name)
    return found


@pytest.mark.parametrize("value", CANARIES.values())
def test_the_search_finds_what_it_looks_for(value: str) -> None:
    """Else the next tests could not fail."""
    for text in (value, f"a {value} b", quote(value, safe=""), f'{{"x": {json.dumps(value)}}}'):
        assert leaks(text.encode())
    for before in ("", "x", "xy", "xyz"):
        assert leaks(b"== " + base64.b64encode(f"{before}{value}:".encode()))
    assert leaks(b"canary") == []


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Some rows fail: no text, text that is no text, a parameter that is none."""
    values: list[Any] = [f"text {i}" for i in range(30)]
    values[3], values[7] = None, ""
    return [
        {"id": f"r{i}", "doc": v, "p": {"n": 2} if i == 9 else {}} for i, v in enumerate(values)
    ]


@pytest.fixture(scope="module")
def job(s3: S3Server, tiny: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A spec whose input and output are on S3."""
    bucket = s3.bucket("secrets")
    open_store(f"{bucket}/in").put("a.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    return {
        "input": {"path": f"{bucket}/in/a.jsonl", "id": "id"},
        "prompt": {"user": "{{ doc }}", "params": "p"},
        "model": tiny,
        "sampling": {"max_tokens": 4},
        "output": {"path": f"{bucket}/out", "keep": ["doc"]},
        "resources": {"engine": "echo", "max_model_len": 512, "replicas": 1},
        "policy": {"unit_rows": 15, "max_failed": 9},
    }


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its session; short, since its sockets' paths may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="gb"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def unpacked(key: str, data: bytes) -> bytes:
    """An object with every compressed part of it laid open."""
    if key.endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(data))
        footer = pq.read_metadata(pa.BufferReader(data)).metadata or {}
        texts = [json.dumps(table.to_pylist(), default=str).encode()]
        for name, value in footer.items():
            texts += [name, value]
            if name == b"gemma_batch.failures":
                packed = pa.BufferReader(base64.b64decode(value))
                texts.append(pa.CompressedInputStream(packed, "zstd").read())
        return b"\n".join([data, *texts])
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    return data


@pytest.mark.timeout(300)
def test_a_run_leaves_no_secret_anywhere(
    s3: S3Server, job: dict[str, Any], tmp_path: Path, ray_folder: Path
) -> None:
    """Results, errors, manifest, report, both outputs of every command, and Ray's own logs."""
    path = str(write_spec(tmp_path / "job.yaml", **job))
    env = {**ENVIRONMENT, "RAY_TMPDIR": str(ray_folder), "RAY_ADDRESS": ""}
    output = job["output"]["path"]
    said = {
        "plan": cli("plan", path, "--json", **env),
        "run": cli("run", path, "--json", "--verbose", **env),
        "status": cli("status", output, "--json", **env),
        "status for people": cli("status", output, **env),
        "report": cli("report", output, "--json", **env),
        "report for people": cli("report", output, **env),
    }
    assert {name: done.returncode for name, done in said.items()} == dict.fromkeys(said, 0), said[
        "run"
    ]
    assert len(data_set(output, "results")) == 27
    errors = data_set(output, "errors")
    assert {e["code"] for e in errors} == {"null_value", "empty_prompt", "bad_params"}

    places = {f"{name}: stdout": done.stdout.encode() for name, done in said.items()}
    places |= {f"{name}: stderr": done.stderr.encode() for name, done in said.items()}
    store = open_store(output)
    keys = store.list()
    assert any(key.startswith("_run/") for key in keys)
    places |= {key: unpacked(key, store.read(key)) for key in keys}
    for key in keys:
        head = s3.client.head_object(Bucket="secrets", Key=f"out/{key}")
        places[f"{key}: headers"] = json.dumps(head, default=str).encode()
    logs = [p for p in ray_folder.rglob("*") if p.is_file() and not p.is_symlink()]
    assert any(p.suffix == ".log" for p in logs)
    places |= {str(p.relative_to(ray_folder)): p.read_bytes() for p in logs}
    assert {place: found for place, data in places.items() if (found := leaks(data))} == {}


def at(path: str, value: Any) -> dict[str, Any]:
    return {path: value}


FAILURES: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("wrong bucket", at("input.path", "s3://no-such-bucket-here/x.jsonl"), {}, "does not exist"),
    ("wrong output bucket", at("output.path", "s3://no-such-bucket-here/x"), {}, "no-such-bucket"),
    ("nobody at the endpoint", {}, {"AWS_ENDPOINT_URL": "http://user:{pw}@127.0.0.1:1"}, "reach"),
    ("password in the endpoint", {}, {"AWS_ENDPOINT_URL": "http://user:{pw}@{s3}"}, "error"),
    ("no endpoint", {}, {"AWS_ENDPOINT_URL": "{pw}"}, "error"),
    ("odd endpoint", {}, {"AWS_ENDPOINT_URL": "ftp://user:{pw}@127.0.0.1:1/{pw}"}, "error"),
    ("odd key", {}, {"AWS_SECRET_ACCESS_KEY": CANARIES["AWS_SECRET_ACCESS_KEY"] + "\n\x7f"}, ""),
    ("odd token", {}, {"AWS_SESSION_TOKEN": CANARIES["AWS_SESSION_TOKEN"] + "\nx: y"}, "error"),
    ("half a credential", {}, {"AWS_ACCESS_KEY_ID": ""}, ""),
    ("unknown model", at("model", "google/no-such-gemma"), {}, "no-such-gemma"),
    ("hub with a password", at("model", "google/no-such-gemma"),
     {"HF_ENDPOINT": "http://user:{pw}@127.0.0.1:1"}, "no-such-gemma"),
    ("hub that answers oddly", at("model", "google/gemma-3-1b-it"),
     {"HF_ENDPOINT": "http://user:{pw}@{s3}"}, "gemma-3-1b-it"),
    ("odd hub token", at("model", "google/gemma-3-1b-it"),
     {"HF_TOKEN": CANARIES["HF_TOKEN"] + "\nx: y"}, "gemma-3-1b-it"),
    ("token in the spec", at("resources.engine_args", {"hf_token": "{spec}"}), {}, "hf_token"),
    ("token in the spec, vllm", {"resources.engine_args": {"hf_token": "{spec}"},
     "resources.engine": "vllm"}, {}, "hf_token"),
    ("token in an unknown argument", at("resources.engine_args", {"token": "{spec}"}), {}, "token"),
    ("token in an unknown field", at("hf_token", "{spec}"), {}, "hf_token"),
    ("token in a wrong place", at("resources", [{"engine_args": {"hf_token": "{spec}"}}]), {},
     "resources"),
    ("token among routes", at("routes", {"a": {"hf_token": "{spec}"}}), {}, "routes"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ended(
    s3: S3Server, job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """How each of the starts ended; side by side, since they wait for what does not answer."""
    fill = {"pw": CANARIES["PASSWORD_IN_URL"], "spec": CANARIES["IN_THE_SPEC"]}
    host = s3.endpoint.removeprefix("http://")

    def start(
        name: str, changes: dict[str, Any], env: dict[str, str], sentence: str
    ) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp("fails")
        data = json.loads(json.dumps(job))
        for path, value in changes.items():
            node = data
            *parents, last = path.split(".")
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = json.loads(json.dumps(value).replace("{spec}", fill["spec"]))
        data["output"]["path"] = data["output"]["path"].replace("/out", f"/{folder.name}")
        changed = {k: v.replace("{pw}", fill["pw"]).replace("{s3}", host) for k, v in env.items()}
        given = {
            **ENVIRONMENT,
            "RAY_ADDRESS": "127.0.0.1:1",
            "HF_ENDPOINT": "http://127.0.0.1:1",
            "HF_HUB_CACHE": str(folder / "hub"),
            **changed,
        }
        return cli("run", str(write_spec(folder / "job.yaml", **data)), "--verbose", **given)

    pool = ThreadPoolExecutor(4)
    futures = {failure[0]: pool.submit(start, *failure) for failure in FAILURES}
    pool.shutdown(wait=False)
    return lambda name: futures[name].result()


@pytest.mark.parametrize(("name", "sentence"), [(f[0], f[3]) for f in FAILURES])
def test_a_start_that_fails_says_no_secret(
    ended: Callable[[str], subprocess.CompletedProcess[str]], name: str, sentence: str
) -> None:
    """Whatever is wrong with storage, hub or spec: it is explained without the credentials."""
    done = ended(name)
    assert done.returncode not in {0, 3}
    assert sentence in done.stderr
    assert leaks(done.stdout.encode() + done.stderr.encode()) == [], done.stderr
