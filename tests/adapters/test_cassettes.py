"""Every adapter on recorded HTTP: one test a kind of call, one cassette a test and provider.

Replayed with all sockets refused. `ORCHESTRATOR_RECORD=simulator` records them anew from the
simulator, `ORCHESTRATOR_RECORD=live` from the providers whose keys are in the environment.
"""

import inspect
import json
import re
from contextlib import aclosing, suppress
from datetime import UTC, date, datetime
from pathlib import Path
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
    ProviderError,
    collect,
)
from adapters.errors import (
    AuthenticationFailed,
    InvalidRequest,
    ModelNotFound,
    ProviderUnavailable,
    RateLimited,
)
from tests.adapters.cassettes import (
    FOLDER,
    SEED,
    SUBJECTS,
    TEST_KEY,
    UNKNOWN_MODEL,
    WRONG_KEY,
    Subject,
    Tape,
    causes_of,
    load,
    origin,
    recorded,
    replayed,
    source,
)
from tests.adapters.conftest import Opened

QUESTION = CompletionRequest(
    messages=[{"role": "user", "content": "Why is the sky blue? Answer in one short sentence."}],
    max_tokens=120,
)
CONVERSATION = CompletionRequest(
    messages=[
        {"role": "system", "content": "You are a polite librarian. Answer briefly."},
        {"role": "user", "content": "Hello, my name is Zoë and I like maps."},
        {"role": "assistant", "content": "Welcome, Zoë! The atlases are on the left."},
        {"role": "user", "content": "What is my name?"},
    ],
    max_tokens=120,
    temperature=0.0,
)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOL_CALL = CompletionRequest(
    messages=[{"role": "user", "content": "What is the weather in Paris, in celsius?"}],
    tools=[
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather in a city right now",
                "parameters": WEATHER,
            },
        }
    ],
    tool_choice="required",
    max_tokens=200,
)
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "country": {"type": "string"},
        "population": {"type": "integer"},
        "capital": {"type": "boolean"},
    },
    "required": ["name", "country", "population", "capital"],
    "additionalProperties": False,
}
JSON_ANSWER = CompletionRequest(
    messages=[{"role": "user", "content": "Describe the city of Lyon as JSON."}],
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": CITY, "strict": True},
    },
    max_tokens=200,
)
LONG_ANSWER = CompletionRequest(
    messages=[{"role": "user", "content": "Tell me the history of the lighthouse in ten pages."}],
    max_tokens=16,
)
IMPOSSIBLE = CompletionRequest(messages=QUESTION.messages, max_tokens=120, temperature=99.0)

# Where a provider has its own way.
WRONG_KEY_STATUS = {LLMProvider.GOOGLE: 400}  # it takes a wrong key for a bad argument
UNKNOWN_MODEL_STATUS = {LLMProvider.MISTRAL: 400}  # and Mistral an unknown model
OVERLOADED_STATUS = {LLMProvider.ANTHROPIC: 529}
SILENT_ON_LIMITS = (LLMProvider.COHERE, LLMProvider.MISTRAL)  # unless a header is asked for
PROVIDERS = list(LLMProvider)
KEY_PATTERNS = re.compile(
    r"sk-[\w-]{8}|AIza[\w-]{8}|Bearer |eyJ[\w-]{10}|\borg-(?!left-out)\w|proj_(?!left_out)\w"
    r"|authorization|api[-_]key:|cookie|127\.0\.0\.1|localhost"
    rf"|{TEST_KEY}|{WRONG_KEY}",
    re.IGNORECASE,
)


@pytest.fixture
def tape(request: pytest.FixtureRequest, provider: LLMProvider, opened: Opened) -> Tape:
    """The cassette that belongs to the running test and provider."""
    path = FOLDER / provider / f"{request.function.__name__}.yaml"
    return Tape(provider=provider, path=path, opened=opened)


each_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=str)


async def streamed(
    adapter: BaseAdapter, request: CompletionRequest
) -> tuple[list[Chunk], Completion]:
    """The chunks of a stream, and what they amount to."""
    async with aclosing(adapter.stream(request)) as stream:
        chunks = [chunk async for chunk in stream]

    async def again() -> Any:
        for chunk in chunks:
            yield chunk

    return chunks, await collect(again())


async def failure_of(adapter: BaseAdapter, request: CompletionRequest) -> ProviderError:
    """The provider's own error, not one that a missing recording left behind."""
    with pytest.raises(ProviderError) as raised:
        await adapter.complete(request)
    assert not [cause for cause in causes_of(raised.value) if type(cause).__module__[:3] == "vcr"]
    return raised.value


