"""One GPU: the worker's feed against bare `vllm.LLM.generate`, real geometry, random weights.

Needs vLLM (with its torch, transformers and tokenizers), neither Ray nor a model hub, and works
from a bare checkout: PYTHONPATH=. python -m benchmarks.gpu. Most of the time goes into starting
engines; --keep-engine starts one per contender and round instead of one per measurement. A series
whose invocations each take less than ten minutes on a data-centre GPU:

    python -m benchmarks.gpu --scale tiny                       # does everything work here?
    python -m benchmarks.gpu --models 1b,4b --loads equal,prefix --keep-engine --seconds 15
    python -m benchmarks.gpu --models 12b --loads equal,prefix --keep-engine --seconds 20
    python -m benchmarks.gpu --models 270m --loads equal --contenders feed --engines 1,4 --rows 8000
    python -m benchmarks.gpu --models 27b --loads equal --seconds 30
    python -m benchmarks.gpu --models 4b --loads tail,long --keep-engine --seconds 20

llm           every prompt in one call of `LLM.generate`
feed          `answering.feed.Feed` over the vLLM engine, as in the GPU actor but without Ray:
              all rows as one unit, in the order that the feed chooses
feed-input    the same, in the order of the rows: what the order alone brings
echo          the feed over an engine without a model: what the feed itself can do

All get the same token ids, engine limits (those of a plan for this GPU) and greedy sampling, each
in a fresh process, in turn. Seconds are from the first request to the last answer, after a few
rows to warm up. `--engines 2,4` lets several engines share the GPU (models up to 1b): they begin
together, each has its part of the rows, and the last answer of all counts. They start one by one,
since vLLM takes what others allocate meanwhile for its own need and then has less KV cache or
none (`--start-together` shows that). The limit is the roofline of `gemma_batch.family.roofline`,
with every shared prefix computed once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu_loads import LOADS, MODEL_LEN, child, combine
from benchmarks.gpu_models import (
    MODELS,
    TINY,
    build_folder,
    detect_gpu,
    limits_for,
    physical_limit,
    rows_for,
    served,
)
from gemma_batch.errors import PlacementError
from gemma_batch.family.card import card_from_config
from gemma_batch.family.gpus import GPU

Figure = dict[str, Any]

CONTENDERS = ("llm", "feed", "feed-input", "echo")
SHARED_BELOW = 1_200_000_000  # parameters up to which engines may share the GPU
LOG_LINES, GRACE = 40, 10.0
KEY = ("model", "load", "contender", "engines")


class ContenderError(Exception):
    """A contender gave no figures; the text ends with the last lines of its log."""


def measure(
    job: dict[str, Any], engines: int, folder: Path, limit: float
) -> Generator[tuple[str, list[dict[str, Any]], int | None], None, None]:
    """Run one contender: (load, figures of each engine, tokens of KV cache) as they come.

    Raises `ContenderError`.
    """
    folder.mkdir(parents=True)
    parts, logs = range(engines), [folder / f"log-{part}" for part in range(engines)]
    processes: list[subprocess.Popen[bytes]] = []
    ends = time.monotonic() + limit
    try:
        for part in parts:
            path = folder / f"job-{part}.json"
            content = {**job, "part": part, "parts": engines, "folder": str(folder)}
            path.write_text(json.dumps(content))
            processes.append(start(path, logs[part]))
        for seen, (name, rows) in enumerate(job["loads"]):
            while True:
                codes = [process.poll() for process in processes]
                lines = [read_lines(folder / f"figures-{part}") for part in parts]
                if all(len(found) > seen for found in lines):
                    break
                ended = [part for part in parts if codes[part] is not None]
                if ended or time.monotonic() > ends:
                    part = ended[0] if ended else 0
                    how = f"exit code {codes[part]}" if ended else f"not done after {limit:g} s"
                    words = logs[part].read_text(errors="replace").splitlines()[-LOG_LINES:]
                    raise ContenderError("\n    ".join([how, *words]))
                time.sleep(0.1)
            figures = [json.loads(found[seen]) for found in lines]
            if (given := sum(part["rows"] for part in figures)) != rows:
                figures[0]["problem"] = figures[0]["problem"] or f"{given} of {rows} rows answered"
            yield name, figures, kv_tokens(logs)
        for process in processes:  # an engine that is killed leaves its shared memory behind
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    finally:
        end_all(processes)


def start(job: Path, log: Path) -> subprocess.Popen[bytes]:
    """A contender in a process of its own, and of its own session: its engine core ends with it."""
    root = str(Path(__file__).resolve().parent.parent)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "INFO",  # says how much KV cache there is
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", str(job)]
    with log.open("w") as out:
        return subprocess.Popen(
            command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the contender and its engine cores, and wait until the GPU's memory is free again."""
    deadline = time.monotonic() + 15
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.1)


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file that may not be there yet."""
    with contextlib.suppress(FileNotFoundError):
        return [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
    return []


def kv_tokens(logs: list[Path]) -> int | None:
    """What vLLM's logs say about the KV cache; the smallest of several engines."""
    text = "".join(log.read_text(errors="replace") for log in logs)
    found = re.findall(r"KV cache size: ([\d,]+) tokens", text)
    return min((int(number.replace(",", "")) for number in found), default=None)


