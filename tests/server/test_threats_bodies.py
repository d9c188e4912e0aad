"""Damaged bodies: each is answered or refused in words that its callers know, and none is kept."""

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters import MockAdapter, ModelConfig
from adapters.types import CompletionRequest
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import PanelConfig, RouteConfig
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from tests.asking import JSON_KIND, Said, ask
from tests.mangling import BODIES, mangled
from tests.resident import resident_mb

SEED = 20260
ALLOWED_MB = 50


def answer(request: CompletionRequest) -> str:
    """Forgets what it was asked, unlike a script: nothing is to grow here."""
    return f"{len(request.messages)} messages, thus."


class Forgetful(MockAdapter):
    """Keeps no request."""

    def _next_reply(self, request: CompletionRequest) -> Any:
        self.requests.clear()
        return super()._next_reply(request)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    """A gateway with two models, a route and a panel."""
    models = {
        name: ModelConfig(provider="openai", model=name, price="free")  # type: ignore[arg-type]
        for name in ("one", "two")
    }
    config = OrchestratorConfig(
        models=models,
        routes={"way": RouteConfig(models=("one", "two"))},
        panels={"all": PanelConfig(members=("one", "two"))},
    )
    adapters = {name: Forgetful(answer) for name in models}
    async with EnhancedOrchestrator(config, adapters=adapters, keeps_receipts=True) as engine:
        yield create_app(engine)


def wrong_shape(path: str, said: Said) -> str | None:
    """What of an error is not as its callers know it."""
    told = said.json()
    error = told.get("error")
    if not path.startswith("/v1/"):
        message = told.get("message") or error
        return None if isinstance(message, str) and message else "no message"
    if not isinstance(error, dict) or not error.get("message") or not error.get("type"):
        return "no error object"
    if path.startswith("/v1/messages"):
        return None if told.get("type") == "error" else "not Anthropic's"
    return None if set(error) == {"message", "type", "param", "code"} else "not OpenAI's"


async def test_what_is_damaged_here_is_answered_as_long_as_it_is_whole(gate: Gate) -> None:
    """Each body that the damage begins with: else all of them would be refused for one reason."""
    for path, bodies in BODIES.items():
        for body in bodies:
            said = await ask(gate, "POST", path, json.dumps(body).encode(), JSON_KIND)
            assert said.status == 200, (path, body, said.whole)
            assert b"internal_error" not in said.body


async def test_no_damaged_body_is_more_than_an_error_of_its_sender(
    gate: Gate, thorough: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """No exception, no failure of ours, errors in their shape, and no memory that is kept."""
    caplog.set_level(logging.ERROR)
    count = 20_000 if thorough else 400
    for path, body in mangled(SEED + 1, 100):
        await ask(gate, "POST", path, body, JSON_KIND)
    before_mb, statuses = resident_mb(), Counter[int]()

    for path, body in mangled(SEED, count):
        said = await ask(gate, "POST", path, body, JSON_KIND)
        statuses[said.status] += 1
        # It may have asked to be answered within no time.
        assert said.status < 500 or b"deadline_exceeded" in said.body, (path, body, said.whole)
        assert b"internal_error" not in said.body, (path, body, said.whole)
        assert said.status == 200 or not wrong_shape(path, said), (path, body, said.whole)
        assert not caplog.records, (path, body, caplog.text)
    grown_mb = resident_mb() - before_mb

    print(f"{count:,} bodies: {dict(statuses)}; {grown_mb:.1f} MB more")
    assert grown_mb < ALLOWED_MB
    assert statuses[200] > count // 100
    assert statuses[400] > count // 10
