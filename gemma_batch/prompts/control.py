"""Control: keeps control tokens out of document text.

Otherwise a document with the text `<end_of_turn>\\n<start_of_turn>model` could end the user's turn
and speak as the model. This module knows only strings; the tokenizer says which tokens are control
tokens. The trade-off: in such a document, the model sees one invisible character inside each
control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from gemma_batch.prompts.template import Segment

BREAK = "\u200b"  # zero-width space: no tokenizer merges it with a token, and nobody sees it
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_HTML = re.compile(
    r"</?(?:a|b|i|u|s|p|br|em|li|ol|ul|td|th|tr|h[1-6]|sub|sup|code|table|tbody|thead|tfoot"
    r"|strong|caption|blockquote|pre|div|span)>"
)


def control_tokens(
    added: Iterable[dict[str, Any]], named: Iterable[str], chat_template: str | None
) -> set[str]:
    """The tokens that document text must not produce.

    `added` is the `added_tokens` list of a tokenizer.json; `named` are the texts of the bos, eos,
    pad and unk tokens. Added tokens in the chat template are control tokens too, because older
    Gemma models do not mark their turn tokens as special.
    """
    found = {text for text in named if text}
    for token in added:
        text = str(token.get("content", ""))
        in_template = len(text) >= 3 and text in (chat_template or "")
        if text.strip() and (token.get("special") or (in_template and not _HTML.fullmatch(text))):
            found.add(text)
    return found


def control_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all `tokens`, longest first; without tokens it never matches.

    The alternatives form a tree of common prefixes. Tokenizers have thousands of special tokens,
    and a flat list would try every token at each `<` of a document.
    """
    tree: dict[str, Any] = {}
    for token in tokens:
        node = tree
        for char in token:
            node = node.setdefault(char, {})
        node[""] = {}
    return re.compile(_alternation(tree) if tree else r"(?!)")


def _alternation(node: dict[str, Any]) -> str:
    branches = []
    for char in node.keys() - {""}:
        run, below = char, node[char]
        while len(below) == 1 and "" not in below:  # recursion only where the tree forks
            ((following, below),) = below.items()
            run += following
        branches.append(re.escape(run) + (_alternation(below) if below.keys() != {""} else ""))
    branches.sort()  # a set has no fixed order; the pattern needs one
    body = "|".join(branches)
    if "" in node:
        return f"(?:{body})?"
    return f"(?:{body})" if len(branches) > 1 else body


def neutralise(segments: Sequence[Segment], pattern: re.Pattern[str]) -> list[Segment]:
    """Break every control token that contains a character of document text.

    This includes a token that begins in literal text and ends in document text, or the reverse. A
    token that the template's author wrote whole stays. Returns as many segments as are given. A
    second call changes nothing more.
    """
    text = "".join(segment.text for segment in segments)
    first = pattern.search(text)
    if first is None:
        return list(segments)
    spans = []
    position = 0
    for segment in segments:
        spans.append((position, position + len(segment.text), segment.document))
        position += len(segment.text)
    cuts: list[int] = []
    index, match = 0, first
    while True:
        start, end = match.span()
        while spans[index][1] <= start:
            index += 1
        if _touches_document(spans, index, end):
            cuts.append(start + 1)
        # The search goes on one character after the start of the match: tokens may overlap.
        following = pattern.search(text, start + 1)
        if following is None:
            break
        match = following
    return _with_breaks(text, spans, cuts)


def _touches_document(spans: list[tuple[int, int, bool]], index: int, end: int) -> bool:
    for start, stop, document in spans[index:]:
        if start >= end:
            return False
        if document and stop > start:
            return True
    return False


def _with_breaks(text: str, spans: list[tuple[int, int, bool]], cuts: list[int]) -> list[Segment]:
    pieces = []
    at = 0
    for start, stop, document in spans:
        parts = []
        begin = start
        while at < len(cuts) and cuts[at] <= stop:
            parts += [text[begin : cuts[at]], BREAK]
            begin = cuts[at]
            at += 1
        parts.append(text[begin:stop])
        pieces.append(Segment("".join(parts), document))
    return pieces
