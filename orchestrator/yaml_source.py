"""Read YAML 1.2 into plain values that know where they stand, refusing what YAML hides.

Anchors, aliases, merge keys, tags, duplicate keys and second documents are refused, and so is
whatever could make a small file large or slow. No message repeats a value that could be a secret.
"""

import difflib
import functools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_PROBLEMS = 100

Loc = tuple[str | int, ...]
Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value. `text` is what the file says, `value` what YAML 1.2 makes of it."""

    at: int
    text: str
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list of values."""

    at: int
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys and values in the order of the file; of a repeated key, the first.

    `whole` is false where an entry was refused, so that what seems missing may not be.
    """

    at: int
    entries: dict[str, "Node"]
    keys_at: dict[str, int]
    whole: bool


@dataclass(frozen=True, slots=True)
class UnreadNode:
    """A value that was refused: an alias, or something with a tag."""

    at: int


Node = ScalarNode | ListNode | MappingNode | UnreadNode


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and the offset of the character where it is."""

    at: int
    message: str


@dataclass(frozen=True, slots=True)
class YamlSource:
    r"""A file that has been read: its values, and where each of them stands.

    >>> source = read_yaml("models:\n  gpt: {weight: 1.5}", "demo.yaml")
    >>> source.plain()
    {'models': {'gpt': {'weight': 1.5}}}
    >>> source.position(("models", "gpt", "weight"))
    (2, 17)
    """

    name: str
    text: str
    root: Node
    problems: tuple[Problem, ...] = ()  # what was refused, with the rest still readable
    secrets: frozenset[str] = frozenset()  # values that no message may hold
    _line_starts: list[int] = field(default_factory=list, repr=False)

    def plain(self) -> Plain:
        """The values alone. What was refused is None."""
        return _plain(self.root)

    def find(self, loc: Loc) -> Node | None:
        """The node at a path, if there is one."""
        node: Node | None = self.root
        for step in loc:
            node = child(node, step) if node else None
        return node

    def offset(self, loc: Loc, *, key: bool = False) -> int:
        """Where the value at a path stands, or its key; the nearest parent for one not there."""
        parent = self.find(loc[:-1])
        if key and loc and isinstance(parent, MappingNode) and loc[-1] in parent.keys_at:
            return parent.keys_at[str(loc[-1])]
        node = self.find(loc)
        return node.at if node else self.offset(loc[:-1])

    def position(self, loc: Loc, *, key: bool = False) -> tuple[int, int]:
        """Line and column, counted from 1, of the value at a path, or of its key."""
        return self.line_and_column(self.offset(loc, key=key))

    def line_and_column(self, at: int) -> tuple[int, int]:
        """Line and column, counted from 1, of the character at an offset."""
        return _line_and_column(self._line_starts, at)

    def lines(self, problems: Iterable[Problem]) -> list[str]:
        """The problems as `file:line:col: message`, in the order of the file, and not too many."""
        found = list(islice(_once(problems), MAX_PROBLEMS + 1))
        shown = sorted(found[:MAX_PROBLEMS], key=lambda problem: problem.at)
        lines = [self._line(problem) for problem in shown]
        if len(found) > MAX_PROBLEMS:
            lines.append(self._line(Problem(shown[-1].at, "There are more problems; fix these")))
        return lines

    def _line(self, problem: Problem) -> str:
        line, column = self.line_and_column(problem.at)
        return f"{self.name}:{line}:{column}: {problem.message}"

    def where(self, loc: Loc) -> str:
        """A path as messages write it: `panels.council.members[1]`."""
        where = ""
        for step in loc:
            if isinstance(step, int):
                where += f"[{step}]"
            else:
                name = step if self.may_show(step) else HIDDEN
                where += f".{name}" if where else name
        return where

    def may_show(self, text: str) -> bool:
        """Whether a message may hold this key or name."""
        if looks_secret(text) or not _KEY_LIKE.fullmatch(text):
            return False
        return not any(secret in text for secret in self.secrets)

    def quote_key(self, key: str) -> str:
        """A key or name as messages write it."""
        return repr(key) if self.may_show(key) else HIDDEN

    def quote_value(self, value: str) -> str:
        """A value as messages write it: hidden unless it reads like a name or a number."""
        return self.quote_key(value) if _NAME_LIKE.fullmatch(value) else HIDDEN


def _once(problems: Iterable[Problem]) -> Iterator[Problem]:
    seen: set[Problem] = set()
    for problem in problems:
        if problem not in seen:
            seen.add(problem)
            yield problem


def child(node: Node, step: str | int) -> Node | None:
    """The value under a key or at an index, if there is one."""
    if isinstance(node, MappingNode):
        return node.entries.get(str(step))
    if isinstance(node, ListNode) and isinstance(step, int) and 0 <= step < len(node.items):
        return node.items[step]
    return None


