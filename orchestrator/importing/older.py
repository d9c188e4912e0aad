"""The older `{name: {provider, api_key, parameters}}`, alone or under `models` with defaults."""

import functools
from typing import Any

from adapters.config import LLMProvider
from orchestrator.config import load_config, packaged_configs
from orchestrator.importing.deployments import Entry, deployment, number
from orchestrator.importing.draft import Draft
from orchestrator.importing.endpoints import ENDPOINTS, split
from orchestrator.importing.reading import Reading
from orchestrator.yaml_source import Loc, MappingNode, Node, ScalarNode, YamlSource, child

DEFAULTS = ("default_ultra_model", "default_models", "caching")
_MODEL = ("model", "model_name", "model_id")
_BASE = ("api_base", "base_url", "endpoint")
_LEAST_MEMBERS, _MOST_MEMBERS = 2, 32


def is_ours(source: YamlSource) -> bool:
    """Whether a file is a configuration of ours."""
    models = source.find(("models",))
    if not isinstance(models, MappingNode) or any(source.find((key,)) for key in DEFAULTS):
        return False
    entries = list(models.entries.values())
    providers = {provider.value for provider in LLMProvider}
    return not any(child(entry, "parameters") for entry in entries) and any(
        _is_text(child(entry, "model"))
        and isinstance(provider := child(entry, "provider"), ScalarNode)
        and provider.value in providers
        for entry in entries
    )


def fits(source: YamlSource) -> bool:
    """Whether a file is of this kind."""
    entries = source.find(_root(source))
    return isinstance(entries, MappingNode) and any(
        _is_text(child(entry, "provider")) for entry in entries.entries.values()
    )


def translate(reading: Reading, draft: Draft) -> None:
    """Fill a draft from the file."""
    root = _root(reading.source)
    names: dict[str, str] = {}
    for written in reading.keys(root):
        at: Loc = (*root, written)
        if not reading.keys(at):
            continue  # told of with whatever else is left
        entry = _entry(reading, at, written)
        fields = deployment(reading, draft, entry)
        if fields is not None:
            if entry.model_at == at:
                taken = f"{entry.model!r} is taken, write another if it is not meant"
                draft.note(at, f"no model is named; {taken}")
            names[written] = draft.name(written, at)
            draft.models[names[written]] = fields
            draft.places[at] = ("models", names[written])
    if root:
        _panel(reading, draft, names)
        _cache(reading, draft)


def _root(source: YamlSource) -> Loc:
    """Where the models are."""
    return ("models",) if isinstance(source.find(("models",)), MappingNode) else ()


def _is_text(node: Node | None) -> bool:
    return isinstance(node, ScalarNode) and isinstance(node.value, str)


def _entry(reading: Reading, at: Loc, name: str) -> Entry:
    parts = (at, (*at, "parameters"))
    places = [(*part, key) for part in parts for key in _MODEL]
    model_at = next((place for place in places if reading.written(place) is not None), None)
    provider = (reading.text((*at, "provider")) or "").strip().lower()
    if model_at is None:
        written = _usual_model(provider, name)
        model_at = at
    else:
        written = reading.written(model_at) or ""
    prefix, model = split(written, provider or None)
    return Entry(
        at=at,
        name=name,
        prefix=prefix,
        model=model,
        model_at=model_at,
        bases=tuple((*part, key) for part in parts for key in _BASE),
        keys=tuple((*part, "api_key") for part in parts),
        parts=parts,
    )


def _usual_model(provider: str, name: str) -> str:
    """The model of an entry that names none: its name, or the one that we come with."""
    if split(name, None)[0] in ENDPOINTS:
        return name
    endpoint = ENDPOINTS.get(provider)
    return _packaged_models().get(endpoint.provider, name) if endpoint else name


@functools.cache
def _packaged_models() -> dict[str, str]:
    """The first model of each provider in the configuration that we come with."""
    packaged = load_config(packaged_configs() / "orchestrator.yaml").models.values()
    return {one.provider.value: one.model for one in reversed(packaged)}


def _panel(reading: Reading, draft: Draft, names: dict[str, str]) -> None:
    """The models that were asked by default, as the panel that is asked by default."""
    chosen = _names(reading, draft, ("default_models",), names)
    writer = _names(reading, draft, ("default_ultra_model",), names)
    if not chosen and not writer:
        return
    members = list(dict.fromkeys(chosen or names.values()))
    if len(members) < _LEAST_MEMBERS:
        draft.note(("default_models",), "one model alone makes no panel; ask for it by its name")
        return
    if len(members) > _MOST_MEMBERS:
        draft.note(("default_models",), f"a panel has {_MOST_MEMBERS} members at most")
    panel: dict[str, Any] = {"members": members[:_MOST_MEMBERS]}
    if writer:
        panel["synthesizer"] = writer[0]
    name = draft.name("council", ("default_models",), kind="panel")
    draft.panels[name] = panel
    for key in ("default_models", "default_ultra_model"):
        draft.places[key,] = ("panels", name)


def _names(reading: Reading, draft: Draft, loc: Loc, names: dict[str, str]) -> list[str]:
    found = reading.texts(loc)
    for place, name in found.items():
        if name not in names:
            draft.left_out(place, "no model that is left has that name")
    return [names[name] for name in found.values() if name in names]


def _cache(reading: Reading, draft: Draft) -> None:
    if not reading.flag(("caching", "enabled")):
        return
    ttl = reading.number(("caching", "ttl"), least=1, most=10**9)
    draft.settings["cache"] = {} if ttl is None else {"ttl_s": number(ttl)}
