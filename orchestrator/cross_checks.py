"""Check what no single field of a configuration can tell: that its names and numbers fit together.

Everything is read leniently from the file as it stands, so that contradictions are found together
with whatever else is wrong with it.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from adapters.config import ENV_REFERENCE
from orchestrator.yaml_source import (
    ListNode,
    Loc,
    MappingNode,
    Problem,
    ScalarNode,
    YamlSource,
    suggestion,
)

SECTIONS: Mapping[str, str] = {"models": "model", "routes": "route", "panels": "panel"}
# Two numbers of a section of which the first may not be the larger one.
ORDERED = (("budgets", "min_tokens", "max_tokens"), ("retry", "base_s", "cap_s"))


def cross_check(
    source: YamlSource, patterns: Collection[str], defaults: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """Every contradiction in a configuration file.

    Args:
        patterns: The names of all patterns there are.
        defaults: What the keys of a section are where the file does not give them.
    """
    config = source.plain()
    assert isinstance(config, dict)
    yield from _shared_names(source, config)
    for name, model in _mapping(config.get("models")).items():
        yield from _check_model(source, ("models", name), _mapping(model))
    for name, route in _mapping(config.get("routes")).items():
        yield from _check_route(source, ("routes", name), _mapping(route), config)
    for name, panel in _mapping(config.get("panels")).items():
        yield from _check_panel(source, ("panels", name), _mapping(panel), config)
        yield from _check_pattern(source, ("panels", name, "pattern"), patterns)
    yield from _check_budgets(source, config)
    for section, lower, upper in ORDERED:
        given = _mapping(config.get(section))
        yield from _check_order(source, section, (lower, upper), given, defaults[section])
    for section, wrong in (("ledger", wrong_database), ("limits", wrong_redis)):
        yield from _check_url(source, (section, "url"), wrong)
    for section in ("cache", "ledger"):
        meant = f"write {section}: {{}} for its defaults"
        yield from _check_given(source, (section,), meant)
    for loc in (("patterns_dir",), ("cache", "folder")):
        yield from _check_no_reference(source, loc)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(source: YamlSource, loc: Loc) -> str | None:
    """The text at a path, if there is one; a value that YAML reads as a number is none."""
    node = source.find(loc)
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None


def _length(source: YamlSource, loc: Loc) -> int:
    node = source.find(loc)
    return len(node.items) if isinstance(node, ListNode) else 0


# Names.


def _shared_names(source: YamlSource, config: Mapping[str, Any]) -> Iterator[Problem]:
    """A caller's word must mean one thing: models, routes and panels share their names."""
    taken: dict[str, str] = {}
    for section, kind in SECTIONS.items():
        for name in _mapping(config.get(section)):
            if name in taken:
                message = (
                    f"The name {source.quote_key(name)} of this {kind} is already that of a"
                    f" {taken[name]}; rename one of them"
                )
                yield Problem(source.offset((section, name), key=True), message)
            taken.setdefault(name, kind)


def _check_references(source: YamlSource, loc: Loc, config: Mapping[str, Any]) -> Iterator[Problem]:
    """A list of models: each is one, and none comes twice."""
    yield from _check_once(source, loc)
    seen: set[str | None] = set()
    for index in range(_length(source, loc)):
        name = _text(source, (*loc, index))
        if name not in seen:
            yield from _check_reference(source, (*loc, index), config)
        seen.add(name)


def _check_once(source: YamlSource, loc: Loc) -> Iterator[Problem]:
    """No entry of a list comes twice."""
    seen: Counter[str] = Counter()
    for index in range(_length(source, loc)):
        name = _text(source, (*loc, index))
        if name is None:
            continue
        seen[name] += 1
        if seen[name] == 2:
            message = f"{source.quote_value(name)} is twice in {source.where(loc)}; name it once"
            yield Problem(source.offset((*loc, index)), message)


