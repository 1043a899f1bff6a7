"""A real Prometheus watches real jobs: every rule and every query of the dashboard finds data."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import yaml

from gemma_batch.prompts.tokens import Tokenizer
from tests.conftest import free_port
from tests.integration.helpers import ROOT, cli, program, write_spec

if TYPE_CHECKING:
    from .conftest import Platform

FOLDER = ROOT / "infra" / "monitoring"
RULES = FOLDER / "gemma-batch.rules.yml"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
ROWS, CRASH = 240, " zyxwvu zyxwvu zyxwvu"
NEEDS_A_GPU = {"ray_node_gpus_utilization", "ray_node_gram_used"}


def dashboard_queries() -> dict[str, str]:
    """Every query by its panel, with its variables filled in as Grafana does."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$run", ".*")
        .replace("$__rate_interval", "10s")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }


def rule_queries() -> dict[str, str]:
    """Recorded series by their names, and what alerts compare with their thresholds."""
    found = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                found[rule["record"]] = rule["record"]
            else:
                value, operator = re.fullmatch(r"(.*) ([<>]) [\d.]+", rule["expr"]).groups()  # type: ignore[union-attr]
                found[rule["alert"]] = f"{value} {operator} bool 0"
    return found


class Prometheus:
    """A server on a port of its own, scraping one target every second."""

    def __init__(self, address: str) -> None:
        self.address, self.started = address, time.time()

    def series(self, query: str) -> list[dict[str, Any]]:
        """What a query gave at any moment since the start, without what is no number."""
        span = {"query": query, "start": self.started, "end": time.time(), "step": 1}
        answer = requests.get(f"{self.address}/api/v1/query_range", params=span, timeout=30)
        assert answer.ok, f"{query}: {answer.text}"
        found = answer.json()["data"]["result"]
        for one in found:
            one["values"] = [float(v) for _, v in one["values"] if math.isfinite(float(v))]
        return [one for one in found if one["values"]]


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Ended by id."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (job,) = config["scrape_configs"]
    del job["file_sd_configs"]
    job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program("prometheus", package="prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--query.lookback-delta=10s",
    ]
    log = (folder / "prometheus.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{address}/-/ready", timeout=5).ok:
                    break
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.2)
        yield Prometheus(address)
    finally:
        process.kill()
        process.wait()


def spec(folder: Path, model: str, name: str, docs: list[str | None], **more: Any) -> str:
    folder.mkdir()
    pq.write_table(
        pa.table({"doc": pa.array(docs, pa.string())}), folder / "in.parquet", row_group_size=50
    )
    path = write_spec(
        folder / "job.yaml",
        name=name,
        input={"path": str(folder / "in.parquet")},
        prompt={"user": "{{ doc }}"},
        model=model,
        output={"path": str(folder / "out")},
        **more,
    )
    return str(path)


@pytest.fixture(scope="module")
def watched(
    platform: Platform, tiny: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, Path]]:
    """Two jobs that have run under the eyes of Prometheus: one with all kinds of bad luck, one
    with real vLLM."""
    folder = tmp_path_factory.mktemp("watched")
    docs: list[str | None] = [f"document {n}" for n in range(ROWS)]
    docs[::12] = [None] * len(docs[::12])
    docs[30] = f"{docs[30]}{CRASH}"  # early: a counter has a rate only while it is seen twice
    unlucky = spec(
        folder / "unlucky",
        tiny,
        "unlucky",
        docs,
        sampling={"max_tokens": 4},
        policy={
            "unit_rows": 20,
            "progress_seconds": 1,
            "max_failed": "100%",
            "alerts": {"max_failed_share": 0.01, "for_seconds": 5},
        },
        resources={
            "engine": "echo",
            "max_model_len": 256,
            "replicas": 1,
            "price_per_hour": 36.0,
            "engine_args": {
                "rows_per_second": 20,
                "crash_on": Tokenizer.from_folder(tiny).encode(CRASH)[-6:],
            },
        },
    )
    real = spec(
        folder / "real",
        tiny,
        "real",
        # Several seconds of work: a counter that is first seen at its last value has no rate.
        [text[:600] for text in texts[:160]],
        sampling={"max_tokens": 64, "temperature": 0, "ignore_eos": True},
        policy={"unit_rows": 25},
        resources={
            "device": "cpu", "replicas": 1, "max_model_len": 512, "max_num_seqs": 16,
            "cpu_kv_cache_gib": 1,
        },
    )  # fmt: skip
    target = platform.metrics.removeprefix("http://").removesuffix("/metrics")
    with prometheus(folder, target) as server:
        with ThreadPoolExecutor() as pool:
            done = list(
                pool.map(lambda job: platform.cli("submit", job, "--json"), (unlucky, real))
            )
        for one in done:
            assert one.returncode == 0, one.stderr
            job = json.loads(one.stdout)
            followed = platform.cli("logs", "-f", job["id"])
            assert followed.returncode == 0, followed.stderr
            (folder / f"{job['id']}.log").write_text(followed.stderr)
        yield server, folder


