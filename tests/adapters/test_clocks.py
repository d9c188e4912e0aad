"""Four clocks that count content, over real sockets; and connections that are given back."""

import asyncio
import gc
import json
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from adapters import (
    BaseAdapter,
    ConnectionFailed,
    Limits,
    LLMProvider,
    ModelConfig,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    StreamBroken,
    collect,
    create_adapter,
)
from adapters._provider import LiteLLMAdapter
from tests.adapters.conftest import Opened
from tests.adapters.wires import ASK, MODELS, PROVIDERS, data, events, plain, stream, wire

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"content-type: text/event-stream\r\nconnection: close\r\n\r\n"
PATIENT = Limits(connect_s=20, first_content_s=20, gap_s=20, total_s=20)
Script = Callable[["Peer"], Awaitable[None]]
warmed: set[LLMProvider] = set()


@dataclass
class Peer:
    """The server's end of one request."""

    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the client has left

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def say_again_and_again(self, part: bytes, *, every_s: float = 0.01) -> None:
        """Until the client leaves."""
        while not self.gone.is_set():
            await self.say(part)
            await asyncio.sleep(every_s)

    async def keep_silent(self) -> None:
        """Until the client leaves."""
        await self.gone.wait()


@dataclass
class Server:
    """A server that does as it is told, and what it saw."""

    script: Script
    port: int = 0
    peers: list[Peer] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_left(self) -> None:
        """Wait until every client has closed its connection; that takes no time."""
        async with asyncio.timeout(2.0):  # but the machine may be busy
            for peer in self.peers:
                await peer.gone.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests are answered until the client leaves."""
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                peer = Peer(writer)
                self.peers.append(peer)
                self.asked.set()
                await self._answer(peer, reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for peer in self.peers:
                if peer.writer is writer:
                    peer.gone.set()
            writer.close()

    async def _answer(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        task = asyncio.ensure_future(self.script(peer))
        while not task.done():  # nothing is sent behind a request, so what comes is the end
            if reader.at_eof() or reader.exception():
                peer.gone.set()
                task.cancel()
            await asyncio.wait({task}, timeout=0.005)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    """A server on this machine that answers every request by the script."""
    tasks: set[asyncio.Task[None]] = set()
    server = Server(script)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(server.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def config(provider: LLMProvider, port: int, scheme: str = "http") -> ModelConfig:
    has_path = provider in (LLMProvider.OPENAI, LLMProvider.MISTRAL, LLMProvider.CUSTOM)
    base = f"{scheme}://127.0.0.1:{port}{'/v1' if has_path else ''}"
    key = SecretStr("a-key-for-tests")
    return ModelConfig(provider=provider, model=MODELS[provider], api_key=key, api_base=base)


@pytest.fixture
async def calling(opened: Opened) -> Callable[..., Awaitable[BaseAdapter]]:
    """Makes adapters for a server. litellm's first call for a provider takes a second: not here."""

    async def adapter_for(
        server: Server, provider: LLMProvider = LLMProvider.OPENAI
    ) -> BaseAdapter:
        if provider not in warmed:
            warmed.add(provider)
            await (await wire(provider, plain(provider))).adapter.complete(ASK)
            await collect((await wire(provider, stream(provider))).adapter.stream(ASK))
        return opened(config(provider, server.port))

    return adapter_for


Calling = Callable[..., Awaitable[BaseAdapter]]
PING = b": keep-alive\n\n"


def first(provider: LLMProvider = LLMProvider.OPENAI) -> bytes:
    """A stream's beginning, with two words of text."""
    count = {LLMProvider.ANTHROPIC: 4, LLMProvider.GOOGLE: 1}.get(provider, 2)
    return data(*events(provider, ("The ", "Nile."))[:count])