def _plain(node: Node) -> Plain:
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [_plain(item) for item in node.items]
        case MappingNode():
            return {key: _plain(value) for key, value in node.entries.items()}
        case UnreadNode():
            return None


# What a message may say.

HIDDEN = "(not shown)"
SECRET_KEY = re.compile(
    r"(?i)(^|[_-])(api_?key|key|token|secret|password|passwd|authorization|cookie)$"
)
_SECRET_FORM = re.compile(
    r"""(?ix)
    ^ (sk|pk|rk|xai|gsk|hf|r8|gh[a-z]|glpat|xox[a-z]) [-_]   # prefixes of well-known keys
    | ^ (AIza | AKIA | ASIA | eyJ) | bearer \b
    | [0-9a-f]{8}-[0-9a-f]{4}-                               # UUID
    | (?= [^\s._:-]* [0-9]) [^\s._:-]{16} | [a-z0-9]{24}      # long runs
    | :// | @                                                # an address may hold a password
    """
)
_KEY_LIKE = re.compile(r"[-+.$\w][\w.:/+-]*( [\w.:/+-]+)?")
_NAME_LIKE = re.compile(r"[-+.]?[A-Za-z0-9][A-Za-z0-9._:/+-]{0,39}")
_SHORTEST_SECRET = 6


def looks_secret(text: str) -> bool:
    """Whether a text could be a key or a password, or is too odd to be put on a screen."""
    return len(text) > 64 or not text.isprintable() or bool(_SECRET_FORM.search(text))


def suggestion(word: str, known: Collection[str]) -> str:
    """`, did you mean 'x'?` if one of the known words is close, else nothing.

    >>> suggestion("opnai", ("openai", "google"))
    ", did you mean 'openai'?"
    """
    close = closest(word, known)
    return f", did you mean {close!r}?" if close else ""


def closest(word: str, known: Collection[str]) -> str | None:
    """The known word that was probably meant."""
    if len(word) > 64:
        return None
    folded = {name.lower(): name for name in islice(known, 500)}
    matches = difflib.get_close_matches(word.lower(), folded, n=1)
    return folded[matches[0]] if matches else None


# From bytes to text.


def read_file(path: Path) -> str:
    """The text of a YAML file, read once and in one piece.

    Raises:
        ConfigError: there is none, or it is no UTF-8 text of a sensible size.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}:1:1: {_cannot_read(error)}"]) from error
    return decode(content, str(path))


def _cannot_read(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "There is no such file; check the path"
        case IsADirectoryError():
            return "This is a folder; name the file inside it"
        case PermissionError():
            return "This file may not be read; change its permissions"
        case OSError():
            return f"This file cannot be read: {error.strerror or type(error).__name__}"
        case _:
            return "This is no file name; check the path"


def decode(content: bytes, name: str) -> str:
    """The text of a file. A byte order mark is left out.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError([f"{name}:1:1: The file is UTF-16; save it as UTF-8"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > MAX_BYTES:
            _refuse(name, "", 0, _TOO_LARGE)
        before = error.object[: error.start].decode("utf-8")
        byte = error.object[error.start]
        _refuse(name, before, len(before), f"Byte 0x{byte:02X} is not UTF-8; save it as UTF-8")


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer(r"\r\n|\n|\r", text))]


def _line_and_column(line_starts: list[int], at: int) -> tuple[int, int]:
    line = bisect_right(line_starts, at)
    return line, at - line_starts[line - 1] + 1


def _refuse(name: str, text: str, at: int, message: str) -> NoReturn:
    source = YamlSource(name, text, UnreadNode(0), _line_starts=_line_starts(text))
    raise ConfigError(source.lines([Problem(at, message)])) from None


# From text to nodes.

_TOO_LARGE = f"The file has more than {MAX_BYTES:,} bytes; split it or remove what is not needed"
_TOO_DEEP = f"Nested deeper than {MAX_DEPTH} levels; make it flatter"
_TOO_MANY = f"The file has more than {MAX_NODES:,} values; remove what is not needed"
# Not compiled here: large ranges take `re` 15 ms, and only who reads a file needs them.
_HALF_CHARACTER = r"[\ud800-\udfff]"
_UNPRINTABLE = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"


