"""Make a value that a JSON schema accepts, and that reads as an answer to the prompt."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from orchestrator.simulator.words import in_order

DEPTH_MAX = 8
FORMATS = {
    "date": "2026-03-14",
    "date-time": "2026-03-14T09:26:53Z",
    "time": "09:26:53Z",
    "duration": "PT5M",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/a",
    "url": "https://example.com/a",
    "uuid": "3f2b8c1e-9d4a-4c57-8f60-1a2b3c4d5e6f",
}
RANKED = ("rank", "order")
CHOSEN = ("choice", "pick", "best", "winner", "vote", "select", "label", "preferred")
LABELS = ("label", "letter", "draft", "candidate")
RESULTS = ("answer", "result", "final", "value", "solution", "total", "sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the prompt is about, for the generator to draw on."""

    sentences: Sequence[str]  # to fill strings with
    topic: Sequence[str]
    phrasebook: Mapping[str, Sequence[str]]  # other sentences, by a part of the field's name
    labels: Sequence[str] = ()
    result: int | float | None = None
    chosen: str = ""  # what `answer` and its kin say when there is no number
    lean: Mapping[str, float] | None = None  # how much each label is liked, 0..1


def value_for(schema: Any, hints: Hints, rng: Random) -> Any:
    """A value that the schema accepts."""
    root = schema if isinstance(schema, Mapping) else {}
    return _Generator(root, hints, rng).value(schema, "", 0)


