"""Patterns: what stages a run goes through. One YAML file each; read, checked, and no more."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from orchestrator import yaml_source
from orchestrator.config import packaged_configs
from orchestrator.errors import ConfigError, PatternError
from orchestrator.yaml_source import YamlSource, read_file, read_yaml, suggestion

Combine = Literal["write", "vote", "rank", "pick", "fields"]
Sight = Literal["own", "others", "all", "previous"]
Loc = tuple[str | int, ...]

SIGHT_VARIABLES: Mapping[Sight, str] = {
    "own": "own",
    "others": "others",
    "all": "drafts",
    "previous": "previous",
}
ALWAYS_KNOWN = ("question", "label", "role", "round", "rounds", "count", "structured")
SYSTEM_KNOWN = ("label", "role", "round", "rounds", "count", "structured")

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Strict):
    """One step of a pattern: who is called, what they see, how their outputs combine.

    `each: panel` asks every member at once (`samples` and `roles` give members several seats),
    `each: items` asks one question each of a list that an earlier `combine: fields` stage made,
    `by: synthesizer` asks one model. A stage that calls nobody only counts (`combine: vote`).

    Without `prompt` the conversation itself is sent. With it, one user message is: the rendered
    template, in which the question and every draft stand in fences. `system` is added to the
    system message and may not quote anybody.

    A stage makes `drafts` (they replace the members' earlier ones) or `notes` (shown to later
    stages as `previous`).
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    each: Literal["panel", "items"] | None = None
    by: Literal["synthesizer"] | None = None
    samples: Annotated[int, Field(ge=1, le=32)] | None = None
    roles: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    items: str | None = None
    max_items: Annotated[int, Field(ge=1, le=32)] = 5
    rounds: Annotated[int, Field(ge=1, le=5)] = 1
    unless: Literal["agree", "no_faults"] | None = None
    sees: Annotated[tuple[Sight, ...], BeforeValidator(_one_or_many)] = ()
    system: str | None = None
    prompt: str | None = None
    makes: Literal["drafts", "notes"] | None = None
    combine: Combine | None = None
    output: dict[str, Any] | None = None  # a JSON schema, OpenAI's own kind
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None

    @property
    def calls(self) -> bool:
        return self.each is not None or self.by is not None

    @property
    def product(self) -> Literal["drafts", "notes"] | None:
        """What the outputs become; None where they are ballots, counted and done with."""
        if self.combine in {"write", "vote", "rank", "pick"}:
            return None
        if self.makes is not None:
            return self.makes
        is_draft = self.combine is None and self.output is None and self.each != "items"
        return "drafts" if is_draft else "notes"


class Pattern(_Strict):
    """A named list of stages. The last one gives the answer."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    description: Annotated[str, Field(min_length=1, max_length=500)]
    source: Annotated[str, Field(min_length=1)]  # where the method comes from
    notes: tuple[str, ...] = ()  # caveats of the method, for the receipt
    min_members: Annotated[int, Field(ge=1, le=32)] = 1
    draft_characters: Annotated[int, Field(ge=200)] = 24_000  # of one draft, shown to others
    question_characters: Annotated[int, Field(ge=200)] = 200_000
    prompt_characters: Annotated[int, Field(ge=1000)] = 1_000_000  # of a rendered template
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=12)]

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        problems = list(check(self))
        if problems:
            raise Unfit(problems)
        return self


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a pattern, and the path to it inside the file."""

    loc: Loc
    message: str
    line: int = 0  # further lines down, inside a block of text
    at_key: bool = False  # the key is at fault, not its value


class Unfit(ValueError):
    """Every way in which the stages of a pattern contradict each other."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in one of its rounds."""

    stage: Stage
    name: str
    round: int
    index: int
    total: int

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.total - 1


