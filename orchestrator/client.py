"""A drop-in for openai's clients: their own classes, over this engine instead of a network.

    from orchestrator import OpenAI          # instead of: from openai import OpenAI

    client = OpenAI()                        # ORCHESTRATOR_CONFIG, or config="orchestrator.yaml"
    client.chat.completions.create(model="council", messages=[...])

`model` is whatever the configuration names: a deployment, a route, a panel, `pattern/panel`.
Everything else, types, errors, helpers and raw responses, is openai's.
"""

import asyncio
import os
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai

from orchestrator.blocking import THREAD
from orchestrator.config import OrchestratorConfig, find_config, load_config
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply, fault, refusal
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.errors import OrchestratorError

T = TypeVar("T")

ConfigSource = OrchestratorConfig | str | os.PathLike[str] | None

BASE_URL = "http://orchestrator.invalid/v1"  # a name that no resolver knows: nothing goes there
KEY = "in-process"  # openai's classes want one; nobody looks at it


# What a fork brought along: to drop the last reference would be to close the parent's files.
_inherited: list[object] = []


class Door:
    """The engine behind a client, made when it is first asked, and its endpoints.

    An engine belongs to the event loop that it was made in: each has its own.

    Args:
        config: A configuration, or the file of one; default: where `find_config` finds it.
    """

    def __init__(self, config: ConfigSource) -> None:
        self._config = (
            config
            if isinstance(config, OrchestratorConfig)
            else load_config(find_config(config if config is None else Path(config)))
        )
        self._pid = os.getpid()
        self._opened: dict[AbstractEventLoop, tuple[EnhancedOrchestrator, Endpoints]] = {}

    async def answer(self, call: Call) -> Reply:
        """The reply to a request."""
        if self._pid != os.getpid():
            self._forget()
        opened = self._opened.get(asyncio.get_running_loop())
        try:
            _, endpoints = opened or self._open()
        except OrchestratorError as error:
            return refusal(fault(error))
        return await endpoints.answer(call)

    def _open(self) -> tuple[EnhancedOrchestrator, Endpoints]:
        for loop in [loop for loop in self._opened if loop.is_closed()]:
            del self._opened[loop]
        engine = EnhancedOrchestrator(self._config)
        endpoints = Endpoints(engine, heartbeat_s=self._config.server.heartbeat_s)
        opened = self._opened[asyncio.get_running_loop()] = (engine, endpoints)
        return opened

    def _forget(self) -> None:
        """In the child of a fork: the engines are the parent's; others will be made."""
        _inherited.append(self._opened)
        self._pid, self._opened = os.getpid(), {}

    async def aclose(self) -> None:
        """End the runs there are, and close the engine."""
        if self._pid != os.getpid():
            self._forget()
        opened = self._opened.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened[0].aclose()


def _call(request: httpx.Request, body: bytes) -> Call:
    return Call(
        method=request.method,
        path=request.url.raw_path.decode("ascii").partition("?")[0],
        query=dict(request.url.params),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
    )


def _read_timeout_s(request: httpx.Request) -> float | None:
    """How long openai's client waits for the next bytes."""
    limits: dict[str, float | None] = request.extensions.get("timeout", {})
    return limits.get("read")


async def _within(work: Awaitable[T], limit_s: float | None, request: httpx.Request) -> T:
    """What it comes to.

    Raises:
        httpx.ReadTimeout: it takes longer than that; it is cancelled.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no answer within {limit_s:g} s", request=request) from error


async def _end(pieces: AsyncGenerator[bytes, None]) -> None:
    """Close them, unless that is done already: the collector of garbage comes by two ways."""
    if not getattr(pieces, "ag_running", False):
        await pieces.aclose()


# Asynchronous.


class AsyncTransport(httpx.AsyncBaseTransport):
    """Hands requests to an engine in this process."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limit_s = _read_timeout_s(request)
        call = _call(request, await request.aread())
        reply = await _within(self._door.answer(call), limit_s, request)
        if isinstance(reply.body, bytes):
            return httpx.Response(reply.status, headers=dict(reply.headers), content=reply.body)
        stream = _AsyncPieces(reply.body, limit_s, request)
        return httpx.Response(reply.status, headers=dict(reply.headers), stream=stream)

    async def aclose(self) -> None:
        await self._door.aclose()


