"""What a plan makes of `tools` and `thinking`: for the model's chat template and for the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.errors import SpecError
from gemma_batch.family.catalog import find_model
from gemma_batch.family.tiny import build_tiny_gemma
from gemma_batch.planning.asking import asked_of
from gemma_batch.planning.plan import make_plan
from gemma_batch.planning.preview import first_prompt, tokenizer_for
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.spec import JobSpec
from gemma_batch.units.asked import Asked
from tests.planning.placed import route
from tests.planning.test_fields import CPU, engine_of, plan, spec_for

F = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}


@pytest.fixture(scope="module")
def tiny4(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Gemma 4."""
    folder = tmp_path_factory.mktemp("tiny4")
    return str(build_tiny_gemma(folder, generation="gemma4", texts=["a b c"] * 50, vocab=600))


def test_the_catalog_knows_the_formats_of_calls() -> None:
    """For plans without files; with files, the chat template decides."""
    for model, calls, thinks in (
        ("google/gemma-4-E2B-it", "gemma4", True),
        ("google/gemma-3-4b-it", "text", False),
        ("google/gemma-2-2b-it", "text", False),
        ("google/functiongemma-270m-it", "functiongemma", False),
    ):
        card = find_model(model)
        assert (card.calls, card.thinks) == (calls, thinks), model
        chat = tokenizer_for(route(model)).chat
        assert (chat.calls or "text", chat.thinks) == (calls, thinks), model


def test_a_model_that_cannot_think_is_refused(tmp_path: Path, model: str) -> None:
    """In one sentence that names the model."""
    with pytest.raises(SpecError, match=f"thinking: the model '{model}' cannot think"):
        make_plan(JobSpec.from_dict({**spec_for(tmp_path, model), "thinking": True}))


def made(tmp_path: Path, model: str, **more: Any) -> tuple[Any, Any]:
    placed = plan({**spec_for(tmp_path, model), **more}).placed(CPU)
    return placed, placed.job(placed.routes[0])


def test_functions_of_gemma_4(tmp_path: Path, tiny4: str) -> None:
    """Control tokens are shown to the parser, and the model may not make a result up."""
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": F}]))
    tools = {"definitions": str(tmp_path / "tools.json")}
    placed, job = made(tmp_path, tiny4, tools=tools)
    tokenizer = Tokenizer.from_folder(tiny4)
    assert job.engine.stop_token_ids == (tokenizer.token_id("<|tool_response>"),)
    assert job.sampling == {"max_tokens": 4, "skip_special_tokens": False}
    assert not job.engine.structured
    assert "reasoning_parser" not in job.engine.args
    assert "<|tool>declaration:f{" in first_prompt(placed)["text"]
    tools["choice"] = "required"
    _, job = made(tmp_path, tiny4, tools=tools)
    assert job.engine.structured
    forced = json.loads(job.sampling["structured_outputs"]["json"])
    assert forced["items"]["required"] == ["name", "parameters"]


def test_functions_of_gemma_3(tmp_path: Path, model: str) -> None:
    """It has no control tokens for them, and no result can follow by itself."""
    placed, job = made(tmp_path, model, tools={"definitions": [F]})
    assert (job.engine.stop_token_ids, job.sampling) == ((), {"max_tokens": 4})
    assert "You have access to functions." in first_prompt(placed)["text"]


def test_thinking_of_gemma_4(tmp_path: Path, tiny4: str) -> None:
    """The engine is told where thoughts end; a shape holds only behind an opened thought."""
    placed, job = made(tmp_path, tiny4, thinking=True)
    assert job.engine.args == {"reasoning_parser": "gemma4"}
    assert first_prompt(placed)["text"].endswith("<|turn>model\n")
    placed, job = made(tmp_path, tiny4, thinking=True, answer={"choice": ["a"]})
    assert first_prompt(placed)["text"].endswith("<|turn>model\n<|channel>thought\n")
    data = {**spec_for(tmp_path, tiny4), "thinking": True}
    budget = plan(data, sampling={"thinking_token_budget": 9})
    assert engine_of(budget).sampling["thinking_token_budget"] == 9


def test_only_what_was_asked_for_is_in_the_fingerprint(tmp_path: Path, tiny4: str) -> None:
    """A job of an older version goes on; a job with other functions is another one."""
    prints = [
        made(tmp_path, tiny4, **more)[0].fingerprint()
        for more in (
            {},
            {"thinking": True},
            {"tools": {"definitions": [F]}},
            {"tools": {"definitions": [F], "choice": "required"}},
        )
    ]
    assert len({one.digest for one in prints}) == 4
    assert Asked().fields() == {}
    job = JobSpec.from_dict(spec_for(tmp_path, tiny4))
    assert asked_of(job, find_model("google/gemma-4-E2B-it")).fields() == {}
