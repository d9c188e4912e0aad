"""Check a YAML file against a pydantic model, and say what is wrong in an operator's words.

pydantic's own messages are never used: they repeat values, and a value may be a key.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from orchestrator.yaml_source import (
    HIDDEN,
    SECRET_KEY,
    ListNode,
    Loc,
    MappingNode,
    Node,
    Problem,
    ScalarNode,
    UnreadNode,
    YamlSource,
    child,
    closest,
    suggestion,
)

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a kind of file calls its keys, for better advice.

    Attributes:
        synonyms: What other tools call a key of ours.
        examples: How to write a key that is missing.
        wanted: What a key may hold, where several kinds of value are possible.
    """

    synonyms: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    wanted: Mapping[str, str] = field(default_factory=dict)


def validate(
    source: YamlSource, model: type[Model], vocabulary: Vocabulary
) -> tuple[Model | None, Iterable[Problem]]:
    """The model that a file describes, or every way in which it does not."""
    try:
        # Strict, so that a quoted number is text here as it is in the JSON schema; through JSON,
        # because only there does strict still mean that a list may become a tuple.
        return model.model_validate_json(json.dumps(source.plain()), strict=True), ()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    faults = [_Fault.of(source, model, vocabulary, detail) for detail in details]
    told = _told(faults)
    return None, (_problem(fault) for fault in faults if not _is_consequence(fault, told))


@dataclass(frozen=True, slots=True)
class _Fault:
    """One complaint of pydantic's, with its path as the file has it."""

    source: YamlSource
    model: type[BaseModel]
    vocabulary: Vocabulary
    kind: str
    context: Mapping[str, Any]
    path: Loc
    node: Node
    of_branch: bool  # it only says that one form of a union does not fit
    of_key: bool

    @classmethod
    def of(
        cls,
        source: YamlSource,
        model: type[BaseModel],
        vocabulary: Vocabulary,
        detail: Mapping[str, Any],
    ) -> "_Fault":
        kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
        of_key = bool(loc) and loc[-1] == "[key]"
        path: list[str | int] = []
        node, of_branch = source.root, False
        for index, step in enumerate(loc):
            below = child(node, step)
            if below is not None:
                node, of_branch = below, False
                path.append(step)
            elif index == len(loc) - 1 and kind == "missing":
                of_branch = False
                path.append(step)
            else:  # pydantic's name for a form of a union, or its mark for a key
                of_branch = not of_key
        return cls(source, model, vocabulary, kind, context, tuple(path), node, of_branch, of_key)

    @property
    def key(self) -> str:
        """The last key on the way to the value."""
        return next((step for step in reversed(self.path) if isinstance(step, str)), "")

    @property
    def raw(self) -> str:
        """The value as the file has it, if it is a single one and may be shown."""
        if not isinstance(self.node, ScalarNode) or self.key in {"api_base", "url"}:
            return ""
        text = self.node.text
        hidden = SECRET_KEY.search(self.key) or self.source.quote_value(text) == HIDDEN
        return "" if hidden else text

    @property
    def where(self) -> str:
        """The path of the value."""
        return self.source.where(self.path) or "The file"


def _told(faults: Iterable[_Fault]) -> set[tuple[str, Loc]]:
    """What the faults say between them: which values are wrong inside, which keys were meant."""
    told: set[tuple[str, Loc]] = set()
    for fault in faults:
        if not fault.of_branch:
            told.update(("inside", fault.path[:end]) for end in range(len(fault.path) + 1))
        if fault.kind == "extra_forbidden" and (meant := _meant(fault)):
            told.add(("meant", (*fault.path[:-1], meant)))
    return told


def _is_consequence(fault: _Fault, told: Collection[tuple[str, Loc]]) -> bool:
    """Whether a fault only follows from something that is reported anyway."""
    if isinstance(fault.node, UnreadNode):
        return True
    if fault.of_branch:  # another form of the union fits better and says what is wrong inside
        return ("inside", fault.path) in told
    if fault.kind == "missing" and ("meant", fault.path) in told:
        return True
    match fault.node, fault.kind:
        case MappingNode(whole=False), "missing" | "value_error" | "too_short":
            return True
        case MappingNode(entries=entries), "value_error":
            return any(isinstance(value, UnreadNode) for value in entries.values())
        case (ListNode() | MappingNode()) as node, "too_short":
            return _size(node) >= int(fault.context["min_length"])  # an entry of it is wrong
        case _:
            return False


def _problem(fault: _Fault) -> Problem:
    at_key = fault.of_key or fault.kind in {"extra_forbidden", "missing", "value_error"}
    place = fault.path[:-1] if fault.kind == "missing" else fault.path
    nothing = isinstance(fault.node, ScalarNode) and fault.node.text == ""
    return Problem(fault.source.offset(place, key=at_key or nothing), _message(fault))


# What is said of each kind of fault.


def _message(fault: _Fault) -> str:
    if fault.of_key:
        return _bad_name(fault)
    if fault.of_branch:
        return _wrong_type(fault, fault.vocabulary.wanted.get(fault.key, "something else"))
    if fault.kind in _WANTED:
        return _wrong_type(fault, _WANTED[fault.kind])
    return _MESSAGES.get(fault.kind, _other)(fault)


