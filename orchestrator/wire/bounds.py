"""Judge by its bytes how much structure a body has, before it costs anything to read it."""

from collections.abc import Callable
from itertools import accumulate

from orchestrator.wire.errors import Refused

DEPTH = 64  # of objects and lists within each other
MOST_VALUES = 100_000  # ten for each of as many messages as there may be

_NO_SIGNS = bytes(set(range(256)) - set(b"[]{},"))
_STEPS = [0] * 256
for _sign, _step in ((b"[", 1), (b"{", 1), (b"]", -1), (b"}", -1)):
    _STEPS[_sign[0]] = _step
_step_of: Callable[[int], int] = _STEPS.__getitem__


def check_bounds(body: bytes) -> None:
    """Raise `Refused` for a body that nests too deep, or holds more values than anybody sends.

    A body that is no JSON may pass, or be refused for what would be there if it were.

    >>> check_bounds(b'{"text": "[[[, a text is one value whatever it says"}')
    >>> check_bounds(b"[" * 65 + b"]" * 65)
    Traceback (most recent call last):
    orchestrator.wire.errors.Refused: The body nests more than 64 levels deep
    """
    if sum(map(body.count, (b"[", b"{", b","))) <= DEPTH:
        return  # too little of it for either
    signs = _signs(body)
    if signs is None or sum(map(signs.count, (b"[", b"{", b","))) > MOST_VALUES:
        raise Refused(
            f"The body holds more than {MOST_VALUES:,} values; send fewer at a time",
            code="too_many_values",
        )
    if max(accumulate(map(_step_of, signs)), default=0) > DEPTH:
        raise Refused(f"The body nests more than {DEPTH} levels deep", code="too_deep")


def depth(value: object) -> int:
    """How deep a value nests, counted no further than is needed to know that it is too deep.

    >>> depth({"a": [1, [2]]}), depth("text")
    (3, 0)
    """
    deepest = 0
    todo: list[tuple[object, int]] = [(value, 1)]
    while todo and deepest <= DEPTH:
        one, level = todo.pop()
        if isinstance(one, (dict, list, tuple)):
            deepest = max(deepest, level)
            inside = one.values() if isinstance(one, dict) else one
            todo.extend((each, level + 1) for each in inside)
    return deepest


def _signs(body: bytes) -> bytes | None:
    """The brackets and commas between its texts; None where there are too many texts to look."""
    unescaped = _unescaped(body)
    if unescaped.count(b'"') > 4 * MOST_VALUES:  # two for each value, and two for its name
        return None
    return b"".join(unescaped.split(b'"')[::2]).translate(None, delete=_NO_SIGNS)


def _unescaped(body: bytes) -> bytes:
    """The same without the quotation marks that end no text."""
    if b"\\" not in body:  # which is quicker seen than nothing replaced
        return body
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")