def schema_of(example: Any, labels: Sequence[str]) -> dict[str, Any]:
    """The schema that an example in a prompt stands for."""
    if isinstance(example, bool):
        return {"type": "boolean"}
    if isinstance(example, int | float):
        return {"type": "number" if isinstance(example, float) else "integer"}
    if isinstance(example, list):
        items = schema_of(example[0], labels) if example else {"type": "string"}
        if labels and example and all(item in labels for item in example):
            return _permutation(labels)
        return {"type": "array", "items": items}
    if isinstance(example, dict):
        properties = {str(name): schema_of(value, labels) for name, value in example.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    text = str(example)
    if "|" in text and len(text) < 80:
        return {"enum": [part.strip(" '\"<>") for part in text.split("|")]}
    return {"type": "string"}


def schema_of_key(name: str, labels: Sequence[str]) -> dict[str, Any]:
    """The schema that a bare key in a prompt suggests."""
    lowered = name.lower()
    if labels and any(word in lowered for word in RANKED):
        return _permutation(labels)
    if labels and any(word in lowered for word in CHOSEN):
        return {"enum": list(labels)}
    if any(word in lowered for word in ("score", "rating", "count", "age", "year")):
        return {"type": "integer", "minimum": 1, "maximum": 10}
    if any(word in lowered for word in ("confidence", "probability")):
        return {"type": "number", "minimum": 0, "maximum": 1}
    if lowered.startswith(("is_", "has_", "should_")):
        return {"type": "boolean"}
    if lowered.endswith("s") and not lowered.endswith(("ss", "is", "us")):
        return {"type": "array", "items": {"type": "string"}}
    return {"type": "string"}


def _permutation(labels: Sequence[str]) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": list(labels)}, "uniqueItems": True}


class _Generator:
    """Walks one schema."""

    def __init__(self, root: Mapping[str, Any], hints: Hints, rng: Random) -> None:
        self._root = root
        self._hints = hints
        self._rng = rng
        self._said = 0

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return self._sentence()
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._one_of(schema["enum"], name)
        kind = self._kind(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return self._number(schema, name, whole=kind == "integer")
        if kind == "boolean":
            return self._rng.random() < 0.7
        return None if kind == "null" else self._string(schema, name)

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """Follow references, merge `allOf`, choose one of `anyOf` and `oneOf`."""
        for _ in range(16):
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = {**self._referred(str(schema["$ref"])), **rest}
            elif schema.get("allOf"):
                merged = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    merged = _merged(merged, self._resolved(part, depth))
                schema = merged
            elif schema.get("anyOf") or schema.get("oneOf"):
                rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
                branches = schema.get("anyOf") or schema["oneOf"]
                schema = _merged(rest, self._branch(branches, depth))
            else:
                break
        return schema

    def _branch(self, branches: Sequence[Any], depth: int) -> Mapping[str, Any]:
        """A branch that is not null; in the depths the simplest one."""
        found = [branch for branch in branches if isinstance(branch, Mapping)]
        real = [branch for branch in found if str(branch.get("type", "")).lower() != "null"]
        if depth >= DEPTH_MAX - 2:
            simple = [b for b in found if b.get("type") in ("null", "string", "integer", "number")]
            return (simple or found or [{}])[0]
        return (real or found or [{}])[0]

    def _referred(self, reference: str) -> Mapping[str, Any]:
        found: Any = self._root
        for part in reference.lstrip("#").strip("/").split("/"):
            if part:
                part = part.replace("~1", "/").replace("~0", "~")
                found = found.get(part) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def _kind(self, schema: Mapping[str, Any], depth: int) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, list):
            lowered = [str(kind).lower() for kind in kinds]
            if "null" in lowered and depth >= DEPTH_MAX:
                return "null"
            return next((kind for kind in lowered if kind != "null"), "null")
        if kinds:
            return str(kinds).lower()
        if "properties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        return "number" if {"minimum", "maximum"} & schema.keys() else "string"

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        made = {}
        for name, inner in properties.items():
            if name in required or depth < DEPTH_MAX - 3:
                made[name] = self.value(inner, name, depth + 1)
        for name in required:
            if name not in made:
                made[name] = self.value(schema.get("additionalProperties"), name, depth + 1)
        extra = schema.get("additionalProperties")
        for number in range(int(schema.get("minProperties") or 0) - len(made)):
            made[f"field_{number}"] = self.value(extra, "", depth + 1)
        if not properties and isinstance(extra, Mapping) and not made and depth < DEPTH_MAX:
            made[self._topic(0)] = self.value(extra, "", depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        items = schema.get("items", {})
        low = int(schema.get("minItems") or 0)
        high = int(schema.get("maxItems") or max(low, 3))
        items = self._resolved(items, depth) if isinstance(items, Mapping) else items
        choices = items.get("enum") if isinstance(items, Mapping) else None
        ranking = any(word in name.lower() for word in RANKED)
        if not choices and ranking and self._hints.labels and _takes_text(items):
            choices = list(self._hints.labels)
        if choices and (schema.get("uniqueItems") or ranking):
            ordered = self._ordered(choices)
            return ordered[: int(schema.get("maxItems") or len(ordered))]
        label = self._label_field(items)
        if label:
            made = [self.value(items, name, depth + 1) for _ in self._hints.labels]
            return [
                {**one, label: letter} for one, letter in zip(made, self._hints.labels, strict=True)
            ]
        made = [self.value(inner, name, depth + 1) for inner in schema.get("prefixItems") or ()]
        usual = self._rng.choice((0, 1, 2, 2, 3)) if "fault" in name else 3
        wanted = low if depth >= DEPTH_MAX - 2 else max(low, min(high, usual))
        for _ in range(8 * max(1, wanted)):
            if len(made) >= wanted or items is False:
                break
            value = self.value(items, name, depth + 1)
            if not schema.get("uniqueItems") or value not in made:
                made.append(value)
        return made[: max(high, low)]

    def _label_field(self, items: Any) -> str:
        """The field of an array's objects that holds a draft's letter, if that is what they do."""
        properties = items.get("properties") if isinstance(items, Mapping) else None
        if not self._hints.labels or not isinstance(properties, Mapping):
            return ""
        return next((name for name in properties if name.lower() in LABELS), "")

    def _ordered(self, choices: Sequence[Any]) -> list[Any]:
        lean = self._hints.lean or {}
        weights = [lean.get(str(choice), 0.5) + 0.3 * self._rng.random() for choice in choices]
        by_name = {str(choice): choice for choice in choices}
        return [by_name[name] for name in in_order(list(by_name), weights)]

    def _one_of(self, choices: Sequence[Any], name: str) -> Any:
        if self._hints.chosen in choices:
            return self._hints.chosen
        if self._hints.lean and any(str(choice) in self._hints.lean for choice in choices):
            return self._ordered([c for c in choices if str(c) in self._hints.lean])[0]
        return self._rng.choice(list(choices))

    def _number(self, schema: Mapping[str, Any], name: str, *, whole: bool) -> int | float:
        low, high = _bounds(schema, whole=whole)
        lowered = name.lower()
        value: float | None = None
        if self._hints.result is not None and any(word in lowered for word in RESULTS):
            value = self._hints.result
        if value is None:
            floor = 0.0 if low is None else low
            top = floor + 9 if high is None else high
            if low is None and high is not None and high < 0:
                floor = high - 9
            value = floor + (top - floor) * (0.55 + 0.4 * self._rng.random())
        if low is not None:
            value = max(value, low)
        if high is not None:
            value = min(value, high)
        step = schema.get("multipleOf")
        if step:
            value = (value // step) * step
            value = value + step if low is not None and value < low else value
        if whole or (isinstance(value, int) and not step):
            return int(value)
        return round(value, 2) if not step else value

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]]
        text = self._text_for(name.lower())
        if isinstance(pattern := schema.get("pattern"), str):
            text = matching(pattern, [text, *self._hints.labels, *FORMATS.values()], self._rng)
        low, high = int(schema.get("minLength") or 0), schema.get("maxLength")
        while len(text) < low:
            text = f"{text} {self._sentence()}"
        return text if high is None else text[: int(high)].rstrip().ljust(low, ".")

    def _text_for(self, name: str) -> str:
        hints = self._hints
        if hints.labels and any(word in name for word in CHOSEN):
            return str(self._ordered(hints.labels)[0])
        if any(word in name for word in RESULTS):
            if hints.result is not None:
                return str(hints.result)
            return hints.chosen or self._sentence()
        for part, lines in hints.phrasebook.items():
            if part in name:
                self._said += 1
                return lines[self._said % len(lines)]
        if any(word in name for word in ("title", "name", "heading", "topic", "role")):
            return self._topic(0).capitalize()
        if "date" in name:
            return FORMATS["date"]
        return self._sentence()

    def _sentence(self) -> str:
        self._said += 1
        sentences = self._hints.sentences
        return sentences[(self._said - 1) % len(sentences)] if sentences else "Agreed."

    def _topic(self, index: int) -> str:
        topic = self._hints.topic
        return topic[index % len(topic)] if topic else "subject"


def _merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**left, **right}
    if "properties" in left and "properties" in right:
        merged["properties"] = {**left["properties"], **right["properties"]}
    if "required" in left and "required" in right:
        merged["required"] = [*left["required"], *right["required"]]
    return merged


