"""Bodies that somebody has damaged, by accident or not: always the same ones for a seed."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
PICTURE = "data:image/png;base64,iVBORw0KGgo="
HELLO: dict[str, Any] = {"role": "user", "content": "Why is the sky blue?"}
USED: dict[str, Any] = {
    "type": "tool_use",
    "id": "t1",
    "name": "weather",
    "input": {"city": "Rome"},
}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "t1", "content": "Sunny."}

# What each endpoint takes: one body for every part of it that is read in a way of its own.
BODIES: Mapping[str, tuple[dict[str, Any], ...]] = {
    "/v1/chat/completions": (
        {"model": "one", "messages": [HELLO], "max_tokens": 50, "temperature": 0.5, "seed": 7},
        {
            "model": "two",
            "messages": [HELLO],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        {
            "model": "way",
            "n": 2,
            "stop": ["END"],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "Sunny."},
            ],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False,
        },
        {
            "model": "all",
            "messages": [HELLO],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": {"type": "object", "properties": {}}},
            },
            "orchestration": {
                "pattern": "compare",
                "members": ["one", "two"],
                "synthesizer": "one",
                "max_cost_usd": 1.5,
                "max_calls": 10,
                "time_s": 60,
                "tags": ["a:b"],
                "cache": "off",
            },
        },
        {
            "model": "fusion",
            "messages": [HELLO],
            "plugins": [{"id": "fusion", "analysis_models": ["one", "two"], "model": "one"}],
            "logit_bias": {"50256": -100},
            "metadata": {"a": "b"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        },
    ),
    "/v1/responses": (
        {"model": "one", "input": "Why?", "max_output_tokens": 50, "metadata": {"a": "b"}},
        {"model": "two", "input": [HELLO], "stream": True, "instructions": "Be brief."},
        {
            "model": "way",
            "input": [
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
                    ],
                },
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "Sunny."},
            ],
            "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
            "tool_choice": {"type": "function", "name": "weather"},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
            "reasoning": {"effort": "low", "summary": "auto"},
        },
        {"model": "all", "input": "Why?", "orchestration": {"pattern": "compare", "tags": ["x"]}},
    ),
    "/v1/messages": (
        {"model": "one", "messages": [HELLO], "max_tokens": 50, "stop_sequences": ["END"]},
        {"model": "two", "messages": [HELLO], "max_tokens": 50, "stream": True, "system": "Brief."},
        {
            "model": "way",
            "max_tokens": 2000,
            "system": [{"type": "text", "text": "Brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "iVBORw0KGgo=",
                            },
                        },
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "Hm."}, USED]},
                {"role": "user", "content": [RESULT]},
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}],
            "tool_choice": {"type": "tool", "name": "weather"},
            "thinking": {"type": "disabled"},
            "metadata": {"user_id": "u"},
            "orchestration": {"max_calls": 5},
        },
    ),
    "/v1/messages/count_tokens": (
        {"model": "one", "messages": [HELLO], "system": "Brief."},
        {
            "model": "way",
            "messages": [
                {"role": "assistant", "content": [USED]},
                {"role": "user", "content": [RESULT]},
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
        },
    ),
    "/v1/orchestrations": (
        {"prompt": "Why?", "model": "one", "max_tokens": 50, "tags": ["a"], "notes": ["n"]},
        {"messages": [HELLO], "model": "compare/all", "stream": True, "seed": 3},
        {
            "messages": [HELLO],
            "pattern": "council",
            "members": ["one", "two"],
            "synthesizer": "one",
            "tools": [TOOL],
            "tool_choice": "auto",
            "response_format": {"type": "json_object"},
            "stop": ["END"],
            "max_cost_usd": "1.5",
            "extra": {"user": "u", "top_k": 3},
        },
    ),
    "/api/analyze": (
        {
            "prompt": "Why?",
            "selected_models": ["one", "two"],
            "ultra_model": "one",
            "pattern": "compare",
            "ala_carte_options": ["fact_check"],
            "output_format": "txt",
            "options": {"max_tokens": 50, "temperature": 0.5},
        },
    ),
    "/api/orchestrator/analyze": (
        {"query": "Why?", "analysis_type": "simple", "user_id": "u", "options": {"seed": 3}},
    ),
    "/api/orchestrator/analyze/stream": (
        {
            "query": "Why?",
            "stream_stages": ["all"],
            "chunk_size": 5,
            "selected_models": ["one", "two"],
        },
    ),
    "/orchestrator/process": ({"prompt": "Why?", "models": ["one", "two"], "lead_model": "one"},),
    "/orchestrator/feather": (
        {"prompt": "Why?", "models": ["one", "two"], "output_format": "plain"},
    ),
}

# What stands where something else was meant to.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 5e-324,
    "", " ", "0", "null", "one", "all", "\ud83d", "\udc00x", "\x00", "\x1b[31m", "é" * 600,
    "${HOME}", "{{ 7*7 }}", "' OR 1=1 --", "../../etc/passwd", "http://169.254.169.254/",
    "x" * 5000, "\u202e\ufeff", "\r\nset-cookie: a=b", [], {}, [[]], [None], [{}],
    {"": ""}, {"type": None}, {"type": "text"}, {"__proto__": {"a": 1}}, [0] * 300,
    ["text", {"type": "text", "text": 1}],
)  # fmt: skip
# What parsers take for a value, or stop at.
RAW = (
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1" * 400, b"0x1f", b"01", b"+1", b".5", b"1.",
    b"'a'", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\u0000"',
    b'"\\x41"', b'"\t"', b"[" * 500, b"[" * 100 + b"]" * 100, b'{"a":' * 200 + b"1" + b"}" * 200,
    b"// no", b"\xef\xbb\xbf1", b"undefined", b"\x00", b"",
)  # fmt: skip
Path = tuple[str | int, ...]


def mangled(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many paths with bodies for them, each of which was changed up to three times."""
    rng = random.Random(seed)
    paths = list(BODIES)
    for place in range(count):
        path = paths[place % len(paths)]
        body: Any = json.loads(json.dumps(rng.choice(BODIES[path])))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            body = rng.choice(CHANGES)(body, rng)
        written = body if isinstance(body, bytes) else json.dumps(body).encode()
        if rng.random() < 0.25:
            written = rng.choice(CUTS)(written, rng)
        yield path, written