def steps(pattern: Pattern) -> tuple[Step, ...]:
    """The stages in the order they run, a stage of several rounds once for each."""
    rounds = [(stage, number) for stage in pattern.stages for number in range(1, stage.rounds + 1)]
    return tuple(
        Step(
            stage=stage,
            name=f"{stage.name} {number}" if stage.rounds > 1 else stage.name,
            round=number,
            index=index,
            total=len(rounds),
        )
        for index, (stage, number) in enumerate(rounds)
    )


# Checks.


def check(pattern: Pattern) -> Iterator[Problem]:
    """Everything about the stages that no single field can tell."""
    names = [stage.name for stage in pattern.stages]
    for index, stage in enumerate(pattern.stages):
        at: Loc = ("stages", index)
        if stage.name in names[:index]:
            yield Problem((*at, "name"), f"a second stage is called {stage.name!r}")
        yield from _check_callers(stage, at)
        yield from _check_combine(stage, at)
        yield from _check_place(pattern, index, at)
        yield from _check_templates(pattern, index, at)
    if pattern.stages[-1].combine is None:
        yield Problem(
            ("stages", len(names) - 1),
            "the last stage gives the answer: it needs combine: write, vote, rank, pick or fields",
        )


def _check_callers(stage: Stage, at: Loc) -> Iterator[Problem]:
    if stage.each and stage.by:
        yield Problem((*at, "by"), "a stage has 'each' or 'by', not both")
    if not stage.calls and stage.combine not in {"vote", "fields"}:
        yield Problem(at, "nobody is called: add 'each: panel', 'each: items' or 'by: synthesizer'")
    if (stage.samples or stage.roles) and stage.each != "panel":
        field = "samples" if stage.samples else "roles"
        yield Problem((*at, field), f"'{field}' needs 'each: panel'")
    if stage.samples and stage.roles:
        yield Problem((*at, "roles"), "a stage has 'samples' or 'roles', not both")
    if (stage.each == "items") != (stage.items is not None):
        yield Problem((*at, "items"), "'each: items' and 'items: <field>' belong together")
    if "own" in stage.sees and stage.each != "panel":
        yield Problem((*at, "sees"), "only 'each: panel' has an own draft to see")


def _check_combine(stage: Stage, at: Loc) -> Iterator[Problem]:
    if stage.combine == "write" and not (stage.by and stage.prompt):
        yield Problem((*at, "combine"), "'write' needs 'by: synthesizer' and a prompt")
    shown = stage.prompt and {"others", "all"} & set(stage.sees)
    if stage.combine in {"vote", "rank", "pick"} and stage.calls and not shown:
        yield Problem(
            (*at, "combine"),
            f"whoever decides a '{stage.combine}' needs a prompt and must see others or all",
        )
    if stage.output is not None and stage.combine not in {None, "fields"}:
        yield Problem((*at, "output"), f"'{stage.combine}' has an output of its own")
    if stage.makes == "drafts" and (stage.combine or stage.output is not None):
        yield Problem((*at, "makes"), "what combines or has a schema is no draft")


def _check_place(pattern: Pattern, index: int, at: Loc) -> Iterator[Problem]:
    stage, earlier = pattern.stages[index], pattern.stages[:index]
    if not earlier and (stage.product != "drafts" or stage.sees):
        yield Problem(at, "the first stage makes drafts and sees nothing but the question")
    if stage.combine == "write" and index != len(pattern.stages) - 1:
        yield Problem((*at, "combine"), "only the last stage writes the answer")
    if earlier and (stage.samples or stage.roles):
        field = "samples" if stage.samples else "roles"
        yield Problem((*at, field), f"only the first stage may have '{field}'")
    if stage.unless and (not earlier or index == len(pattern.stages) - 1):
        yield Problem((*at, "unless"), "the first and the last stage always run")
    if "previous" in stage.sees and not any(made.product == "notes" for made in earlier):
        yield Problem((*at, "sees"), "no earlier stage makes notes, so there is no 'previous'")
    if stage.items is not None:
        lists = _list_fields(earlier)
        if stage.items not in lists:
            yield Problem(
                (*at, "items"),
                f"no earlier 'fields' stage has a list {stage.items!r}"
                f"{suggestion(stage.items, lists)}",
            )


