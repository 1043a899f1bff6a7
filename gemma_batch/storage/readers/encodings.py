"""Encodings of text files: told by a byte order mark or by the spec, decoded on the way in.

Readers see only UTF-8. A message about bytes that are not UTF-8 says which encoding they look like.
"""

from __future__ import annotations

import codecs
import functools
from typing import Any

BOM = codecs.BOM_UTF8
# UTF-32 first: its mark begins with the mark of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UTF8 = {"utf-8", "utf-8-sig", "ascii"}
LOOKED_AT = 4096  # bytes at the start of a file
BLOCK = 2**18
SAMPLE = 2**16  # bytes; more is not a single line
NOT_CP1252 = b"\x81\x8d\x8f\x90\x9d"
DAMAGED = "gemma_batch.damaged"
NO_CHARACTER = "\udcff"  # "surrogateescape" makes of it the byte FF, which UTF-8 does not have

codecs.register_error(DAMAGED, lambda err: (NO_CHARACTER, err.end))  # type: ignore[attr-defined]


def encoding_of(head: bytes, declared: str | None) -> str | None:
    """The encoding of a file that begins with `head`; None for UTF-8."""
    if head.startswith(BOM):
        return None
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    return None if declared is None or codecs.lookup(declared).name in UTF8 else declared


@functools.cache
def one_byte(encoding: str) -> bool:
    """Whether each byte is one character, and the first 128 are those of ASCII."""
    ascii_bytes = bytes(range(128))
    if ascii_bytes.decode(encoding, "replace") != ascii_bytes.decode("ascii"):
        return False
    if codecs.lookup(encoding).name.startswith("iso2022"):
        return False  # an escape character there changes the meaning of the bytes after it
    return all(
        len(bytes([byte, 65, byte, byte]).decode(encoding, "replace")) == 4
        for byte in range(128, 256)
    )


def recoded(data: bytes, encoding: str) -> bytes:
    """Bytes in another encoding as UTF-8; `NO_CHARACTER` stands for what cannot be decoded."""
    return data.decode(encoding, DAMAGED).encode("utf-8", "surrogateescape")


class Utf8Stream:
    """The bytes of a stream in another encoding as UTF-8, by `read(size)`."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=DAMAGED)
        self._left = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none only at the end."""
        while not self._left and not self._ended:
            data = self._stream.read(BLOCK)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            self._left = text.encode("utf-8", "surrogateescape")
        data, self._left = self._left[:size], self._left[size:]
        return data


def utf16_without_mark(data: bytes) -> str | None:
    """The name of the UTF-16 that bytes without a byte order mark look like, or None.

    In most texts in UTF-16 every second byte is zero. No text in UTF-8 has so many zeros.
    """
    data = data[: LOOKED_AT - LOOKED_AT % 2]
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if len(data) < 4 or 4 * max(even, odd) < len(data):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def not_utf8(data: bytes, declared: str | None = None, at: int | None = None) -> str:
    """What is wrong with `data`, which is not UTF-8, and which option may help.

    `at` is the first byte that is wrong, counted from 0.
    """
    if declared is not None:
        return f"is not {declared}, which input.encoding names"
    byte = "" if at is None else f" (byte {at + 1})"
    return f"is not UTF-8{byte}{encoding_hint(data)}"


def encoding_hint(data: bytes) -> str:
    """The end of a sentence about bytes that cannot be read: the encoding that they look like."""
    name = guess_encoding(data)
    if name is not None:
        what = {"cp1252": "cp1252 (Western Europe)", "latin-1": "latin-1 (Western Europe)"}
        return f"; it looks like {what.get(name, 'UTF-16')}: set input.encoding: {name}"
    if _mostly_high(data):
        return "; it looks like another encoding: set input.encoding, such as shift_jis or cp1251"
    return ""


def guess_encoding(data: bytes) -> str | None:
    """The encoding that a text without a byte order mark looks like; None for UTF-8 or no idea."""
    if any(data.startswith(mark) for mark in (BOM, *MARKS)):
        return None
    if name := utf16_without_mark(data):
        return name
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as err:
        if err.end >= len(data) > SAMPLE:
            return None  # the end of a sample is in the middle of a character
    else:
        return None
    # Where other characters are UTF-8, the rest is damage.
    if _mostly_high(data) or any(char > "\x7f" for char in data.decode("utf-8", "ignore")):
        return None
    return "latin-1" if any(byte in data for byte in NOT_CP1252) else "cp1252"


def _mostly_high(data: bytes) -> bool:
    """Whether most letters are outside of ASCII, as in no language of Western Europe."""
    if any(char > "\x7f" for char in data.decode("utf-8", "ignore")):
        return False
    high = sum(byte > 127 for byte in data)
    letters = high + sum(chr(byte).isalpha() for byte in data if byte < 128)
    return high > 3 and 3 * high > letters
