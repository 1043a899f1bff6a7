"""What the benchmarks' figures rest on: children in fresh processes, ratios, tables, the record."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import common, scale_out, tail

CHILD = """
import subprocess, sys
from pathlib import Path
from benchmarks import common
options = common.parser("Test.").parse_args()
left = subprocess.Popen(["sleep", "600"])
if options.child == "fails":
    (options.folder / "left").write_text(str(left.pid))
    sys.exit("this is why")
common.report_figures(options.folder, {"name": options.child, "left": left.pid})
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A benchmark of its own, which leaves a process behind."""
    (tmp_path / "a_benchmark.py").write_text(CHILD)
    found = common.environment

    def environment(**extra: str) -> dict[str, str]:
        given = found(**extra)
        return {**given, "PYTHONPATH": f"{given['PYTHONPATH']}{os.pathsep}{tmp_path}"}

    monkeypatch.setattr(common, "environment", environment)
    return "a_benchmark"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_contender_runs_alone_and_leaves_nothing(module: str, tmp_path: Path) -> None:
    """Its figures come back and the process that it forgot is ended."""
    figures = common.measure(module, "one", tmp_path)
    assert figures is not None
    assert figures["name"] == "one"
    assert figures["total"] > 0
    assert gone(figures["left"])


def test_a_contender_that_fails_says_why(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figures of an earlier run are taken for its own."""
    common.report_figures(tmp_path, {"stale": 1})
    assert common.measure(module, "fails", tmp_path) is None
    assert "this is why" in capsys.readouterr().err
    assert gone(int((tmp_path / "left").read_text()))


def test_ratios_are_taken_round_by_round() -> None:
    """Drift between rounds must not count: 10/20 and 40/80 are both a half."""
    found = {"a": [{"x": 10.0}, {"x": 40.0}], "b": [{"x": 20.0}, {"x": 80.0}], "c": []}
    assert common.ratio(found, "a", "b", "x") == 0.5
    assert common.ratio(found, "a", "c", "x") is None
    assert common.ratio_text(None) == "-"
    assert common.spread(found["a"], "x") == "25.0 (10.0 to 40.0)"
    assert common.spread([], "x") == "-"


def test_contenders_alternate() -> None:
    """Every one once per round; one that failed has fewer figures."""
    asked: list[str] = []

    def run(name: str) -> common.Figures | None:
        asked.append(name)
        return None if name == "b" else {"n": len(asked)}

    assert common.in_turn(["a", "b"], 2, run) == {"a": [{"n": 1}, {"n": 3}], "b": []}
    assert asked == ["a", "b", "a", "b"]


def test_rounds_that_take_too_long_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is always run, and the rounds that are left out are not begun."""
    now = 0.0

    def run(name: str) -> common.Figures:
        nonlocal now
        now += 30
        return {"n": 1}

    def rounds(minutes: float) -> list[int]:
        found = common.in_turn(["a", "b"], 3, run, minutes=minutes)
        return [len(figures) for figures in found.values()]

    monkeypatch.setattr(common, "time", SimpleNamespace(monotonic=lambda: now))
    assert rounds(0) == [1, 1]
    assert rounds(1.9) == [1, 1]
    assert rounds(2.5) == [2, 2]
    assert rounds(60) == [3, 3]


def test_spare_contenders_are_left_out_where_there_is_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are always run; one that had no time has none in later rounds, so pairs match."""
    now = 0.0

    def run(name: str) -> common.Figures:
        nonlocal now
        now += {"a": 60, "b": 30, "c": 10}[name]
        return {"n": 1}

    def in_turn(minutes: float, rounds: int = 1) -> dict[str, int]:
        found = common.in_turn(["a", "b", "c"], rounds, run, minutes=minutes, spare=("b", "c"))
        return {name: len(figures) for name, figures in found.items()}

    monkeypatch.setattr(common, "time", SimpleNamespace(monotonic=lambda: now))
    assert in_turn(0) == {"a": 1}
    assert in_turn(2) == {"a": 1, "b": 1}
    assert in_turn(2.5) == {"a": 1, "b": 1, "c": 1}
    assert in_turn(3.4, rounds=3) == {"a": 2, "b": 1, "c": 1}


def test_results_are_appended_with_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it was asked for, with the command and without the paths it was given."""
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    monkeypatch.setattr(common, "RESULTS", results)
    file = str(tmp_path / "out" / "a.json")
    monkeypatch.setattr(sys, "argv", ["x/tail.py", "--record", "--json", file, "--seconds", "5"])
    options = argparse.Namespace(json=None, record=False)
    common.publish(options, "a title", "| a |", {"a": 1})
    assert results.read_text() == "# Results\n"
    options = argparse.Namespace(json=Path(file), record=True)
    common.publish(options, "a title", "| a |", {"a": 1}, about="Words.")
    text = results.read_text()
    assert ", a title\n\n`python -m benchmarks.tail --seconds 5`:" in text
    assert "Python 3" in text
    assert text.endswith("Words.\n\n| a |\n")
    assert json.loads(Path(file).read_text()) == {"a": 1}


def receipt(worker: str, ready: float, finished: float, rows: int) -> common.Figures:
    return {
        "worker": worker,
        "engine_ready": ready,
        "started": ready,
        "finished": finished,
        "rows": rows,
    }


def test_scaling_counts_the_window_in_which_all_work() -> None:
    """Two replicas of 50 rows/s, one ready 10 s later: linear while both work, idle at the end."""
    receipts = [receipt("a", 0, 10, 500), receipt("a", 0, 20, 500), receipt("b", 10, 30, 1000)]
    found = scale_out.scaling(receipts, 2, 50.0, began=-5.0)
    assert found["steady"] == pytest.approx(100)
    assert found["linear"] == pytest.approx(1)
    assert found["idle"] == pytest.approx(1 - 2000 / (50 * 50))
    assert found["ready"] == 15
    assert scale_out.scaling(receipts[:2], 2, 50.0, began=0.0)["steady"] is None


def test_idle_is_what_lies_between_a_last_answer_and_the_end() -> None:
    """Of 100 s one replica stands idle for the last 20."""
    found = tail.figures({"a": (0.0, 100.0), "b": (0.0, 80.0)}, [10])
    assert (found["seconds"], found["worst"], found["idle"]) == (100, pytest.approx(20), 10)