def read_yaml(text: str, name: str = "<string>") -> YamlSource:
    """Read one YAML document. `name` is what messages call the file.

    What was refused but could be stepped over stands in `problems` of the result.

    Raises:
        ConfigError: it is empty, or not YAML, or too large.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        _refuse(name, "", 0, _TOO_LARGE)
    if unprintable := re.search(_UNPRINTABLE, text):
        code = ord(unprintable[0])
        message = f"Character U+{code:04X} is not allowed in YAML; remove it"
        _refuse(name, text, unprintable.start(), message)
    builder = _Builder()
    try:
        root = builder.document(text)
    except _UnreadableError as unreadable:
        _refuse(name, text, unreadable.at, unreadable.message)
    if root is None:
        _refuse(name, text, 0, "The file is empty; write at least one key and its value")
    source = YamlSource(
        name, text, root, (), frozenset(_secrets(root)), _line_starts=_line_starts(text)
    )
    repeated = (_repeated_key(source, *found) for found in builder.repeated)
    return replace(source, problems=(*builder.problems, *repeated))


def _repeated_key(source: YamlSource, at: int, key: str, first_at: int) -> Problem:
    line, column = source.line_and_column(first_at)
    message = f"Key {source.quote_key(key)} is already at {line}:{column}"
    return Problem(at, f"{message}; remove or rename one of them")


def _secrets(node: Node) -> Iterator[str]:
    """Values that stand where secrets do, and the user's part of addresses."""
    if isinstance(node, MappingNode):
        for key, value in node.entries.items():
            if isinstance(value, ScalarNode):
                if SECRET_KEY.search(key) and len(value.text) >= _SHORTEST_SECRET:
                    yield value.text
                for userinfo in re.findall(r"://([^/@]+)@", value.text):
                    parts = (userinfo, *userinfo.split(":"))
                    yield from (part for part in parts if len(part) >= _SHORTEST_SECRET)
    below: Iterable[Node] = ()
    if isinstance(node, MappingNode):
        below = node.entries.values()
    elif isinstance(node, ListNode):
        below = node.items
    for value in below:
        yield from _secrets(value)


class _UnreadableError(Exception):
    """Reading cannot go on behind this point."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


@functools.cache
def _parser() -> tuple[Callable[[str], Iterator[Any]], type[Exception]]:
    """ruamel.yaml's events, and what it raises. It takes 50 ms to import, so only readers pay."""
    from ruamel.yaml import YAML  # noqa: PLC0415
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415
    from ruamel.yaml.scanner import RoundTripScanner  # noqa: PLC0415

    class ShallowScanner(RoundTripScanner):
        """Stops at once where brackets nest too deep: ruamel's cost is quadratic in the depth."""

        def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803
            if self.flow_level >= MAX_DEPTH:
                raise MarkedYAMLError(problem=_TOO_DEEP, problem_mark=self.reader.get_mark())
            super().fetch_flow_collection_start(TokenClass, to_push)

    def events(text: str) -> Iterator[Any]:
        yaml = YAML(typ="rt")
        yaml.Scanner = ShallowScanner
        return iter(yaml.parse(text))

    return events, YAMLError


class _Builder:
    """Turns the events of one document into nodes, and notes what it refuses on the way."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.repeated: list[tuple[int, str, int]] = []  # where, which key, where it was first
        self._events: Iterator[Any] = iter(())
        self._at = 0
        self._nodes = 0

    def document(self, text: str) -> Node | None:
        """The document's root, or None where there is none."""
        parse, yaml_error = _parser()
        try:
            self._events = parse(text)
            return self._only_document()
        except yaml_error as error:
            raise _in_plain_words(error, self._at, text) from None
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            # ruamel.yaml's own slips, such as an escape for half a character.
            message = "YAML cannot read what follows; check quotes and escapes"
            raise _UnreadableError(self._at, message) from error

    def _only_document(self) -> Node | None:
        self._next()  # the start of the stream
        start = self._next()
        if _kind(start) == "StreamEnd":
            return None
        if start.version not in {None, (1, 2)}:
            raise _UnreadableError(0, "Only YAML 1.2 is read; remove the %YAML line")
        root = self._node(self._next(), 0)
        self._next()  # the end of the document
        if _kind(self._next()) != "StreamEnd":
            message = "A second document begins here; keep one to a file"
            raise _UnreadableError(self._at, message)
        return root

    def _next(self) -> Any:
        event = next(self._events)
        self._at = event.start_mark.index
        return event

    def _node(self, event: Any, depth: int) -> Node:
        self._nodes += 1
        at = self._at
        if depth > MAX_DEPTH:
            raise _UnreadableError(at, _TOO_DEEP)
        if self._nodes > MAX_NODES:
            raise _UnreadableError(at, _TOO_MANY)
        refused = self._refusal(event)
        if refused:
            self.problems.append(Problem(at, refused))
        node: Node
        match _kind(event):
            case "Scalar":
                quoted = event.style in {"'", '"', "|", ">"}
                value = event.value if quoted else resolve(event.value)
                node = ScalarNode(at, event.value, value)
            case "SequenceStart":
                node = ListNode(at, tuple(self._items(depth)))
            case "MappingStart":
                node = self._mapping(at, depth)
            case _:
                node = UnreadNode(at)
        return UnreadNode(at) if refused else node

    def _refusal(self, event: Any) -> str | None:
        if _kind(event) == "Alias":
            return "Aliases (*name) are not supported; write the value out here"
        if event.anchor is not None:
            return "Anchors (&name) are not supported; remove this one and write its value out"
        if event.tag is not None:
            return "Tags (!name) are not supported; remove it, or put the value in quotes"
        if _kind(event) == "Scalar" and re.search(_HALF_CHARACTER, event.value):
            return "An escape for half a character; write the character itself"
        return None

    def _items(self, depth: int) -> Iterator[Node]:
        while _kind(event := self._next()) != "SequenceEnd":
            yield self._node(event, depth + 1)

    def _mapping(self, at: int, depth: int) -> MappingNode:
        entries: dict[str, Node] = {}
        keys_at: dict[str, int] = {}
        whole = True
        while _kind(event := self._next()) != "MappingEnd":
            plain_key = _kind(event) == "Scalar" and not event.style
            key_at, key = self._at, self._node(event, depth + 1)
            value = self._node(self._next(), depth + 1)
            if not isinstance(key, ScalarNode) or (plain_key and key.text in {"", "<<"}):
                whole = False
                if isinstance(key, ScalarNode) and key.text:
                    problem = "Merge keys (<<) are not supported; write the keys out here"
                    self.problems.append(Problem(key_at, problem))
                elif not isinstance(key, UnreadNode):
                    problem = "A key must be text; write 'key: value'"
                    self.problems.append(Problem(key_at, problem))
            elif key.text in entries:
                self.repeated.append((key_at, key.text, keys_at[key.text]))
            else:
                entries[key.text], keys_at[key.text] = value, key_at
        return MappingNode(at, entries, keys_at, whole)


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE, _FALSE = frozenset(("true", "True", "TRUE")), frozenset(("false", "False", "FALSE"))
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = frozenset((".nan", ".NaN", ".NAN"))
_LONGEST_INT = 400


