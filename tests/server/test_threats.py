"""The gateway attacked, threat by threat. Each row names the tests that show what holds.

======================= =========================================================================
No or weak auth         test_gate.py::test_no_route_lets_nobody_in
                        test_gate.py::test_a_key_opens_and_its_end_closes
                        test_run.py::test_it_is_open_to_others_only_with_a_key
Theft of keys from disk test_keys.py::test_nothing_that_is_kept_holds_the_key
                        test_keys.py::test_a_file_that_cannot_be_trusted_is_one_clear_error
Timing of keys          test_keys.py::test_digests_are_compared_in_constant_time_whether_or_not_the_
                        id_is_known
                        test_gate.py::test_an_odd_authorization_is_none
                        test_gate.py::test_a_megabyte_of_authorization_is_refused_before_it_is_kept
Ways round the key      test_no_spelling_of_host_and_path_goes_round_the_key
                        test_gate.py::test_no_spelling_of_a_path_goes_round_the_key
More rights than given  test_no_key_administers
                        ../endpoints/test_orchestrations.py::test_a_key_is_held_to_its_models
Parameters of litellm   test_no_parameter_of_litellm_reaches_a_call_by_any_endpoint
Requests to other hosts test_no_address_in_a_request_is_asked
                        test_a_redirect_of_a_provider_is_not_followed
                        ../adapters/test_media.py, ../adapters/test_trust.py
Denial of wallet        test_what_is_refused_reserves_nothing
                        test_limits_hold_without_being_set
                        test_key_budgets.py::test_a_hundred_at_once_spend_what_there_is_and_no_more
Exhaustion              test_idle_connections_hold_nobody_up
                        test_a_body_of_ten_megabytes_is_read_and_one_byte_more_is_not
                        test_a_head_is_refused_from_its_first_byte_too_many
                        test_gate.py::test_a_slow_head_is_not_waited_for
                        test_gate.py::test_a_slow_body_is_not_waited_for
                        test_limits.py::test_only_so_many_streams_are_open_at_a_time
                        ../wire/test_reading.py::test_a_megabyte_of_values_is_never_read
SQL and templates       test_what_looks_like_code_is_text
Processes               test_no_request_starts_a_process
Secrets told            test_threats_secrets.py
                        test_logs.py::test_neither_bodies_nor_keys_are_logged
Objects of others       test_what_one_tenant_has_is_not_there_for_another
                        test_wired_keys.py::test_an_idempotency_key_holds_over_http_and_for_its_
                        tenant_alone
Idempotency-Key abused  test_idempotency.py::test_a_key_belongs_to_one_request
                        test_idempotency.py::test_a_twin_in_flight_is_told_to_wait
                        test_idempotency.py::test_a_key_has_a_size_and_letters
Hostile providers       test_nothing_that_a_provider_adds_is_handed_on
                        test_gate.py::test_a_header_of_a_reply_cannot_end_its_line
Browsers elsewhere      test_what_a_form_can_send_is_refused
                        test_gate.py::test_a_browser_elsewhere_reads_nothing
                        test_gate.py::test_it_is_asked_under_its_own_names_only
Administration seen     test_nobody_sees_more_than_that_it_lives
Damaged bodies          test_threats_bodies.py
A loop that stands     test_threats_loop.py; ../benchmarks/stalls.py prints the figure
======================= =========================================================================
"""

import _posixsubprocess
import asyncio
import gzip
import inspect
import json
import os
import re
import resource
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from adapters import MockAdapter, ModelConfig, _litellm
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import MOST_MEMBERS, LedgerConfig, RetryConfig, ServerConfig
from orchestrator.endpoints import ROUTES
from orchestrator.server.app import create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile
from orchestrator.simulator import Simulator
from orchestrator.simulator.http import Request
from orchestrator.simulator.outcome import Outcome
from orchestrator.wire.chat import MOST_CHOICES, ChatBody
from orchestrator.wire.messages import MessagesBody
from orchestrator.wire.native import RunBody
from orchestrator.wire.responses import ResponsesBody
from tests.asking import JSON_KIND, Said, ask
from tests.faces import configured
from tests.mangling import BODIES, PICTURE
from tests.resident import resident_mb

