"""`GET /v1/models` and `GET /v1/models/{id}`: everything that `model` may name.

OpenAI and Anthropic have the same paths for it. Whoever says which version of Anthropic's API is
meant, as its SDKs always do, is told in Anthropic's shapes.
"""

from urllib.parse import unquote

from orchestrator.endpoints.calls import Call, Reply, Service, json_reply
from orchestrator.errors import UnknownModel
from orchestrator.wire.fusion import FUSION
from orchestrator.wire.models import Listed, anthropic_json, model_json, page_json
from orchestrator.wire.orchestration import ignored_header
from orchestrator.yaml_source import suggestion

PATH = "/v1/models"
_VERSION = "anthropic-version"
_VARIES = {"vary": _VERSION}  # whoever keeps replies keeps each shape for itself


async def answer_all(service: Service, call: Call) -> Reply:
    """All that this caller may ask for."""
    found = [one for one in _models(service) if call.may_ask(one.name)]
    if speaks_anthropic(call):
        page, ignored = page_json(found, call.query)
        return json_reply(page, _VARIES | ignored_header(ignored))
    listed = {"object": "list", "data": [model_json(one) for one in found]}
    return json_reply(listed, _VARIES)


async def answer_one(service: Service, call: Call) -> Reply:
    """One of them by its name."""
    name = unquote(call.path.removeprefix(f"{PATH}/"))
    found = {one.name: one for one in _models(service) if call.may_ask(one.name)}
    if name not in found:
        raise UnknownModel(f"Unknown model {name!r}{suggestion(name, found)}")
    as_json = anthropic_json if speaks_anthropic(call) else model_json
    return json_reply(as_json(found[name]), _VARIES)


def speaks_anthropic(call: Call) -> bool:
    """Whether a call is for models, and from somebody who knows them in Anthropic's words."""
    is_here = call.path == PATH or call.path.startswith(f"{PATH}/")
    return is_here and _VERSION in call.headers


def _models(service: Service) -> list[Listed]:
    """Deployments, routes, panels, and panels by each pattern."""
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
    return [Listed(name=name, owner=owner, kind=kind) for name, owner, kind in named]