def resolve(text: str) -> str | int | float | bool | None:
    """What an unquoted value means in YAML 1.2 (core schema): `no` and `12:30:45` are text.

    >>> [resolve(text) for text in ("no", "12:30:45", "1.10", "007", "~", "true")]
    ['no', '12:30:45', 1.1, 7, None, True]
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base) if len(text) <= _LONGEST_INT else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if text in _NAN else text


# What ruamel.yaml finds wrong, in words for people who do not know YAML's grammar. The first row
# that fits is used; `{opened}` is where the construct began. Its own words are never repeated:
# they can hold a piece of the file.
_PLAIN_WORDS: tuple[tuple[str, str], ...] = (
    (r"^Nested deeper", _TOO_DEEP),
    (r"character '\\t'", "A tab stands where YAML wants spaces; write spaces instead"),
    (
        r"character '[@`%|>&*!]'",
        "A value cannot begin with this character; put the value in quotes",
    ),
    (
        r"mapping values are not allowed",
        "A ':' is not expected here; put the value in quotes, or correct the indentation",
    ),
    (
        r"sequence entries are not allowed",
        "A list cannot begin here; put '- ' on a line of its own below the key",
    ),
    (r"could not find expected ':'", "A key without ':'; write 'key: value'"),
    (r"expected ',' or '\]'", "The list opened at {opened} is not closed; add ',' or ']'"),
    (r"expected ',' or '\}'", "The mapping opened at {opened} is not closed; add ',' or '}}'"),
    (r"unexpected end of stream", "The quote opened at {opened} is not closed; close it"),
    (
        r"escape|hexa?decimal",
        "Unknown escape inside double quotes; use single quotes, or write \\\\ for a backslash",
    ),
    (
        r"expected <block end>",
        "This line does not line up with the ones above; correct the indentation",
    ),
    (r"expected the node content", "A value is missing here, or a bracket is not closed"),
    (r"tag|URI", "Tags (!name) are not supported; remove it, or put the value in quotes"),
    (r"alphabetic or numeric", "A value that begins with '&' or '*' must be in quotes"),
    (r"<document start>", "The document has ended above; correct the indentation of this line"),
    (r"incompatible YAML document", "Only YAML 1.2 is read; remove the %YAML line"),
    (r"", "This is not YAML; check indentation, quotes and brackets"),
)


def _in_plain_words(error: Any, at: int, text: str) -> _UnreadableError:
    """What a YAMLError means and where."""
    problem, began = getattr(error, "problem", None) or "", getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None)
    words = next(words for pattern, words in _PLAIN_WORDS if re.search(pattern, problem))
    if mark and text[mark.index - 1 : mark.index + 1] == "${":
        message = 'Between brackets a reference must be in quotes; write "${NAME}"'
        return _UnreadableError(mark.index - 1, message)
    line, column = _line_and_column(_line_starts(text), began.index if began else at)
    return _UnreadableError(mark.index if mark else at, words.format(opened=f"{line}:{column}"))