def assert_counted(completion: Completion) -> None:
    """The provider said what it bills."""
    assert completion.usage.prompt_tokens > 0
    assert completion.usage.completion_tokens > 0
    assert not completion.usage.estimated


@each_provider
async def test_chat(tape: Tape) -> None:
    """A question gets a whole answer, under the model's name, with its usage."""
    async with tape() as adapter:
        completion = await adapter.complete(QUESTION)

        assert len(completion.text.split()) > 3
        assert completion.finish_reason == "stop"
        assert completion.tool_calls == ()
        assert SUBJECTS[tape.provider].model.split("-")[0] in completion.model
        assert_counted(completion)


@each_provider
async def test_system_and_turns(tape: Tape) -> None:
    """A system message and earlier turns reach the model: it knows what was said before."""
    async with tape() as adapter:
        completion = await adapter.complete(CONVERSATION)

        assert "Zoë" in completion.text
        assert completion.finish_reason == "stop"
        assert_counted(completion)


@each_provider
async def test_stream(tape: Tape) -> None:
    """A stream comes in pieces, and only its last chunk has the end and the usage."""
    async with tape() as adapter:
        chunks, completion = await streamed(adapter, QUESTION)

        assert sum(bool(chunk.text) for chunk in chunks) > 1
        assert len(completion.text.split()) > 3
        assert completion.finish_reason == "stop"
        assert [chunk for chunk in chunks if chunk.finish_reason or chunk.usage] == chunks[-1:]
        assert_counted(completion)


@each_provider
async def test_tools(tape: Tape) -> None:
    """A tool call has an id, the tool's name, and arguments that its schema allows."""
    async with tape() as adapter:
        completion = await adapter.complete(TOOL_CALL)

        assert_calls_the_tool(completion)


@each_provider
async def test_streamed_tools(tape: Tape) -> None:
    """A tool call that comes in pieces is the same call."""
    async with tape() as adapter:
        chunks, completion = await streamed(adapter, TOOL_CALL)

        assert any(chunk.tool_calls for chunk in chunks[:-1])
        assert_calls_the_tool(completion)


def assert_calls_the_tool(completion: Completion) -> None:
    (call,) = completion.tool_calls
    assert call.name == "get_weather"
    assert call.id
    arguments = json.loads(call.arguments)
    jsonschema.validate(arguments, WEATHER)
    assert "Paris" in arguments["city"]
    assert completion.finish_reason == "tool_calls"
    assert_counted(completion)


@each_provider
async def test_json_schema(tape: Tape) -> None:
    """An answer asked for by schema is JSON text that the schema allows."""
    async with tape() as adapter:
        completion = await adapter.complete(JSON_ANSWER)

        jsonschema.validate(json.loads(completion.text), CITY)
        assert completion.finish_reason == "stop"
        assert completion.tool_calls == ()


@each_provider
async def test_length(tape: Tape) -> None:
    """An answer that the limit ends says so."""
    async with tape() as adapter:
        completion = await adapter.complete(LONG_ANSWER)

        assert completion.text
        assert completion.finish_reason == "length"
        assert completion.usage.completion_tokens <= 16


@each_provider
async def test_bad_request(tape: Tape) -> None:
    """What the provider refuses to understand is not tried again."""
    async with tape() as adapter:
        error = await failure_of(adapter, IMPOSSIBLE)

        assert type(error) is InvalidRequest
        assert error.status_code in (400, 422)
        assert not error.retryable
        assert "temperature" in str(error)


@each_provider
async def test_wrong_key(tape: Tape) -> None:
    """A wrong key is a wrong key, whatever status the provider has for it."""
    async with tape(key=WRONG_KEY) as adapter:
        error = await failure_of(adapter, QUESTION)

        assert type(error) is AuthenticationFailed
        assert error.status_code == WRONG_KEY_STATUS.get(tape.provider, 401)
        assert not error.retryable
        assert WRONG_KEY not in str(error)


@each_provider
async def test_unknown_model(tape: Tape) -> None:
    """A model that does not exist is told apart from a request that makes no sense."""
    async with tape(model=UNKNOWN_MODEL, fault="e404") as adapter:
        error = await failure_of(adapter, QUESTION)

        assert type(error) is ModelNotFound
        assert error.status_code == UNKNOWN_MODEL_STATUS.get(tape.provider, 404)
        assert not error.retryable


