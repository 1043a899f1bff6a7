"""Chat templates: the same text as Hugging Face's, and conversations that can be answered."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.errors import ModelError, SpecError
from gemma_batch.prompts.chat import ChatTemplate, default_chat_template
from gemma_batch.prompts.template import RowProblem
from gemma_batch.prompts.tokens import Tokenizer

USER = {"role": "user", "content": "Hi\n\n there <b>é</b> 漢 "}
SYSTEM = {"role": "system", "content": " Be brief. "}
ANSWER = {"role": "assistant", "content": "Hello"}


@pytest.fixture(scope="session")
def reference(folder: Path) -> Any:
    """What everybody else uses."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("more", [[], [ANSWER, USER]])
@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_equal_to_apply_chat_template(
    tokenizer: Tokenizer, reference: Any, system: list[Any], more: list[Any]
) -> None:
    """Text and token ids equal those of transformers, character for character."""
    messages = [*system, USER, *more]
    theirs = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.chat.render(messages) == theirs
    ids = reference.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.encode(theirs) == ids


@pytest.mark.parametrize("generation_", ["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"])
def test_system_text_always_arrives(generation_: str) -> None:
    """Natively where the generation has a system role, before the first user text elsewhere."""
    chat = default_chat_template(generation_)
    text = chat.render([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}])
    if generation_ == "gemma4":
        assert text == "<bos><|turn>system\nS<turn|>\n<|turn>user\nU<turn|>\n<|turn>model\n"
    else:
        assert text == "<bos><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\n"
    assert chat.system_role == (generation_ not in {"gemma", "gemma2"})


@pytest.mark.parametrize("generation_", ["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"])
def test_a_further_turn_goes_on_behind_the_prompt_that_was_answered(generation_: str) -> None:
    """Prompt, answer, reply and the two texts around it are the whole conversation."""
    chat = default_chat_template(generation_)
    turn = chat.further_turn()
    assert turn is not None
    first, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    reply = {"role": "user", "content": "R"}
    before, behind = turn
    together = chat.render([first]) + "A" + before + "R" + behind
    assert together == chat.render([first, answer, reply])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, ("\n\n", "\n\n")),
        ("{% for m in messages %}{{ m.content }}|{% endfor %}", ("|", "|")),
        ("{{ messages[0].content }}", None),
        ("{{ messages[0].content }}{{ (messages[1] or messages[0]).content }}", None),
        ("{% if messages[1] %}{{ raise_exception('one turn') }}{% endif %}x", None),
    ],
)
def test_a_template_without_further_turns_has_none(
    source: str | None, expected: tuple[str, str] | None
) -> None:
    """Rather than one that the model does not see."""
    assert ChatTemplate(source).further_turn() == expected


def test_a_template_that_drops_the_system_text_is_noticed() -> None:
    """Silently ignoring instructions is worse than refusing them: they are folded."""
    chat = ChatTemplate("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert chat.render(messages) == "S\n\nU"
    assert messages[1]["content"] == "U"


def test_without_a_chat_template() -> None:
    """A pre-trained model gets plain text."""
    chat = ChatTemplate(None)
    assert chat.render([SYSTEM, {"role": "user", "content": "U"}]) == " Be brief. \n\nU"


def test_the_dialect_of_chat_templates() -> None:
    """Blocks are trimmed, tojson is plain, generation tags and loop controls parse."""
    source = (
        "{% for m in messages %}\n"
        "    {% generation %}{{ m.content | tojson }}{% endgeneration %}\n"
        "{% break %}{% endfor %}{{ strftime_now('%%') }}"
    )
    assert ChatTemplate(source).render([{"role": "user", "content": "<é>"}]) == '"<é>"%'


@pytest.mark.parametrize("source", ["{% if %}", "{{ raise_exception('no') }}", "{{ a.b.c }}"])
def test_a_chat_template_that_cannot_work(source: str) -> None:
    """It is found when the model is loaded, not on the first row."""
    with pytest.raises(ModelError, match="chat template"):
        ChatTemplate(source)


def test_what_the_template_refuses_is_the_rows_problem(gemma3: Tokenizer) -> None:
    """A conversation that starts with the assistant breaks Gemma 3's alternation."""
    with pytest.raises(RowProblem, match="alternate"):
        gemma3.chat.render([ANSWER, USER])


def test_unknown_generation() -> None:
    with pytest.raises(SpecError, match="gemma5"):
        default_chat_template("gemma5")


def test_pickled_chat_template_renders_the_same() -> None:
    """It crosses process borders."""
    chat = default_chat_template("gemma2")
    assert pickle.loads(pickle.dumps(chat)).render([USER]) == chat.render([USER])