def paths_in(value: Any, here: Path = ()) -> Iterator[Path]:
    """Where there is anything in it."""
    yield here
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(one, (*here, key))


def at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _somewhere(body: Any, rng: random.Random) -> Path:
    return rng.choice([path for path in paths_in(body) if path] or [()])


def _put(body: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    at(body, path[:-1])[path[-1]] = value
    return body


def replaced(body: Any, rng: random.Random) -> Any:
    """Something else stands somewhere."""
    return _put(body, _somewhere(body, rng), json.loads(json.dumps(rng.choice(ODD))))


def removed(body: Any, rng: random.Random) -> Any:
    """Something is not there."""
    if path := _somewhere(body, rng):
        del at(body, path[:-1])[path[-1]]
    return body


def moved(body: Any, rng: random.Random) -> Any:
    """What belongs elsewhere stands there."""
    one, other = _somewhere(body, rng), _somewhere(body, rng)
    return _put(body, one, json.loads(json.dumps(at(body, other))))


def wrapped(body: Any, rng: random.Random) -> Any:
    """One, where there should be many, or deeper than it should be."""
    path = _somewhere(body, rng)
    value = at(body, path)
    for _ in range(rng.choice((1, 1, 2, 70))):
        value = [value] if rng.random() < 0.5 else {"type": value}
    return _put(body, path, value)


def repeated(body: Any, rng: random.Random) -> Any:
    """The elements of a list, many times over."""
    lists = [path for path in paths_in(body) if isinstance(at(body, path), list)]
    if lists:
        path = rng.choice(lists)
        return _put(body, path, at(body, path) * rng.choice((2, 3, 40)))
    return body


def added(body: Any, rng: random.Random) -> Any:
    """A field that nobody asked for, or one that is known elsewhere."""
    objects = [path for path in paths_in(body) if isinstance(at(body, path), dict)]
    if objects:
        names = [step for path in paths_in(body) for step in path if isinstance(step, str)]
        name = rng.choice([*names, "api_base", "extra", "tenant", "\ud83d", "", "stream", "n"])
        at(body, rng.choice(objects))[name] = rng.choice(ODD)
    return body


CHANGES: tuple[Callable[[Any, random.Random], Any], ...] = (
    replaced, replaced, replaced, removed, moved, wrapped, repeated, added,
)  # fmt: skip


def truncated(body: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def flipped(body: bytes, rng: random.Random) -> bytes:
    """A few bytes are others."""
    changed = bytearray(body or b" ")
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def raw_put(body: bytes, rng: random.Random) -> bytes:
    """Something that is no JSON, or only just, in the place of a value."""
    places = [place for place, byte in enumerate(body) if byte == 0x3A]
    if not places:
        return rng.choice(RAW)
    start = rng.choice(places) + 1
    ends = [place for place in range(start, len(body)) if body[place] in b",]}"]
    return body[:start] + rng.choice(RAW) + body[ends[0] if ends else len(body) :]


def doubled(body: bytes, rng: random.Random) -> bytes:
    """The keys of the object twice, with other values."""
    if not body.startswith(b"{") or len(body) < 3:
        return body + body
    odd = json.dumps(rng.choice(("model", "messages", "stream", "n", "prompt"))).encode()
    value = json.dumps(rng.choice(ODD)).encode()
    return b"{" + odd + b":" + value + b"," + body[1:]


def noise(_: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(200))


CUTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated, flipped, raw_put, raw_put, doubled, noise,
)  # fmt: skip
