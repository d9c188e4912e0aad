"""What each adapter sends for each field of a request, and what it never sends."""

import copy
import inspect
import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from adapters import ADAPTERS, CompletionRequest, InvalidRequest, LLMProvider, _litellm, collect
from tests.adapters.wires import ASK, KEY, MODELS, PROVIDERS, WEATHER, plain, rewire, stream, wire

pytestmark = pytest.mark.usefixtures("opened")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
RIVER = {
    "type": "json_schema",
    "json_schema": {"name": "river", "strict": True, "schema": SCHEMA},
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
PARAMETERS = WEATHER["function"]["parameters"]  # type: ignore[index]
AT_ANTHROPIC = {
    "name": "get_weather",
    "input_schema": PARAMETERS,
    "type": "custom",
    "description": "The weather in a city",
}
AT_GOOGLE = {
    "function_declarations": [
        {"name": "get_weather", "description": "The weather in a city", "parameters": PARAMETERS}
    ]
}
THINKING = {"type": "enabled", "budget_tokens": 1024}
REFUSED: dict[str, Any] = {"refused": True}


def google(**config: Any) -> dict[str, Any]:
    return {"generationConfig": config}


def tool_mode(**mode: Any) -> dict[str, Any]:
    return {"tools": [AT_GOOGLE], "toolConfig": {"functionCallingConfig": mode}}


# A request's fields, and what each provider is sent for them. `openai` stands for all that speak
# OpenAI's protocol and are not named themselves.
SENT: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "tools": (
        {"tools": [WEATHER]},
        {
            "openai": {"tools": [WEATHER]},
            "anthropic": {"tools": [AT_ANTHROPIC]},
            "google": {"tools": [AT_GOOGLE]},
            "cohere": {"tools": [WEATHER]},
        },
    ),
    "tools, if it likes": (
        {"tools": [WEATHER], "tool_choice": "auto"},
        {
            "openai": {"tools": [WEATHER], "tool_choice": "auto"},
            "anthropic": {"tools": [AT_ANTHROPIC], "tool_choice": {"type": "auto"}},
            "google": tool_mode(mode="AUTO"),
            "cohere": {"tools": [WEATHER]},  # which is what it does when it is told nothing
        },
    ),
    "tools, not now": (
        {"tools": [WEATHER], "tool_choice": "none"},
        {
            "openai": {"tools": [WEATHER], "tool_choice": "none"},
            "anthropic": {"tools": [AT_ANTHROPIC], "tool_choice": {"type": "none"}},
            "google": tool_mode(mode="NONE"),
            "cohere": {"tools": [WEATHER], "tool_choice": "NONE"},
        },
    ),
    "some tool": (
        {"tools": [WEATHER], "tool_choice": "required"},
        {
            "openai": {"tools": [WEATHER], "tool_choice": "required"},
            "mistral": {"tools": [WEATHER], "tool_choice": "any"},
            "anthropic": {"tools": [AT_ANTHROPIC], "tool_choice": {"type": "any"}},
            "google": tool_mode(mode="ANY"),
            "cohere": {"tools": [WEATHER], "tool_choice": "REQUIRED"},
        },
    ),
    "one tool": (
        {"tools": [WEATHER], "tool_choice": FORCED},
        {
            "openai": {"tools": [WEATHER], "tool_choice": FORCED},
            "anthropic": {
                "tools": [AT_ANTHROPIC],
                "tool_choice": {"type": "tool", "name": "get_weather"},
            },
            "google": tool_mode(mode="ANY", allowed_function_names=["get_weather"]),
            "cohere": {"tools": [WEATHER], "tool_choice": "REQUIRED"},
        },
    ),
    "a schema": (
        {"response_format": RIVER},
        {
            "openai": {"response_format": RIVER},
            "anthropic": {"output_format": {"type": "json_schema", "schema": SCHEMA}},
            "google": google(response_mime_type="application/json", response_json_schema=SCHEMA),
            "cohere": {"response_format": {"type": "json_object", "json_schema": SCHEMA}},
        },
    ),
    "any JSON": (
        {"response_format": {"type": "json_object"}},
        {
            "openai": {"response_format": {"type": "json_object"}},
            "anthropic": {},  # which has no such mode
            "google": google(response_mime_type="application/json"),
            "cohere": {"response_format": {"type": "json_object"}},
        },
    ),
    "max_tokens": (
        {"max_tokens": 7},
        {"openai": {"max_tokens": 7}, "google": google(max_output_tokens=7)},
    ),
    "temperature": (
        {"temperature": 0.3},
        {"openai": {"temperature": 0.3}, "google": google(temperature=0.3)},
    ),
    "temperature 0": (
        {"temperature": 0},
        {"openai": {"temperature": 0}, "google": google(temperature=0)},
    ),
    "top_p": (
        {"top_p": 0.5},
        {"openai": {"top_p": 0.5}, "google": google(top_p=0.5), "cohere": {"p": 0.5}},
    ),
    "top_p 0": (
        {"top_p": 0.0},
        {"openai": {"top_p": 0.0}, "google": google(top_p=0.0), "cohere": {"p": 0.0}},
    ),
    "one stop": (
        {"stop": "END"},
        {
            "openai": {"stop": "END"},
            "anthropic": {"stop_sequences": ["END"]},
            "google": google(stop_sequences=["END"]),
            "cohere": {"stop_sequences": ["END"]},
        },
    ),
    "stops": (
        {"stop": ["A", "B"]},
        {
            "openai": {"stop": ["A", "B"]},
            "anthropic": {"stop_sequences": ["A", "B"]},
            "google": google(stop_sequences=["A", "B"]),
            "cohere": {"stop_sequences": ["A", "B"]},
        },
    ),
    "seed 0": (
        {"seed": 0},
        {
            "openai": {"seed": 0},
            "mistral": {"random_seed": 0},
            "anthropic": {},  # which has none
            "google": google(seed=0),
        },
    ),
    "reasoning_effort": (
        {"reasoning_effort": "low"},
        {
            "openai": {"reasoning_effort": "low"},
            "mistral": {"reasoning_effort": "high"},  # it knows none and high
            "anthropic": {"thinking": THINKING, "max_tokens": 5120},
            "google": google(thinkingConfig={"thinkingBudget": 1024, "includeThoughts": True}),
            "cohere": {"thinking": {"type": "enabled"}},
        },
    ),
    "no reasoning": (
        {"reasoning_effort": "none"},
        {
            "openai": {"reasoning_effort": "none"},
            "anthropic": {},
            "google": google(thinkingConfig={"thinkingBudget": 0, "includeThoughts": False}),
            "cohere": {"thinking": {"type": "disabled"}},
        },
    ),
}
EXTRA: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "frequency_penalty": (
        0.5,
        {
            "openai": {"frequency_penalty": 0.5},
            "anthropic": REFUSED,
            "google": google(frequency_penalty=0.5),
        },
    ),
    "presence_penalty": (
        0.5,
        {
            "openai": {"presence_penalty": 0.5},
            "anthropic": REFUSED,
            "google": google(presence_penalty=0.5),
        },
    ),
    "logit_bias": (
        {"50256": -100},
        {
            "openai": {"logit_bias": {"50256": -100}},
            "mistral": REFUSED,
            "anthropic": REFUSED,
            "google": REFUSED,
            "cohere": REFUSED,
        },
    ),
    "logprobs": (
        True,
        {
            "openai": {"logprobs": True},
            "mistral": REFUSED,
            "anthropic": REFUSED,
            "google": google(responseLogprobs=True),
            "cohere": REFUSED,
        },
    ),
    "top_logprobs": (
        2,
        {
            "openai": {"top_logprobs": 2},
            "mistral": REFUSED,
            "anthropic": REFUSED,
            "google": google(logprobs=2),
            "cohere": REFUSED,
        },
    ),
    "top_k": (
        5,
        {"openai": {"top_k": 5}, "google": google(top_k=5), "cohere": {"k": 5}},
    ),
    "n": (1, {"openai": {}}),
    "parallel_tool_calls": (
        False,
        {
            "openai": {"tools": [WEATHER], "parallel_tool_calls": False},
            "anthropic": {
                "tools": [AT_ANTHROPIC],
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            },
            "google": {"tools": [AT_GOOGLE]},  # which has no such field
            "cohere": REFUSED,
        },
    ),
    "thinking": (
        THINKING,
        {
            "openai": {"thinking": THINKING, "max_tokens": 2000},
            "mistral": REFUSED,
            "google": google(
                max_output_tokens=2000,
                thinkingConfig={"includeThoughts": True, "thinkingBudget": 1024},
            ),
            "cohere": {"thinking": {"type": "enabled", "token_budget": 1024}, "max_tokens": 2000},
        },
    ),
    "service_tier": (
        "auto",
        {
            "openai": {"service_tier": "auto"},
            "mistral": REFUSED,
            "anthropic": REFUSED,
            "google": {},  # for litellm that would be the dearer one
            "cohere": REFUSED,
        },
    ),
    "user": (
        "u",
        {
            "openai": {"user": "u"},
            "mistral": {},
            "anthropic": {"metadata": {"user_id": "u"}},
            "google": {},
            "cohere": {},
        },
    ),
    "safety_identifier": (
        "u",
        {
            "openai": {"safety_identifier": "u"},
            "mistral": {},
            "anthropic": {},
            "google": {},
            "cohere": {},
        },
    ),
}
WITH: dict[str, dict[str, Any]] = {
    "parallel_tool_calls": {"tools": [WEATHER]},
    "thinking": {"max_tokens": 2000},
}


