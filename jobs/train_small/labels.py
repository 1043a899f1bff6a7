"""Labels: the languages that the small models tell apart, and the prompt that asks for one."""

from __future__ import annotations

# ISO 639-1 codes. Each code is one token of the models' tokenizer.
LANGUAGES = (
    "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hu", "id",
    "it", "lt", "lv", "nl", "pl", "pt", "ro", "ru", "sv", "tr", "uk", "zh",
)  # fmt: skip
PROMPT = "Which language is this?\n\n{{ text }}"  # the `prompt.user` of a job


def prompt_for(text: str) -> str:
    """What a job renders from `PROMPT` for a row with this text."""
    return PROMPT.replace("{{ text }}", text)
