"""Claims about answers that are begun by the one and ended by the other."""

from typing import Any

import pytest

from adapters.config import LLMProvider
from adapters.types import CompletionRequest
from orchestrator.continuation import continuation_request
from orchestrator.simulator import Simulator
from tests.simulator.calling import QUESTION, Caller, said, streamed_text

P = LLMProvider
EVERY = pytest.mark.parametrize("provider", P)
EITHER_WAY = pytest.mark.parametrize("prefill", [True, False])


def fields(provider: LLMProvider, begun: str, *, prefill: bool) -> dict[str, Any]:
    """The conversation that asks for the rest of an answer, in the provider's own shape."""
    asked = CompletionRequest(messages=({"role": "user", "content": QUESTION},))
    messages = continuation_request(asked, begun, prefill=prefill).messages
    if provider is not P.GOOGLE:
        return {"messages": list(messages)}
    names = {"user": "user", "assistant": "model"}
    contents = [
        {"role": names[message["role"]], "parts": [{"text": message["content"]}]}
        for message in messages
    ]
    return {"contents": contents}


async def rest(
    caller: Caller, provider: LLMProvider, begun: str, *, prefill: bool, model: str = "second"
) -> str:
    """What another model adds to an answer."""
    wish = fields(provider, begun, prefill=prefill)
    return said(provider, await caller.ask(provider, model=model, **wish))


async def whole_answer(caller: Caller, provider: LLMProvider, model: str = "first") -> str:
    return said(provider, await caller.ask(provider, model=model))


@EVERY
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_begun_is_ended_by_any_model(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """Character for character, wherever it broke off: what one model began, another ends."""
    whole = await whole_answer(caller, provider)
    other = await whole_answer(caller, provider, "second")

    # A beginning of a few letters is given as no prefill: nobody could tell it from another.
    for place in range(24, len(whole), max(1, len(whole) // 12)):
        begun = whole[:place].rstrip()
        wish = fields(provider, begun, prefill=True)
        got = await caller.ask(provider, model="second", streamed=streamed, **wish)
        text = streamed_text(provider, got) if streamed else said(provider, got)
        assert begun + text == whole
    assert other != whole


@EVERY
async def test_the_last_words_come_once_more_where_the_request_wants_them(
    caller: Caller, provider: LLMProvider
) -> None:
    """A message that asks for the rest quotes them; the rest begins with them."""
    whole = await whole_answer(caller, provider)

    for place in range(20, len(whole), len(whole) // 12):
        begun = whole[:place]
        text = await rest(caller, provider, begun, prefill=False)
        known = begun.rstrip()
        repeated = next(n for n in range(len(known), 0, -1) if text.startswith(known[-n:]))
        assert repeated >= min(len(known), 30)
        assert known + text[repeated:] == whole


@EITHER_WAY
async def test_a_rest_that_breaks_off_is_continued_too(caller: Caller, prefill: bool) -> None:
    """An answer may take three models, also one that the third had never begun."""
    whole = await whole_answer(caller, P.CUSTOM)
    begun = whole[:50].rstrip()
    middle = await rest(caller, P.CUSTOM, begun, prefill=True)
    more = (begun + middle)[:120].rstrip()

    end = await rest(caller, P.CUSTOM, more, prefill=prefill, model="third")

    assert whole.endswith(end[-30:])
    assert more + end == whole or not prefill


async def test_a_stranger_to_the_conversation_goes_on_in_its_own_words(caller: Caller) -> None:
    """Nobody said this here before, so the model that is asked writes on, always the same."""
    begun = "As the poet has it"
    own = await whole_answer(caller, P.CUSTOM, "second")

    first = await rest(caller, P.CUSTOM, begun, prefill=True)
    again = await rest(caller, P.CUSTOM, begun, prefill=True)
    third = await rest(caller, P.CUSTOM, f"{begun}{first[:40]}".rstrip(), prefill=True, model="x")

    assert first == again == f" {own}"
    assert f"{begun}{first[:40]}".rstrip() + third == begun + first


async def test_a_conversation_that_goes_on_is_no_answer_that_broke_off(caller: Caller) -> None:
    """Whoever asks another question gets an answer to it."""
    whole = await whole_answer(caller, P.CUSTOM)
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": whole[: len(whole) // 2]},
        {"role": "user", "content": "And how does it resume its work after a crash?"},
    ]

    text = said(P.CUSTOM, await caller.ask(P.CUSTOM, model="first", messages=turns))

    assert text
    assert text not in whole


async def test_a_limit_holds_for_the_rest(caller: Caller) -> None:
    """`max_tokens` counts what is added."""
    whole = await whole_answer(caller, P.OPENAI)
    wish = fields(P.OPENAI, whole[:40].rstrip(), prefill=True)

    got = await caller.ask(P.OPENAI, model="second", max_completion_tokens=5, **wish)

    text = said(P.OPENAI, got)
    assert 0 < len(text) < 80
    assert whole[:40].rstrip() + text == whole[: len(whole[:40].rstrip() + text)]
    assert got.json["choices"][0]["finish_reason"] == "length"
    assert got.json["usage"]["completion_tokens"] == 5


@EITHER_WAY
async def test_a_model_may_go_on_badly(caller: Caller, prefill: bool) -> None:
    """Repeat some of it, or all of it, or begin again and say something else."""
    whole = await whole_answer(caller, P.CUSTOM)
    begun = whole[: len(whole) // 2].rstrip()
    end = whole[len(begun) :]

    async def going(fault: str) -> str:
        return await rest(caller, P.CUSTOM, begun, prefill=prefill, model=f"second--{fault}")

    assert await going("overlap") == begun[-20:] + end
    assert await going("overlap33") == begun[-33:] + end
    assert await going("overlap0") == end
    assert await going("startover") == whole
    anew = await going("anew")
    assert anew[:16] == whole[:16]
    assert not anew.startswith(begun)


@pytest.mark.parametrize("fault", ["overlap", "startover", "anew"])
async def test_who_begins_an_answer_cannot_go_on_badly(caller: Caller, fault: str) -> None:
    """These faults wait for a request that wants a rest."""
    whole = await whole_answer(caller, P.CUSTOM)

    assert await whole_answer(caller, P.CUSTOM, f"first--{fault}") == whole


async def test_providers_have_rules_for_an_answer_begun(caller: Caller) -> None:
    """Anthropic wants no white space at its end, Mistral a mark."""
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Well, "},
    ]

    spaced = await caller.ask(P.ANTHROPIC, messages=turns)
    unmarked = await caller.ask(P.MISTRAL, messages=turns)
    turns[-1]["prefix"] = True
    marked = await caller.ask(P.MISTRAL, messages=turns)

    assert spaced.status == 400
    assert "trailing whitespace" in spaced.body.decode()
    assert unmarked.status == 400
    assert "prefix True" in unmarked.body.decode()
    assert marked.status == 200


async def test_very_many_conversations_are_forgotten_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the oldest: an answer that just broke off can always be ended."""
    monkeypatch.setattr("orchestrator.simulator.continuing.CONVERSATIONS_MAX", 3)
    async with Simulator() as simulator:
        caller = Caller(simulator)
        whole = await whole_answer(caller, P.CUSTOM)
        for number in range(2):
            await caller.ask(P.CUSTOM, prompt=f"What is {number}?")
        assert whole.endswith(await rest(caller, P.CUSTOM, whole[:40].rstrip(), prefill=True))

        for number in range(5):
            await caller.ask(P.CUSTOM, prompt=f"Why is {number}?")
        assert not whole.endswith(await rest(caller, P.CUSTOM, whole[:40].rstrip(), prefill=True))
