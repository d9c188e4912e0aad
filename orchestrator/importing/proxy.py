"""A litellm proxy's config.yaml: its model_list and its three sections of settings."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator.config import BreakerConfig, TimeoutsConfig
from orchestrator.importing.deployments import Entry, deployment, number
from orchestrator.importing.draft import Draft
from orchestrator.importing.endpoints import split
from orchestrator.importing.reading import Reading
from orchestrator.yaml_source import Loc

ROUTER, LITELLM = ("router_settings",), ("litellm_settings",)
BOTH = (ROUTER, LITELLM)
# What each way of choosing is here, and what is to be said of it.
STRATEGIES: Mapping[str, tuple[str, str]] = {
    "simple-shuffle": ("weighted", ""),
    "least-busy": ("least_busy", ""),
    "latency-based-routing": ("fastest", ""),
    "cost-based-routing": ("cheapest", ""),
    "usage-based-routing": ("least_busy", "by calls under way, not by tokens used"),
    "usage-based-routing-v2": ("least_busy", "by calls under way, not by tokens used"),
}
_CHAT = frozenset(("chat", "responses"))
# What is in the ids of models for something else, where nothing says what they are for.
_NO_CHAT = re.compile(
    r"(?i)(^|[-_./])(embed|embedding|embeddings|rerank|whisper|tts|dall-e|moderation|imagen)($|[-_.\d])"
)
_WINDOWS: tuple[tuple[int, str], ...] = (
    (60, "minute"),
    (3600, "hour"),
    (86_400, "day"),
    (2_592_000, "month"),
)
_UNITS: Mapping[str, int] = {
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 604_800,
    "mo": 2_592_000,
}
_SMALLEST = Decimal("1e-6")


@dataclass(frozen=True, slots=True)
class _Model:
    """An entry of the list that can be called."""

    at: Loc
    fields: Mapping[str, Any]
    order: Decimal | None


def translate(reading: Reading, draft: Draft) -> None:
    """Fill a draft from the file."""
    groups = _groups(reading, draft)
    fallbacks = _fallbacks(reading, draft, groups)
    _place(reading, draft, groups, fallbacks)
    _windows(reading, draft, LITELLM, {"scope": "global"})
    _timeouts(reading, draft)
    _retries(reading, draft)
    _cache(reading, draft)


# Models.


def _groups(reading: Reading, draft: Draft) -> dict[str, list[_Model]]:
    """The entries that can be called, by the name callers use."""
    groups: dict[str, list[_Model]] = {}
    for index in reading.indices(("model_list",)):
        at: Loc = ("model_list", index)
        group, entry = _entry(reading, at)
        mode = reading.text((*at, "model_info", "mode"))
        if not (mode in _CHAT if mode else not _NO_CHAT.search(entry.model)):
            told = draft.source.quote_value(mode or entry.model)
            by = "mode" if mode else "name"
            draft.left_out(at, f"it is no chat model, by its {by} {told}")
            reading.drop(at)
            continue
        fields = deployment(reading, draft, entry)
        if fields is not None:
            order = reading.number((*at, "litellm_params", "order"), least=-(10**6))
            groups.setdefault(group, []).append(_Model(at, fields, order))
    return groups


def _entry(reading: Reading, at: Loc) -> tuple[str, Entry]:
    params: Loc = (*at, "litellm_params")
    written = reading.written((*params, "model")) or ""
    group = reading.written((*at, "model_name")) or written
    prefix, model = split(written, reading.text((*params, "custom_llm_provider")))
    return group, Entry(
        at=at,
        name=group,
        prefix=prefix,
        model=model,
        model_at=(*params, "model"),
        bases=((*params, "api_base"), (*params, "base_url")),
        keys=((*params, "api_key"),),
        parts=(params, (*at, "model_info"), at),
    )


def _place(
    reading: Reading,
    draft: Draft,
    groups: Mapping[str, list[_Model]],
    fallbacks: Mapping[str, list[str]],
) -> None:
    """Give every model its name, and every name with several behind it a route."""
    strategy = _strategy(reading, draft)
    names = {
        group: draft.name(group, (*models[0].at, "model_name"), kind="model name")
        for group, models in groups.items()
    }
    members: dict[str, list[str]] = {}
    for group, models in groups.items():
        is_route = len(models) > 1 or bool(fallbacks.get(group))
        ordered = sorted(models, key=lambda model: (model.order is None, model.order or 0))
        own = [draft.numbered(names[group]) if is_route else names[group] for _ in ordered]
        for name, model in zip(own, ordered, strict=True):
            draft.models[name] = dict(model.fields)
            draft.places[model.at] = ("models", name)
            params: Loc = (*model.at, "litellm_params")
            _windows(reading, draft, params, {"scope": "deployment", "name": name})
        members[group] = own
    for group, own in members.items():
        chosen = strategy
        if any(model.order is not None for model in groups[group]) and len(own) > 1:
            chosen = "priority"
            told = "'order' is the order in the route, always; routing_strategy has no say in it"
            draft.note(groups[group][0].at, told, ("routes", names[group]))
        behind = _behind(own, (members[one] for one in fallbacks.get(group, ())))
        if len(own) > 1 or behind:
            draft.routes[names[group]] = _route(own, chosen, behind)
        elif fallbacks.get(group):
            draft.note(groups[group][0].at, "its only fallback is itself: it has none here")
    _aliases(reading, draft, names, members)


def _behind(own: list[str], targets: Iterable[list[str]]) -> list[str]:
    found = dict.fromkeys(name for target in targets for name in target)
    return [name for name in found if name not in own]


def _route(own: list[str], strategy: str, behind: list[str]) -> dict[str, Any]:
    route: dict[str, Any] = {"models": own}
    if len(own) > 1:
        route["strategy"] = strategy
    if behind:
        route["fallback"] = behind
    return route


def _strategy(reading: Reading, draft: Draft) -> str:
    loc: Loc = (*ROUTER, "routing_strategy")
    written = reading.text(loc) or "simple-shuffle"
    ours, caveat = STRATEGIES.get(written, ("weighted", "the strategy is not among ours"))
    if caveat:
        draft.note(loc, f"routing_strategy is {ours!r} here: {caveat}", ("routes",))
    return ours


def _aliases(
    reading: Reading, draft: Draft, names: Mapping[str, str], members: Mapping[str, list[str]]
) -> None:
    """Other names for the same: routes of their own."""
    table: Loc = (*ROUTER, "model_group_alias")
    for alias in reading.keys(table):
        loc: Loc = (*table, alias)
        target = reading.text(loc) or reading.text((*loc, "model"))
        if target is None or target not in names:
            draft.left_out(loc, "it stands for no model that is left")
            reading.drop(loc)
        elif alias in names:
            draft.left_out(loc, "a model has that name already")
            reading.drop(loc)
        else:
            name = draft.name(alias, loc, kind="alias")
            same = draft.routes.get(names[target], {"models": members[target]})
            draft.routes[name] = dict(same)
            draft.places[loc] = ("routes", name)


# Fallbacks.


def _fallbacks(
    reading: Reading, draft: Draft, groups: Mapping[str, list[_Model]]
) -> dict[str, list[str]]:
    """For each name, the names to try when it fails, those for single names before the others."""
    found: dict[str, list[str]] = {group: [] for group in groups}
    everyone: list[str] = []
    for kind in ("fallbacks", "context_window_fallbacks"):
        for loc, group in _pairs(reading, kind):
            targets = _known(reading, draft, loc, groups)
            if group == "*":
                everyone += targets
            elif group not in found:
                draft.left_out(loc, "it is for no model that is left")
                reading.drop(loc)
            else:
                found[group] += targets
                if kind != "fallbacks" and targets:
                    told = "a fallback for long prompts is one for every failure here"
                    draft.note(loc, told)
    for part in BOTH:
        everyone += _known(reading, draft, (*part, "default_fallbacks"), groups)
    return {
        group: [one for one in dict.fromkeys([*own, *everyone]) if one != group]
        for group, own in found.items()
    }


def _pairs(reading: Reading, kind: str) -> Iterator[tuple[Loc, str]]:
    """Where the fallbacks of a name stand, and the name."""
    for part in BOTH:
        loc: Loc = (*part, kind)
        for index in reading.indices(loc):
            for group in reading.keys((*loc, index)):
                yield (*loc, index, group), group


def _known(
    reading: Reading, draft: Draft, loc: Loc, groups: Mapping[str, list[_Model]]
) -> list[str]:
    """The names in a list of fallbacks that a model has."""
    found = reading.texts(loc)
    for place, name in found.items():
        if name not in groups:
            draft.left_out(place, "no model that is left has that name")
    return [name for name in found.values() if name in groups]


# Limits.


def _windows(reading: Reading, draft: Draft, part: Loc, scope: Mapping[str, str]) -> None:
    """A budget of the proxy, or of one model."""
    loc: Loc = (*part, "max_budget")
    money = reading.number(loc, least=_SMALLEST, most=10**9)
    if money is None:
        return
    every, told = _every(reading.written((*part, "budget_duration")))
    if told:
        draft.note(loc, f"max_budget is for each {every} here: {told}", ("budgets",))
    windows = draft.settings.setdefault("budgets", {}).setdefault("windows", [])
    windows.append({**scope, "every": every, "money_usd": number(money)})


def _every(duration: str | None) -> tuple[str, str]:
    """The window for a duration, the next longer one at need, and what is to be said of it."""
    if duration is None:
        return "month", "a limit for all time has no equivalent"
    parts = re.fullmatch(r"(\d{1,9})(s|m|h|d|w|mo)", duration.strip())
    if parts is None:
        return "month", "budget_duration is none such as 30d"
    seconds = int(parts[1]) * _UNITS[parts[2]]
    for length, every in _WINDOWS:
        if seconds <= length:
            same = seconds == length and every != "month"
            return every, "" if same else _not_quite(duration.strip(), every)
    return "month", f"there is no window of {duration.strip()}"


def _not_quite(duration: str, every: str) -> str:
    if every == "month" and duration in {"30d", "1mo"}:
        return "by the calendar, in UTC"
    return f"there is no window of {duration}, and the next longer one spends no more"


def _one(
    reading: Reading,
    keys: Iterable[tuple[Loc, str]],
    *,
    least: Decimal | int = 0,
    is_whole: bool = False,
) -> Decimal | None:
    """The first of several numbers that there is; those behind it are left, to be told of."""
    for part, key in keys:
        value = reading.number((*part, key), least=least, most=10**9, is_whole=is_whole)
        if value is not None:
            return value
    return None


def _timeouts(reading: Reading, draft: Draft) -> None:
    keys = ((ROUTER, "timeout"), (LITELLM, "request_timeout"))
    total = _one(reading, keys, least=_SMALLEST)
    if total is None:
        return
    found = {"total_s": number(total)}
    # A run may take as long as one of its calls, and a breaker waits for the end of its probe.
    if total > TimeoutsConfig().run_s:
        found["run_s"] = number(total)
    if total > BreakerConfig().probe_s:
        draft.settings["breaker"] = {"probe_s": number(total)}
    draft.settings["timeouts"] = found


def _retries(reading: Reading, draft: Draft) -> None:
    again = _one(reading, ((ROUTER, "num_retries"), (LITELLM, "num_retries")), is_whole=True)
    if again is not None:
        draft.settings["retry"] = {"attempts": min(10, int(again) + 1)}
        if again > 9:
            loc = (*ROUTER, "num_retries")
            draft.note(loc, "num_retries is more than retry.attempts can be, 10", ("retry",))
    fails = _one(reading, ((ROUTER, "allowed_fails"), (LITELLM, "allowed_fails")), is_whole=True)
    pause = _one(reading, ((ROUTER, "cooldown_time"), (LITELLM, "cooldown_time")), least=_SMALLEST)
    breaker = draft.settings.pop("breaker", {})
    if fails is not None:
        breaker["failures"] = int(fails) + 1
    if pause is not None:
        breaker["open_s"] = number(pause)
    if breaker:
        draft.settings["breaker"] = breaker


def _cache(reading: Reading, draft: Draft) -> None:
    """Whether answers are kept; where they are is always a folder here."""
    if not reading.flag((*LITELLM, "cache")):
        return
    params: Loc = (*LITELLM, "cache_params")
    ttl = reading.number((*params, "ttl"), least=_SMALLEST, most=10**9)
    draft.settings["cache"] = {} if ttl is None else {"ttl_s": number(ttl)}
    kind = reading.text((*params, "type"))
    if kind not in {None, "disk"}:
        draft.note((*params, "type"), "answers are kept in a folder here", ("cache",))