def sent_to(provider: LLMProvider, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return table.get(provider.value, table["openai"])


async def check_sent(
    provider: LLMProvider, request: CompletionRequest, expected: dict[str, Any]
) -> None:
    """Exactly these fields are sent beyond those of the bare request."""
    bare = await wire(provider, plain(provider))
    await bare.adapter.complete(ASK)
    wired = await wire(provider, plain(provider))
    if expected is REFUSED:
        with pytest.raises(InvalidRequest, match="does not support"):
            await wired.adapter.complete(request)
        assert wired.requests == []
        return

    await wired.adapter.complete(request)

    assert {**bare.body, **expected} == wired.body


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", SENT)
async def test_a_field_is_sent_in_the_providers_own_words(name: str, provider: LLMProvider) -> None:
    """That field and no other; zero is a value, not "not given"."""
    fields, table = SENT[name]

    await check_sent(provider, replace(ASK, **fields), sent_to(provider, table))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", EXTRA)
async def test_a_further_field_is_sent_ignored_or_refused(name: str, provider: LLMProvider) -> None:
    """Never lost in silence, but for wishes that a provider cannot have."""
    value, table = EXTRA[name]
    request = replace(ASK, extra={name: value}, **WITH.get(name, {}))

    await check_sent(provider, request, sent_to(provider, table))


def test_the_tables_above_are_complete() -> None:
    """A new field is looked at for every provider."""
    names = set().union(*(adapter.extra_fields for adapter in ADAPTERS.values()))

    assert set(EXTRA) | {"documents"} == names


async def test_documents_are_coheres() -> None:
    """Of these providers only Cohere takes them."""
    request = replace(ASK, extra={"documents": [{"data": {"text": "The Nile is long."}}]})
    wired = await wire("cohere", plain("cohere"))

    await wired.adapter.complete(request)

    assert wired.body["documents"] == [{"data": {"text": "The Nile is long."}}]
    other = await wire("openai", plain("openai"))
    with pytest.raises(InvalidRequest, match="unknown field 'documents' in extra"):
        await other.adapter.complete(request)


async def test_cohere_is_left_only_the_tool_that_is_forced() -> None:
    """It can be told to call some tool, not which."""
    time = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
    wired = await wire("cohere", plain("cohere"))

    await wired.adapter.complete(replace(ASK, tools=[time, WEATHER], tool_choice=FORCED))

    assert wired.body["tools"] == [WEATHER]


@pytest.mark.parametrize("model", ["gpt-5-mini", "o3-mini"])
async def test_openais_reasoning_models_get_the_limit_by_its_new_name(model: str) -> None:
    """They refuse `max_tokens`."""
    wired = await wire("openai", plain("openai"), model=model)

    await wired.adapter.complete(replace(ASK, max_tokens=7))

    assert wired.body["max_completion_tokens"] == 7
    assert "max_tokens" not in wired.body


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_configured_limit_holds_where_the_request_has_none(provider: LLMProvider) -> None:
    """And gives way where it has one."""
    for asked, expected in ((None, 9), (7, 7)):
        wired = await wire(provider, plain(provider), max_tokens=9)

        await wired.adapter.complete(replace(ASK, max_tokens=asked))

        body = wired.body
        config = body.get("generationConfig", body)
        assert expected in (config.get("max_tokens"), config.get("max_output_tokens"))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_asks_for_its_usage(provider: LLMProvider) -> None:
    """Where it has to be asked for; and that it is a stream stands in the request."""
    wired = await wire(provider, stream(provider))

    await collect(wired.adapter.stream(ASK))

    (request,) = wired.requests
    body = json.loads(request.content)
    if provider is LLMProvider.GOOGLE:
        assert str(request.url).endswith(":streamGenerateContent?alt=sse")
    else:
        assert body["stream"] is True
    asks = provider in (LLMProvider.OPENAI, LLMProvider.CUSTOM)
    assert body.get("stream_options") == ({"include_usage": True} if asks else None)


@pytest.mark.parametrize(
    ("provider", "config", "url"),
    [
        ("openai", {}, "https://api.openai.com/v1/chat/completions"),
        (
            "openai",
            {"api_base": "https://eu.example/v1/"},
            "https://eu.example/v1/chat/completions",
        ),
        ("anthropic", {}, "https://api.anthropic.com/v1/messages"),
        ("anthropic", {"api_base": "https://eu.example"}, "https://eu.example/v1/messages"),
        (
            "google",
            {},
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        ),
        (
            "google",
            {"api_base": "https://eu.example", "model": "gemini-3-pro-preview"},
            "https://eu.example/v1beta/models/gemini-3-pro-preview:generateContent",
        ),
        ("cohere", {}, "https://api.cohere.com/v2/chat"),
        ("cohere", {"api_base": "https://eu.example"}, "https://eu.example/v2/chat"),
        ("mistral", {}, "https://api.mistral.ai/v1/chat/completions"),
        (
            "mistral",
            {"api_base": "https://eu.example/v1"},
            "https://eu.example/v1/chat/completions",
        ),
        ("custom", {}, "https://models.example/v1/chat/completions"),
        (
            "custom",
            {"api_base": "http://127.0.0.1:8080/deep/path/v1"},
            "http://127.0.0.1:8080/deep/path/v1/chat/completions",
        ),
    ],
)
async def test_the_request_goes_to_the_configured_address(
    provider: str, config: dict[str, Any], url: str
) -> None:
    """The base as the provider's own documentation gives it."""
    wired = await wire(provider, plain(provider), **config)

    await wired.adapter.complete(ASK)

    assert str(wired.requests[0].url) == url


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_key_is_sent_in_one_header_and_nowhere_else(provider: LLMProvider) -> None:
    """Not in the address, not in the body; and no name of an account from the environment."""
    wired = await wire(provider, plain(provider))

    await wired.adapter.complete(ASK)

    (request,) = wired.requests
    where = [name for name, value in request.headers.items() if KEY in value]
    assert where == [
        {LLMProvider.ANTHROPIC: "x-api-key", LLMProvider.GOOGLE: "x-goog-api-key"}.get(
            provider, "authorization"
        )
    ]
    assert KEY not in str(request.url)
    assert KEY.encode() not in request.content


async def test_accounts_of_the_environment_are_not_sent_to_other_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """openai's client would add them to every request."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    wired = await wire("custom", plain("custom"))

    await wired.adapter.complete(ASK)

    assert "org-1" not in str(wired.requests[0].headers)
    assert "proj-1" not in str(wired.requests[0].headers)


async def test_a_server_of_ones_own_gets_a_placeholder_for_a_key() -> None:
    """And no key of another provider that happens to be set."""
    wired = await wire("custom", plain("custom"), api_key=None)

    await wired.adapter.complete(ASK)

    assert wired.requests[0].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize("provider", ["openai", "custom", "anthropic", "cohere"])
async def test_a_key_that_changes_is_followed(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is read when a call is made."""
    monkeypatch.setenv("RIVER_KEY", "first-key-1234")
    wired = await wire(provider, plain(provider), api_key="${RIVER_KEY}")
    transport = wired.adapter._connected().pool()
    await wired.adapter.complete(ASK)
    monkeypatch.setenv("RIVER_KEY", "second-key-5678")
    rewire(wired.adapter, transport)
    await wired.adapter.complete(ASK)

    first, second = (
        str(request.headers) + str(dict(request.headers)) for request in wired.requests
    )
    assert "first-key-1234" in first
    assert "second-key-5678" in second
    assert "first-key-1234" not in second


CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "The weather?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    {"role": "user", "content": "And now?"},
]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_request_is_not_changed(provider: LLMProvider) -> None:
    """The same request goes to every member of a panel."""
    request = CompletionRequest(
        messages=copy.deepcopy(CONVERSATION),
        tools=[copy.deepcopy(WEATHER)],
        tool_choice=copy.deepcopy(FORCED),
        response_format=copy.deepcopy(RIVER),
        stop=["A"],
        extra={"top_k": 5},
    )
    before = copy.deepcopy(request)

    for answer in (plain(provider), stream(provider)):
        wired = await wire(provider, answer)
        if isinstance(answer, dict):
            await wired.adapter.complete(request)
        else:
            await collect(wired.adapter.stream(request))
        for words in (b"Be brief.", b"The weather?", b"Rain.", b"And now?"):
            assert words in wired.requests[0].content

    assert request == before


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_request_may_be_made_of_any_mappings_and_sequences(provider: LLMProvider) -> None:
    """Its types promise no more than that."""
    message = MappingProxyType(
        {"role": "user", "content": (MappingProxyType({"type": "text", "text": "Hi"}),)}
    )
    wired = await wire(provider, plain(provider))

    await wired.adapter.complete(
        CompletionRequest(
            messages=(message,),
            tools=(MappingProxyType(WEATHER),),
            response_format=MappingProxyType({"type": "json_object"}),
            stop=("A", "B"),
            extra=MappingProxyType({"top_k": 5}),
        )
    )

    assert b"Hi" in wired.requests[0].content
    assert b"get_weather" in wired.requests[0].content


