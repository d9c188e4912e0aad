"""The configuration that is being made: its sections, its notes, and how it is written."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from adapters.config import ENV_REFERENCE
from orchestrator.importing.advice import advice_on
from orchestrator.yaml_source import Loc, YamlSource, resolve

NAMED = ("models", "routes", "panels")
SECTIONS = (*NAMED, "budgets", "timeouts", "retry", "breaker", "cache")
_HEADS: Mapping[str, str] = {
    "litellm": "Made by `orchestrator import` from a litellm proxy configuration.",
    "older": "Made by `orchestrator import` from an older configuration of models.",
}
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Note:
    """Something that whoever imports a file is to know.

    Attributes:
        at: Where in the file; `line` is the number of its line.
        where: The same for people: `config.yaml:12:5`.
        message: What it is.
        place: The section of the result that it belongs to, and the name there, if there is one.
    """

    at: int
    line: int
    where: str
    message: str
    place: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class Draft:
    """A configuration of ours in the making.

    Attributes:
        source: The file it is made from.
        models: And the other sections: what will stand there, by name.
        settings: The sections that have no names in them.
        variables: The variables of the environment that are needed, and for whom.
    """

    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self.models: dict[str, dict[str, Any]] = {}
        self.routes: dict[str, dict[str, Any]] = {}
        self.panels: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.variables: dict[str, tuple[str, ...]] = {}
        self.places: dict[Loc, tuple[str, ...]] = {}  # what parts of the file have become
        self._names: set[str] = set()
        self._variables: dict[str, str] = {}  # by the key that each stands for
        self._told: dict[tuple[Loc, str, tuple[str, ...]], None] = {}

    # What is to be known.

    def note(self, loc: Loc, message: str, place: tuple[str, ...] = ()) -> None:
        """Tell of something, beside what that part of the file becomes, or at another place."""
        self._told[loc, message, place] = None

    def left_out(self, loc: Loc, why: str = "") -> None:
        """Tell that a part of the file is not in the result."""
        self.note(loc, f"{self.source.where(loc)} is left out: {why or advice_on(loc)}")

    def in_order(self) -> tuple[Note, ...]:
        """All notes, in the order of the file."""
        found = [self._note(*told) for told in self._told]
        return tuple(sorted(found, key=lambda note: note.at))

    def _note(self, loc: Loc, message: str, place: tuple[str, ...]) -> Note:
        at = self.source.offset(loc, key=True)
        line, column = self.source.line_and_column(at)
        parents = (loc[:end] for end in range(len(loc), -1, -1))
        become = (self.places[parent] for parent in parents if parent in self.places)
        where = f"{self.source.name}:{line}:{column}"
        return Note(at, line, where, message, place or next(become, ()))

    # Names.

    def name(self, wanted: str, loc: Loc, *, kind: str = "name") -> str:
        """A name that our files allow and nothing else has, as near to the wanted as may be."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted)[:_LONGEST_NAME]
        plain = re.sub(r"^[^A-Za-z0-9]+", "", plain) or "model"
        found = self._free(plain)
        self._names.add(found)
        if found != wanted:
            self.note(loc, f"the {kind} {self.source.quote_key(wanted)} is {found!r} here")
        return found

    def numbered(self, name: str) -> str:
        """The next free `name-1`."""
        found = next(one for one in _numbers(name, 1) if one not in self._names)
        self._names.add(found)
        return found

    def _free(self, plain: str) -> str:
        if plain not in self._names:
            return plain
        return next(one for one in _numbers(plain, 2) if one not in self._names)

    # Keys.

    def key(self, written: str, wanted: str) -> tuple[str, bool]:
        """What is written instead of a key: a reference; and whether the variable is a new one."""
        if named := environment(written):
            return f"${{{named}}}", False
        if written not in self._variables:
            variable = re.sub(r"[^A-Z0-9]+", "_", wanted.upper()).strip("_")
            if not re.match("[A-Z]", variable):
                variable = f"MODEL_{variable}"
            taken = {*self._variables.values(), *_referred(self.source)}
            rows = (variable, *(f"{variable}_{number}" for number in range(2, len(taken) + 3)))
            self._variables[written] = next(one for one in rows if one not in taken)
        return f"${{{self._variables[written]}}}", True

    # The result.

    def render(self, kind: str) -> str:
        """The YAML of the whole, comments included."""
        self._need_variables()
        root = CommentedMap()
        for section in SECTIONS:
            content = self.settings.get(section, getattr(self, section, None))
            if content or section in self.settings:
                root[section] = _block(content or {}, is_named=section in NAMED)
        told = _by_place(self.in_order(), root)
        for place, lines in told.items():
            if place:
                above = root if len(place) == 1 else root[place[0]]
                above.yaml_set_comment_before_after_key(
                    place[-1], before="\n".join(lines), indent=2 * len(place) - 2
                )
        root.yaml_set_start_comment("\n".join(self._head(kind, told.get((), []))) + "\n")
        written = io.StringIO()
        _writer().dump(root, written)
        return written.getvalue()

    def _head(self, kind: str, told: Sequence[str]) -> Iterator[str]:
        yield _HEADS[kind]
        yield "`orchestrator check` says what it amounts to."
        if self.variables:
            yield "\nVariables of the environment that it needs:"
            for variable, models in self.variables.items():
                yield f"  {variable}  for {', '.join(models)}"
        if told:
            yield "\nOf the file it was made from:"
            yield from (f"  {line}" for line in told)

    def _need_variables(self) -> None:
        """Count up who needs which variable, once all models are there."""
        for name, model in self.models.items():
            written = f"{model.get('api_key')} {model.get('api_base')}"
            for variable in ENV_REFERENCE.findall(written):
                users = self.variables.get(variable, ())
                self.variables[variable] = tuple(dict.fromkeys((*users, name)))