def _takes_text(items: Any) -> bool:
    return not isinstance(items, Mapping) or str(items.get("type", "string")).lower() == "string"


def _bounds(schema: Mapping[str, Any], *, whole: bool) -> tuple[float | None, float | None]:
    low, high = schema.get("minimum"), schema.get("maximum")
    inside = 1 if whole else 0.01
    for name, sign in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
        edge = schema.get(name)
        if isinstance(edge, int | float) and not isinstance(edge, bool):
            low, high = (edge + inside, high) if sign > 0 else (low, edge - inside)
    return low, high


def matching(pattern: str, candidates: Sequence[str], rng: Random) -> str:
    """A text that the pattern finds itself in: a candidate, else one made for simple patterns."""
    try:
        compiled = re.compile(pattern)
    except re.error:
        return candidates[0]
    for text in candidates:
        if compiled.search(text):
            return text
    made = _from_pattern(pattern, rng)
    return made if compiled.search(made) else candidates[0]


_ATOM = re.compile(
    r"(?P<group>\((?:\?:)?(?P<inner>[^()]*)\))|(?P<set>\[[^\]]+\])|(?P<class>\\[dwsDWS])"
    r"|(?P<anchor>[\^$]|\\[bAZ])|(?P<any>\.)|(?P<literal>\\?.)"
)
_TIMES = re.compile(r"\{(\d+)(?:,(\d*))?\}|([?*+])")


def _from_pattern(pattern: str, rng: Random) -> str:
    """Literals, classes, sets, flat groups and repetitions; the first alternative of each."""
    made, place = [], 0
    while place < len(pattern):
        atom = _ATOM.match(pattern, place)
        assert atom is not None
        place = atom.end()
        times = _TIMES.match(pattern, place)
        repeat = 1
        if times is not None:
            place = times.end()
            repeat = int(times[1]) if times[1] else {"?": 0, "*": 1, "+": 2}[times[3]]
        if atom["literal"] == "|":
            break
        made.append("".join(_atom_text(atom, rng) for _ in range(repeat)))
    return "".join(made)


def _atom_text(atom: re.Match[str], rng: Random) -> str:
    if atom["group"]:
        return _from_pattern(rng.choice(atom["inner"].split("|")), rng)
    if atom["set"]:
        found = re.compile(atom["set"])
        fitting = [chr(code) for code in range(32, 127) if found.match(chr(code))]
        letters = [one for one in fitting if one.isalnum()]
        return rng.choice(letters or fitting or ["a"])
    if atom["class"]:
        return {"d": "4", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a"}[atom["class"][1]]
    if atom["anchor"]:
        return ""
    return "a" if atom["any"] else atom["literal"].removeprefix("\\")