def _wrong_type(fault: _Fault, wanted: str) -> str:
    node, where = fault.node, fault.where
    if wanted == "a number" and fault.key.endswith("_s"):
        wanted = "a number of seconds"
    if not isinstance(node, ScalarNode):
        kind = "a list" if isinstance(node, ListNode) else "a mapping"
        return f"{where} must be {wanted}, found {kind}"
    if node.value is None:
        return f"{where} is empty; it must be {wanted}"
    if isinstance(node.value, str):
        found = f"the text {fault.raw!r}" if fault.raw else "text"
        return f"{where} must be {wanted}, found {found}{_how_to_write(fault, wanted)}"
    what = "a boolean" if isinstance(node.value, bool) else "a number"
    if wanted == "text":
        seen = fault.raw or "this value"
        return f"{where} must be text, but YAML reads {seen} as {what}; put it in quotes"
    return f"{where} must be {wanted}, found {fault.raw or what}"


def _how_to_write(fault: _Fault, wanted: str) -> str:
    if wanted == "a list" and fault.raw:
        return f"; write [{fault.raw}]"
    if wanted.startswith(("a number", "a whole")) and _INT_OR_FLOAT.fullmatch(fault.raw):
        return "; remove the quotes"
    return ""


def _wrong_range(fault: _Fault) -> str:
    name, limit = next(iter(fault.context.items()))
    bound = _BOUNDS[name].format(_number(limit))
    return f"{fault.where} must be {bound}, found {fault.raw or 'something else'}"


def _wrong_choice(fault: _Fault) -> str:
    choices = re.findall(r"'([^']*)'", fault.context["expected"])
    wanted = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if not isinstance(fault.node, ScalarNode) or not isinstance(fault.node.value, str):
        return _wrong_type(fault, wanted)
    value = fault.node.value
    seen = f"{fault.key} {fault.source.quote_value(value)}"
    return f"Unknown {seen}" + (suggestion(value, choices) or f"; use {wanted}")


def _bad_name(fault: _Fault) -> str:
    name, place = fault.source.quote_key(str(fault.path[-1])), fault.source.where(fault.path[:-1])
    return (
        f"{name} cannot be a name in {place}; names are up to 64 letters, digits,"
        " '.', '_' and '-', and begin with a letter or digit"
    )


def _unknown_key(fault: _Fault) -> str:
    key, parent = str(fault.path[-1]), fault.path[:-1]
    quoted = fault.source.quote_key(key)
    place = f"in {fault.source.where(parent)}" if parent else "at the top level"
    meant = _meant(fault)
    advice = f", did you mean {meant!r}?" if meant else f"; known here: {', '.join(_known(fault))}"
    return f"Unknown key {quoted} {place}{advice}"


def _known(fault: _Fault) -> list[str]:
    forms = _forms(fault.model, fault.path[:-1])
    return [name for form in forms for name in form.model_fields]


def _meant(fault: _Fault) -> str | None:
    """The key that was probably meant by an unknown one."""
    key, known = str(fault.path[-1]), _known(fault)
    synonym = fault.vocabulary.synonyms.get(key.lower(), "")
    return synonym if synonym in known else closest(key, known)


def _missing(fault: _Fault) -> str:
    key, parent = str(fault.path[-1]), fault.path[:-1]
    example = fault.vocabulary.examples.get(key)
    advice = f"; add it, for example {example}" if example else "; add it"
    return f"{fault.source.where(parent) or 'The file'} has no {key!r}{advice}"


def _too_few(fault: _Fault) -> str:
    size, least = fault.context["actual_length"], fault.context["min_length"]
    has = f"has only {size}" if size else "is empty"
    return f"{fault.where} {has}; it needs at least {least} {'entry' if least == 1 else 'entries'}"


def _too_many(fault: _Fault) -> str:
    size = _size(fault.node) if isinstance(fault.node, ListNode | MappingNode) else "too many"
    return f"{fault.where} has {size} entries; at most {fault.context['max_length']} are allowed"


def _no_text(fault: _Fault) -> str:
    return f"{fault.where} is empty; it must be text"


def _own_words(fault: _Fault) -> str:
    """What a validator of ours says; it repeats no values."""
    return f"{fault.where}: {fault.context['error']}"


def _other(fault: _Fault) -> str:
    return f"{fault.where} is not as it must be ({fault.kind})"


_WANTED: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_INT_OR_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
_BOUNDS: Mapping[str, str] = {
    "gt": "greater than {}",
    "ge": "{} or more",
    "lt": "less than {}",
    "le": "{} or less",
}
_MESSAGES: Mapping[str, Callable[[_Fault], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "greater_than": _wrong_range,
    "greater_than_equal": _wrong_range,
    "less_than": _wrong_range,
    "less_than_equal": _wrong_range,
    "enum": _wrong_choice,
    "literal_error": _wrong_choice,
    "too_short": _too_few,
    "too_long": _too_many,
    "string_too_short": _no_text,
    "value_error": _own_words,
}


def _size(node: ListNode | MappingNode) -> int:
    return len(node.items) if isinstance(node, ListNode) else len(node.entries)


def _number(limit: Any) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)


def _forms(annotation: Any, path: Iterable[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a path below a type."""
    types = [annotation]
    for step in path:
        types = list(chain.from_iterable(_below(kind, step) for kind in types))
    return [kind for kind in chain.from_iterable(map(_alternatives, types)) if _is_model(kind)]


def _below(annotation: Any, step: str | int) -> Iterator[Any]:
    for kind in _alternatives(annotation):
        if _is_model(kind):
            if step in kind.model_fields:
                yield kind.model_fields[step].annotation
        elif get_origin(kind) in {dict, tuple, list}:
            yield get_args(kind)[1 if get_origin(kind) is dict else 0]


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    is_plain = get_origin(annotation) in {None, dict, tuple, list}
    return (annotation,) if is_plain else get_args(annotation)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
