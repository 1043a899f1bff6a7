"""Written calls: calls that a model without control tokens for them writes as text (Gemma 1 to 3).

The prompt asks for a list of calls, `[f(city="Oslo", days=3)]`, or for JSON, `[{"name": "f",
"parameters": {...}}]` (see `prompts/tool_text.py`). Models also put either into a block of code.
A block of the kind `tool_code` is calls for certain. Python or JSON in another block, or a list
after other text, is a call only when it names a function of the job: such text may be the answer
itself. The parser is a pure function of the text, and runs nothing. It runs in the GPU actor.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Container
from typing import Any

from gemma_batch.answering.calls_found import (
    DEEPEST,
    BadCallError,
    Call,
    Found,
    check_name,
    finite,
)

_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(\w*)[ \t]*\n(.*?)(?:\n[ \t]*```[ \t]*(?=\n|\Z)|\Z)", re.M | re.S
)
_CLOSED = re.compile(r"```[ \t]*\Z")
CERTAIN = "tool_code"
KINDS = {CERTAIN, "python", "py", "json", ""}
_LIST = re.compile(r"^[ \t]*\[\s*([A-Za-z_]\w*)\s*\(", re.M)
_JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:name|function)"\s*:')
_ARGUMENTS = ("parameters", "arguments")
_WORDS = {"true": True, "false": False, "null": None}


def written_calls(text: str, names: Container[str], *, cut_off: bool = False) -> Found:
    """The calls in `text`. `names` are the functions of the job.

    `cut_off` says that the answer ended at its limit: a block of code without an end is then
    unfinished. Raises `BadCallError` for a call that cannot be read or is unfinished.
    """
    found = Found()
    fences = [match for match in _FENCE.finditer(text) if match[1].lower() in KINDS]
    for match in fences:
        certain = match[1].lower() == CERTAIN
        closed = _CLOSED.search(match[0]) is not None
        calls = _block(match[2], names, certain=certain)
        if calls is None:
            continue
        if not closed and cut_off:
            raise BadCallError(f"a call is unfinished: {match[0][-80:]!r}")
        found.calls += calls
        found.spans.append(match.span())
    if not found.calls and not fences:
        _bare(text, names, found)
    return found


def _block(body: str, names: Container[str], *, certain: bool) -> list[Call] | None:
    """The calls in a block of code, or None for a block of something else."""
    try:
        calls = _json_calls(body) if _is_json(body) else _python_calls(body)
    except BadCallError:
        if certain or _begins_with_call(body, names):
            raise
        return None
    known = any(call.name in names for call in calls)
    return calls if certain or known or _is_json(body) else None


def _bare(text: str, names: Container[str], found: Found) -> None:
    """Calls without a block of code: the whole text, or lists of calls that begin a line."""
    whole = text.strip()
    if _JSON.match(whole):
        found.calls, found.spans = _json_calls(whole), [(0, len(text))]
        return
    at = 0
    while (match := _LIST.search(text, at)) is not None:
        start = match.start() + match[0].index("[")
        alone = not text[:start].strip()
        if match[1] not in names and not alone:
            at = match.end()
            continue
        end = _closing(text, start)
        if end is None:
            if match[1] not in names:
                return
            raise BadCallError(f"a call is unfinished: {text[start:][-80:]!r}")
        try:
            calls = _python_calls(text[start:end])
        except BadCallError:
            if match[1] not in names:
                return
            raise
        found.calls += calls
        found.spans.append((start, end))
        at = end
    if not found.calls and _begins_with_call(whole, names):
        found.calls, found.spans = _python_calls(whole), [(0, len(text))]


def _begins_with_call(text: str, names: Container[str]) -> bool:
    match = re.match(r"\s*\[?\s*([A-Za-z_]\w*)\s*\(", text)
    return match is not None and match[1] in names


def _closing(text: str, start: int) -> int | None:
    """The end of the list that begins at `start`; None when it has no end."""
    depth, quote, at = 0, "", start
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\":
                at += 1
            elif text.startswith(quote, at):
                at += len(quote) - 1
                quote = ""
        elif char in "\"'":
            quote = char * 3 if text.startswith(char * 3, at) else char
            at += len(quote) - 1
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return None


def _is_json(text: str) -> bool:
    return _JSON.match(text) is not None


def _json_calls(text: str) -> list[Call]:
    """Calls of the form {"name": ..., "parameters": {...}}, one or a list of them."""
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except BadCallError:
        raise
    except (ValueError, RecursionError) as err:
        raise BadCallError(f"the call is no JSON: {err}: {text[-80:]!r}") from None
    items = data if isinstance(data, list) else [data]
    return [_json_call(item) for item in items]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadCallError("a name stands twice in one object")
    return found


def _json_call(item: Any) -> Call:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"]  # OpenAI's form
    if not isinstance(item, dict):
        raise BadCallError(f"{item!r:.80} is no call")
    arguments: Any = next((item[name] for name in _ARGUMENTS if name in item), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as err:
            raise BadCallError(f"the arguments are no JSON: {err}") from None
    if not isinstance(arguments, dict):
        raise BadCallError(f"the arguments are no object: {arguments!r:.80}")
    _check_depth(arguments)
    return Call(check_name(item.get("name")), arguments)


def _check_depth(value: Any) -> None:
    waiting = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > DEEPEST:
            raise BadCallError(f"the arguments are nested deeper than {DEEPEST}")
        if isinstance(one, dict | list):
            inner = one.values() if isinstance(one, dict) else one
            waiting += [(x, depth + 1) for x in inner]


def _python_calls(text: str) -> list[Call]:
    """Calls as Python writes them: a list of calls, or one call in each line."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise BadCallError(f"the call cannot be read: {err}: {text[-80:]!r}") from None
    calls: list[Call] = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            raise BadCallError(f"the call is a statement of a program: {text[:80]!r}")
        value = statement.value
        items = value.elts if isinstance(value, ast.List) else [value]
        calls += [_python_call(item) for item in items]
    if not calls:
        raise BadCallError(f"there is no call in {text[:80]!r}")
    return calls


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise BadCallError(f"{_shown(node)} is no call of a function")
    name = node.func.id
    if node.args:
        raise BadCallError(f"the call of {name!r} has an argument without a name")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise BadCallError(f"the call of {name!r} has `**`")
        if keyword.arg in arguments:
            raise BadCallError(f"the argument {keyword.arg!r} stands there twice")
        arguments[keyword.arg] = _literal(keyword.value, 1)
    return Call(check_name(name), arguments)


def _shown(node: ast.expr) -> str:
    try:
        return repr(ast.unparse(node)[:80])
    except RecursionError:
        return "an expression"


def _literal(node: ast.expr, depth: int) -> Any:
    if depth > DEEPEST:
        raise BadCallError(f"the arguments are nested deeper than {DEEPEST}")
    match node:
        case ast.Constant(value=str() | bool() | int() | None as plain):
            return plain
        case ast.Constant(value=float() as number):
            return finite(number)
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            if not isinstance(number, bool):
                return -finite(number)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [None if key is None else _literal(key, depth + 1) for key in keys]
            if not all(isinstance(one, str) for one in names) or len(set(names)) < len(names):
                raise BadCallError(f"{_shown(node)} is no object of JSON")
            return {n: _literal(v, depth + 1) for n, v in zip(names, values, strict=True)}
    raise BadCallError(f"the value {_shown(node)} is no literal")