class _AsyncPieces(httpx.AsyncByteStream):
    def __init__(
        self, pieces: AsyncGenerator[bytes, None], limit_s: float | None, request: httpx.Request
    ) -> None:
        self._pieces = pieces
        self._limit_s = limit_s
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                piece = await _within(anext(self._pieces), self._limit_s, self._request)
            except StopAsyncIteration:
                return
            yield piece

    async def aclose(self) -> None:
        await _end(self._pieces)


class AsyncOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` over the orchestrator.

    Args:
        config: A configuration, or the path of one; default: `ORCHESTRATOR_CONFIG`, then
            `orchestrator.yaml`, `configs/orchestrator.yaml` and the one that comes with the
            package.
        options: openai's own. A key and an address are not needed: nothing goes over a network
            from here, and the providers' keys are the configuration's.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(self, *, config: ConfigSource = None, **options: Any) -> None:
        super().__init__(**_options(options, config, _async_client))


def _async_client(door: Door) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=AsyncTransport(door), base_url=BASE_URL)


# Synchronous: the same, waited for in the loop's thread.


class Transport(httpx.BaseTransport):
    """Hands requests to an engine in the loop's thread."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if THREAD.is_current():
            raise openai.OpenAIError(
                "This is the event loop's own thread, which must not wait for itself; "
                "use AsyncOpenAI here"
            )
        THREAD.at_exit(self._door.aclose)
        limit_s = _read_timeout_s(request)
        call = _call(request, request.read())
        reply = THREAD.run(_within(self._door.answer(call), limit_s, request))
        if isinstance(reply.body, bytes):
            return httpx.Response(reply.status, headers=dict(reply.headers), content=reply.body)
        stream = _Pieces(reply.body, limit_s, request)
        return httpx.Response(reply.status, headers=dict(reply.headers), stream=stream)

    def close(self) -> None:
        self._close(waits=True)

    def __del__(self) -> None:
        self._close(waits=False)  # nobody can ask through it any more

    def _close(self, *, waits: bool) -> None:
        THREAD.forget_closer(self._door.aclose)
        THREAD.finish(self._door.aclose, waits=waits)


class _Pieces(httpx.SyncByteStream):
    def __init__(
        self, pieces: AsyncGenerator[bytes, None], limit_s: float | None, request: httpx.Request
    ) -> None:
        self._pieces = pieces
        self._limit_s = limit_s
        self._request = request
        self._pid = os.getpid()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := THREAD.run(self._next())) is not None:
            yield piece

    async def _next(self) -> bytes | None:
        if self._pid != os.getpid():
            raise httpx.ReadError("the stream is the parent process's", request=self._request)
        try:
            return await _within(anext(self._pieces), self._limit_s, self._request)
        except StopAsyncIteration:
            return None

    def close(self) -> None:
        if self._pid == os.getpid():
            THREAD.finish(partial(_end, self._pieces))


class OpenAI(openai.OpenAI):
    """`openai.OpenAI` over the orchestrator; it may be used by any number of threads.

    Args:
        config: As of `AsyncOpenAI`.
        options: openai's own.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(self, *, config: ConfigSource = None, **options: Any) -> None:
        super().__init__(**_options(options, config, _client))


def _client(door: Door) -> httpx.Client:
    return httpx.Client(transport=Transport(door), base_url=BASE_URL)


def _options(
    given: dict[str, Any], config: ConfigSource, make: Callable[[Door], Any]
) -> dict[str, Any]:
    """openai's options: a transport of ours unless one is given, as its own copies of a client do.

    Retries are the engine's: another round of them would pay twice.
    """
    client = given.get("http_client")
    if client is not None and config is not None:
        raise TypeError("'http_client' goes elsewhere than 'config'; give one of them")
    return {
        **given,
        "api_key": given.get("api_key") or KEY,
        "base_url": given.get("base_url") or BASE_URL,
        "max_retries": given.get("max_retries", 0),
        "http_client": make(Door(config)) if client is None else client,
    }


__all__ = ["AsyncOpenAI", "OpenAI"]
