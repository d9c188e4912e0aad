"""The gateway tells no secret: in no reply, header, log, page or file, in no form, not in part."""

import json
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adapters import _litellm
from orchestrator import EnhancedOrchestrator, load_config
from orchestrator.server import logs
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
from tests.asking import JSON_KIND, ask
from tests.echoing import PLACES, Echoing
from tests.test_secrets import files_in, leaks, plant, secret, thinned

HELLO: list[Any] = [{"role": "user", "content": "Why?"}]
BODIES: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/responses": {"input": "Why?"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 50},
    "/v1/orchestrations": {"prompt": "Why?"},
}
PAGES = ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing")


async def told_of(gate: Gate, names: Sequence[str], presented: Sequence[str]) -> AsyncIterator[str]:
    """What is said of every deployment by two endpoints each, and of every page, to every key."""
    own, *_ = heads = [
        head
        for key in presented
        for head in ({"authorization": f"Bearer {key}"}, {"x-api-key": key})
    ]
    for place, name in enumerate(names):
        for path in list(BODIES)[place % 2 :: 2]:
            body = {**BODIES[path], "model": name, "stream": place % 4 < 2}
            yield (
                await ask(gate, "POST", path, json.dumps(body).encode(), {**JSON_KIND, **own})
            ).whole
    for head, path in product(heads, (*PAGES, *BODIES)):
        method = "POST" if path in BODIES else "GET"
        yield (await ask(gate, method, path, b"{}", {**JSON_KIND, **head})).whole


async def test_the_gateway_tells_no_secret(
    tmp_path: Path,
    orchestrator_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    thorough: bool,
) -> None:
    """Those of the configuration, told back by a provider, and the keys that callers present."""
    await _litellm.load()
    for logger in ("", *logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=logger)
    keys, rng, path = (
        KeyFile(orchestrator_home / "keys.json"),
        random.Random(8),
        tmp_path / "c.yaml",
    )
    others = [keys.create("alice").key, f"orc-{'0' * 12}-{secret(rng)}", secret(rng), secret(rng)]
    keys.revoke(keys.list()[0].id)
    presented = [keys.create("alice").key, *others]
    async with Echoing() as provider:
        planted = plant(provider.port, list(PLACES))
        models = planted.models if thorough else thinned(planted.models, 16)
        for name, value in planted.variables.items():
            monkeypatch.setenv(name, value)
        with path.open("w") as file:
            about = {"retry": {"attempts": 1}, "breaker": {"failures": 1000, "calls": 1000}}
            known = {name: dict(model) for name, model in models.items()}
            YAML(typ="safe").dump({"models": known, "cache": {}, "ledger": {}, **about}, file)
        async with EnhancedOrchestrator(load_config(path), keeps_receipts=True) as engine:
            gate = create_app(engine, keys=keys, watch=(logs.AccessLog(),))
            replies = [said async for said in told_of(gate, list(models), presented)]
        came = leaks(provider.seen, planted.secrets)
    said = "\n".join((*replies, caplog.text, *capfd.readouterr()))
    secrets = {
        **planted.secrets,
        **{f"key {place}": key.rpartition("-")[2] for place, key in enumerate(presented)},
    }

    assert len(came) > 20, "the secrets did not even reach the provider"
    assert "DEBUG" in caplog.text
    assert "orchestrator_requests_total" in said
    assert " 401 " in caplog.text
    found = leaks(said, secrets)
    assert not found, "\n".join(found[:20])
    for file_path, text in files_in(orchestrator_home):
        assert not leaks(text, secrets), file_path
    print(f"{len(secrets)} secrets, {len(models)} deployments, {len(said):,} characters")