ODD_REQUESTS: dict[str, dict[str, Any]] = {
    "a forced tool that is not there": {"tool_choice": FORCED},
    "a forced tool without a name": {"tools": [WEATHER], "tool_choice": {"type": "function"}},
    "a tool without a function": {"tools": [{"type": "function"}], "tool_choice": FORCED},
    "a schema without a schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "river"}}
    },
    "a schema that is none": {"response_format": {"type": "json_schema", "json_schema": None}},
    "thinking that is nothing": {"extra": {"thinking": None}},
    "thinking that is a word": {"extra": {"thinking": "hard"}},
    "a lone surrogate": {"messages": [{"role": "user", "content": "\ud800"}]},
    "a message without a role": {"messages": [{"content": "hi"}]},
    "a role nobody knows": {"messages": [{"role": "king", "content": "hi"}]},
    "no message": {"messages": []},
    "a value JSON has no word for": {"extra": {"user": object()}},
    "nothing but wishes for nothing": {"extra": {"user": None, "n": None, "top_k": None}},
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ODD_REQUESTS)
async def test_an_odd_request_is_refused_by_us_or_by_the_provider(
    name: str, provider: LLMProvider
) -> None:
    """What we cannot write in the provider's words is `InvalidRequest`, and nothing is sent."""
    wired = await wire(provider, plain(provider))

    refusals = []
    try:
        await wired.adapter.complete(replace(ASK, **ODD_REQUESTS[name]))
    except InvalidRequest as error:
        refusals.append(error)

    assert len(wired.requests) + len(refusals) == 1
    for refusal in refusals:
        assert not refusal.retryable
        assert "Traceback" not in str(refusal)