def _by_place(notes: Iterable[Note], root: Mapping[str, Any]) -> dict[tuple[str, ...], list[str]]:
    """The comments of each place of the result; of a place that is not there, those of the head."""
    found: dict[tuple[str, ...], list[str]] = {}
    for note in notes:
        inside: Any = root
        for step in note.place:
            inside = inside.get(step) if isinstance(inside, Mapping) else None
        place = () if inside is None else note.place
        found.setdefault(place, []).append(f"line {note.line}: {note.message}")
    return found


def environment(written: str) -> str:
    """The variable that a value refers to, as litellm or we write it; empty if it does not."""
    found = re.fullmatch(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)", written.strip())
    found = found or ENV_REFERENCE.fullmatch(written.strip())
    return found[1] if found else ""


def _referred(source: YamlSource) -> set[str]:
    """Every variable that the file names anywhere."""
    written = r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}"
    return {name for pair in re.findall(written, source.text) for name in pair if name}


def _numbers(name: str, first: int) -> Iterator[str]:
    number = first
    while True:
        end = f"-{number}"
        yield name[: _LONGEST_NAME - len(end)] + end
        number += 1


def _block(content: Mapping[str, Any], *, is_named: bool) -> CommentedMap:
    """A section: names in it stand on lines of their own, whatever is deeper on one line."""
    block = CommentedMap()
    for key, value in content.items():
        block[key] = _block(value, is_named=False) if is_named else _flow(value)
    return block


def _flow(value: Any) -> Any:
    match value:
        case str():
            quoted = "$" in value or resolve(value) != value
            return DoubleQuotedScalarString(value) if quoted else value
        case Mapping():
            flow = CommentedMap((key, _flow(inner)) for key, inner in value.items())
            flow.fa.set_flow_style()
            return flow
        case list() | tuple():
            sequence = CommentedSeq(_flow(inner) for inner in value)
            sequence.fa.set_flow_style()
            return sequence
        case _:
            return value


def _writer() -> YAML:
    yaml = YAML(typ="rt")
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    return yaml
