"""The custom adapter against a real inference server. What it says is gibberish, by design."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import jsonschema
import pytest
from pydantic import SecretStr

from adapters import (
    BaseAdapter,
    Chunk,
    Completion,
    CompletionRequest,
    LLMProvider,
    ModelConfig,
    collect,
)
from adapters.errors import AuthenticationFailed, ContextWindowExceeded
from tests.adapters.conftest import Opened
from tests.adapters.live_server import (
    KEY,
    MODEL,
    SLOT_TOKENS,
    SLOTS,
    LiveServer,
    missing_packages,
    running_server,
)

Call = Callable[[BaseAdapter, CompletionRequest], Awaitable[Completion]]

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "warm": {"type": "boolean"},
        "sky": {"enum": ["clear", "cloudy"]},
    },
    "required": ["city", "warm", "sky"],
    "additionalProperties": False,
}


def need_packages(missing: list[str], *, in_ci: bool) -> None:
    """Skip on a user's machine; in CI there is no excuse."""
    if missing:
        reason = f"a real inference server needs {' and '.join(missing)} from the dev dependencies"
        (pytest.fail if in_ci else pytest.skip)(reason)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests of this file."""
    need_packages(missing_packages(), in_ci=bool(os.environ.get("CI")))
    with running_server(tmp_path_factory.mktemp("live_server")) as server:
        yield server


@pytest.fixture
def server(started: LiveServer) -> Iterator[LiveServer]:
    """The server; what it logs during a test that fails is shown with the failure."""
    before = started.log.stat().st_size
    yield started
    with started.log.open(errors="replace") as log:
        log.seek(before)
        sys.stdout.write(log.read()[-20_000:])


@pytest.fixture
async def adapter(server: LiveServer, opened: Opened) -> BaseAdapter:
    """The custom adapter, pointed at the server."""
    return opened(config_for(server, key=KEY))


def config_for(server: LiveServer, *, key: str) -> ModelConfig:
    return ModelConfig(
        provider=LLMProvider.CUSTOM,
        model=MODEL,
        api_base=server.api_base,
        api_key=SecretStr(key),
    )


def ask(prompt: str = "Hello?", **fields: Any) -> CompletionRequest:
    """A question whose answer is the same every time."""
    given = {"max_tokens": 40, "temperature": 0.0, "seed": 1, **fields}
    return CompletionRequest(messages=[{"role": "user", "content": prompt}], **given)


def answer_in(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


async def plain(adapter: BaseAdapter, request: CompletionRequest) -> Completion:
    return await adapter.complete(request)


async def streamed(adapter: BaseAdapter, request: CompletionRequest) -> Completion:
    async with aclosing(adapter.stream(request)) as chunks:
        return await collect(chunks)


async def wait_until(condition: Callable[[], bool], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - a server is polled
            await asyncio.sleep(0.01)


async def test_a_real_server_answers_with_text_and_usage(adapter: BaseAdapter) -> None:
    """The model has no end of its own, so the limit is what ends it, to the token."""
    completion = await adapter.complete(ask(max_tokens=40))

    assert len(completion.text) == 40  # every token is a printable byte
    assert completion.finish_reason == "length"
    assert completion.model == MODEL
    assert completion.usage.completion_tokens == 40
    assert completion.usage.prompt_tokens > len("Hello?")
    assert not completion.usage.estimated


async def test_a_streamed_answer_of_a_real_server_folds_to_the_plain_one(
    adapter: BaseAdapter,
) -> None:
    """With no chance in the sampling, stream and plain call say the same, usage included."""
    assert await streamed(adapter, ask()) == await adapter.complete(ask())


async def test_a_real_server_streams_token_by_token(adapter: BaseAdapter) -> None:
    """Content arrives in many pieces, and only the last chunk has the end and the usage."""
    async with aclosing(adapter.stream(ask(max_tokens=40))) as stream:
        chunks: list[Chunk] = [chunk async for chunk in stream]

    assert len(chunks) > 20
    assert [bool(chunk.finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize("call", [plain, streamed])
async def test_a_real_server_keeps_to_a_json_schema(adapter: BaseAdapter, call: Call) -> None:
    """The schema reaches the server's grammar: even gibberish comes out valid."""
    completion = await call(adapter, ask(max_tokens=400, response_format=answer_in(WEATHER)))

    assert completion.finish_reason == "stop"
    jsonschema.validate(json.loads(completion.text), WEATHER)


