"""`plan` says what `run` would do on this machine, and plans for the CPU that is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemma_batch.cli.commands import main
from gemma_batch.cli.show_plan import plan_facts, print_plan
from gemma_batch.cluster import this_machine
from gemma_batch.family.memory import GIB
from gemma_batch.spec import JobSpec
from tests.cluster.test_cards import H100, write
from tests.cluster.test_cards import smi as smi

BIG = "google/gemma-3-27b-it"


@pytest.fixture
def job(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job with a tiny model whose files are here, on a machine without a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"doc": "x{n}"}}\n' for n in range(30)))
    return {
        "name": "j",
        "input": {"path": str(tmp_path / "in.jsonl")},
        "prompt": {"user": "{{ doc }}"},
        "model": model,
        "sampling": {"max_tokens": 8},
        "output": {"path": str(tmp_path / "out")},
        "resources": {"max_model_len": 256},
    }


def command(job: dict[str, Any], folder: Path, name: str, *arguments: str) -> int:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    with pytest.raises(SystemExit) as ended:
        main([name, str(path), *arguments])
    return int(ended.value.code or 0)


def planned(
    job: dict[str, Any], capsys: pytest.CaptureFixture[str], gpu: str | None = None
) -> tuple[dict[str, Any], str]:
    """The facts of `plan --json` and the text of `plan`."""
    facts = plan_facts(JobSpec.from_dict(job), gpu=gpu, gpus=8)
    print_plan(facts)
    return json.loads(json.dumps(facts, default=str)), capsys.readouterr().err


def memory(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    """Let this machine have so much memory for engines."""
    monkeypatch.setattr(this_machine, "memory_for_engines", lambda: gib * GIB)


def no_files(job: dict[str, Any]) -> None:
    job["model"] = "google/gemma-3-1b-it"


def for_a_gpu(job: dict[str, Any]) -> None:
    job["resources"]["device"] = "gpu"


def too_big(job: dict[str, Any]) -> None:
    job["model"] = BIG


# (change, RAY_ADDRESS, arguments, what each reason has in it)
WOULD_REFUSE: list[tuple[Any, str | None, str | None, tuple[str, ...]]] = [
    (lambda job: None, None, None, ()),
    (lambda job: None, None, "H100-80", ()),
    (no_files, None, None, ("'google/gemma-3-1b-it'",)),
    (too_big, None, "H100-80", (f"for '{BIG}'", "4.0 GiB are there")),
    (too_big, "head:6379", "H100-80", (f"for '{BIG}'",)),
    (for_a_gpu, None, "L4", ("'gpu' but there is none here",)),
    (for_a_gpu, None, None, ("'gpu' but there is none here",)),
    (for_a_gpu, "head:6379", None, ()),
    (lambda job: None, "ray://head:10001", None, ("RAY_ADDRESS 'ray://head:10001'",)),
]


@pytest.mark.parametrize(("change", "address", "gpu", "reasons"), WOULD_REFUSE)
def test_plan_says_what_run_would_refuse_here(
    job: dict[str, Any],
    change: Any,
    address: str | None,
    gpu: str | None,
    reasons: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The plan is made all the same, for another machine too. As text and as data."""
    memory(monkeypatch, 4)
    change(job)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    facts, said = planned(job, capsys, gpu)
    found = facts["would_refuse"]
    assert len(found) == len(reasons)
    for reason, word in zip(found, reasons, strict=True):
        assert word in reason
    for reason in found:
        assert f"run would refuse here: {reason}\n" in said
    assert said.count("run would refuse here") == len(reasons)


