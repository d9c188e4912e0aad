"""MockAdapter does as it is told, and nothing by chance."""

import asyncio

import pytest

from adapters import (
    CompletionRequest,
    Limits,
    LLMProvider,
    MockAdapter,
    ModelConfig,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamBroken,
    ToolCall,
    Usage,
    collect,
)
from adapters.mock import Reply
from tests.adapters.wires import ASK


async def test_a_script_is_answered_in_order_the_last_again_and_again() -> None:
    """Texts are whole replies."""
    adapter = MockAdapter(["one", "two"])

    assert [await adapter.generate("?") for _ in range(4)] == ["one", "two", "two", "two"]


async def test_every_request_is_remembered() -> None:
    """Oldest first, as it was given."""
    adapter = MockAdapter()
    other = CompletionRequest(messages=[{"role": "user", "content": "two words"}])

    await adapter.complete(ASK)
    await collect(adapter.stream(other))

    assert adapter.requests == [ASK, other]
    assert adapter.requests[0] is ASK


async def test_an_answer_may_depend_on_the_question() -> None:
    """A function is given the request."""
    adapter = MockAdapter(lambda request: str(request.messages[0]["content"]).upper())

    assert await adapter.generate("which river?") == "WHICH RIVER?"


async def test_a_reply_says_everything_a_completion_has() -> None:
    """Reasoning, tool calls, finish, usage, model."""
    call = ToolCall(id="1", name="get_weather", arguments='{"city":"Paris"}')
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    reply = Reply(
        text="Look.",
        reasoning="hm",
        tool_calls=(call,),
        finish_reason="tool_calls",
        usage=usage,
    )
    config = ModelConfig(provider=LLMProvider.OPENAI, model="gpt-x")
    adapter = MockAdapter([reply], config=config, deployment="river")

    completion = await adapter.complete(ASK)

    assert (completion.text, completion.reasoning) == ("Look.", "hm")
    assert completion.tool_calls == (call,)
    assert completion.finish_reason == "tool_calls"
    assert completion.usage == usage
    assert completion.model == "gpt-x"
    assert adapter.named() == {"provider": "openai", "deployment": "river"}


async def test_the_fold_of_its_stream_is_its_completion() -> None:
    """As with every adapter."""
    reply = Reply(text="The longest river is the Nile.", reasoning="hm")

    whole = await MockAdapter([reply]).complete(ASK)
    chunks = [chunk async for chunk in MockAdapter([reply], chunk_characters=3).stream(ASK)]

    assert whole.text == reply.text
    assert "".join(chunk.text for chunk in chunks) == reply.text
    assert max(len(chunk.text) for chunk in chunks) == 3
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage


async def test_it_counts_words_when_no_usage_is_given() -> None:
    """The same every time."""
    completion = await MockAdapter(["the Nile"]).complete(ASK)

    assert completion.usage == Usage(prompt_tokens=5, completion_tokens=2)


async def test_an_error_of_the_script_is_raised() -> None:
    """Bare or in a reply; the next call goes on."""
    slow_down = RateLimited("slow down", retry_after_s=3)
    adapter = MockAdapter([slow_down, Reply(error=slow_down), "better"])

    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            await adapter.complete(ASK)
        assert caught.value is slow_down
    assert await adapter.generate("?") == "better"


async def test_a_cut_reply_is_a_broken_stream() -> None:
    """What came before the cut is delivered and stands in the error."""
    adapter = MockAdapter([Reply(text="The longest", cut_after=5)], chunk_characters=2)
    delivered: list[str] = []

    async def listen() -> None:
        async for chunk in adapter.stream(ASK):
            delivered.append(chunk.text)  # noqa: PERF401 - a comprehension would lose them

    with pytest.raises(StreamBroken) as caught:
        await listen()

    assert delivered == ["Th", "e ", "l"]
    assert caught.value.partial_text == "The l"
    assert caught.value.deployment == "mock"


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_delay_is_slept_through_the_given_sleep(*, is_async: bool) -> None:
    """A fake clock's, in tests; it may return nothing to wait for."""
    slept: list[float] = []

    def sleep(seconds: float) -> object:
        slept.append(seconds)
        return asyncio.sleep(0) if is_async else None

    adapter = MockAdapter([Reply(text="x", delay_s=9.0)], sleep=sleep)

    assert await adapter.generate("?") == "x"
    assert slept == [9.0]


async def test_a_delay_over_the_limit_is_a_timeout_at_once() -> None:
    """Nobody waits for it."""
    adapter = MockAdapter([Reply(text="x", delay_s=9.0)], deployment="river")

    with pytest.raises(ProviderTimeout, match="river: no content within 8 s"):
        await adapter.complete(ASK, limits=Limits(first_content_s=8.0))


async def test_a_gap_comes_between_two_pieces() -> None:
    """As many as there are pieces, but one; and no longer than the limit for one."""
    slept: list[float] = []
    reply = Reply(text="The Nile", gap_s=2.0)
    adapter = MockAdapter([reply], chunk_characters=3, sleep=slept.append)

    assert await adapter.generate("?") == "The Nile"
    assert slept == [2.0, 2.0]
    with pytest.raises(ProviderTimeout, match="no more content for 1 s"):
        await adapter.complete(ASK, limits=Limits(gap_s=1.0))


async def test_an_error_may_come_amid_an_answer() -> None:
    """The text until there is delivered; the error is the script's, bill and all."""
    overloaded = ProviderUnavailable("overloaded", maybe_billed=True, usage=Usage(prompt_tokens=3))
    adapter = MockAdapter([Reply(text="The Nile", cut_after=3, error=overloaded)])
    delivered: list[str] = []

    async def listen() -> None:
        async for chunk in adapter.stream(ASK):
            delivered.append(chunk.text)  # noqa: PERF401 - a comprehension would lose them

    with pytest.raises(ProviderUnavailable) as caught:
        await listen()

    assert delivered == ["The"]
    assert caught.value is overloaded


async def test_a_cut_reply_says_what_it_had_used() -> None:
    """If the script does."""
    usage = Usage(prompt_tokens=3, completion_tokens=1)
    adapter = MockAdapter([Reply(text="The Nile", cut_after=3, usage=usage)])

    with pytest.raises(StreamBroken) as caught:
        await adapter.complete(ASK)

    assert caught.value.maybe_billed
    assert caught.value.usage == usage


async def test_usage_is_reported_as_it_is_scripted() -> None:
    """A provider may lie; and may answer as another model than the one that was asked."""
    absurd = Usage(prompt_tokens=10**9, completion_tokens=-5)
    adapter = MockAdapter([Reply(text="x", usage=absurd, model="another")])

    completion = await adapter.complete(ASK)

    assert completion.usage == absurd
    assert completion.model == "another"


async def test_it_is_always_available_and_closes() -> None:
    """It needs no key and holds nothing."""
    adapter = MockAdapter()

    assert adapter.is_available()
    await adapter.aclose()


def test_it_can_be_called_from_one_loop_after_another() -> None:
    """Nothing of it is bound to a loop."""
    adapter = MockAdapter(["one", "two"])

    assert [asyncio.run(adapter.generate("?")) for _ in range(2)] == ["one", "two"]