def _check_reference(source: YamlSource, loc: Loc, config: Mapping[str, Any]) -> Iterator[Problem]:
    """One name of a model."""
    name, models = _text(source, loc), source.find(("models",))
    if name is None or not isinstance(models, MappingNode) or not models.whole:
        return
    if name in models.entries:
        return
    place = source.where(tuple(step for step in loc if isinstance(step, str)))
    quoted = source.quote_value(name)
    kind = next((kind for part, kind in SECTIONS.items() if name in _mapping(config.get(part))), "")
    known = [model for model in models.entries if source.may_show(model)]
    if kind:
        message = f"{quoted} in {place} is a {kind}; only models can stand here"
    else:
        advice = suggestion(name, known) or f"; the models are {_listed(known)}"
        message = f"Unknown model {quoted} in {place}{advice}"
    yield Problem(source.offset(loc), message)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(islice(names, 12))
    return shown + (", ..." if len(names) > 12 else "") if names else "none"


def _check_pattern(source: YamlSource, loc: Loc, patterns: Collection[str]) -> Iterator[Problem]:
    name = _text(source, loc)
    if name is not None and name not in patterns:
        known = sorted(patterns)
        advice = suggestion(name, known) or f"; the patterns are {_listed(known)}"
        message = f"Unknown pattern {source.quote_value(name)} in {source.where(loc)}{advice}"
        yield Problem(source.offset(loc), message)


# Routes and panels.


def _check_route(
    source: YamlSource, loc: Loc, route: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Problem]:
    yield from _check_references(source, (*loc, "models"), config)
    yield from _check_references(source, (*loc, "fallback"), config)
    yield from _check_apart(source, loc, "fallback", _texts(route.get("models")), "models")


def _check_panel(
    source: YamlSource, loc: Loc, panel: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Problem]:
    yield from _check_references(source, (*loc, "members"), config)
    yield from _check_reference(source, (*loc, "synthesizer"), config)
    yield from _check_references(source, (*loc, "fallback_synthesizers"), config)
    first = _texts([panel.get("synthesizer")])
    yield from _check_apart(source, loc, "fallback_synthesizers", first, "synthesizer")
    quorum, size = panel.get("quorum"), _length(source, (*loc, "members"))
    if type(quorum) is int and 0 < size < quorum:
        message = (
            f"{source.where(loc)}.quorum is {quorum}, but the panel has {size} members;"
            f" write {size} or less"
        )
        yield Problem(source.offset((*loc, "quorum")), message)


def _texts(values: Any) -> set[str]:
    return (
        {value for value in values if isinstance(value, str)} if isinstance(values, list) else set()
    )


def _check_apart(
    source: YamlSource, loc: Loc, later: str, earlier: set[str], where: str
) -> Iterator[Problem]:
    """Whoever has failed already is no fallback."""
    for index in range(_length(source, (*loc, later))):
        name = _text(source, (*loc, later, index))
        if name in earlier:
            quoted, place = source.quote_value(name), source.where(loc)
            message = f"{quoted} in {place}.{later} is already in {place}.{where}; remove it here"
            yield Problem(source.offset((*loc, later, index)), message)


# Models.


