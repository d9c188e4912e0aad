r"""Put right the halves of characters that some hosts send apart.

JSON can spell an emoji as two escapes, `\ud83d\ude00`, and a host that cuts its text between them
sends each half in an event of its own. Half a character is no text: it cannot be written anywhere.
"""

import json
import re
from typing import Any

import orjson

_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(raw: bytes) -> Any:
    """The JSON, read strictly, but for escaped halves of characters, which are let through.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        if not _ESCAPED_HALF.search(raw):
            raise
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def dumps(value: Any) -> bytes:
    """JSON text, halves of characters escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


def whole(text: str) -> str:
    """The text with halves joined where they meet and replaced where they stand alone."""
    try:
        text.encode()  # which no half can be; to look for one takes ten times as long
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Halves:
    """Joins halves that meet across the pieces of one text."""

    def __init__(self) -> None:
        self._first = ""

    def feed(self, piece: str) -> str:
        """The piece with its halves joined; a first half at its end is kept for the next piece."""
        if not piece:
            return ""
        piece, self._first = self._first + piece, ""
        if "\ud800" <= piece[-1] <= "\udbff":
            piece, self._first = piece[:-1], piece[-1]
        return whole(piece)

    def end(self) -> str:
        """What a half that was never joined comes to."""
        first, self._first = self._first, ""
        return whole(first)
