"""The server: addresses, keys, limits, time, the log, and clients that come and go."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from adapters.config import LLMProvider, ModelConfig
from orchestrator.config import OrchestratorConfig
from orchestrator.simulator import (
    SIMULATED_KEY,
    LatencyConfig,
    LimitConfig,
    Simulator,
    SimulatorConfig,
    closed_port,
    full_backlog,
    simulated,
)
from orchestrator.simulator.config import EVERY_MODEL
from orchestrator.simulator.limits import RateLimiter
from orchestrator.simulator.routes import BASES, find_route
from tests.simulator.calling import KEY, QUESTION, Caller, receive, request, said

P = LLMProvider


@pytest.mark.parametrize(
    ("path", "host", "provider"),
    [
        ("/v1/messages", "", P.ANTHROPIC),
        ("/v2/chat", "", P.COHERE),
        ("/v1beta/models/gemini-2.5-flash:generateContent", "", P.GOOGLE),
        ("/v1alpha/models/gemini-3:streamGenerateContent", "", P.GOOGLE),
        ("/v1/chat/completions", "api.mistral.ai", P.MISTRAL),
        ("/v1/chat/completions", "api.openai.com", P.OPENAI),
        ("/v1/chat/completions", "127.0.0.1:8080", P.OPENAI),
        ("/google/models/gemini-2.5-flash:generateContent", "", P.GOOGLE),
        ("/custom/v1/chat/completions", "", P.CUSTOM),
        ("/mistral/v1/chat/completions", "api.openai.com", P.MISTRAL),
        ("/~200ms~cutmid/cohere/v2/chat", "", P.COHERE),
    ],
)
def test_addresses_lead_to_their_wire_format(path: str, host: str, provider: P) -> None:
    """By prefix, by the provider's own path, and by the host where paths are shared."""
    route = find_route("POST", path, host)

    assert (route.wire.provider, route.action) == (provider, "complete")


@pytest.mark.parametrize("provider", P)
async def test_an_unknown_address_is_refused_in_the_providers_words(
    caller: Caller, provider: P
) -> None:
    """With a body of its own shape."""
    got = await caller.post(f"{BASES[provider]}/nowhere", {})

    assert got.status in (400, 404)
    assert "nowhere" in got.body.decode()


@pytest.mark.parametrize("provider", P)
async def test_a_missing_key_is_refused(caller: Caller, provider: P) -> None:
    """In the provider's own words; Google says 403."""
    path, body = request(provider, "sim", QUESTION)

    got = await caller.post(BASES[provider] + path, body, headers={})

    assert got.status == (403 if provider is P.GOOGLE else 401)


async def test_only_the_configured_keys_are_accepted() -> None:
    """Others get the provider's 401."""
    config = SimulatorConfig(keys=(SecretStr("right"),))
    async with Simulator(config) as simulator:
        caller = Caller(simulator)
        path, body = request(P.OPENAI, "sim", QUESTION)
        right = await caller.post(
            f"/openai/v1{path}", body, headers={"authorization": "Bearer right"}
        )
        wrong = await caller.post(
            f"/openai/v1{path}", body, headers={"authorization": "Bearer wrong"}
        )

    assert (right.status, wrong.status) == (200, 401)


@pytest.mark.parametrize("provider", P)
async def test_models_are_listed_and_missing_ones_are_missed(
    simulator: Simulator, caller: Caller, provider: P
) -> None:
    """A listing in the provider's shape; a name with `missing` in it is not found."""
    line = f"GET {BASES[provider]}/models HTTP/1.1\r\n"
    head = f"{line}authorization: Bearer k\r\nx-api-key: k\r\nx-goog-api-key: k\r\n\r\n"

    listed = await caller.send(head.encode())
    missed = await caller.ask(provider, model="missing-model")

    assert listed.status == 200
    assert "sim-small" in listed.body.decode()
    assert missed.status == (400 if provider is P.MISTRAL else 404)
    assert "missing-model" in missed.body.decode()


