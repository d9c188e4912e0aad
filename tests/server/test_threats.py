"""The gateway attacked, threat by threat. Each row names the tests that show what holds.

===========================  =======================================================================
No or weak auth              test_gate.py::test_no_route_lets_nobody_in,
                             ::test_a_key_opens_and_its_end_closes; test_run.py::
                             test_it_is_open_to_others_only_with_a_key
Theft of keys from disk      test_keys.py::test_nothing_that_is_kept_holds_the_key,
                             ::test_a_file_that_cannot_be_trusted_is_one_clear_error
Timing of keys               test_keys.py::test_digests_are_compared_in_constant_time_whether_or_not_
                             the_id_is_known; test_gate.py::test_an_odd_authorization_is_none,
                             ::test_a_megabyte_of_authorization_is_refused_before_it_is_kept
Ways round the key           test_no_spelling_of_host_and_path_goes_round_the_key; test_gate.py::
                             test_no_spelling_of_a_path_goes_round_the_key
More rights than given       test_no_key_administers; tests/endpoints/test_orchestrations.py::
                             test_a_key_is_held_to_its_models
Parameters of litellm        test_no_parameter_of_litellm_reaches_a_call_by_any_endpoint; test_gate.py::
                             test_no_parameter_of_litellm_reaches_a_call
Requests to other hosts      test_no_address_in_a_request_is_asked,
                             test_a_redirect_of_a_provider_is_not_followed;
                             tests/adapters/test_media.py, tests/adapters/test_trust.py
Denial of wallet             test_what_is_refused_reserves_nothing, test_limits_hold_without_being_set;
                             test_gate.py::test_what_is_too_much_is_refused_before_it_costs;
                             test_key_budgets.py::test_a_hundred_at_once_spend_what_there_is_and_no_more
Exhaustion                   test_idle_connections_hold_nobody_up, test_what_is_refused_reserves_nothing,
                             test_a_head_is_refused_from_its_first_byte_too_many; test_gate.py::
                             test_a_slow_head_is_not_waited_for, ::test_a_slow_body_is_not_waited_for,
                             ::test_a_body_has_a_size, ::test_a_body_is_json_as_it_is;
                             tests/wire/test_reading.py::test_a_megabyte_of_values_is_never_read
SQL and templates            test_what_looks_like_code_is_text; test_project.py, for what the source
                             may not do
Processes                    test_no_request_starts_a_process
Secrets told                 test_threats_secrets.py::test_the_gateway_tells_no_secret;
                             test_logs.py::test_neither_bodies_nor_keys_are_logged
Objects of others            test_what_one_tenant_has_is_not_there_for_another; test_wired_keys.py::
                             test_an_idempotency_key_holds_over_http_and_for_its_tenant_alone
Abuse of Idempotency-Key     test_idempotency.py, above all ::test_a_key_belongs_to_one_request and
                             ::test_a_twin_in_flight_is_told_to_wait
Hostile providers            test_nothing_that_a_provider_adds_is_handed_on; test_gate.py::
                             test_a_header_of_a_reply_cannot_end_its_line
Browsers elsewhere           test_what_a_form_can_send_is_refused; test_gate.py::
                             test_a_browser_elsewhere_reads_nothing,
                             ::test_it_is_asked_under_its_own_names_only
Administration seen          test_nobody_sees_more_than_that_it_lives
Damaged bodies               test_threats_bodies.py
A loop that stands still     test_threats_loop.py; tests/benchmarks/stalls.py for the figure
===========================  =======================================================================
"""

import asyncio
import inspect
import json
import re
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from adapters import MockAdapter, ModelConfig, _litellm
from adapters.mock import Reply as Scripted
from adapters.types import ToolCall
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import MOST_MEMBERS, LedgerConfig, PanelConfig, RetryConfig, ServerConfig
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


HERE = """
127.0.0.1 localhost LOCALHOST localhost. api.localhost 127.1 127.0.1 2130706433 0x7f000001 0x7f.1
0177.0.0.1 017700000001 0 0.0.0.0 127.8.9.1 127.0.0.1. user@127.0.0.1 evil.example@127.0.0.1 [::1]
[::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] 127.0.0.1%2f @127.0.0.1
\u2460\u2461\u2466.0.0.1 127\u30020\u30020\u30021 %31%32%37.0.0.1 localhost%00.evil.example
""".split()
ELSEWHERE = """
http://169.254.169.254/latest/meta-data/ http://[fd00:ec2::254]/ http://metadata.google.internal/
http://10.0.0.7/ http://192.168.1.1/ http://172.16.0.1/ http://100.64.0.1/ file:///etc/passwd
gopher://127.0.0.1:6379/_INFO ftp://127.0.0.1/ //127.0.0.1/ /etc/passwd dict://localhost:11211/
jar:http://127.0.0.1!/ javascript:alert(1) http:127.0.0.1 https://127.0.0.1:1/ unix:/run/docker.sock
""".split()


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
        async with provider(status, b"moved", to) as port:
            async with EnhancedOrchestrator(at_port(port)) as engine:
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
    async with provider(status, body, {"content-type": "application/json", **HOSTILE}) as port:
        async with EnhancedOrchestrator(at_port(port)) as engine:
            said = await post(
                create_app(engine), "/v1/chat/completions", {"model": "delta", "messages": HELLO}
            )

    names = {name for name, _ in said.headers}
    assert names <= OWN_HEADERS
    for name, value in said.headers:
        assert "\r" not in value, name
        assert "theirs" not in value, name
    assert said.header("x-orchestrator-cost-usd") in (None, "0.000000000")
