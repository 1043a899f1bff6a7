"""Shapes: what it costs that answers must have a shape, beside free text of the same lengths.

    python -m benchmarks.shapes --rows 1000 --rounds 3

One engine answers the same rows with each kind of answer in turn, through this project's feed and
its checks. The prefix cache is off, so each pass computes its prompts. Before the first round, a
pass of each kind compiles its grammar; the lengths of its answers are those of `same lengths`:
free text where each answer has as many tokens as this row's answer with the shape.

free text           32 tokens
choice              one of 24 labels
schema              an object with an enum, a boolean, a bounded integer, a date and a list
... and confidence  with `answer.confidence`: a log probability for each token

vs same lengths     the speed beside free text of the same lengths, round by round
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, inputs

CHARS = 300  # characters of a document
MOST, TEXT = 160, 32  # tokens: the longest answer with a shape; free text
LABELS = (
    "Arabic", "Bulgarian", "Czech", "Danish", "Dutch", "English", "Estonian", "Finnish", "French",
    "German", "Greek", "Hebrew", "Hungarian", "Italian", "Japanese", "Korean", "Lithuanian",
    "Norwegian", "Polish", "Portuguese", "Russian", "Spanish", "Swedish", "Turkish",
)  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "language": {"enum": list(LABELS)},
        "formal": {"type": "boolean"},
        "pages": {"type": "integer", "minimum": 1, "maximum": 99},
        "day": {"type": "string", "format": "date"},
        "topics": {
            "type": "array",
            "items": {"enum": ["files", "network", "text", "numbers"]},
            "minItems": 1,
            "maxItems": 3,
        },
    },
    "required": ["language", "formal", "pages", "day", "topics"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "free text": {},
    "choice": {"choice": LABELS},
    "schema": {"schema": SCHEMA},
}
SURE = ", confidence"
TWIN = ", same lengths"
NAMES = ["free text", f"free text{SURE}"] + [
    f"{kind}{more}" for kind in ("choice", "schema") for more in (TWIN, "", SURE)
]


def _kind(name: str) -> str:
    return name.removesuffix(TWIN).removesuffix(SURE)


def _given(name: str) -> dict[str, Any]:
    """The part `answer` of the spec for one of `NAMES`."""
    shape = {} if name.endswith(TWIN) else KINDS[_kind(name)]
    return {**shape, "confidence": name.endswith(SURE)}


class Runner:
    """One engine, and the rows to answer with each kind of answer."""

    def __init__(self, folder: Path, rows: int) -> None:
        from gemma_batch.answering.host import Host
        from gemma_batch.answering.shapes import shape_of
        from gemma_batch.engines.base import EngineConfig
        from gemma_batch.prompts.rendered import TokenPrompt
        from gemma_batch.prompts.tokens import Tokenizer
        from gemma_batch.spec import Answer
        from gemma_batch.units.asked import Asked

        # All imports come first: the engine loads in a thread, which imports too.
        self._shapes = {
            name: shape_of({}, Asked(answer=Answer.model_validate(given)))
            for name, given in ((name, _given(name)) for name in NAMES)
        }
        tokenizer = Tokenizer.from_folder(folder / "model")
        docs = inputs.texts(CHARS)
        texts = [
            tokenizer.chat.render([{"role": "user", "content": f"{n} {docs[n % len(docs)]}"}])
            for n in range(rows)
        ]
        self._prompts = [TokenPrompt(ids) for ids in tokenizer.encode_batch(texts)]
        self._shape: Any = None
        self._lengths: dict[str, dict[int, int]] = {}
        config = EngineConfig(
            engine="vllm",
            model=str(folder / "model"),
            device="cpu",
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=256,
            max_num_batched_tokens=4096,
            cpu_kv_cache_gib=1,
            sampling={"temperature": 0, "max_tokens": MOST},
            structured=True,
            token_logprobs=True,
            args={"enable_prefix_caching": False},
        )
        self._host = Host(config, in_flight=512, check=self._check)

    def _check(self, completion: Any, request: Any) -> Any:
        return self._shape.check(completion, request)

    def run(self, name: str) -> common.Figures:
        """One pass over all rows."""
        from gemma_batch.rows import Completion, Request

        twin, kind = name.endswith(TWIN), _kind(name)
        self._shape = self._shapes[name]
        asks = self._shape.asks()
        if twin or not KINDS[kind]:
            asks |= {"ignore_eos": True, "max_tokens": TEXT}
        requests = [Request(n, prompt, asks) for n, prompt in enumerate(self._prompts)]
        if twin:
            lengths = self._lengths[kind]
            requests = [
                dataclasses.replace(one, sampling={**asks, "max_tokens": lengths[one.number]})
                for one in requests
            ]
        begun = time.perf_counter()
        outcomes = self._host.run(requests)
        seconds = time.perf_counter() - begun
        answers = {n: one for n, one in outcomes.items() if isinstance(one, Completion)}
        if not twin:
            self._lengths[kind] = {
                n: answers[n].completion_tokens if n in answers else MOST for n in outcomes
            }
        tokens = sum(answer.completion_tokens for answer in answers.values())
        return {
            "seconds": seconds,
            "rows": len(requests) / seconds,
            "tokens": tokens / seconds,
            "length": tokens / max(len(answers), 1),
            "refused": len(outcomes) - len(answers),
        }

    def close(self) -> None:
        """End the engine."""
        self._host.close()


def passes(folder: Path, rows: int, rounds: int) -> common.Figures:
    """What a child measures: every kind in turn, round by round."""
    runner = Runner(folder, rows)
    try:
        for name in NAMES:
            if not name.endswith(TWIN):
                runner.run(name)
        return dict(common.in_turn(NAMES, rounds, runner.run))
    finally:
        runner.close()


def table(found: dict[str, Sequence[dict[str, Any]]]) -> str:
    """One line per kind of answer."""
    rows = []
    for name, runs in found.items():
        kind = _kind(name)
        other = kind if kind == "free text" else f"{kind}{TWIN}"
        rows.append(
            [
                name.replace(TWIN, ": free text of the same lengths"),
                common.spread(runs, "rows"),
                common.spread(runs, "tokens", 0),
                f"{common.median(runs, 'length'):.1f}",
                common.ratio_text(common.ratio(found, name, other, "rows")),
                f"{common.median(runs, 'refused'):.0f}",
            ]
        )
    head = ["answers", "rows/s (min to max)", "output tokens/s", "tokens per row"]
    return common.markdown([*head, "vs same lengths", "rows without an answer"], rows)


def main() -> None:
    """Parse, prepare, measure, print."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="rows of each pass")
    options = parser.parse_args()
    if options.child:
        figures = passes(options.folder, options.rows, options.rounds)
        common.report_figures(options.folder, figures)
        return
    with tempfile.TemporaryDirectory(prefix="shapes-") as temporary:
        folder = Path(temporary)
        inputs.tiny_model(folder)
        given = ["--rows", str(options.rows), "--rounds", str(options.rounds)]
        found = common.measure("benchmarks.shapes", "engine", folder, *given)
    if found is None:
        raise SystemExit("no figures")
    found.pop("total")
    about = (
        f"{options.rows:,} rows in one engine, a Gemma 3 of a million random parameters with "
        "4,096 tokens, temperature 0."
    )
    common.publish(options, "what a shape costs", table(found), found, about=about)


if __name__ == "__main__":
    main()