Serving = Callable[..., AbstractAsyncContextManager[Any]]
HELLO = [{"role": "user", "content": "Why is the sky blue?"}]


class Recording(Simulator):
    """Keeps every byte that it is asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Request] = []

    def outcome(self, request: Request) -> Outcome:
        self.asked.append(request)
        return super().outcome(request)

    def holds(self, text: str) -> bool:
        """Whether any request held it, in its line, its headers or its body."""
        return any(text in repr(one) for one in self.asked)


@pytest.fixture
async def recording() -> AsyncIterator[Recording]:
    """A provider that keeps what it is asked."""
    async with Recording() as running:
        yield running


@pytest.fixture
async def gate(recording: Recording) -> AsyncIterator[Gate]:
    """A gateway to it."""
    async with EnhancedOrchestrator(configured(recording), keeps_receipts=True) as engine:
        yield create_app(engine)


async def post(gate: Gate, path: str, body: object, **headers: str) -> Said:
    kind = {**JSON_KIND, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await ask(gate, "POST", path, json.dumps(body).encode(), kind)


# What reaches a provider, and whom.

POISON = "http://evil.invalid/poison"
PLAIN: Mapping[str, tuple[dict[str, Any], Any]] = {
    "/v1/chat/completions": ({"model": "alpha", "messages": HELLO}, ChatBody),
    "/v1/responses": ({"model": "alpha", "input": "Why?"}, ResponsesBody),
    "/v1/messages": ({"model": "beta", "messages": HELLO, "max_tokens": 50}, MessagesBody),
    "/v1/orchestrations": ({"model": "alpha", "prompt": "Why?"}, RunBody),
}
MORE_OF_LITELLM = re.findall(
    r"\w+",
    """api_base api_key aws_access_key_id aws_secret_access_key aws_bedrock_runtime_endpoint
    base_url cache caching client custom_llm_provider extra_body extra_headers extra_query fallbacks
    input_cost_per_token litellm_params mock_response num_retries organization
    output_cost_per_token proxy router ssl_verify vertex_credentials vertex_project""",
)
# What is a word for the provider by its very meaning, and goes where the configuration says.
WORDS = {
    *("reasoning_effort", "safety_identifier", "service_tier", "stop", "user"),
    *("thinking", "frequency_penalty", "logit_bias", "logprobs", "parallel_tool_calls"),
    *("presence_penalty", "top_logprobs"),
}
VALUES: tuple[Any, ...] = (POISON, [POISON], {"x": POISON})


async def test_no_parameter_of_litellm_reaches_a_call_by_any_endpoint(
    gate: Gate, recording: Recording
) -> None:
    """Beside the others, among what is ours, or where anything is taken: in no request's bytes."""
    await _litellm.load()
    names = {*inspect.signature(_litellm._litellm.acompletion).parameters, *MORE_OF_LITELLM}
    assert len(names) > 50
    for path, (body, kind) in PLAIN.items():
        for name, value in product(sorted(names), VALUES):
            if name not in kind.model_fields and value is not POISON:
                continue  # refused by its name alone
            recording.asked.clear()
            said = await post(gate, path, {**body, name: value})
            if name not in kind.model_fields:
                assert (said.status, recording.asked) == (400, []), (path, name)
            assert not recording.holds(POISON) or name in WORDS, (path, name)
        for name in sorted(names - WORDS):
            for inside in ({"orchestration": {name: POISON}}, {"extra": {name: POISON}}):
                recording.asked.clear()
                said = await post(gate, path, {**body, **inside})
                assert (said.status, recording.asked) == (400, []), (path, inside)


@asynccontextmanager
async def sink() -> AsyncIterator[tuple[int, list[object]]]:
    """Somebody who is not to be asked, and who has come all the same."""
    came: list[object] = []

    async def hear(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer.get_extra_info("peername"))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], came


