"""Ending: whether a model stops at the end of its turn (driver, laptop).

The chat template ends an answer with a token, such as `<end_of_turn>`. An engine stops at the
tokens that the model's files name. A folder without generation_config.json may not name that
token; then the model writes on, as the user, up to the limit of the answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemma_batch.errors import ModelError
from gemma_batch.prompts.tokens import Tokenizer


def missing_end(tokenizer: Tokenizer, folder: str) -> tuple[str, int] | None:
    """The end of turn, as text and id, that the model's files do not name; None when they do.

    None too where the chat template writes no control token behind an answer. Raises `ModelError`
    for a file that is not JSON.
    """
    found = tokenizer.end_of_turn()
    if found is None or found[1] in _stops(tokenizer, Path(folder)):
        return None
    return found


def _stops(tokenizer: Tokenizer, folder: Path) -> set[int]:
    """The token ids at which vLLM stops by itself."""
    # vLLM takes the end tokens of config.json only where there is no generation_config.json.
    path = folder / "generation_config.json"
    if not path.is_file():
        path = folder / "config.json"
    config = _read(path)
    named = config.get("eos_token_id")
    if named is None and isinstance(text := config.get("text_config"), dict):
        named = text.get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    return {one for one in (*ids, tokenizer.eos_id) if isinstance(one, int)}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ModelError(f"{str(path)!r} is not valid JSON: {err}") from None
    return data if isinstance(data, dict) else {}
