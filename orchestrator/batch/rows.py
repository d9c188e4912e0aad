"""What is asked: the rows of a file, and those that cannot be read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """What a message calls a value where text was wanted, without its content.

    >>> kind_of(None), kind_of(5)
    ('null', 'a number')
    """
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the input.

    Attributes:
        position: Which row it is, from 0, among all rows of the input, readable or not.
        line: Where it begins, from 1; of formats without lines, `position` + 1.
        custom_id: What the caller calls it; "" where it has no name.
        fields: Its content: the object of a line of JSON, the columns of a table, or the text of
            a plain line as `prompt`.
    """

    position: int
    line: int
    custom_id: str = ""
    fields: Mapping[str, object]

    @property
    def digest(self) -> str:
        """What rows have in common that ask the same: 32 hex digits of their content alone."""
        written = orjson.dumps(dict(self.fields), option=orjson.OPT_SORT_KEYS, default=str)
        return hashlib.sha256(written).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be read; the others are asked all the same.

    Attributes:
        position: Which row it is, from 0, among all rows of the input.
        line: Where it begins, from 1.
        problem: What is wrong with it, and what was wanted. No content of the row stands in it.
    """

    position: int
    line: int
    problem: str