def describe(figure: Figure) -> str:
    """A figure, or why there is none, in a line."""
    who = "{model} {load} {contender} x{engines} round {round}".format(**figure)
    if "error" in figure:
        return f"{who}: FAILED: {figure['error']}"
    share = f", {figure['percent']:.1f}% of the limit" if figure["percent"] else ""
    cached = figure["cached_tokens"] / max(1, figure["prompt_tokens"])
    problem = f" PROBLEM: {figure['problem']}" if figure["problem"] else ""
    return (
        f"{who}: {figure['output_per_second']:,.0f} output tokens/s, "
        f"{figure['total_per_second']:,.0f} total{share} ({figure['rows']:,} rows in "
        f"{figure['seconds']:.1f} s, {cached:.0%} of the prompt cached, engine start "
        f"{figure['start_seconds']:.0f} s, KV cache {figure['kv_tokens'] or '?'} tokens){problem}"
    )


def table(figures: list[Figure]) -> str:
    """Medians as Markdown; ratios are round by round. Figures with a problem do not count."""
    lines = [
        "| model | load | contender | engines | rows | output tokens/s (min to max) | vs llm "
        "| total tokens/s | % of limit | cached | engine start s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], dict[int, Figure]] = {}
    for figure in figures:
        runs = groups.setdefault(tuple(figure[name] for name in KEY), {})
        if "error" not in figure and not figure["problem"]:
            runs[figure["round"]] = figure
    # By model and load, as they came.
    order = list(dict.fromkeys(key[:2] for key in groups))
    for key in sorted(groups, key=lambda key: order.index(key[:2])):
        runs = groups[key]
        model, load, contender, engines = key
        if not runs:
            lines.append(f"| {model} | {load} | {contender} | {engines} | failed |" + " - |" * 6)
            continue

        def median(name: str, runs: dict[int, Figure] = runs) -> float:
            return float(statistics.median(run[name] for run in runs.values()))

        speeds = [run["output_per_second"] for run in runs.values()]
        llm = groups.get((model, load, "llm", 1), {})
        ratios = [
            run["output_per_second"] / llm[number]["output_per_second"]
            for number, run in runs.items()
            if number in llm
        ]
        known = all(run["percent"] for run in runs.values())
        lines.append(
            f"| {model} | {load} | {contender} | {engines} | {median('rows'):,.0f} "
            f"| {median('output_per_second'):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) "
            f"| {f'{statistics.median(ratios):.2f}' if ratios else '-'} "
            f"| {median('total_per_second'):,.0f} "
            f"| {format(median('percent'), '.1f') if known else '-'} "
            f"| {median('cached_tokens') / max(1, median('prompt_tokens')):.0%} "
            f"| {median('start_seconds'):.0f} |"
        )
    return "\n".join(lines)


class Book:
    """All figures so far: printed as they come, and kept in files that a cut-off run leaves."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self.figures: list[Figure] = []
        self._options = options
        self._about = {
            "device": device,
            "command": command(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            **{name: version(name) for name in ("vllm", "torch", "transformers")},
        }

    def add(self, figure: Figure) -> None:
        """Tell and keep one figure."""
        self.figures.append(figure)
        print(describe(figure), flush=True)
        if self._options.json:
            content = {"about": self._about, "figures": self.figures}
            self._options.json.write_text(json.dumps(content, indent=1) + "\n")

    def close(self) -> None:
        """The table, on paper too if that is wanted."""
        if not self.figures:
            return
        print(table(self.figures), flush=True)
        about = self._about
        if self._options.results:
            text = (
                f"\n## {about['date']}, gpu, {about['device']}\n\n`{about['command']}`: Python "
                f"{about['python']}, vLLM {about['vllm']}, torch {about['torch']}, transformers "
                f"{about['transformers']}, {about['cores']} cores. Real geometry (text-only "
                "architectures), random weights, greedy; medians, ratios round by round.\n\n"
                f"{table(self.figures)}\n"
            )
            with self._options.results.open("a", encoding="utf-8") as file:
                file.write(text)


def command() -> str:
    """What was asked for, without the files that it went to."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--json", "--results", "--logs"):
        parser.add_argument(name)
    return " ".join(["python -m benchmarks.gpu", *parser.parse_known_args()[1]])


