"""Throughput: rows/s over the same rows, all contenders in turn, by load.

    python -m benchmarks.throughput --load equal heavy prefix --rounds 3

equal    every answer has 32 tokens
heavy    answers of 8 to 512 tokens, log-normal: most are short, a few take very long
prefix   64 long prefixes, interleaved, and a KV cache that holds a third of them; prefill-bound

Printed per load: steady rows/s as median and spread, ratios round by round, the share of prompt
tokens from the prefix cache, and (equal) the cold start: when the first answer was durable beside
when a bare engine could have given one.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.contenders import CONTENDERS, Doc, Setup, prepare

OURS, BARE = "gemma_batch", "LLM.generate"
SHIPPED, TUNED = "ray.data.llm", "ray.data.llm tuned"
DOC_CHARS = 900
HEAVY_MEDIAN, HEAVY_SIGMA, HEAVY_BOUNDS = 40, 1.1, (8, 512)
PREFIXES, PREFIX_CHARS, SUFFIX_CHARS = 64, 1900, 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the contenders: rows, limits, a model, and who takes part.

    Those of `spare` come last and are left out where `--minutes` do not reach for them.
    """

    title: str
    rows: int
    setup: Setup
    contenders: tuple[str, ...]
    spare: tuple[str, ...]
    model: dict[str, Any]
    about: str

    def docs(self, texts: Sequence[str], name: str) -> list[Doc]:
        """The rows, the same each time."""
        chance = random.Random(7)
        if name == "prefix":
            prefixes = [" ".join(chance.sample(texts, 8))[:PREFIX_CHARS] for _ in range(PREFIXES)]
            return [
                Doc(f"{prefixes[n % PREFIXES]}\n\n{n} {texts[n % len(texts)][:SUFFIX_CHARS]}", 4)
                for n in range(self.rows)
            ]
        least, most = HEAVY_BOUNDS
        return [
            Doc(
                f"Summarise:\n\n{texts[n % len(texts)][:DOC_CHARS]}",
                32
                if name == "equal"
                else int(
                    min(max(chance.lognormvariate(0, HEAVY_SIGMA) * HEAVY_MEDIAN, least), most)
                ),
            )
            for n in range(self.rows)
        ]


LOADS = {
    "equal": Load(
        title="throughput, equal lengths",
        rows=4000,
        setup=Setup(max_tokens=32),
        contenders=(BARE, OURS, SHIPPED, "vllm run-batch"),
        spare=(TUNED,),
        model={},
        about="A Gemma 3 of a million random parameters, 32 greedy output tokens per row.",
    ),
    "heavy": Load(
        title="throughput, heavy-tailed lengths",
        rows=2000,
        setup=Setup(max_tokens=HEAVY_BOUNDS[1]),
        contenders=(BARE, OURS, SHIPPED, "vllm run-batch"),
        spare=(TUNED,),
        model={},
        about="The same model; answers of 8 to 512 tokens, log-normal with median 40.",
    ),
    "prefix": Load(
        title="throughput, shared prefixes",
        rows=1024,
        setup=Setup(max_tokens=4, seqs=16, batched=2048, kv_bytes=14 * 2**20),
        contenders=(OURS, "gemma_batch input order", SHIPPED),
        spare=(BARE, TUNED),
        model={"hidden": 384, "head_dim": 64, "heads": 6},
        about="64 prefixes of about 600 tokens, interleaved; a model large enough to be bound by "
        "prefill, 14 MiB of KV cache.",
    ),
}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Medians, spread and ratios as Markdown."""
    rows = []
    for name, runs in results.items():
        if not runs:
            rows.append([name, "failed", *["-"] * 6])
            continue
        cached = common.median(runs, "cached")
        rows.append(
            [
                name,
                common.spread(runs, "steady"),
                common.ratio_text(common.ratio(results, name, BARE, "steady")),
                common.ratio_text(common.ratio(results, OURS, name, "steady")),
                "-" if cached != cached else f"{100 * cached:.0f}%",
                common.spread(runs, "first"),
                common.spread(runs, "total"),
                f"{common.median(runs, 'tokens'):,.0f}",
            ]
        )
    head = ["contender", "steady rows/s (min to max)", f"vs {BARE}", "ours vs it", "cached"]
    return common.markdown([*head, "first row s", "total s", "output tokens"], rows)


def cold_start(results: dict[str, list[dict[str, Any]]]) -> str:
    """One sentence on the first committed row."""
    pairs = zip(results.get(OURS, []), results.get(BARE, []), strict=False)
    late = sorted(one["first"] - other["first"] for one, other in pairs)
    if not late:
        return ""
    return (
        f"\n\nCold start: the first committed row came {late[len(late) // 2]:.1f} s after a bare "
        f"engine, started alone, had given one answer ({late[0]:.1f} to {late[-1]:.1f} s; aim: at "
        "most 3 s)."
    )


def main() -> None:
    """Parse, prepare, alternate, print."""
    parser = common.parser(__doc__)
    parser.add_argument("--load", nargs="+", choices=LOADS, default=["equal"])
    parser.add_argument("--rows", type=int, help="instead of the load's own number")
    parser.add_argument("--contenders", help="comma-separated, instead of the load's own")
    options = parser.parse_args()
    if options.child:
        figures = CONTENDERS[options.child](options.folder, options.started)
        common.report_figures(options.folder, figures)
        return
    from jobs.stdlib_docs import collect

    texts = [doc["doc"] for doc in collect(6000)]
    every: dict[str, Any] = {}
    for name in options.load:
        load = LOADS[name]
        if options.rows:
            load = Load(**{**{f: getattr(load, f) for f in Load.__slots__}, "rows": options.rows})
        names = (
            options.contenders.split(",") if options.contenders else (*load.contenders, *load.spare)
        )
        with tempfile.TemporaryDirectory(prefix="throughput-") as temporary:
            folder = Path(temporary)
            prepare(folder, load.docs(texts, name), load.setup, load.model)

            def run(
                contender: str, folder: Path = folder, setup: Setup = load.setup
            ) -> common.Figures | None:
                return common.measure(
                    "benchmarks.throughput", contender, folder, timeout=900, **setup.environment
                )

            every[name] = common.in_turn(
                names,
                options.rounds,
                run,
                minutes=options.minutes,
                spare=() if options.contenders else load.spare,
            )
        text = table(every[name]) + (cold_start(every[name]) if name == "equal" else "")
        common.publish(options, load.title, text, every, about=f"{load.rows:,} rows. {load.about}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
