"""Write JSON; a half of a character, which is no UTF-8, as its escape."""

import dataclasses
import json
from typing import Any

import orjson


def dump(value: Any) -> bytes:
    r"""The value as JSON, dataclasses included.

    >>> dump({"said": "\ud83d"})
    b'{"said":"\\ud83d"}'
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":"), default=_fields).encode()


def _fields(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON knows")