DANGEROUS = (
    "api_base",
    "base_url",
    "api_key",
    "api_version",
    "custom_llm_provider",
    "fallbacks",
    "mock_response",
    "input_cost_per_token",
    "output_cost_per_token",
    "extra_headers",
    "headers",
    "extra_body",
    "extra_query",
    "metadata",
    "cache",
    "client",
    "aws_access_key_id",
    "vertex_project",
    "drop_params",
    "model",
    "stream",
    "store",
    "model_list",
    "logger_fn",
    "callbacks",
    "allowed_openai_params",
    "additional_drop_params",
)


async def test_no_other_field_reaches_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever litellm would do with it: change prices, send keys elsewhere, answer for free."""
    for provider in PROVIDERS:
        wired = await wire(provider, plain(provider))
        names = set(inspect.signature(_litellm._litellm.acompletion).parameters) | set(DANGEROUS)
        allowed = wired.adapter.extra_fields
        with monkeypatch.context() as patch:
            patch.setattr(_litellm._litellm, "acompletion", None)  # it is not even called
            for name in sorted(names - allowed):
                with pytest.raises(
                    InvalidRequest, match=rf"unknown field '{name}' in extra; known: "
                ):
                    await wired.adapter.complete(replace(ASK, extra={name: "x"}))
        assert wired.requests == []
        assert len(names) > 40


async def test_what_reaches_the_call_is_on_our_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of a full request, for every provider."""
    ours = {
        "model",
        "messages",
        "api_key",
        "api_base",
        "client",
        "max_retries",
        "num_retries",
        "timeout",
        "drop_params",
        "extra_body",
        "allowed_openai_params",
        "no-log",
        "_skip_mcp_handler",
        "_skip_responses_api_bridge",
    }
    for provider in PROVIDERS:
        wired = await wire(provider, plain(provider))
        seen: set[str] = set()

        async def acompletion(seen: set[str] = seen, **fields: Any) -> None:
            seen.update(fields)
            raise ValueError("enough")

        with monkeypatch.context() as patch:
            patch.setattr(_litellm._litellm, "acompletion", acompletion)
            for fields, _ in SENT.values():
                extra = {name: value for name, (value, _) in EXTRA.items()}
                with pytest.raises(InvalidRequest, match="enough"):
                    await wired.adapter.complete(replace(ASK, **fields, extra=extra))
        mine = {"tools", "tool_choice", "response_format", "max_tokens", "temperature", "top_p"}
        mine |= {"stop", "seed", "reasoning_effort", "k", *EXTRA}
        assert seen <= ours | mine


@pytest.mark.parametrize("n", [2, 0, -1, "1", [1]])
async def test_one_answer_is_asked_for(n: object) -> None:
    """A completion is one answer; more would be paid for and thrown away."""
    wired = await wire("openai", plain("openai"))

    with pytest.raises(InvalidRequest, match="n must be 1"):
        await wired.adapter.complete(replace(ASK, extra={"n": n}))

    assert wired.requests == []


def test_every_provider_is_in_the_tables() -> None:
    """Nobody is forgotten."""
    assert set(MODELS) == set(LLMProvider)