def empty(provider: LLMProvider) -> bytes:
    """An event without content."""
    match provider:
        case LLMProvider.ANTHROPIC:
            return data({"type": "ping"})
        case LLMProvider.GOOGLE:
            return data({"modelVersion": "x", "candidates": [{"content": {"parts": []}}]})
        case LLMProvider.COHERE:
            return data({"type": "content-start", "index": 0, "delta": {}})
    return data({"id": "1", "choices": [{"index": 0, "delta": {"content": ""}}]})


async def timed_out(asked: Awaitable[object], within_s: float = 3.0) -> ProviderTimeout:
    """The timeout that this call ends in, and soon."""
    started = time.monotonic()
    with pytest.raises(ProviderTimeout) as caught:
        await asked
    assert time.monotonic() - started < within_s
    assert caught.value.status_code == 504
    assert caught.value.retryable
    return caught.value


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_keep_alive_comments_are_no_content(provider: LLMProvider, calling: Calling) -> None:
    """A server that only says that it is alive does not hold a call."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE)
        await peer.say_again_and_again(PING)

    async with serving(script) as server:
        adapter = await calling(server, provider)
        limits = Limits(first_content_s=0.1)
        error = await timed_out(collect(adapter.stream(ASK, limits=limits)))
        await server.is_left()

    assert "no content within 0.1 s" in str(error)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_events_without_content_are_no_content(
    provider: LLMProvider, calling: Calling
) -> None:
    """Nor does one that sends empty pieces."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE)
        await peer.say_again_and_again(empty(provider))

    async with serving(script) as server:
        adapter = await calling(server, provider)
        limits = Limits(first_content_s=0.1)
        error = await timed_out(collect(adapter.stream(ASK, limits=limits)))
        await server.is_left()

    assert "no content within 0.1 s" in str(error)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_may_not_pause_for_longer_than_the_gap(
    provider: LLMProvider, calling: Calling
) -> None:
    """Keep-alive comments or none. What came before is delivered."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE, first(provider))
        await peer.say_again_and_again(PING)

    async with serving(script) as server:
        adapter = await calling(server, provider)
        limits = Limits(first_content_s=20, gap_s=0.1)
        delivered: list[str] = []

        async def listen() -> None:
            async with aclosing(adapter.stream(ASK, limits=limits)) as chunks:
                async for chunk in chunks:
                    delivered.append(chunk.text)  # noqa: PERF401 - it ends in an error

        error = await timed_out(listen())
        await server.is_left()

    assert "no more content for 0.1 s" in str(error)
    assert delivered == ["The "]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_drip_ends_with_the_total(provider: LLMProvider, calling: Calling) -> None:
    """However regular it is."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE)
        await peer.say_again_and_again(first(provider), every_s=0.02)

    async with serving(script) as server:
        adapter = await calling(server, provider)
        limits = Limits(first_content_s=20, gap_s=20, total_s=0.2)
        error = await timed_out(collect(adapter.stream(ASK, limits=limits)))
        await server.is_left()

    assert "not finished after 0.2 s" in str(error)


async def silence(peer: Peer) -> None:
    await peer.keep_silent()


async def silence_after_the_head(peer: Peer) -> None:
    await peer.say(SSE)
    await peer.keep_silent()


async def half_a_head(peer: Peer) -> None:
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-")
    await peer.keep_silent()


async def a_refusal_without_end(peer: Peer) -> None:
    await peer.say(b"HTTP/1.1 500 Sorry\r\ncontent-length: 1000\r\n\r\n")
    await peer.say_again_and_again(b"x")


async def white_space_without_end(peer: Peer) -> None:
    await peer.say(SSE)
    await peer.say_again_and_again(b"\n")


SILENCES = (silence, silence_after_the_head, half_a_head, a_refusal_without_end)


@pytest.mark.parametrize("script", [*SILENCES, white_space_without_end])
@pytest.mark.parametrize("provider", ["openai", "google", "cohere"])
async def test_a_stream_that_never_begins_ends_with_the_first_content_limit(
    provider: str, script: Script, calling: Calling
) -> None:
    """Wherever it stopped: litellm sends Gemini's request later than the others'."""
    async with serving(script) as server:
        adapter = await calling(server, LLMProvider(provider))
        limits = Limits(first_content_s=0.15)
        error = await timed_out(collect(adapter.stream(ASK, limits=limits)))
        await server.is_left()

    assert "no content within 0.15 s" in str(error)


