"""The fold of a stream is the plain answer, whatever is asked and of whom."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from adapters import (
    BaseAdapter,
    Completion,
    CompletionRequest,
    LLMProvider,
    ModelConfig,
    ProviderError,
    collect,
    create_adapter,
)
from orchestrator.simulator import SIMULATED_KEY, Simulator
from tests.adapters.cassettes import SUBJECTS

# What line readers, JSON readers and readers of `data:` lines have stumbled over.
AWKWARD = (
    "[DONE]",
    "data: [DONE]",
    "\u2028",
    "\u2029",
    "\x85",
    "\r\n\r\n",
    "\n\ndata: {}\n\n",
    "\\u2028",
    "\ufeff",
    "\x00",
    "👩‍👩‍👧",
    "🇫🇷",
    "é",
    "e\u0301",
    "\u202eright to left",
    "</think>",
    "<think>",
    "{",
    "}",
    "\\",
    "\t",
    "null",
)
plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
awkward_text = st.lists(st.sampled_from(AWKWARD) | plain_text, max_size=6).map(" ".join)


def unquoted(text: str) -> str:
    """The text without what would end the quotation it is put into, nor longer than that may be."""
    return text.translate(dict.fromkeys(map(ord, '"“”'), "'"))[:380]


echoes = awkward_text.map(lambda text: f'Reply with exactly: "{unquoted(text)} end"')
questions = plain_text.map(lambda text: f"Explain the tides. {text}")
tool_questions = st.sampled_from(
    ["What is the weather in Paris?", "Weather in Paris and Rome?", "Who wrote Emma?"]
)

CITY = {"city": {"type": "string"}, "days": {"type": "integer"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Look up the {what} in a city",
            "parameters": {"type": "object", "properties": CITY, "required": ["city"]},
        },
    }
    for name, what in (("get_weather", "weather"), ("get_time", "time"))
]
CHOICES = ("auto", "required", {"type": "function", "function": {"name": "get_time"}})
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "places",
        "schema": {
            "type": "object",
            "properties": {
                "places": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "open": {"type": "boolean"}},
                        "required": ["name", "open"],
                        "additionalProperties": False,
                    },
                },
                "note": {"type": "string"},
            },
            "required": ["places", "note"],
            "additionalProperties": False,
        },
    },
}
Refused = tuple[str, int, str]
wishes: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"response_format": SCHEMA}),
    st.fixed_dictionaries({"tools": st.just(TOOLS), "tool_choice": st.sampled_from(CHOICES)}),
)


@st.composite
def requests(draw: st.DrawFn) -> CompletionRequest:
    """A conversation, sometimes with tools or a schema, a limit, a seed, a wish to think."""
    wish = draw(wishes)
    prompt = draw(tool_questions if "tools" in wish else echoes | questions)
    earlier = [{"role": "system", "content": "Be brief."}] if draw(st.booleans()) else []
    if draw(st.booleans()):
        earlier += [
            {"role": "user", "content": draw(awkward_text) + "?"},
            {"role": "assistant", "content": "Indeed."},
        ]
    return CompletionRequest(
        messages=[*earlier, {"role": "user", "content": prompt}],
        max_tokens=draw(st.none() | st.integers(1, 300)),
        seed=draw(st.none() | st.integers(0, 2**31 - 1)),
        reasoning_effort=draw(st.sampled_from((None, None, "low"))),
        **wish,
    )


async def outcome_of(answer: Awaitable[Completion]) -> Completion | Refused:
    """The answer, or what went wrong; that must be the same as well."""
    try:
        return await answer
    except ProviderError as error:
        return type(error).__name__, error.status_code, str(error)


def told_by(outcome: Completion | Refused, provider: LLMProvider) -> Any:
    """What is comparable: all of it, but for what a provider leaves open.

    Anthropic and Google send the arguments of a plain answer as an object, which has no spelling;
    Google does not name its calls, so each reading gives them names of its own.
    """
    if not isinstance(outcome, Completion):
        return outcome
    ids = [call.id for call in outcome.tool_calls]
    assert len(set(ids)) == len(ids)
    calls = [(call.name, json.loads(call.arguments)) for call in outcome.tool_calls]
    named = [] if provider is LLMProvider.GOOGLE else ids
    return replace(outcome, tool_calls=()), calls, named


async def folded(adapter: BaseAdapter, request: CompletionRequest) -> Completion:
    async with aclosing(adapter.stream(request)) as chunks:
        return await collect(chunks)


Run = Callable[[Awaitable[Any]], Any]


@contextmanager
def adapter_on_the_simulator(provider: LLMProvider) -> Iterator[tuple[BaseAdapter, Run]]:
    """An adapter and the one loop that all examples of a test run on."""
    with asyncio.Runner() as runner:
        simulator = Simulator()
        runner.run(simulator.start())
        adapter = create_adapter(
            ModelConfig(
                provider=provider,
                model=SUBJECTS[provider].model,
                api_base=simulator.base_url(provider),
                api_key=SecretStr(SIMULATED_KEY),
            )
        )
        try:
            yield adapter, lambda awaitable: runner.run(_awaited(awaitable))
        finally:
            runner.run(adapter.aclose())
            runner.run(simulator.aclose())


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@pytest.mark.parametrize("provider", list(LLMProvider), ids=str)
def test_the_fold_of_a_stream_is_the_plain_answer(provider: LLMProvider) -> None:
    """Text, reasoning, tool calls, finish reason, model, usage: whatever the simulator is asked."""
    with adapter_on_the_simulator(provider) as (adapter, run):

        @settings(max_examples=30)
        @given(requests())
        def the_same_either_way(request: CompletionRequest) -> None:
            plain = run(outcome_of(adapter.complete(request)))
            event(plain.finish_reason if isinstance(plain, Completion) else plain[0])
            stream = run(outcome_of(folded(adapter, request)))

            assert told_by(stream, provider) == told_by(plain, provider)

        the_same_either_way()


@pytest.mark.parametrize("provider", list(LLMProvider), ids=str)
def test_awkward_text_comes_through_whole(provider: LLMProvider) -> None:
    """What line and event readers stumble over is text like any other."""
    said = " ".join(text for text in AWKWARD if "think>" not in text)

    with adapter_on_the_simulator(provider) as (adapter, run):
        prompt = {"role": "user", "content": f'Reply with exactly: "{said} end"'}
        request = CompletionRequest(messages=[prompt])

        assert run(adapter.complete(request)).text == f"{said} end"
        assert run(folded(adapter, request)).text == f"{said} end"
