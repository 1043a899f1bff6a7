"""The plan's look at a route's model: its card, its files, its end of turn (driver, laptop)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from gemma_batch.answering.calls_marked import FORMATS
from gemma_batch.errors import ModelError
from gemma_batch.family.card import ModelCard, card_from_config
from gemma_batch.family.catalog import find_model, load_catalog
from gemma_batch.prompts.ending import missing_end
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.spec import Route
from gemma_batch.storage.models import ModelFiles, is_hub_id, model_files


def model_of(
    route: Route, *, need_files: bool, notes: list[str]
) -> tuple[ModelCard, ModelFiles | None, str | None]:
    """The card of a route's model, its files, and why the files cannot be reached.

    With `need_files` False, a catalog model whose files cannot be reached has None for its files,
    and `notes` gets a sentence about that; else the third value is None. Raises `ModelError` for a
    model that is not found.
    """
    known = load_catalog().get(route.model)
    if known is None and is_hub_id(route.model) and not _is_derivative(route.model):
        known = find_model(route.model)  # raises with the nearest real ids
    try:
        files = model_files(route.model, route.revision)
    except ModelError as err:
        if need_files or known is None:
            raise
        notes.append(f"planned {route.model!r} from the catalog alone, without the model's files")
        return known, None, str(err)
    config = json.loads((Path(files.path) / "config.json").read_text(encoding="utf-8"))
    card = card_from_config(route.model, config, weight_bytes=files.weight_bytes)
    chat = Tokenizer.from_folder(files.path).chat
    return replace(card, calls=chat.calls or "text", thinks=chat.thinks), files, None


def _is_derivative(model: str) -> bool:
    # Fine-tunes and quantised copies live under other organisations. The plan needs no catalog row
    # for such a model: the model's configuration tells everything.
    return "/" in model and not model.startswith("google/")


def result_token(files: ModelFiles, form: str) -> int | None:
    """The id of the token that begins the result of a call, in the format `form` of calls.

    After a call, the model would make the result up. None for a format without this token.
    """
    marks = FORMATS.get(form)
    return None if marks is None else Tokenizer.from_folder(files.path).token_id(marks.result)


def end_of_turn(model: str, files: ModelFiles, notes: list[str]) -> tuple[str, int] | None:
    """The stop token (text, id) that the model's files forget, or None.

    `notes` gets a sentence about each thing that is missing from the files.
    """
    tokenizer = Tokenizer.from_folder(files.path)
    if tokenizer.chat.source is None:
        notes.append(
            f"the model {model!r} has no chat template: prompts go to it as plain text. This "
            "suits a pretrained model. For a model that was trained on conversations, put its "
            "chat_template.jinja beside config.json"
        )
    missing = missing_end(tokenizer, files.path)
    if missing is not None:
        notes.append(
            f"the model {model!r} does not name {missing[0]!r} as an end, though its chat template "
            "ends a turn with it (is generation_config.json missing?): the run adds it to the stop "
            "tokens"
        )
    return missing