HERE = re.findall(
    r"\S+",
    """
    127.0.0.1 localhost LOCALHOST localhost. api.localhost 127.1 127.0.1 2130706433 0x7f000001
    0x7f.1 0177.0.0.1 017700000001 0 0.0.0.0 127.8.9.1 127.0.0.1. user@127.0.0.1
    evil.example@127.0.0.1 [::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1]
    [::127.0.0.1] 127.0.0.1%2f @127.0.0.1 \u2460\u2461\u2466.0.0.1 127\u30020\u30020\u30021
    %31%32%37.0.0.1 localhost%00.evil.example
    """,
)
ELSEWHERE = re.findall(
    r"\S+",
    """
    http://169.254.169.254/latest/meta-data/ http://[fd00:ec2::254]/ http://metadata.google.internal/
    http://10.0.0.7/ http://192.168.1.1/ http://172.16.0.1/ http://100.64.0.1/ file:///etc/passwd
    gopher://127.0.0.1:6379/_INFO ftp://127.0.0.1/ //127.0.0.1/ /etc/passwd dict://localhost:11211/
    jar:http://127.0.0.1!/ javascript:alert(1) http:127.0.0.1 https://127.0.0.1:1/
    unix:/run/docker.sock
    """,
)


def showing(path: str, model: str, url: str) -> Iterator[dict[str, Any]]:
    """Requests that show a provider something at an address."""
    chat: list[Any] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_data": url}},
        {"type": "file", "file": {"file_id": url}},
    ]
    parts: Mapping[str, list[Any]] = {
        "/v1/chat/completions": chat,
        "/v1/orchestrations": chat,
        "/v1/responses": [
            {"type": "input_image", "image_url": url},
            {"type": "input_file", "file_url": url},
        ],
        "/v1/messages": [
            {"type": kind, "source": {"type": "url", "url": url}} for kind in ("image", "document")
        ],
    }
    key = "input" if path == "/v1/responses" else "messages"
    for part in parts[path]:
        yield {
            "model": model,
            key: [{"role": "user", "content": [part]}],
            **({"max_tokens": 50} if path == "/v1/messages" else {}),
        }


async def test_no_address_in_a_request_is_asked(
    gate: Gate, recording: Recording, thorough: bool
) -> None:
    """However it is written, by whichever endpoint, for whichever provider: nobody goes there."""
    async with sink() as (port, came):
        urls = [f"http://{host}:{port}/x.png" for host in HERE] + ELSEWHERE
        assert len(urls) >= 40
        models = ("alpha", "beta", "gamma")
        for place, (url, path) in enumerate(product(urls, PLAIN)):
            for model in models if thorough else (models[place % 3],):
                for body in showing(path, model, url):
                    said = await post(gate, path, body)
                    assert said.status in (200, 400), (url, body, said.whole)
        assert not came
    assert all(port_of(one) == recording.port for one in recording.asked)


def port_of(request: Request) -> int:
    return int(request.headers["host"].rpartition(":")[2])


HOSTILE = {
    "set-cookie": "session=theirs",
    "location": "http://evil.invalid/",
    "x-request-id": "req-theirs",
    "x-orchestrator-cost-usd": "0",
    "access-control-allow-origin": "*",
    "server": "theirs/1.0",
    "x-powered-by": "theirs",
    "www-authenticate": "Basic realm=theirs",
    "content-security-policy": "theirs",
    "refresh": "0; url=http://evil.invalid/",
    "alt-svc": 'h2="evil.invalid:443"',
    "x-split": "a\r\nset-cookie: b=c",
}