def test_the_reason_is_the_error_of_the_run(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word, about a model whose files cannot be reached."""
    no_files(job)
    assert command(job, tmp_path, "plan", "--json") == 0
    (reason,) = json.loads(capsys.readouterr().out)["would_refuse"]
    assert command(job, tmp_path, "run") == 2
    assert f"error: {reason}\n" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["CPU", "in the spec", "device"])
def test_the_cpu_of_this_machine_is_planned_with_the_memory_that_is_there(
    job: dict[str, Any],
    tmp_path: Path,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By `--gpu cpu`, `resources.gpu: cpu` and `resources.device: cpu`; what does not fit is
    refused."""
    arguments = ["--gpu", word] if word == "CPU" else []
    if word == "in the spec":
        job["resources"]["gpu"] = "cpu"
    if word == "device":
        job["resources"]["device"] = "cpu"
    assert command(job, tmp_path, "plan", "--json", *arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    (route,) = facts["routes"]
    assert route["placement"]["dtype"] == "float32"
    assert (facts["rows"], facts["notes"], facts["would_refuse"]) == (30, [], [])
    if word == "in the spec":
        return
    too_big(job)
    memory(monkeypatch, 30)
    assert command(job, tmp_path, "plan", *arguments) == 2
    said = capsys.readouterr().err
    assert f"error: {BIG} needs " in said
    assert "30.0 GiB are there" in said
    memory(monkeypatch, 60)
    assert command(job, tmp_path, "plan", *arguments) == 0
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # its nodes may have more memory
    memory(monkeypatch, 30)
    assert command(job, tmp_path, "plan", *arguments) == 0
    assert "the memory of its nodes is not known here" in capsys.readouterr().err


NO_NAME = "no hardware was named: add --gpu (for example --gpu {}, or --gpu cpu)"
# (nvidia-smi, RAY_ADDRESS, options, words of the one note)
NOTES: list[tuple[str | None, str | None, tuple[str, ...], tuple[str, ...]]] = [
    (None, None, (), (NO_NAME.format("H100-80"), "A run on this machine takes its CPU (", "GiB")),
    (f'echo "{H100}Disabled"; echo "{H100}Disabled"', None, (),
     (NO_NAME.format("H100-80"), "takes its 2 x H100-80")),
    ('echo "NVIDIA L4, 23034, 8.9, 580.95.05, [N/A]"', None, (),
     (NO_NAME.format("L4"), "takes its 1 x L4")),
    ('echo "NVIDIA New, 99999, 12.9, 1, [N/A]"', None, (),
     (NO_NAME.format("H100-80"), "takes its 1 x NVIDIA New")),
    (None, "head:6379", (), ("goes to the Ray cluster at RAY_ADDRESS, 'head:6379'",)),
    (None, None, ("--gpu", "L4", "--set", "resources.device=cpu"), ("--gpu L4 changes nothing",)),
    (None, None, ("--gpu", "L4", "--set", "resources.engine=echo"), ("L4 changes nothing",)),
]  # fmt: skip


@pytest.mark.parametrize(("script", "address", "options", "words"), NOTES)
def test_the_note_about_hardware(
    job: dict[str, Any],
    tmp_path: Path,
    smi: Path,
    script: str | None,
    address: str | None,
    options: tuple[str, ...],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a name it says what a run here would take."""
    if script is not None:
        write(smi, script)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert command(job, tmp_path, "plan", "--json", *options) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    for word in words:
        assert word in note


def test_a_dry_run_says_nothing_about_a_model_in_memory(
    job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """No weights, KV cache, precision or sequences, for whatever GPU; old fields of JSON stay."""
    job["resources"]["engine"] = "echo"
    for gpu in (None, "H100-80", "cpu"):
        facts, said = planned(job, capsys, gpu)
        assert "A dry run: no model is loaded, and no GPU is used." in said
        for word in ("weights", "KV", "sequences", "requests", "parallel", "sorted", "estimate"):
            assert word not in said
    placement = facts["routes"][0]["placement"]
    unknown = {name for name, value in placement.items() if value is None}
    assert unknown == {"precision", "dtype", "kv_gib", "concurrency", "at_once"}


def test_one_number_of_requests_and_the_start_apart(
    job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The number is the one in JSON; start and work add up, per route and in all."""
    job["routes"] = [{"name": "a", "when": "doc = 'x1'", "model": job["model"]},
                     {"name": "b", "model": job.pop("model")}]  # fmt: skip
    facts, said = planned(job, capsys, "cpu")
    for route in facts["routes"]:
        at_once = route["placement"]["at_once"]
        assert 1 < at_once <= route["placement"]["max_num_seqs"]
        mean = f"{route['sample']['mean']:,.0f}"
        assert f"works on {at_once} requests at once, of {mean} tokens with an answer of 8." in said
    assert "sequences" not in said
    estimate = facts["estimate"]
    assert estimate["seconds"] == pytest.approx(
        estimate["start_seconds"] + estimate["work_seconds"], abs=0.5
    )
    assert estimate["start_seconds"] == sum(one["start_seconds"] for one in estimate["routes"])
    assert "until engines answer" in said
    for one in ("a", "b"):
        assert f"{one}: 1 engine, start 0:25, work 0:" in said


@pytest.mark.parametrize(
    ("max_failed", "bad", "code", "said"),
    [
        (0, 0, 0, "exit     code 0 is expected: none of 512 sampled rows will fail"),
        (0, 3, 3, "exit     code 3: 3 of 512 sampled rows will fail"),
        ("50%", 3, 0, "exit     code 0: 3 of 512 sampled rows will fail"),
    ],
)
def test_the_exit_code_is_told(
    job: dict[str, Any],
    tmp_path: Path,
    max_failed: Any,
    bad: int,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where no row of the sample fails; with an interval for all rows."""
    lines = ['{"doc": null}\n'] * bad + ['{"doc": "x"}\n'] * (1000 - bad)
    (tmp_path / "in.jsonl").write_text("".join(lines))
    job["policy"] = {"max_failed": max_failed}
    job["resources"]["engine"] = "echo"
    facts, err = planned(job, capsys)
    found = facts["exit_code"]
    assert (found["code"], found["sampled"], found["failed"], found["rows"]) == (
        code, 512, bad, 1000,
    )  # fmt: skip
    assert said in err
    assert f"{found['least']} to {found['most']} of all 1,000 rows fail (95% sure)" in err