def _check_model(source: YamlSource, loc: Loc, model: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _check_no_reference(source, (*loc, "model"))
    yield from _check_edges(source, (*loc, "model"))
    yield from _check_key(source, (*loc, "api_key"))
    yield from _check_base(source, (*loc, "api_base"))
    yield from _check_price(source, (*loc, "price"), model.get("price"))


def _check_no_reference(source: YamlSource, loc: Loc) -> Iterator[Problem]:
    if re.search(r"\$\{|^\$\w+$", _text(source, loc) or ""):
        message = (
            f"{source.where(loc)} is not read from the environment;"
            " only api_key, api_base, ledger.url and limits.url are, so write the value itself"
        )
        yield Problem(source.offset(loc), message)


def _check_edges(source: YamlSource, loc: Loc) -> Iterator[Problem]:
    text = _text(source, loc) or ""
    if text and (text != text.strip() or not text.isprintable()):
        message = f"{source.where(loc)} has spaces or line breaks around its value; remove them"
        yield Problem(source.offset(loc), message)


def _check_key(source: YamlSource, loc: Loc) -> Iterator[Problem]:
    key = _text(source, loc)
    if key is None:
        return
    wrong = wrong_reference(key)
    if wrong:
        yield Problem(source.offset(loc), f"{source.where(loc)}: {wrong}")
    elif not key.strip():
        message = "is empty; write ${NAME}, or remove the line to use the provider's own variable"
        yield Problem(source.offset(loc), f"{source.where(loc)} {message}")
    elif re.search(r"[^\x21-\x7e]", key):
        message = "has a space, a line break or a letter that no key has; remove it"
        yield Problem(source.offset(loc), f"{source.where(loc)} {message}")


def _check_base(source: YamlSource, loc: Loc) -> Iterator[Problem]:
    base = _text(source, loc)
    if base is None:
        return
    if wrong := wrong_reference(base):
        yield Problem(source.offset(loc), f"{source.where(loc)}: {wrong}")
    elif not is_address(base):
        message = "must be an address such as http://127.0.0.1:8080/v1"
        yield Problem(source.offset(loc), f"{source.where(loc)} {message}")


def is_address(base: str) -> bool:
    """Whether this is an http address, or may become one when its `${NAME}` is replaced."""
    if ENV_REFERENCE.match(base):
        return True
    text = ENV_REFERENCE.sub("1", base)
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no port
    except ValueError:
        return False
    printable = not re.search(r"[^\x21-\x7e]", text)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and printable


def wrong_reference(text: str) -> str:
    """What is wrong with the way a text refers to the environment; nothing, if nothing is."""
    rest = ENV_REFERENCE.sub("", text)
    if re.match(r"\$[A-Za-z_]\w*$", rest) or ("://" in rest and re.search(r"\$[A-Za-z_]", rest)):
        return "A variable is written ${NAME}, with braces"
    if "${" not in rest:
        return ""
    inside = rest.partition("${")[2]
    if "}" not in inside:
        return "The brace after '${' is not closed; write ${NAME}"
    name = inside.partition("}")[0]
    if not name:
        return "'${}' names no variable; write ${NAME}"
    if re.match(r"\w+:?[-=?+]", name) and ":" in name:
        return "Defaults are not supported; write ${NAME} and set the variable"
    return "A variable's name has letters, digits and '_' only; write ${NAME}"


def _check_price(source: YamlSource, loc: Loc, price: Any) -> Iterator[Problem]:
    prices = _mapping(price)
    yield from _check_money(source, loc, prices)
    if prices and all(prices.get(name) in (0, 0.0) for name in ("input_usd", "output_usd")):
        message = f"{source.where(loc)} is zero; write price: free if calls cost nothing"
        yield Problem(source.offset(loc), message)


def _check_money(source: YamlSource, loc: Loc, amounts: Mapping[str, Any]) -> Iterator[Problem]:
    """Amounts of money are numbers: in quotes they would be read, but no editor's schema does."""
    for name in amounts:
        if name.endswith("_usd") and re.fullmatch(r"[0-9.]+", _text(source, (*loc, name)) or ""):
            where = source.where((*loc, name))
            message = f"{where} must be a number, found text; remove the quotes"
            yield Problem(source.offset((*loc, name)), message)


# Budgets.


def _check_budgets(source: YamlSource, config: Mapping[str, Any]) -> Iterator[Problem]:
    budgets = _mapping(config.get("budgets"))
    yield from _check_limits(source, ("budgets", "per_run"), _mapping(budgets.get("per_run")))
    yield from _check_once(source, ("budgets", "shrink"))
    windows = budgets.get("windows")
    seen: dict[tuple[Any, ...], Loc] = {}
    for index, entry in enumerate(windows if isinstance(windows, list) else ()):
        loc, window = ("budgets", "windows", index), _mapping(entry)
        yield from _check_window(source, loc, window, config)
        whose = tuple(str(window.get(key)) for key in _WHOSE)
        if window and whose in seen:
            message = (
                f"{source.where(loc)} is for the same as {source.where(seen[whose])};"
                " write their limits into one"
            )
            yield Problem(source.offset(loc), message)
        seen.setdefault(whose, loc)


_WHOSE = ("scope", "every", "name")
_LIMITS = ("money_usd", "tokens", "calls", "time_s")


def _check_limits(source: YamlSource, loc: Loc, limits: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _check_money(source, loc, limits)
    for name in (*_LIMITS, "name"):
        yield from _check_given(source, (*loc, name), "give a value")


def _check_given(source: YamlSource, loc: Loc, advice: str) -> Iterator[Problem]:
    """A key with nothing behind it would pass for one that is not there: no limit, no cache."""
    node = source.find(loc)
    if isinstance(node, ScalarNode) and not node.text and node.value is None:
        message = f"{source.where(loc)} is empty; {advice}, or remove the line"
        yield Problem(source.offset(loc, key=True), message)


def _check_window(
    source: YamlSource, loc: Loc, window: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Problem]:
    yield from _check_limits(source, loc, window)
    if window and not set(window).difference(_WHOSE):  # a mistyped limit is told of elsewhere
        message = f"{source.where(loc)} limits nothing; add one of {', '.join(_LIMITS)}"
        yield Problem(source.offset(loc), message)
    name: Loc = (*loc, "name")
    if window.get("scope") == "deployment":
        yield from _check_reference(source, name, config)
    if window.get("scope") == "global" and window.get("name") is not None:
        message = f"{source.where(name)} names one of many, but the scope is all; remove it"
        yield Problem(source.offset(name), message)


def _check_order(
    source: YamlSource,
    section: str,
    keys: tuple[str, str],
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> Iterator[Problem]:
    """Of two numbers, the first may not be the larger one."""
    lower, upper = (_figure(given.get(key, defaults[key])) for key in keys)
    if lower is None or upper is None or lower <= upper:
        return
    names = [
        f"{section}.{key}" + ("" if key in given else f" ({defaults[key]:g} if not given)")
        for key in keys
    ]
    wrong = keys[0] if keys[0] in given else keys[1]
    message = f"{names[0]} is more than {names[1]}; lower the first or raise the second"
    yield Problem(source.offset((section, wrong)), message)


def _figure(value: Any) -> float | None:
    """A number that can be compared; whatever is wrong with any other is told of elsewhere."""
    return value if type(value) in {int, float} and 0 < value < 10**16 else None


# The ledger, and where rates are counted.

_DATABASE_EXAMPLES = 'sqlite:///ledger.db or "postgresql://user:${PASSWORD}@host/name"'


def _check_url(source: YamlSource, loc: Loc, wrong: Callable[[str], str]) -> Iterator[Problem]:
    url = _text(source, loc)
    if url is not None and (found := wrong(url)):
        yield Problem(source.offset(loc), f"{source.where(loc)} {found}")


def wrong_database(url: str) -> str:
    """What is wrong with the address of a database; nothing, if nothing is. Repeats no password."""
    if wrong := wrong_reference(url):
        return f"cannot be read: {wrong}"
    if ENV_REFERENCE.match(url):
        return ""
    scheme, slashes, rest = url.partition("://")
    if not slashes or not re.fullmatch(r"[a-z][a-z0-9+_]*", scheme):
        return f"must be the address of a database, such as {_DATABASE_EXAMPLES}"
    if scheme not in DATABASES:
        return f"names a database that is not supported; write {_DATABASE_EXAMPLES}"
    if DATABASES[scheme] == "sqlite" and rest and not rest.startswith("/"):
        return "has a path with two slashes before it; write three: sqlite:///ledger.db"
    if not url.isprintable() or (url != url.strip()):
        return "has spaces or line breaks around its value; remove them"
    return ""


# What people write, and what SQLAlchemy calls it.
DATABASES: Mapping[str, str] = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


_REDIS_EXAMPLES = '"redis://127.0.0.1:6379/0" or "redis://:${PASSWORD}@host:6379/0"'
_REDIS_SCHEMES = frozenset(("redis", "rediss", "unix"))
_REDIS_OPTIONS = frozenset(("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"))


def wrong_redis(url: str) -> str:
    """What is wrong with the address of a Redis; nothing, if nothing is. Repeats no password."""
    if wrong := wrong_reference(url):
        return f"cannot be read: {wrong}"
    if ENV_REFERENCE.match(url):
        return ""
    text = ENV_REFERENCE.sub("1", url)
    if not text.isprintable() or " " in text:
        return "has spaces or line breaks in it; remove them"
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no port
    except ValueError:
        return f"must be the address of a Redis, such as {_REDIS_EXAMPLES}"
    place = parts.path if parts.scheme == "unix" else parts.hostname
    if parts.scheme not in _REDIS_SCHEMES or not place:
        return f"must be the address of a Redis, such as {_REDIS_EXAMPLES}"
    if parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", parts.path):
        return "names its database by a number, as in redis://host:6379/0"
    if {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - _REDIS_OPTIONS:
        return f"may have these options only: {', '.join(sorted(_REDIS_OPTIONS))}"
    return ""