@pytest.mark.parametrize("script", SILENCES)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "cohere"])
async def test_a_plain_call_ends_with_the_total(
    provider: str, script: Script, calling: Calling
) -> None:
    """It has no first content before its end."""
    async with serving(script) as server:
        adapter = await calling(server, LLMProvider(provider))
        limits = Limits(first_content_s=0.01, total_s=0.2)
        error = await timed_out(adapter.complete(ASK, limits=limits))
        await server.is_left()

    assert "not finished after 0.2 s" in str(error)


@pytest.fixture
async def nobody_accepts() -> AsyncIterator[int]:
    """The port of a listener whose queue is full: connecting to it hangs."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    callers = [socket.socket() for _ in range(4)]
    calls = []
    for caller in callers:
        caller.setblocking(False)
        calls.append(asyncio.ensure_future(loop.sock_connect(caller, listener.getsockname())))
    await asyncio.sleep(0.02)
    yield listener.getsockname()[1]
    for call, caller in zip(calls, callers, strict=True):
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        caller.close()
    listener.close()


async def test_connecting_has_a_limit_of_its_own(
    nobody_accepts: int, opened: Opened, calling: Calling
) -> None:
    """Nothing was sent: that is worth knowing."""
    adapter = await calling(Server(silence, nobody_accepts))
    limits = Limits(connect_s=0.1, total_s=20, first_content_s=20)

    error = await timed_out(adapter.complete(ASK, limits=limits))
    again = await timed_out(collect(adapter.stream(ASK, limits=limits)))

    for found in (error, again):
        assert "no connection to 127.0.0.1 within 0.1 s" in str(found)


async def test_a_handshake_belongs_to_connecting(opened: Opened, calling: Calling) -> None:
    """A server that accepts and does not speak TLS."""
    tasks = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    await calling(Server(silence, port))
    adapter = opened(config(LLMProvider.OPENAI, port, "https"))

    error = await timed_out(adapter.complete(ASK, limits=Limits(connect_s=0.1)))

    assert "no connection to 127.0.0.1 within 0.1 s" in str(error)
    for writer in tasks:
        writer.close()
    listener.close()
    await listener.wait_closed()


async def test_a_closed_port_is_a_connection_failed(calling: Calling) -> None:
    """At once, and in words."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    adapter = await calling(Server(silence, port))

    for asked in (adapter.complete(ASK), collect(adapter.stream(ASK))):
        with pytest.raises(
            ConnectionFailed, match=r"cannot connect to 127.0.0.1: Connect"
        ) as caught:
            await asked
        assert caught.value.retryable


def short(whole: bytes) -> bytes:
    return OK + f"content-length: {len(whole) + 9}\r\n\r\n".encode() + whole