def _list_fields(stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """The fields that hold lists, in what these stages' schemas promise."""
    return tuple(
        name
        for stage in stages
        if stage.combine == "fields" and stage.output
        for name, field in (stage.output.get("properties") or {}).items()
        if isinstance(field, dict) and field.get("type") == "array"
    )


def known_variables(pattern: Pattern, index: int) -> tuple[str, ...]:
    """What the prompt of this stage may name."""
    stage = pattern.stages[index]
    decided = any(earlier.combine in {"vote", "rank", "pick"} for earlier in pattern.stages[:index])
    return (
        *ALWAYS_KNOWN,
        *(SIGHT_VARIABLES[sight] for sight in stage.sees),
        *(("item",) if stage.each == "items" else ()),
        *(("ranking",) if decided else ()),
    )


def _check_templates(pattern: Pattern, index: int, at: Loc) -> Iterator[Problem]:
    stage = pattern.stages[index]
    if stage.sees and not stage.prompt:
        yield Problem((*at, "sees"), "what a stage sees is shown by its prompt, and it has none")
    if stage.system is not None:
        _, problems = _check_template(stage.system, (*at, "system"), SYSTEM_KNOWN)
        yield from problems
    if stage.prompt is None:
        return
    used, problems = _check_template(stage.prompt, (*at, "prompt"), known_variables(pattern, index))
    yield from problems
    if problems:
        return
    if not used & {"question", "item"}:
        yield Problem((*at, "prompt"), "the question is never shown: add {{ question }}")
    for sight in stage.sees:
        name = SIGHT_VARIABLES[sight]
        if name not in used:
            yield Problem((*at, "sees"), f"the prompt never shows {{{{ {name} }}}}")


def _check_template(source: str, at: Loc, known: tuple[str, ...]) -> tuple[set[str], list[Problem]]:
    """The variables a template names, and what is wrong with it."""
    try:
        tree = _ENVIRONMENT.parse(source)
    except jinja2.TemplateSyntaxError as error:
        return set(), [Problem(at, f"template: {error.message}", line=error.lineno)]
    used = jinja2.meta.find_undeclared_variables(tree)
    return used, [
        Problem(
            at,
            f"template: unknown variable {name!r}{suggestion(name, known)}; "
            f"known here: {', '.join(known)}",
            line=_line_of(name, source),
        )
        for name in sorted(used - set(known))
    ]


def _line_of(name: str, source: str) -> int:
    lines = source.splitlines()
    word = re.compile(rf"\{{[{{%].*\b{re.escape(name)}\b")
    return next((number for number, line in enumerate(lines, 1) if word.search(line)), 1)


# Rendering.


def check_syntax(source: str) -> None:
    """Raise `PatternError` for what is no template; what it names is seen when it is filled."""
    try:
        _compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise PatternError(f"the template, line {error.lineno}: {error.message}") from error


def render(source: str, values: Mapping[str, object], *, limit: int) -> str:
    """Fill a template of an operator's with values that are never rendered again.

    Raises:
        PatternError: the template failed, or became longer than `limit` characters.
    """
    pieces: list[str] = []
    size = 0
    try:
        for piece in _compiled(source).generate(values):
            size += len(piece)
            if size > limit:
                raise PatternError(f"a prompt became longer than {limit} characters")
            pieces.append(piece)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise PatternError(f"a template failed: {type(error).__name__}: {error}") from error
    return "".join(pieces).strip()


@lru_cache(maxsize=256)
def _compiled(source: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source)


# Reading.


class PatternLibrary(Mapping[str, Pattern]):
    """The patterns of some folders, by name. A file is checked when its pattern is first wanted.

    Files beside the built-in ones are read at once: however they are edited meanwhile, what there
    is of them fits together.

    >>> library = PatternLibrary()
    >>> "council" in library
    True

    Args:
        folders: Where to look besides the built-in ones; a later folder's file wins.
    """

    def __init__(self, *folders: Path) -> None:
        self._paths = {
            path.stem: path
            for folder in (packaged_configs() / "patterns", *folders)
            for path in sorted(folder.glob("*.yaml"))
        }
        self._loaded: dict[str, Pattern] = {}
        self._texts: dict[str, str] = {}
        for name, path in self._paths.items():
            if path.parent in folders:
                with suppress(ConfigError):  # what is wrong with it is told to who wants it
                    self._texts[name] = read_file(path)

    def __getitem__(self, name: str) -> Pattern:
        if name not in self._loaded:
            path = self._paths[name]
            is_installed = path.parent == packaged_configs() / "patterns"
            self._loaded[name] = (
                _installed(path) if is_installed else load_pattern(path, self._texts.get(name))
            )
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._paths  # without reading the file

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def digest(self) -> str:
        """What the files beside the built-in ones are called, all together; empty: none."""
        return _digest(self._texts) if self._texts else ""

    def path(self, name: str) -> Path:
        """The file of a pattern."""
        return self._paths[name]

    def load_all(self) -> dict[str, Pattern]:
        """Every pattern.

        Raises:
            PatternError: files that cannot be used, every problem of all of them.
        """
        problems: list[str] = []
        for name in self:
            try:
                self[name]
            except PatternError as error:
                problems += error.problems
        if problems:
            raise PatternError(problems)
        return dict(self._loaded)


def digest_of(patterns: Mapping[str, Pattern]) -> str:
    """What these patterns are called, all together; empty for the built-in ones."""
    if isinstance(patterns, PatternLibrary):
        return patterns.digest
    return _digest({name: patterns[name].model_dump_json() for name in patterns})


def _digest(texts: Mapping[str, str]) -> str:
    told = json.dumps(sorted(texts.items()))  # ASCII, whatever halves of characters there are
    return hashlib.sha256(told.encode()).hexdigest()


def load_pattern(path: Path, text: str | None = None) -> Pattern:
    """Read and check one pattern file; `text`: what was read of it already.

    Raises:
        PatternError: it cannot be used; one `file:line:col: message` for every problem.
    """
    try:
        source = read_yaml(read_file(path) if text is None else text, str(path))
    except ConfigError as error:
        raise PatternError(error.problems) from None
    found = list(source.problems)
    pattern = None
    if not found:
        try:
            pattern = Pattern.model_validate(source.plain())
        except ValidationError as error:
            found += [_placed(source, problem) for problem in _problems(error)]
    if pattern is not None and pattern.name != path.stem:
        message = f"A file is named for its pattern; this one would be {path.stem!r}"
        found.append(_placed(source, Problem(("name",), message)))
    if found or pattern is None:
        raise PatternError(source.lines(found))
    return pattern


@lru_cache(maxsize=64)
def _installed(path: Path) -> Pattern:
    """A built-in one, which stays as it is as long as the program does."""
    return load_pattern(path)


def _problems(error: ValidationError) -> Iterator[Problem]:
    for details in error.errors(include_url=False):
        loc, cause = details["loc"], details.get("ctx", {}).get("error")
        if isinstance(cause, Unfit):
            yield from cause.problems
        elif details["type"] == "extra_forbidden":
            known = Stage.model_fields if "stages" in loc else Pattern.model_fields
            word = str(loc[-1])
            yield Problem(loc, f"Unknown key {word!r}{suggestion(word, known)}", at_key=True)
        elif details["type"] == "missing":
            yield Problem(loc, f"{str(loc[-1])!r} is missing")
        else:
            yield Problem(loc, f"{_path(loc)}: {details['msg']}")


def _path(loc: Loc) -> str:
    return ".".join(str(part) for part in loc)


def _placed(source: YamlSource, problem: Problem) -> yaml_source.Problem:
    """The problem at the character it is about: inside a block of text, at its very line."""
    at = source.offset(problem.loc, key=problem.at_key)
    for _ in range(problem.line):
        at = source.text.find("\n", at) + 1 or at
    return yaml_source.Problem(at, problem.message)
