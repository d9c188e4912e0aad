"""litellm's part of a call ends when the wire has spoken: it adds nothing and costs no more."""

import contextlib
import gc
from collections.abc import Awaitable, Callable
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import httpx
import pytest

from adapters import LLMProvider, ProviderUnavailable, _litellm, collect
from tests.adapters.wires import ASK, PROVIDERS, plain, stream, wire

pytestmark = pytest.mark.usefixtures("opened")
READ_BY_LITELLM = (LLMProvider.ANTHROPIC, LLMProvider.GOOGLE)
READ_HERE = tuple(provider for provider in PROVIDERS if provider not in READ_BY_LITELLM)
# What litellm does after an answer or an error: an error of its own, the price, the log.
AFTERWARDS = (
    "litellm.main.exception_type",
    "litellm.utils.update_response_metadata",
    "litellm.litellm_core_utils.litellm_logging.Logging.failure_handler",
    "litellm.litellm_core_utils.streaming_handler.CustomStreamWrapper.__init__",
)
CALLS = 5
OVERLOADED = {"error": {"message": "overloaded", "type": "server_error"}}


@pytest.fixture
async def afterwards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What litellm has done afterwards, by name."""
    await _litellm.load()
    done: list[str] = []
    for name in AFTERWARDS:
        original = resolve_name(name)

        def noting(*args: Any, name: str = name, original: Any = original, **kwargs: Any) -> Any:
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(name, noting)
    return done


@pytest.mark.parametrize("provider", READ_HERE)
async def test_an_answer_read_here_ends_litellms_part(
    provider: LLMProvider, afterwards: list[str]
) -> None:
    """Plain and streamed: nothing is read twice, priced or logged."""
    wired = await wire(provider, plain(provider))
    answer = await wired.adapter.complete(ASK)
    wired = await wire(provider, stream(provider))
    streamed = await collect(wired.adapter.stream(ASK))

    assert answer.text == streamed.text != ""
    assert afterwards == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure_ends_litellms_part(provider: LLMProvider, afterwards: list[str]) -> None:
    """No error of litellm's is made of it, which takes several times as long as a call."""
    wired = await wire(provider, httpx.Response(500, json=OVERLOADED))
    with pytest.raises(ProviderUnavailable, match="overloaded"):
        await wired.adapter.complete(ASK)
    with pytest.raises(ProviderUnavailable, match="overloaded"):
        await collect(wired.adapter.stream(ASK))

    lazy = AFTERWARDS[1:2] + AFTERWARDS[3:]  # its stream is made before its request is sent
    assert set(afterwards) <= set(lazy if provider is LLMProvider.GOOGLE else ())


@pytest.mark.parametrize("provider", READ_BY_LITELLM)
async def test_no_log_is_written_of_an_answer(
    provider: LLMProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Litellm writes one, for nobody, of any other call."""
    import litellm

    logged = mock.Mock()
    monkeypatch.setattr("litellm.utils._schedule_async_success_logging", logged)
    wired = await wire(provider, plain(provider))
    await wired.adapter.complete(ASK)
    assert not logged.called

    await litellm.acompletion(model="openai/none", messages=ASK.messages, mock_response="none")
    assert logged.called


async def test_litellm_does_by_these_names_what_is_left_out(afterwards: list[str]) -> None:
    """Where litellm reads the answer it does it all, so the tests above can fail."""
    wired = await wire("anthropic", plain("anthropic"))
    await wired.adapter.complete(ASK)
    wired = await wire("anthropic", stream("anthropic"))
    await collect(wired.adapter.stream(ASK))

    assert set(AFTERWARDS[1::2]) == set(afterwards)


async def garbage_of(ask: Callable[[], Awaitable[object]]) -> float:
    """Objects that a call leaves in circles, for the collector to find."""
    await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(CALLS):
            await ask()
        return gc.collect() / CALLS
    finally:
        gc.enable()


@pytest.mark.parametrize("provider", READ_HERE)
async def test_an_answer_read_here_leaves_no_garbage(provider: LLMProvider) -> None:
    """All that litellm had at hand in a call goes with the call."""
    whole = await wire(provider, plain(provider))
    streamed = await wire(provider, stream(provider))

    assert await garbage_of(lambda: whole.adapter.complete(ASK)) < 1
    assert await garbage_of(lambda: collect(streamed.adapter.stream(ASK))) < 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure_leaves_no_garbage(provider: LLMProvider) -> None:
    """An error knows where it was raised, but not by way of what knows the error."""
    wired = await wire(provider, lambda request: httpx.Response(500, json=OVERLOADED))

    async def fail(answer: Callable[[], Awaitable[object]]) -> None:
        with contextlib.suppress(ProviderUnavailable):
            await answer()

    assert await garbage_of(lambda: fail(lambda: wired.adapter.complete(ASK))) < 1
    assert await garbage_of(lambda: fail(lambda: collect(wired.adapter.stream(ASK)))) < 1


async def test_litellms_leanest_path_asks_its_session_for_nothing_but_a_post() -> None:
    """It is given no real session, only what it uses of one."""
    wired = await wire("custom", plain("custom"))
    session = _litellm._live().session

    with mock.patch.object(type(session), "__getattr__", create=True) as asked:
        await wired.adapter.complete(ASK)

    assert len(wired.requests) == 1
    assert asked.call_args_list == []
