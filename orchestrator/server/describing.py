"""What the gateway offers, as OpenAPI tells it."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from orchestrator.endpoints import ROUTES, Answering, messages, older
from orchestrator.server.metrics import CONTENT_TYPE
from orchestrator.wire.chat import ChatBody
from orchestrator.wire.embeddings import EmbeddingsBody
from orchestrator.wire.messages import CountBody, MessagesBody
from orchestrator.wire.native import RunBody
from orchestrator.wire.reading import Body
from orchestrator.wire.responses import ResponsesBody

Json = dict[str, Any]

# What is wanted in the body of a request. Where nothing stands here, any object is.
BODIES: Mapping[str, type[Body]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/embeddings": EmbeddingsBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/v1/orchestrations": RunBody,
    "/v1/responses": ResponsesBody,
}
PAGES: Mapping[str, tuple[str, str]] = {
    "/health": ("Whether the gateway is alive.", "application/json"),
    "/ready": ("Whether it takes requests.", "application/json"),
    "/metrics": ("What it counts, for Prometheus.", CONTENT_TYPE),
    "/openapi.json": ("This description.", "application/json"),
    "/docs": ("This description for people.", "text/html; charset=utf-8"),
}
OPEN: Mapping[int, str] = {
    421: "The server is not asked under this name.",
    431: "The headers are too large.",
    503: "It is overloaded, shutting down, or nobody is left to ask; try again.",
}
REFUSALS: Mapping[int, str] = {401: "The key is none.", 404: "There is no such thing.", **OPEN}
BODY_REFUSALS: Mapping[int, str] = {
    400: "The body is not what is wanted.",
    403: "The key may not ask for this model, or the provider refuses ours.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON, or is encoded.",
    429: "A limit is reached; try again later.",
    500: "The gateway has failed.",
    502: "The provider has failed.",
    504: "It took too long.",
}
_SCHEMA = "#/components/schemas/{model}"
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC_ERROR: Json = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


@cache
def openapi() -> Json:
    """The whole description."""
    bodies = sorted(set(BODIES.values()), key=lambda body: body.__name__)
    _, found = models_json_schema([(body, "validation") for body in bodies], ref_template=_SCHEMA)
    paths: dict[str, Json] = {}
    for (method, path), answer in ROUTES.items():
        paths.setdefault(_template(path), {})[method.lower()] = _endpoint(method, path, answer)
    for path, (summary, media_type) in PAGES.items():
        paths[path] = {"get": _page(path, summary, media_type)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM orchestration gateway", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {
                **found.get("$defs", {}),
                "Error": _ERROR,
                "AnthropicError": _ANTHROPIC_ERROR,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _template(path: str) -> str:
    return f"{path}{{id}}" if path.endswith("/") else path


def _endpoint(method: str, path: str, answer: Answering) -> Json:
    told: Json = {
        "summary": _first_line(answer.__doc__),
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "security": [{"key": []}],
        "responses": {"200": _reply("What was asked for.", "application/json", {})},
    }
    if (method, path) in older.ROUTES:
        told["deprecated"] = True
    if path.endswith("/"):
        name: Json = {"type": "string", "minLength": 1}
        told["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": name}]
    refusals = REFUSALS
    if method == "POST":
        refusals = {**REFUSALS, **BODY_REFUSALS}
        body = BODIES.get(path)
        schema = {"$ref": _SCHEMA.format(model=body.__name__)} if body else {"type": "object"}
        told["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        told["responses"]["200"]["content"]["text/event-stream"] = {}
    told["responses"] |= _refused(refusals, _error_of(path))
    return told


def _error_of(path: str) -> Json:
    """What an error looks like to the callers of a path."""
    if any(path == known for _, known in older.ROUTES):
        return {"type": "object"}  # as many shapes as there were versions
    name = "AnthropicError" if messages.speaks_anthropic(path) else "Error"
    return {"$ref": _SCHEMA.format(model=name)}


def _page(path: str, summary: str, media_type: str) -> Json:
    is_open = path in {"/health", "/ready"}
    told: Json = {
        "summary": summary,
        "operationId": re.sub(r"\W+", "_", path).strip("_"),
        "responses": {"200": _reply("It is told.", media_type, {})},
    }
    if not is_open:
        told["security"] = [{"key": []}]
    refusals = OPEN if is_open else {401: REFUSALS[401], **OPEN}
    told["responses"] |= _refused(refusals, _error_of(path))
    return told


def _reply(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _refused(statuses: Mapping[int, str], schema: Json) -> Json:
    return {
        str(status): _reply(why, "application/json", schema)
        for status, why in sorted(statuses.items())
    }


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