BREAKS: dict[str, tuple[bytes, type[ProviderError], str]] = {
    "before the head": (b"", ConnectionFailed, "closed the connection before it answered"),
    "in the head": (b"HTTP/1.1 200", ConnectionFailed, "closed the connection before it answered"),
    "a head of nonsense": (b"nonsense\r\n\r\n", ConnectionFailed, "before it answered"),
    "in the body": (short(b'{"choices": []'), StreamBroken, "cut off before its end"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_connection_that_breaks_is_told_by_when_it_broke(
    name: str, calling: Calling
) -> None:
    """Before an answer began, or in it."""
    sent, expected, words = BREAKS[name]

    async def script(peer: Peer) -> None:
        await peer.say(sent)
        peer.writer.close()

    async with serving(script) as server:
        adapter = await calling(server)
        with pytest.raises(expected, match=words):
            await adapter.complete(ASK)

        assert len(server.peers) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_whole_answer_does_not_wait_for_the_connections_end(
    provider: LLMProvider, calling: Calling
) -> None:
    """A server that says everything and then neither closes nor goes on."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE, stream(provider))
        await peer.keep_silent()

    async with serving(script) as server:
        adapter = await calling(server, provider)
        started = time.monotonic()
        limits = Limits(gap_s=0.5)
        completion = await collect(adapter.stream(ASK, limits=limits))
        await server.is_left()

    assert completion.text == "The Nile."
    assert completion.usage.completion_tokens == 5
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_slow_reader_is_not_the_providers_fault(
    provider: LLMProvider, calling: Calling
) -> None:
    """The gap is counted from when somebody waits."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE, stream(provider, "one ", "two ", "three"))

    async with serving(script) as server:
        adapter = await calling(server, provider)
        texts = []
        limits = Limits(first_content_s=20, gap_s=0.3)
        async with aclosing(adapter.stream(ASK, limits=limits)) as chunks:
            async for chunk in chunks:
                texts.append(chunk.text)
                await asyncio.sleep(0.35 if len(texts) == 1 else 0)

    assert "".join(texts) == "one two three"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_closing_a_stream_closes_the_providers_connection(
    provider: LLMProvider, calling: Calling
) -> None:
    """Nobody writes, and nobody pays, for an answer that nobody reads."""

    async def script(peer: Peer) -> None:
        await peer.say(SSE, first(provider))
        await peer.keep_silent()

    async with serving(script) as server:
        adapter = await calling(server, provider)
        async with aclosing(adapter.stream(ASK, limits=PATIENT)) as chunks:
            async for chunk in chunks:
                assert chunk.text == "The "
                break
        await server.is_left()

        assert server.connections == 1


@pytest.mark.parametrize("script", [silence, silence_after_the_head])
@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_cancelling_a_call_closes_the_providers_connection(
    provider: LLMProvider, way: str, script: Script, calling: Calling
) -> None:
    """Wherever it waits."""
    async with serving(script) as server:
        adapter = await calling(server, provider)
        asked = (
            adapter.complete(ASK, limits=PATIENT)
            if way == "plain"
            else collect(adapter.stream(ASK, limits=PATIENT))
        )
        task = asyncio.ensure_future(asked)
        async with asyncio.timeout(5):
            await server.asked.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.is_left()

        assert len(server.peers) == 1


@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_connection_is_used_again(
    provider: LLMProvider, way: str, calling: Calling
) -> None:
    """Five calls one after another need no more than one."""

    async def script(peer: Peer) -> None:
        body = stream(provider) if way == "streamed" else json.dumps(plain(provider)).encode()
        kind = b"text/event-stream" if way == "streamed" else b"application/json"
        size = f"{len(body):x}\r\n".encode()
        head = OK + b"content-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n"
        await peer.say(head, size + body + b"\r\n", b"0\r\n\r\n")

    async with serving(script) as server:
        adapter = await calling(server, provider)
        for _ in range(5):
            if way == "plain":
                completion = await adapter.complete(ASK)
            else:
                completion = await collect(adapter.stream(ASK))
            assert completion.text == "The Nile."
        assert len(server.peers) == 5
        assert server.connections == 1

        await adapter.aclose()
        await server.is_left()


async def test_connections_to_one_host_have_no_limit(calling: Calling) -> None:
    """What waits for a connection waits unseen, and its clocks run."""
    together = asyncio.Event()

    async def script(peer: Peer) -> None:
        if len(server.peers) == 120:
            together.set()
        await together.wait()
        body = json.dumps(plain("custom")).encode()
        await peer.say(OK + f"content-length: {len(body)}\r\n\r\n".encode() + body)

    async with serving(script) as server:
        adapter = await calling(server, LLMProvider.CUSTOM)
        calls = (adapter.complete(ASK, limits=PATIENT) for _ in range(120))
        completions = await asyncio.gather(*calls)

    assert len(completions) == 120


async def test_a_closed_adapter_opens_new_connections(calling: Calling) -> None:
    """Closing gives up the connections, not the adapter."""

    async def script(peer: Peer) -> None:
        body = json.dumps(plain("openai")).encode()
        await peer.say(OK + f"content-length: {len(body)}\r\n\r\n".encode() + body)

    async with serving(script) as server:
        adapter = await calling(server)
        await adapter.complete(ASK)
        await adapter.aclose()
        await adapter.complete(ASK)

        assert server.connections == 2


class ThreadedServer:
    """A server on a loop of its own, for tests that have several loops themselves."""

    def __enter__(self) -> int:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        self._ready.wait(10)
        return self._port

    async def _run(self) -> None:
        async def script(peer: Peer) -> None:
            body = json.dumps(plain("openai")).encode()
            await peer.say(OK + f"content-length: {len(body)}\r\n\r\n".encode() + body)

        self._end = asyncio.Event()
        async with serving(script) as server:
            self._port = server.port
            self._ready.set()
            await self._end.wait()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()


def test_an_adapter_serves_one_loop_after_another() -> None:
    """`asyncio.run` again and again: no complaint of open connections, and none are kept."""
    with ThreadedServer() as port, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        adapter = create_adapter(config(LLMProvider.OPENAI, port))
        assert isinstance(adapter, LiteLLMAdapter)

        async def once(*, closing: bool) -> str:
            completion = await adapter.complete(ASK)
            if closing:
                await adapter.aclose()
            return completion.text

        texts = [asyncio.run(once(closing=False)) for _ in range(4)]
        assert len(adapter._connected()._pools) == 1
        texts.append(asyncio.run(once(closing=True)))
        assert len(adapter._connected()._pools) == 0
        gc.collect()

    assert texts == ["The Nile."] * 5
    assert [str(one.message) for one in seen if "Unclosed" in str(one.message)] == []


def test_an_adapter_serves_several_loops_at_once() -> None:
    """Each thread's loop has connections of its own."""
    texts: list[str] = []
    with ThreadedServer() as port:
        adapter = create_adapter(config(LLMProvider.OPENAI, port))

        async def several() -> None:
            completions = await asyncio.gather(*(adapter.complete(ASK) for _ in range(5)))
            texts.extend(completion.text for completion in completions)
            await adapter.aclose()

        threads = [threading.Thread(target=asyncio.run, args=(several(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert texts == ["The Nile."] * 15


async def test_a_key_that_changes_does_not_break_a_stream_under_way(
    calling: Calling, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    """The stream keeps the connection it began on."""
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        whole = stream("openai")
        await peer.say(SSE, whole[:-300])
        await go_on.wait()
        await peer.say(whole[-300:])

    async with serving(script) as server:
        await calling(server)
        monkeypatch.setenv("RIVER_KEY", "first-key-1234")
        given = config(LLMProvider.OPENAI, server.port)
        adapter = opened(given.model_copy(update={"api_key": SecretStr("${RIVER_KEY}")}))
        texts = []
        async with aclosing(adapter.stream(ASK, limits=PATIENT)) as chunks:
            texts.append((await anext(chunks)).text)
            monkeypatch.setenv("RIVER_KEY", "second-key-5678")
            other = asyncio.ensure_future(collect(adapter.stream(ASK, limits=PATIENT)))
            await asyncio.sleep(0.05)
            gc.collect()
            go_on.set()
            texts.extend([chunk.text async for chunk in chunks])
        completion = await other

    assert "".join(texts) == completion.text == "The Nile."


async def test_a_refusal_is_read_only_as_far_as_it_matters(calling: Calling) -> None:
    """A page of megabytes behind a 500 is not waited for."""

    async def script(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 503 Sorry\r\ncontent-length: 100000000\r\n\r\n")
        await peer.say_again_and_again(b"x" * 65_536, every_s=0)

    async with serving(script) as server:
        adapter = await calling(server)
        with pytest.raises(ProviderUnavailable, match="HTTP 503"):
            await adapter.complete(ASK, limits=PATIENT)
        await server.is_left()