@pytest.mark.parametrize("query", dashboard_queries().values(), ids=dashboard_queries())
def test_every_query_of_the_dashboard_finds_data(
    watched: tuple[Prometheus, Path], query: str
) -> None:
    """On a machine without GPUs, those about GPUs only have to be valid."""
    found = watched[0].series(query)
    if query in NEEDS_A_GPU and shutil.which("nvidia-smi") is None:
        assert not found
    else:
        assert found, query


@pytest.mark.parametrize("query", rule_queries().values(), ids=rule_queries())
def test_every_rule_finds_data(watched: tuple[Prometheus, Path], query: str) -> None:
    """An alert on a metric that does not exist would never be raised."""
    assert watched[0].series(query), query


def test_the_numbers_are_those_of_the_job(watched: tuple[Prometheus, Path]) -> None:
    """Rows, failures by code, retries, cost and alerts agree with the report and the log."""
    server, folder = watched
    report = json.loads(cli("report", str(folder / "unlucky" / "out"), "--json").stdout)
    nulls = len(range(0, ROWS, 12))
    assert report["failures"] == {"null_value": nulls, "engine_crash": 1}

    def last(query: str, label: str) -> dict[str, float]:
        return {one["metric"][label]: one["values"][-1] for one in server.series(query)}

    selected = 'run="unlucky"'
    codes = last(f"sum by (code) (ray_gemma_batch_failures_total{{{selected}}})", "code")
    assert codes.keys() == report["failures"].keys()
    # A worker tells its numbers once a second, so Prometheus may miss the rows of the last ones.
    rows = last(f"sum by (outcome) (ray_gemma_batch_rows_total{{{selected}}})", "outcome")
    assert ROWS / 2 <= sum(rows.values()) <= ROWS
    retries = last(f"sum by (cause) (ray_gemma_batch_retries_total{{{selected}}})", "cause")
    assert retries["engine_lost"] >= 1
    (cost,) = last(f"sum by (run) (ray_gemma_batch_cost_total{{{selected}}})", "run").values()
    assert cost == pytest.approx(report["cost"], rel=0.3)
    assert report["cost"] == pytest.approx(report["device_hours"] * 36.0, rel=0.01)

    alerts = last(f"sum by (alert) (ray_gemma_batch_alerts_total{{{selected}}})", "alert")
    assert alerts == {"max_failed_share": 1}
    (event,) = report["alerts"]
    assert (event["name"], event["threshold"]) == ("max_failed_share", 0.01)
    assert server.started < event["time"] < time.time()
    (log,) = (path.read_text() for path in folder.glob("unlucky-*.log"))
    assert "alert: " in log
    assert "more than policy.alerts.max_failed_share=0.01" in log
    page = (folder / "unlucky" / "out" / "_run" / "report.html").read_text()
    assert "more than policy.alerts.max_failed_share=0.01" in page


def test_vllm_tells_its_own_numbers(watched: tuple[Prometheus, Path]) -> None:
    """Its running requests never exceed what it was given, its cache is used but never beyond."""
    server, _ = watched
    (running,) = server.series('ray_gemma_batch_engine_running{run="real"}')
    assert 0 < max(running["values"]) <= 16
    (used,) = server.series('ray_gemma_batch_engine_kv_cache_share{run="real"}')
    assert 0 < max(used["values"]) <= 1
    (looked,) = server.series('ray_gemma_batch_engine_prefix_tokens_total{run="real"}')
    assert looked["values"][-1] > 500


def test_the_rules_do_what_they_say() -> None:
    """promtool's own unit tests, with series that are made up; and the example configuration."""
    promtool = program("promtool", package="prometheus")
    for arguments in (
        ("check", "rules", RULES.name),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "gemma-batch.test.yml"),
    ):
        done = subprocess.run(
            [promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test() -> None:
    """One that is added without a test is found here."""
    tested = (FOLDER / "gemma-batch.test.yml").read_text()
    names = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert names
    assert [name for name in names if f"alertname: {name}\n" not in tested] == []