@pytest.mark.parametrize(
    ("provider", "fields", "told"),
    [
        (P.OPENAI, {"messages": []}, "messages"),
        (P.OPENAI, {"temperature": 9}, "temperature"),
        (P.OPENAI, {"temperature": "hot"}, "expected a number"),
        (P.OPENAI, {"messages": [{"role": "boss", "content": "x"}]}, "boss"),
        (P.OPENAI, {"input_cost_per_token": 0}, "Unrecognized request argument"),
        (P.OPENAI, {"n": 3}, "'n' must be 1"),
        (P.OPENAI, {"model": ""}, "model"),
        (P.OPENAI, {"tools": [{"type": "function", "function": {}}]}, "function.name"),
        (P.ANTHROPIC, {"max_tokens": None}, "max_tokens: Field required"),
        (P.ANTHROPIC, {"n": 1}, "Extra inputs are not permitted"),
        (P.ANTHROPIC, {"messages": []}, "at least one message"),
        (P.ANTHROPIC, {"messages": [{"role": "system", "content": "x"}]}, "user"),
        (P.ANTHROPIC, {"tools": [{"input_schema": {}}]}, "tools.0.name"),
        (P.GOOGLE, {"contents": []}, "contents is not specified"),
        (P.GOOGLE, {"messages": []}, "Unknown name"),
        (P.GOOGLE, {"contents": [{"role": "boss", "parts": []}]}, "valid role"),
        (P.GOOGLE, {"generationConfig": 7}, "generationConfig"),
        (P.COHERE, {"messages": "hi"}, "messages"),
        (P.COHERE, {"model": None}, "model is required"),
        (P.MISTRAL, {"seed": 7}, "Extra inputs are not permitted"),
        (P.MISTRAL, {"stop": 7}, "stop"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    caller: Caller, provider: P, fields: dict[str, Any], told: str
) -> None:
    """A 400 in the provider's own shape that names the field."""
    got = await caller.ask(provider, **fields)

    assert got.status == 400
    assert told in got.body.decode()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(caller: Caller, body: bytes) -> None:
    """With a 400."""
    got = await caller.post("/openai/v1/chat/completions", body)

    assert got.status == 400


async def test_a_prompt_beyond_the_window_is_refused() -> None:
    """With the numbers of both."""
    async with Simulator(SimulatorConfig(context_tokens=100)) as simulator:
        got = await Caller(simulator).ask(P.ANTHROPIC, prompt="word " * 1000)

    assert got.status == 400
    assert re.search(r"prompt is too long: \d{4} tokens > 100 maximum", got.body.decode())


# HTTP itself.


async def test_a_connection_serves_many_requests(simulator: Simulator) -> None:
    """Keep-alive, plain and streamed, in turn."""
    _, body = request(P.OPENAI, "sim", QUESTION)
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    ends = []
    for streamed in (False, True, False):
        data = json.dumps(body | {"stream": streamed}).encode()
        head = "POST /openai/v1/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\n"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        ends.append((await receive(reader)).end)
    writer.close()
    await writer.wait_closed()

    assert ends == ["whole", "whole", "whole"]


async def test_chunked_bodies_and_expectations_are_read(caller: Caller) -> None:
    """A body in chunks comes after `100 Continue`."""
    _, body = request(P.OPENAI, "sim", QUESTION)
    data = json.dumps(body).encode()
    halves = b"".join(b"%x\r\n%b\r\n" % (len(h), h) for h in (data[:20], data[20:]))
    head = (
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\n"
        b"transfer-encoding: chunked\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    )

    reader, writer = await asyncio.open_connection("127.0.0.1", caller.simulator.port)
    writer.write(head + halves + b"0\r\n\r\n")
    got = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request_is_refused(caller: Caller, sent: bytes, status: int) -> None:
    """And the connection is closed."""
    got = await caller.send(sent)

    lost = {431, 0} if status == 431 else {status}  # a client that still sends may miss it
    assert got.status in lost


async def test_an_old_client_gets_a_body_that_ends_with_the_connection(caller: Caller) -> None:
    """HTTP/1.0 knows no chunks."""
    _, body = request(P.OPENAI, "sim", QUESTION, streamed=True)
    data = json.dumps(body).encode()
    head = "POST /openai/v1/chat/completions HTTP/1.0\r\nauthorization: Bearer k\r\n"
    head += f"content-length: {len(data)}\r\n\r\n"

    got = await caller.send(head.encode() + data)

    assert got.end == "eof"
    assert got.body.endswith(b"data: [DONE]\n\n")


# Time.


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_is_complete_at_its_latency(caller: Caller, streamed: bool) -> None:
    """A plain answer comes then; a stream begins at about a third of it and ends then."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    got = await caller.ask(P.OPENAI, model="sim--80ms", streamed=streamed)

    assert got.end == "whole"
    assert 0.075 <= loop.time() - start_s < 0.3


async def test_a_gap_separates_pieces(simulator: Simulator) -> None:
    """The first comes long before the last."""
    _, body = request(P.OPENAI, "sim--gap5ms", QUESTION, streamed=True)
    data = json.dumps(body).encode()
    head = "POST /openai/v1/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    loop = asyncio.get_running_loop()
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    times = []
    while b"[DONE]" not in await reader.readline():
        times.append(loop.time())
    writer.close()
    await writer.wait_closed()

    assert times[-1] - times[0] > 0.05


async def test_a_configured_latency_is_seeded_and_varies() -> None:
    """Log-normal about the median: the same prompts, the same times."""
    latency = {EVERY_MODEL: LatencyConfig(median_s=0.02, sigma=0.5, max_s=0.05)}
    config = SimulatorConfig(latency=latency, seed=4)

    async def times() -> list[float]:
        async with Simulator(config) as simulator:
            caller = Caller(simulator)
            for number in range(3):
                await caller.ask(P.OPENAI, prompt=f"What is entropy, {number}?")
            await simulator.settled()
            return [record.elapsed_s for record in simulator.requests]

    first, second = await times(), await times()

    assert max(first) - min(first) > 0.001
    for one, two in zip(first, second, strict=True):
        assert abs(one - two) < 0.03


# Limits.


def test_a_bucket_refills_and_says_how_long_to_wait() -> None:
    """Sixty a minute are one a second; a refused request takes nothing."""
    limiter = RateLimiter(LimitConfig(requests_per_minute=60, tokens_per_minute=6000), 0.0)

    taken = [limiter.take(10, 0.0).retry_after_s for _ in range(60)]
    refused = limiter.take(10, 0.0)
    later = limiter.take(10, 1.0)

    assert set(taken) == {None}
    assert refused.retry_after_s == pytest.approx(1.0)
    assert (refused.which, refused.remaining_requests) == ("requests", 0)
    assert later.retry_after_s is None


def test_tokens_are_limited_too() -> None:
    """A prompt larger than the bucket waits for a full one, not for ever."""
    limiter = RateLimiter(LimitConfig(tokens_per_minute=600), 0.0)

    first, second = limiter.take(10_000, 0.0), limiter.take(300, 0.0)

    assert first.retry_after_s is None
    assert second.retry_after_s == pytest.approx(30.0)
    assert second.which == "tokens"


@pytest.mark.parametrize("provider", P)
async def test_a_limit_answers_429_with_what_is_left(provider: P) -> None:
    """The first request passes, the second is told to wait."""
    limits = {EVERY_MODEL: LimitConfig(requests_per_minute=1)}
    async with Simulator(SimulatorConfig(limits=limits)) as simulator:
        caller = Caller(simulator)
        first = await caller.ask(provider)
        second = await caller.ask(provider)

    assert (first.status, second.status) == (200, 429)


# The log.


async def test_the_log_tells_what_happened_and_no_key(tmp_path: Path) -> None:
    """In memory and in a file, a line a request."""
    path = tmp_path / "requests.jsonl"
    async with Simulator(SimulatorConfig(log_path=path)) as simulator:
        caller = Caller(simulator)
        await caller.ask(P.OPENAI, model="gpt--e503")
        await caller.ask(P.ANTHROPIC, streamed=True)
        await simulator.settled()
        failed, streamed = simulator.requests
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    assert (failed.provider, failed.model, failed.status) == ("openai", "gpt", 503)
    assert failed.faults == ("e503",)
    assert streamed.streamed
    assert streamed.prompt_tokens > 0
    assert streamed.completion_tokens > 0
    assert streamed.prompt == QUESTION
    assert streamed.has_key
    assert not streamed.closed_by_client
    assert [line["index"] for line in lines] == [0, 1]
    assert "prompt" not in lines[0]
    assert KEY not in path.read_text() + repr(list(simulator.requests))


async def test_only_the_newest_records_stay_in_memory() -> None:
    """A load test does not fill the memory."""
    async with Simulator(SimulatorConfig(keep_requests=2)) as simulator:
        caller = Caller(simulator)
        for _ in range(4):
            await caller.ask(P.CUSTOM)
        await simulator.settled()

        assert [record.index for record in simulator.requests] == [2, 3]
        assert simulator.requests.total == 4
        simulator.requests.clear()
        assert len(simulator.requests) == 0


async def test_a_running_simulator_shows_its_log_and_its_faults(caller: Caller) -> None:
    """Two pages for people."""
    await caller.ask(P.CUSTOM)
    log = await caller.send(b"GET /-/requests HTTP/1.1\r\n\r\n")
    faults = await caller.send(b"GET /-/faults HTTP/1.1\r\n\r\n")
    other = await caller.send(b"GET /-/else HTTP/1.1\r\n\r\n")

    assert json.loads(log.body)["provider"] == "custom"
    assert faults.json["cut0"]
    assert other.status == 404


@pytest.mark.parametrize("model", ["sim--stall0", "sim--10s", "sim--stallmid", "sim--drip"])
async def test_a_client_that_leaves_is_noticed_at_once(simulator: Simulator, model: str) -> None:
    """While the simulator waits, whatever it waits for."""
    _, body = request(P.OPENAI, model, QUESTION, streamed=True)
    data = json.dumps(body).encode()
    head = "POST /openai/v1/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()
    await simulator.occupied()

    left_s = simulator.elapsed_s()
    writer.close()
    async with asyncio.timeout(2):
        await simulator.settled()

    record = simulator.requests[-1]
    assert record.closed_by_client
    assert record.closed_early_s is not None
    assert record.closed_early_s - left_s < 0.25


async def test_a_client_that_stays_to_the_end_did_not_leave(
    simulator: Simulator, caller: Caller
) -> None:
    """Closing after the answer is no early close."""
    await caller.ask(P.GOOGLE, streamed=True)
    await simulator.settled()

    assert simulator.requests[-1].closed_by_client is False


async def test_a_big_answer_to_a_client_that_does_not_read_is_given_up(
    simulator: Simulator,
) -> None:
    """The simulator does not hold what nobody takes, and ends when the client does."""
    _, body = request(P.OPENAI, "sim--big8", QUESTION)
    data = json.dumps(body).encode()
    head = "POST /openai/v1/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(sock, ("127.0.0.1", simulator.port))
        await loop.sock_sendall(sock, f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        await asyncio.sleep(0.05)
        assert simulator.in_flight == 1
    async with asyncio.timeout(2):
        await simulator.settled()

    assert simulator.requests[-1].closed_by_client


async def test_closing_the_simulator_ends_what_is_stalled() -> None:
    """Nothing is left running."""
    simulator = Simulator()
    await simulator.start()
    asking = asyncio.create_task(Caller(simulator).ask(P.OPENAI, model="sim--stall0"))
    await simulator.occupied()

    async with asyncio.timeout(2):
        await simulator.aclose()
        got = await asking

    assert got.end in ("eof", "reset")
    assert simulator.in_flight == 0


# What is sent can be known beforehand.


@pytest.mark.parametrize("provider", P)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_can_be_rendered_beforehand(
    simulator: Simulator, caller: Caller, provider: P, streamed: bool
) -> None:
    """Byte for byte, faults included, without being counted."""
    path, body = request(provider, "sim--unknownfields", QUESTION, streamed=streamed)

    rendered = simulator.render(BASES[provider] + path, body)
    got = await caller.post(BASES[provider] + path, body)

    assert rendered == got.body
    await simulator.settled()
    assert simulator.requests.total == 1


async def test_two_simulators_of_one_seed_say_the_same() -> None:
    """And of two seeds not."""

    async def text(seed: int) -> str:
        async with Simulator(SimulatorConfig(seed=seed)) as simulator:
            return said(P.CUSTOM, await Caller(simulator).ask(P.CUSTOM))

    assert await text(1) == await text(1) != await text(2)


# Pointing things at it.


async def test_a_configuration_is_pointed_at_the_simulator(simulator: Simulator) -> None:
    """Every address and key is replaced, every model name kept; latencies are spread."""
    models = {
        "gpt": ModelConfig(provider=P.OPENAI, model="gpt-5-mini", api_key=SecretStr("real")),
        "local": ModelConfig(provider=P.CUSTOM, model="qwen3", api_base="http://192.0.2.1/v1"),
    }

    pointed = simulated(
        OrchestratorConfig(models=models),
        simulator,
        spread_s=(0.1, 0.2),
        directives={"local": ["e503", "7ms"]},
    )

    gpt, local = pointed.models["gpt"], pointed.models["local"]
    assert gpt.model == "gpt-5-mini"
    assert gpt.api_key is not None
    assert gpt.api_key.get_secret_value() == SIMULATED_KEY
    assert re.fullmatch(
        rf"http://127\.0\.0\.1:{simulator.port}/~1\d\dms/openai/v1", gpt.api_base or ""
    )
    assert (local.api_base or "").endswith("/~e503~7ms/custom/v1")


async def test_its_certificate_is_trusted_by_nobody() -> None:
    """A client that checks refuses it; one that does not is served."""
    async with Simulator(SimulatorConfig(tls=True)) as simulator:
        assert simulator.base_url(P.OPENAI).startswith("https://")
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                "127.0.0.1", simulator.port, ssl=ssl.create_default_context()
            )
        careless = ssl.create_default_context()
        careless.check_hostname = False
        careless.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port, ssl=careless)
        writer.write(b"GET /-/faults HTTP/1.1\r\nconnection: close\r\n\r\n")
        got = await receive(reader)
        writer.close()
        await writer.wait_closed()

    assert got.status == 200


async def test_ports_can_be_closed_or_deaf() -> None:
    """One refuses at once, the other never answers."""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", closed_port())

    with full_backlog() as port, pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"faults": {"x": ["nonsense"]}},
        {"host": "0.0.0.0"},
        {"seeds": 1},
        {"latency": {"*": {"median_s": -1}}},
        {"limits": {"*": {"requests_per_minute": 0}}},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything listens."""
    with pytest.raises(ValidationError):
        SimulatorConfig.model_validate(wrong)


def test_the_simulator_needs_no_litellm() -> None:
    """Importing it stays light."""
    code = "import sys, orchestrator.simulator; sys.exit('litellm' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
