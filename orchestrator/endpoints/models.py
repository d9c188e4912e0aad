"""`GET /v1/models` and `GET /v1/models/{id}`: everything that `model` may name."""

from typing import Any
from urllib.parse import unquote

from orchestrator.endpoints.calls import Call, Reply, Service, json_reply
from orchestrator.errors import UnknownModel
from orchestrator.wire.fusion import FUSION
from orchestrator.yaml_source import suggestion


async def answer_all(service: Service, call: Call) -> Reply:
    """All that this caller may ask for."""
    found = [one for one in _models(service) if call.may_ask(one["id"])]
    return json_reply({"object": "list", "data": found})


async def answer_one(service: Service, call: Call) -> Reply:
    """One of them by its name."""
    name = unquote(call.path.removeprefix("/v1/models/"))
    found = {one["id"]: one for one in _models(service) if call.may_ask(one["id"])}
    if name not in found:
        raise UnknownModel(f"Unknown model {name!r}{suggestion(name, found)}")
    return json_reply(found[name])


def _models(service: Service) -> list[dict[str, Any]]:
    """Deployments, routes, panels, and panels by each pattern, as OpenAI lists models."""
    config = service.engine.config
    named = [(name, model.provider.value, "deployment") for name, model in config.models.items()]
    named += [(name, "orchestrator", "route") for name in config.routes]
    named += [(name, "orchestrator", "panel") for name in config.panels]
    named += [
        (f"{pattern}/{panel}", "orchestrator", "pattern")
        for panel in config.panels
        for pattern in service.engine.patterns
    ]
    if config.panels and "fusion" in service.engine.patterns:
        taken = {name for name, _, _ in named}
        named += [(name, "orchestrator", "pattern") for name in FUSION if name not in taken]
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": owner, "kind": kind}
        for name, owner, kind in named
    ]
