"""What the gateway says of itself: that it lives, what it offers, what it counts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from adapters import MockAdapter, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import PanelConfig
from orchestrator.endpoints import ROUTES
from orchestrator.endpoints.older import ROUTES as OLDER
from orchestrator.server.app import create_app
from orchestrator.server.describing import BODIES, PAGES, openapi
from orchestrator.server.page import page

WITHOUT_LITELLM = """
import asyncio, sys
from pathlib import Path
import httpx
from adapters import MockAdapter, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import CacheConfig
from orchestrator.server import run, workers
from orchestrator.server.app import create_app

CONFIG = OrchestratorConfig(
    models={"one": ModelConfig(provider="openai", model="gpt-5-mini", api_key="k")},
    cache=CacheConfig(),
)
ASK = {"model": "one", "messages": [{"role": "user", "content": "Why?"}]}

async def main():
    async with EnhancedOrchestrator(CONFIG, adapters={"one": MockAdapter(["Because."])}) as before:
        await before.execute_request(RequestConfig(messages=ASK["messages"], model="one"))
    engine = EnhancedOrchestrator(CONFIG)
    transport = httpx.ASGITransport(create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models"):
            assert (await client.get(path)).status_code == 200, path
        for _ in range(3):
            reply = await client.post("/v1/chat/completions", json=ASK)
            assert reply.json()["choices"][0]["message"]["content"] == "Because.", reply.text
        streamed = await client.post("/v1/chat/completions", json=ASK | {"stream": True})
        assert "Because." in streamed.text, streamed.text
    await engine.aclose()

asyncio.run(main())
print("litellm" in sys.modules)
"""


async def test_pages_answer_in_their_kind(gateway: Any) -> None:
    """Each is there, and says of itself what it is."""
    for path, (_, media_type) in PAGES.items():
        reply = await gateway.client.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-type"] == media_type
        assert "x-request-id" in reply.headers
    unknown = await gateway.client.get("/nothing")
    wrong = await gateway.client.delete("/docs")

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_who_watches_may_ask_without_wanting_a_body(gateway: Any, path: str) -> None:
    """As many a load balancer does."""
    reply = await gateway.client.head(path)

    assert (reply.status_code, reply.content) == (200, b"")


def test_neither_a_start_nor_a_page_nor_a_cached_answer_loads_litellm(tmp_path: Path) -> None:
    """A gateway is there before the seconds that litellm takes, and lives without it."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LITELLM],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ORCHESTRATOR_HOME": str(tmp_path / "home")},
    )

    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_every_route_is_described_with_what_it_wants() -> None:
    """What is served is what is written down, and the schemas are schemas."""
    told = openapi()
    described = {
        (method.upper(), path)
        for path, methods in told["paths"].items()
        for method in methods
        if path not in PAGES
    }

    assert described == {(m, f"{p}{{id}}" if p.endswith("/") else p) for m, p in ROUTES}
    chat = told["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    assert chat["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatBody"}
    assert {"ChatBody", "RunBody", "Orchestration", "Error"} <= set(told["components"]["schemas"])
    for schema in told["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(told)) == told


def test_what_is_only_for_older_callers_is_marked() -> None:
    """In the description as in every reply; and nothing else is."""
    marked = {
        (method.upper(), path)
        for path, methods in openapi()["paths"].items()
        for method, told in methods.items()
        if told.get("deprecated")
    }

    assert marked == set(OLDER)
    assert all(openapi()["paths"][path][method.lower()]["summary"] for method, path in OLDER)


async def test_a_path_of_old_is_told_apart_from_one_that_never_was(gateway: Any) -> None:
    """Whatever is sent to it: a file for the documents of old is not read."""
    gone = await gateway.client.post("/api/analyze-with-docs", files={"file": b"text"})
    never = await gateway.client.post("/api/nothing", files={"file": b"text"})

    assert (gone.status_code, never.status_code) == (410, 404)
    assert "documents" in gone.json()["message"]
    assert gone.headers["deprecation"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No script, no address, and every route and schema is on it."""
    shown = page(openapi())

    assert "<script" not in shown
    assert "http://" not in shown
    assert "https://" not in shown
    assert "src=" not in shown
    for path in openapi()["paths"]:
        assert f" {path}</code>" in shown
    for name in openapi()["components"]["schemas"]:
        assert f'id="{name}"' in shown


async def test_metrics_count_what_has_ended(gateway: Any) -> None:
    """By method, path and status; a path that somebody made up is `other`."""
    await gateway.chat()
    await gateway.client.get("/v1/models/one")
    await gateway.client.get("/made/up")
    text = (await gateway.client.get("/metrics")).text

    for line in (
        'orchestrator_requests_total{method="POST",path="/v1/chat/completions",status="200"} 1.0',
        'orchestrator_requests_total{method="GET",path="/v1/models/{id}",status="200"} 1.0',
        'orchestrator_requests_total{method="GET",path="other",status="404"} 1.0',
        "orchestrator_requests_in_flight 1.0",  # that which asks
    ):
        assert line in text.splitlines()


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[Any, TestClient]]:
    """The description, and a client of the gateway it describes."""
    models = {"one": ModelConfig(provider="openai", model="one", price="free")}
    config = OrchestratorConfig(models=models, panels={"all": PanelConfig(members=("one",))})
    engine = EnhancedOrchestrator(config, adapters={"one": MockAdapter(["Hello there."])})
    gate: Any = create_app(engine)
    with TestClient(gate, base_url="http://localhost") as client:
        yield schemathesis.openapi.from_dict(openapi()), client


CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        *((f"{method} {path}", GenerationMode.POSITIVE) for method, path in ROUTES),
        *((f"{m} {path}", GenerationMode.NEGATIVE) for m, path in ROUTES if path in BODIES),
    ],
)
def test_what_is_described_is_true(
    asked: tuple[Any, TestClient], operation: str, mode: GenerationMode, thorough: bool
) -> None:
    """Requests made from the description, and ones that break it, get a status it names."""
    schema, client = asked
    method, _, path = operation.partition(" ")
    described = schema[f"{path}{{id}}" if path.endswith("/") else path][method]

    @settings(
        max_examples=500 if thorough else 20,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described.as_strategy(mode))
    def check(case: Any) -> None:
        told = case.as_transport_kwargs(base_url="http://localhost")
        body = told.get("data")
        reply = client.request(
            told["method"],
            told["url"],
            headers=told.get("headers"),
            params=told.get("params"),
            **({"json": told["json"]} if "json" in told else {"content": body}),
        )
        case.validate_response(reply, checks=CHECKED)

    check()