@each_provider
async def test_rate_limit(tape: Tape) -> None:
    """A rate limit is worth another try, after the time the provider asks for."""
    fault = "e429-seconds" if tape.provider in SILENT_ON_LIMITS else "e429"
    async with tape(fault=fault, can_be_provoked=False) as adapter:
        error = await failure_of(adapter, QUESTION)

        assert type(error) is RateLimited
        assert error.status_code == 429
        assert error.retryable
        assert error.retry_after_s == 2.0


@each_provider
async def test_overloaded(tape: Tape) -> None:
    """An overloaded provider keeps its own status."""
    status = OVERLOADED_STATUS.get(tape.provider, 503)
    async with tape(fault=f"e{status}", can_be_provoked=False) as adapter:
        error = await failure_of(adapter, QUESTION)

        assert type(error) is ProviderUnavailable
        assert error.status_code == status
        assert error.retryable


def recordings() -> list[Path]:
    return sorted(FOLDER.rglob("*.yaml"))


def test_every_test_has_its_cassettes_and_every_cassette_its_test() -> None:
    """Twelve kinds of call for six adapters: none missing, none left over."""
    names = [name for name in globals() if name.startswith("test_") and takes_a_tape(name)]
    expected = {f"{provider}/{name}.yaml" for provider in PROVIDERS for name in names}

    assert len(expected) == 72
    assert {path.relative_to(FOLDER).as_posix() for path in recordings()} == expected


def takes_a_tape(name: str) -> bool:
    return "tape" in inspect.signature(globals()[name]).parameters


@each_provider
def test_every_cassette_says_where_it_came_from(provider: LLMProvider) -> None:
    """It names its origin, and holds one exchange with the provider's real address."""
    for path in sorted((FOLDER / provider).glob("*.yaml")):
        assert_says_where_it_came_from(load(path), SUBJECTS[provider])


def assert_says_where_it_came_from(cassette: dict[str, Any], subject: Subject) -> None:
    assert cassette["recorded_from"] in ("simulator", "live")
    assert date.fromisoformat(cassette["recorded_at"]) <= datetime.now(UTC).date()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", cassette["litellm"])
    assert cassette.get("simulator_seed") == (
        SEED if cassette["recorded_from"] == "simulator" else None
    )
    (exchange,) = cassette["interactions"]
    assert exchange["request"]["method"] == "POST"
    assert exchange["request"]["uri"].startswith(subject.base + subject.path)


def test_no_cassette_holds_a_secret() -> None:
    """No key, no cookie, no name of an organisation, no address of the machine that recorded."""
    found = {
        f"{path.parent.name}/{path.name}": match[0]
        for path in recordings()
        if (match := KEY_PATTERNS.search(path.read_text("utf-8")))
    }

    assert not found
    assert KEY_PATTERNS.search("Authorization: Bearer sk-0123456789")  # it can find one


def test_only_known_sources_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt wish to record does not pass for a replay."""
    monkeypatch.setenv("ORCHESTRATOR_RECORD", "lvie")

    with pytest.raises(pytest.UsageError, match="'lvie'"):
        source()


@pytest.mark.parametrize(
    ("requests", "noticed"),
    [
        ([CONVERSATION], "not on the cassette"),
        ([QUESTION, QUESTION], "not on the cassette"),
        ([], "played 0 times"),
    ],
    ids=["another question", "asked twice", "not asked"],
)
async def test_a_replay_that_is_not_the_recording_fails(
    requests: list[CompletionRequest], noticed: str, opened: Opened
) -> None:
    """Even if the code under test takes the miss for a provider that is down."""
    adapter = opened(
        ModelConfig(provider=LLMProvider.OPENAI, model="gpt-4.1-mini", api_key=SecretStr(TEST_KEY))
    )

    async def ask_all() -> None:
        with replayed(FOLDER / "openai" / "test_chat.yaml"):
            for request in requests:
                with suppress(ProviderError):
                    await adapter.complete(request)

    with pytest.raises(AssertionError, match=noticed):
        await ask_all()


def test_a_failed_recording_leaves_the_old_cassette_alone(tmp_path: Path) -> None:
    """A provider that is down today does not cost us what it said yesterday."""
    path = tmp_path / "test_chat.yaml"
    path.write_text("recorded_from: live\n")

    with pytest.raises(ZeroDivisionError), recorded(path, origin("simulator"), ("", "")):
        raise ZeroDivisionError

    assert [(found.name, found.read_text()) for found in tmp_path.glob("*.*")] == [
        ("test_chat.yaml", "recorded_from: live\n")
    ]