@pytest.mark.parametrize("call", [plain, streamed])
async def test_a_prompt_larger_than_the_window_is_a_context_error(
    adapter: BaseAdapter, call: Call
) -> None:
    """The server's own status and words are told apart from any other bad request."""
    request = ask("x" * SLOT_TOKENS)

    with pytest.raises(ContextWindowExceeded, match=f"available context size.*{SLOT_TOKENS}") as e:
        await call(adapter, request)

    assert e.value.status_code == 400
    assert not e.value.retryable


async def test_a_real_server_refuses_a_wrong_key(server: LiveServer, opened: Opened) -> None:
    """The server's 401 comes through as what it is, without the key."""
    adapter = opened(config_for(server, key="sk-wrong-0123456789abcdef"))

    with pytest.raises(AuthenticationFailed) as raised:
        await adapter.complete(ask())

    assert raised.value.status_code == 401
    assert "sk-wrong" not in str(raised.value)


async def test_eight_streams_at_once_do_not_mix(adapter: BaseAdapter) -> None:
    """All are open before any goes on, and each ends with the word it alone was asked for."""
    all_open = asyncio.Barrier(SLOTS)

    async def own_word(number: int) -> tuple[str, Completion]:
        word = f"stream {number} " * 20
        request = ask(max_tokens=600, response_format=answer_in({"enum": [word]}))
        pieces: list[Chunk] = []
        async with aclosing(adapter.stream(request)) as chunks:
            pieces.append(await anext(chunks))
            await all_open.wait()
            pieces += [chunk async for chunk in chunks]

        async def replayed() -> AsyncIterator[Chunk]:
            for piece in pieces:
                yield piece

        return word, await collect(replayed())

    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(own_word(number) for number in range(SLOTS)))

    for word, completion in answers:
        assert json.loads(completion.text) == word
        assert completion.finish_reason == "stop"
        assert completion.usage.completion_tokens >= len(word)


@pytest.mark.parametrize("cancelled", [False, True], ids=["closed", "cancelled"])
async def test_giving_up_on_a_stream_frees_the_servers_slot(
    server: LiveServer, adapter: BaseAdapter, cancelled: bool
) -> None:
    """With every slot taken by answers that last for seconds, the next question need not wait.

    Streams only: this server finishes a plain answer even when nobody listens any more.
    """
    slots_taken = asyncio.Event()

    async def take_a_slot() -> None:
        async with aclosing(adapter.stream(ask(max_tokens=SLOT_TOKENS - 100))) as chunks:
            async for _ in chunks:
                if slots_taken.is_set() and not cancelled:
                    break

    calls = [asyncio.create_task(take_a_slot()) for _ in range(SLOTS)]
    await wait_until(lambda: server.busy_slots() == SLOTS, within_s=10)
    slots_taken.set()
    for call in calls if cancelled else ():
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {
        asyncio.CancelledError if cancelled else type(None)
    }
    await wait_until(lambda: server.busy_slots() == 0, within_s=4)
    async with asyncio.timeout(4):
        assert (await adapter.complete(ask(max_tokens=5))).usage.completion_tokens == 5


def test_missing_packages_are_a_skip_for_a_user_and_a_failure_in_ci() -> None:
    """A check that CI may skip is no check."""
    with pytest.raises(pytest.skip.Exception, match="needs gguf and xllamacpp"):
        need_packages(["gguf", "xllamacpp"], in_ci=False)
    with pytest.raises(pytest.fail.Exception, match="needs xllamacpp"):
        need_packages(["xllamacpp"], in_ci=True)
    need_packages([], in_ci=True)