def version(name: str) -> str:
    """The version of a package, whichever build of vLLM it is."""
    for known in (name, f"{name}-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(known)
    return "?"


def contestants(options: argparse.Namespace, *, shared: bool) -> Iterator[tuple[str, int]]:
    """(contender, engines), in the order of a round."""
    for contender in options.contenders:
        for engines in options.engines:
            if engines == 1 or (shared and contender != "llm"):
                yield contender, engines


def run_model(
    model: str, options: argparse.Namespace, gpu: GPU | None, book: Book, folder: Path
) -> None:
    """Every measurement of one model, contenders in turn."""
    id, config = ("tiny", TINY) if model == "tiny" else MODELS[model]
    if not served(config["architectures"][0]):
        print(f"{model}: this vLLM has no {config['architectures'][0]}: left out", flush=True)
        return
    card = card_from_config(id, config)
    path = build_folder(folder / model, config)
    loads = LOADS[options.scale]
    groups = [options.loads] if options.keep_engine else [[name] for name in options.loads]
    rows: dict[str, int] = {}
    plan = [
        (number, group, *who)
        for number in range(1, options.rounds + 1)
        for group in groups
        for who in contestants(options, shared=card.text_params < SHARED_BELOW)
    ]
    for turn, (number, group, contender, engines) in enumerate(plan):
        key = {"model": model, "contender": contender, "engines": engines, "round": number}
        left = list(group)
        try:
            limits = limits_for(card, gpu, MODEL_LEN[options.scale], engines)
            for name in group:
                if name not in rows:
                    guess = rows_for(loads[name], card, gpu, options.seconds, limits)
                    rows[name] = options.rows or guess
            job = {
                "contender": contender,
                "model": str(path),
                "scale": options.scale,
                "device": "cpu" if gpu is None else "gpu",
                "vocab": config["vocab_size"],
                **dataclasses.asdict(limits),
                "loads": [(name, rows[name]) for name in group],
                "seed": options.seed,
                "in_turn": not options.start_together,
            }
            running = measure(job, engines, folder / f"{model}-{turn}", options.limit)
            with contextlib.closing(running):
                for name, parts, kv in running:
                    figure = {**key, "load": name, **combine(parts), "kv_tokens": kv}
                    figure["limits"] = [limits.max_num_seqs, limits.max_num_batched_tokens]
                    most = physical_limit(card, gpu, loads[name], figure)
                    figure["percent"] = 100 * figure["output_per_second"] / most if most else None
                    book.add(figure)
                    left.remove(name)
        except (PlacementError, ContenderError) as err:
            book.add({**key, "load": left[0], "error": str(err)})


def main() -> None:
    """Parse, run everything that was asked for, leave what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(MODELS)

    def some(*known: str) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            if unknown := [name for name in text.split(",") if name not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
            return text.split(",")

        return parse

    add = parser.add_argument
    add("--models", type=some(*names), default=names[:5], help=",".join(names))
    add("--loads", type=some(*LOADS["full"]), default=list(LOADS["full"]))
    add("--contenders", type=some(*CONTENDERS), default=["llm", "feed"])
    add("--engines", type=some(*"12345678"), default=["1"], help="per GPU, such as 1,2,4")
    add("--rounds", type=int, default=1)
    add("--rows", type=int, help="of every measurement, instead of --seconds")
    add("--seconds", type=float, default=20.0, help="aimed at per measurement")
    add("--limit", type=float, default=600.0, help="seconds after which a contender is ended")
    add("--keep-engine", action="store_true", help="one process answers all loads in turn")
    add("--start-together", action="store_true", help="engines that share a GPU do not wait")
    add("--device", choices=("auto", "cpu"), default="auto")
    add("--scale", choices=("full", "tiny"), default="full", help="tiny: a million parameters")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write all figures to this file, after each of them")
    add("--results", type=Path, help="append a Markdown section to this file")
    add("--logs", type=Path, help="keep the contenders' logs in this new folder")
    add("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    options.engines = [int(number) for number in options.engines]
    try:
        gpu, device = (None, "CPU") if options.device == "cpu" else detect_gpu()
    except PlacementError as err:
        parser.error(f"this machine {err}; --device cpu --scale tiny works without a GPU")
    book = Book(options, device)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        folder = options.logs or Path(temporary)
        try:
            for model in ["tiny"] if options.scale == "tiny" else options.models:
                run_model(model, options, gpu, book, folder)
        finally:
            book.close()


if __name__ == "__main__":
    main()