@asynccontextmanager
async def provider(status: int, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[int]:
    """A provider that says the same to everybody."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\n{lines}connection: close\r\ncontent-length: {len(body)}\r\n\r\n"

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", received)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def at_port(port: int) -> OrchestratorConfig:
    """A model of each kind at that port."""
    return OrchestratorConfig(
        models={
            name: ModelConfig(
                provider=kind,  # type: ignore[arg-type]
                model=model,
                api_base=f"http://127.0.0.1:{port}",
                api_key="k-0123456789",  # type: ignore[arg-type]
                price="free",
            )
            for name, kind, model in (
                ("alpha", "openai", "gpt-5-mini"),
                ("beta", "anthropic", "claude-haiku-4-5"),
                ("gamma", "google", "gemini-2.5-flash"),
                ("delta", "custom", "m"),
            )
        },
        retry=RetryConfig(attempts=1),
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_a_provider_is_not_followed(status: int) -> None:
    """The key and the prompt stay with whom the configuration names."""
    async with sink() as (elsewhere, came):
        to = {"location": f"http://127.0.0.1:{elsewhere}/v1", "content-type": "text/html"}
        async with (
            provider(status, b"moved", to) as port,
            EnhancedOrchestrator(at_port(port)) as engine,
        ):
            gate = create_app(engine)
            for name, is_live in product(engine.config.models, (False, True)):
                body = {"model": name, "messages": HELLO, "stream": is_live}
                said = await post(gate, "/v1/chat/completions", body)
                assert said.status >= 500, (name, said.whole)
                assert str(elsewhere) not in said.whole
        assert not came


COMPLETION = {
    "id": "x\r\nset-cookie: id=theirs",
    "object": "chat.completion",
    "created": 1,
    "model": "m\r\nset-cookie: model=theirs",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hi.\r\n\r\ndata: [DONE]\n\n"},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
}
OWN_HEADERS = {
    "cache-control",
    "content-length",
    "content-type",
    "retry-after",
    "x-orchestrator-cost-usd",
    "x-orchestrator-run-id",
    "x-orchestrator-status",
    "x-request-id",
    "x-should-retry",
}


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500, 503])
async def test_nothing_that_a_provider_adds_is_handed_on(status: int) -> None:
    """No header of it in a reply, whatever it says; what it says in a body ends no header."""
    told = {"error": {"message": "no", "code": "x\r\nset-cookie: a=b"}}
    body = json.dumps(COMPLETION if status == 200 else told).encode()
    asked = {"model": "delta", "messages": HELLO}
    async with (
        provider(status, body, {"content-type": "application/json", **HOSTILE}) as port,
        EnhancedOrchestrator(at_port(port)) as engine,
    ):
        said = await post(create_app(engine), "/v1/chat/completions", asked)

    names = {name for name, _ in said.headers}
    assert names <= OWN_HEADERS
    for name, value in said.headers:
        assert "\r" not in value, name
        assert "theirs" not in value, name
    assert said.header("x-orchestrator-cost-usd") in (None, "0.000000000")


# Who may come in, and how.

HOSTS = re.findall(
    r"\S+",
    """
    localhost LOCALHOST:80 127.0.0.1 [::1] localhost. evil.example localhost@evil.example
    evil.example#localhost localhost:80:80 localhost,evil.example 127.1 127.0.0.1%00 ::1
    localhost%20 x-forwarded-host
    """,
)
PATHS = re.findall(
    r"\S+",
    """
    /v1/models //v1/models /v1//models /v1/./models /v1/x/../models /%76%31/models
    /%2576%2531/models /V1/MODELS /v1/models/ /v1/models; /v1/models;health /health;/../v1/models
    /health/../v1/models /health/%2e%2e/v1/models /health%2f..%2fmetrics /metrics /metrics/
    //metrics /METRICS /%6detrics /docs /docs/ /docs%00 /openapi.json /openapi.json%0d%0a
    /ready/../metrics /health?/../metrics# /health%0d%0ahost:%20localhost http://localhost/metrics
    http://evil.example/health/../metrics https://localhost/docs
    http://localhost:80/v1/models?x=http://localhost/health //localhost/docs \\v1\\models
    /v1\\models /v1/models\xa0 /v1/mod\u00e9ls /\uff56\uff11/models /v1/models%ff * ?
    /v1/chat/completions /v1/orchestrations/x /api/available-models /v1/messages
    """,
)
ALLOWED = {b"400", b"401", b"421"}


async def test_no_spelling_of_host_and_path_goes_round_the_key(
    serving: Serving, keys: KeyFile
) -> None:
    """However both are written, and whatever else says where it goes: no page, no endpoint."""
    keys.create("alice")
    extra = (b"", b"x-original-url: /health\r\nx-rewrite-url: /health\r\n")
    pairs = list(product(HOSTS[:4], PATHS)) + list(product(HOSTS, PATHS[::8]))
    assert len(pairs) >= 200
    async with serving() as gateway:
        for place, (host, path) in enumerate(pairs):
            line = f"GET {path} HTTP/1.1\r\nhost: {host}\r\n".encode()
            said = await gateway.raw(line + extra[place % 2] + b"\r\n")
            is_alive = said.endswith(b'{"status":"ok"}')
            assert is_alive or said.split(b" ")[1] in ALLOWED, (host, path, said)
        split = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\n"
        assert b"orchestrator_requests" not in await gateway.raw(split + b"host: localhost\r\n\r\n")


ADMINISTRATION = [
    f"{prefix}/{name}"
    for prefix in ("", "/v1", "/admin", "/v1/admin")
    for name in ("keys", "keys/create", "key/generate", "users", "config", "breakers", "cache")
] + ["/v1/models", "/v1/models/one", "/v1/orchestrations/x", "/metrics", "/docs", "/health"]


async def test_no_key_administers(serving: Serving, keys: KeyFile) -> None:
    """With the key of a user there is nothing to be changed, and nothing of the kind to be seen."""
    new = keys.create("alice")
    before = keys.path.read_bytes()
    key = {"authorization": f"Bearer {new.key}", **JSON_KIND}
    async with serving() as gateway:
        for path, method in product(ADMINISTRATION, ("POST", "PUT", "PATCH", "DELETE")):
            reply = await gateway.client.request(method, path, headers=key, content=b"{}")
            assert reply.status_code in (403, 404, 405), (method, path)
    assert keys.path.read_bytes() == before


ANYWHERE = re.findall(
    r"\S+",
    """
    / /metrics /docs /openapi.json /redoc /favicon.ico /robots.txt /.env /.git/config /server-status
    /v1 /v1/ /v1/models /version /debug /config /health/live /ready/x /actuator/env /api
    /swagger.json
    """,
)
OF_A_SCAN = {"content-length", "content-type", "date", "x-request-id"}


async def test_nobody_sees_more_than_that_it_lives(serving: Serving, keys: KeyFile) -> None:
    """Without a key: `ok`, and that one is wanted; neither what it is nor of which version."""
    keys.create("alice")
    async with serving() as gateway:
        for path in ("/health", "/ready"):
            reply = await gateway.client.get(path)
            assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
            assert set(reply.headers) <= OF_A_SCAN
        texts = set()
        for path, method in product(ANYWHERE, ("GET", "HEAD", "OPTIONS")):
            reply = await gateway.client.request(method, path)
            assert reply.status_code == 401, (method, path)
            assert set(reply.headers) <= OF_A_SCAN | {"www-authenticate"}
            texts.add(reply.text)
    said = " ".join(texts).lower()
    for word in ("uvicorn", "fastapi", "starlette", "litellm", "python", "version", "alice"):
        assert not re.search(rf"\b{word}\b", said), word


FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")
ORIGIN = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


async def test_what_a_form_can_send_is_refused(gate: Gate, recording: Recording) -> None:
    """A page elsewhere can send no JSON without asking first, and nobody answers when it asks."""
    for path, kind in product(BODIES, FORMS):
        headers = {**ORIGIN, **({"content-type": kind} if kind else {})}
        said = await ask(gate, "POST", path, json.dumps(BODIES[path][0]).encode(), headers)
        assert said.status == 415, (path, kind)
    for path in BODIES:
        asks = {**ORIGIN, "access-control-request-method": "POST"}
        said = await ask(gate, "OPTIONS", path, headers=asks)
        assert said.status == 405
        assert not [name for name, _ in said.headers if name.startswith("access-control")]
    assert not recording.asked


# How much may be asked for.


def one_of(count: int, unit: object) -> list[object]:
    return [unit] * count


def chat(**more: object) -> dict[str, Any]:
    return {"model": "one", "messages": HELLO, **more}


def shown(count: int) -> list[Any]:
    part = {"type": "image_url", "image_url": {"url": PICTURE}}
    return [{"role": "user", "content": one_of(count, part)}]


def deep(levels: int) -> dict[str, Any]:
    inner: Any = []
    for _ in range(levels - 4):
        inner = [inner]
    return {"x": {"x": inner}}


RUN = {"model": "all", "prompt": "Why?"}
MUCH = ServerConfig().max_tokens
EDGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/chat/completions", chat(n=MOST_CHOICES), chat(n=MOST_CHOICES + 1)),
    ("/v1/chat/completions", chat(max_tokens=MUCH), chat(max_tokens=MUCH + 1)),
    ("/v1/chat/completions", chat(messages=HELLO * 10_000), chat(messages=HELLO * 10_001)),
    ("/v1/chat/completions", chat(messages=shown(500)), chat(messages=shown(501))),
    ("/v1/chat/completions", chat(stop=["x"] * 16), chat(stop=["x"] * 17)),
    ("/v1/chat/completions", chat(thinking=deep(64)), chat(thinking=deep(65))),
    (
        "/v1/chat/completions",
        chat(model="all", orchestration={"members": ["one"] * MOST_MEMBERS}),
        chat(model="all", orchestration={"members": ["one"] * (MOST_MEMBERS + 1)}),
    ),
    (
        "/v1/responses",
        {"model": "one", "input": "Why?", "max_output_tokens": MUCH},
        {"model": "one", "input": "Why?", "max_output_tokens": MUCH + 1},
    ),
    (
        "/v1/responses",
        {"model": "one", "input": HELLO * 10_000},
        {"model": "one", "input": HELLO * 10_001},
    ),
    ("/v1/messages", chat(max_tokens=MUCH), chat(max_tokens=MUCH + 1)),
    (
        "/v1/messages",
        chat(max_tokens=5, messages=HELLO * 10_000),
        chat(max_tokens=5, messages=HELLO * 10_001),
    ),
    ("/v1/orchestrations", {**RUN, "max_tokens": MUCH}, {**RUN, "max_tokens": MUCH + 1}),
    (
        "/v1/orchestrations",
        {**RUN, "members": ["one"] * MOST_MEMBERS},
        {**RUN, "members": ["one"] * (MOST_MEMBERS + 1)},
    ),
    (
        "/v1/orchestrations",
        {"model": "one", "messages": HELLO * 10_000},
        {"model": "one", "messages": HELLO * 10_001},
    ),
    (
        "/v1/orchestrations",
        {"model": "one", "messages": shown(500)},
        {"model": "one", "messages": shown(501)},
    ),
]


@pytest.fixture
async def priced(keys: KeyFile) -> AsyncIterator[tuple[Gate, EnhancedOrchestrator, MockAdapter]]:
    """A gateway whose answers cost money, with a ledger and no limit that anybody has set."""
    price = {"input_usd": "0.001", "output_usd": "0.001"}
    config = OrchestratorConfig.model_validate(
        {
            "models": {"one": {"provider": "openai", "model": "one", "price": price}},
            "panels": {"all": {"members": ["one", "one"]}},
            "ledger": {},
        }
    )
    one = MockAdapter(["Hi."], config=config.models["one"], deployment="one")
    async with EnhancedOrchestrator(config, adapters={"one": one}, keeps_receipts=True) as engine:
        yield create_app(engine), engine, one


def rows(home: Path) -> int:
    """What stands in the ledger: reservations, and what was paid for."""
    with closing(sqlite3.connect(home / "ledger.db")) as ledger:
        (found,) = ledger.execute(
            "SELECT (SELECT count(*) FROM ledger_reservations) "
            "+ (SELECT count(*) FROM ledger_usage)"
        ).fetchone()
    return int(found)


async def test_what_is_refused_reserves_nothing(
    priced: tuple[Gate, EnhancedOrchestrator, MockAdapter], orchestrator_home: Path
) -> None:
    """Every limit that holds without being set: one more asks nobody and is not booked."""
    gate, engine, one = priced
    for (path, _, exceeds), more in product(EDGES, ({}, {"stream": True})):
        refused = await post(gate, path, {**exceeds, **more})
        assert (refused.status, one.requests) == (400, []), (path, refused.whole[:300])
    for path, fits, _ in EDGES:
        said = await post(gate, path, fits)
        assert said.status == 200, (path, said.whole[:300])
    await engine.aclose()

    assert rows(orchestrator_home) == len(one.requests) >= len(EDGES)


async def test_a_body_of_ten_megabytes_is_read_and_one_byte_more_is_not(gate: Gate) -> None:
    """The limit that holds where none is set; packed, it is not even looked at."""
    body = json.dumps(PLAIN["/v1/orchestrations"][0]).encode()
    for more, status in ((0, 200), (1, 413)):
        padded = body.ljust(10 * 2**20 + more)
        assert (await ask(gate, "POST", "/v1/orchestrations", padded, JSON_KIND)).status == status
    bomb = gzip.compress(b" " * 10**6)
    for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "x-gzip"):
        packed = {**JSON_KIND, "content-encoding": coding}
        assert (await ask(gate, "POST", "/v1/orchestrations", bomb, packed)).status == 415


async def test_a_head_is_refused_from_its_first_byte_too_many(gate: Gate) -> None:
    """Names and values of all headers together."""
    for more, status in ((0, 200), (1, 431)):
        rest = "x" * (16 * 1024 - len("hostlocalhostx-more") + more)
        said = await ask(gate, "GET", "/v1/models", headers={"x-more": rest})
        assert said.status == status


async def test_idle_connections_hold_nobody_up(serving: Serving, thorough: bool) -> None:
    """Hundreds that say nothing, or half a head: it lives, and answers, and takes no memory."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(10_000, (limit - 400) // 2) if thorough else 300
    heads = (b"", b"GET /v1/models HTTP/1.1\r\nhost: local")
    async with serving(read_s=600) as gateway, AsyncExitStack() as stack:
        await gateway.chat()
        before_mb = resident_mb()
        for place in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            stack.callback(writer.close)
            writer.write(heads[place % 2])
        health, answer = await gateway.client.get("/health"), await gateway.chat()
        grown_kb = (resident_mb() - before_mb) * 1024

    print(f"{count:,} idle connections: {grown_kb / count:.1f} kB each, both of their ends")
    assert (health.status_code, answer.status_code) == (200, 200)
    assert grown_kb < count * 64


# What is said, and to whom.

CODE = [
    "' OR '1'='1",
    "'; DROP TABLE ledger_usage; --",
    '" UNION SELECT id, sha256 FROM keys --',
    "1; ATTACH DATABASE '/tmp/x' AS x",
    "x'); INSERT INTO ledger_usage VALUES (1); --",
    "\\'; VACUUM; --",
    "{{ 70001 * 190001 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "${70001*190001} #{70001*190001} <%= 70001*190001 %> *{70001*190001}",
    "{0.__class__.__init__.__globals__} {question} %(question)s %s%n",
    "{{ config }} {{ self }} ${HOME} $(id) `id`",
    "__import__('os').system('id')",
    "<script>alert(1)</script>",
    "!!python/object/apply:os.system ['id']",
]
COMPUTED = re.compile(r"13300260001|uid=\d|<class |sha256\b.*[0-9a-f]{64}")


def placed(code: str) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """The same text wherever a caller may write one."""
    system = [{"role": "system", "content": code}, {"role": "user", "content": code, "name": code}]
    head = {"x-request-id": code, "idempotency-key": code, "user-agent": code, "x-api-key": code}
    more = {"user": code, "metadata": {code: code}, "orchestration": {"tags": [code[:64]]}}
    yield "/v1/chat/completions", chat(messages=system, stop=[code], **more), head
    yield "/v1/chat/completions", chat(messages=system, stop=[code], **more), {}
    yield "/v1/chat/completions", chat(model=code), {}
    yield "/v1/chat/completions", chat(**{code: code}), {}
    yield "/v1/chat/completions", chat(orchestration={"pattern": code}), {}
    yield "/v1/responses", {"model": "one", "input": code, "instructions": code, "user": code}, {}
    yield (
        "/v1/messages",
        {"model": "one", "messages": system[1:2], "max_tokens": 9, "metadata": {"user_id": code}},
        {},
    )
    run = {"model": "all", "prompt": code, "system": code, "tags": [code[:64]], "notes": [code]}
    yield "/v1/orchestrations", run, {}
    yield "/v1/orchestrations", {**run, "members": [code]}, {}
    asked = {"prompt": code, "selected_models": ["one", "one"], "ultra_model": "one"}
    yield "/api/analyze", {**asked, "pattern": code}, {}
    yield "/api/analyze", {**asked, "pattern": "compare"}, {}


async def test_what_looks_like_code_is_text(
    priced: tuple[Gate, EnhancedOrchestrator, MockAdapter], orchestrator_home: Path
) -> None:
    """In every field, header and id: asked as it stands, kept as it stands, and never run."""
    gate, _, one = priced
    said, run_ids = [], []
    for code in CODE:
        for path, body, headers in placed(code):
            one.requests.clear()
            reply = await ask(
                gate, "POST", path, json.dumps(body).encode(), {**JSON_KIND, **headers}
            )
            assert reply.status < 500, (path, body, reply.whole)
            assert reply.status != 200 or code in repr_of(one), (path, body)
            run_ids += [reply.header("x-orchestrator-run-id")] if reply.status == 200 else []
            said.append(reply.whole)
        for below in ("/v1/orchestrations/", "/v1/models/"):
            for name in (code, quote(code, safe="")):
                reply = await ask(gate, "GET", below + name.partition("?")[0])
                assert reply.status == 404, name
                said.append(reply.whole)
    receipts = [await ask(gate, "GET", f"/v1/orchestrations/{run_id}") for run_id in run_ids]

    assert len(run_ids) > 2 * len(CODE)
    assert {receipt.status for receipt in receipts} == {200}
    for text in (*said, *(receipt.whole for receipt in receipts)):
        assert not COMPUTED.search(text), text
    assert rows(orchestrator_home) >= len(run_ids)


def repr_of(mock: MockAdapter) -> str:
    """Every text that it was asked with."""
    return "\n".join(
        str(message.get("content")) for asked in mock.requests for message in asked.messages
    )


async def test_no_request_starts_a_process(
    priced: tuple[Gate, EnhancedOrchestrator, MockAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of any route, answered or refused."""
    gate, _, _ = priced

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    starts = [
        name for name in dir(os) if re.match(r"exec|fork|posix_spawn|spawn|popen|system", name)
    ]
    assert len(starts) > 10
    for name in starts:
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(_posixsubprocess, "fork_exec", refuse)
    for path, bodies in BODIES.items():
        for body in bodies:
            assert (await post(gate, path, body)).status < 500
    for method, path in ROUTES:
        said = await ask(gate, method, f"{path}one" if path.endswith("/") else path)
        assert said.status < 500
    for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json"):
        assert (await ask(gate, "GET", path)).status == 200


async def test_what_one_tenant_has_is_not_there_for_another(keys: KeyFile) -> None:
    """A receipt is its owner's, under every name that leads to it; to others it was never there."""
    models = {"one": ModelConfig(provider="openai", model="one", price="free")}  # type: ignore[arg-type]
    config = OrchestratorConfig(models=models, ledger=LedgerConfig())
    alice, twin, bob = (
        {"authorization": f"Bearer {keys.create(name).key}"} for name in ("a", "a", "b")
    )
    async with EnhancedOrchestrator(
        config, adapters={"one": MockAdapter(["Hi."])}, keeps_receipts=True
    ) as engine:
        gate = create_app(engine, keys=keys)
        reply = await post(gate, "/v1/chat/completions", chat(), **alice)
        run_id = reply.header("x-orchestrator-run-id")
        names = (run_id, f"%2e/{run_id}", f"../runs/{run_id}", f"{run_id}.json", f"{run_id}%00")
        found = [
            [(await ask(gate, "GET", f"/v1/orchestrations/{one}", headers=key)) for one in names]
            for key in (alice, twin, bob)
        ]
        never = await ask(gate, "GET", "/v1/orchestrations/never-there", headers=bob)

    assert [one.status for one in found[0]] == [200, 404, 404, 404, 404]
    assert [one.status for one in found[1]] == [200, 404, 404, 404, 404]
    assert [one.status for one in found[2]] == [404] * 5
    assert found[2][0].body.replace(str(run_id).encode(), b"never-there") == never.body


def test_limits_hold_without_being_set(keys: KeyFile) -> None:
    """What nobody has thought of is limited all the same."""
    server, key = ServerConfig(), keys.create("alice").record

    assert (server.body_mb, server.header_kb, server.max_tokens) == (10, 16, 131_072)
    assert (server.requests, server.read_s, key.open_streams) == (1000, 30, 100)
    assert (MOST_CHOICES, MOST_MEMBERS) == (8, 32)
    assert OrchestratorConfig.model_fields["budgets"].default.max_tokens == 8192
