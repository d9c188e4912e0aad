"""BaseAdapter: what every adapter has without doing anything for it."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from adapters import (
    BaseAdapter,
    Chunk,
    Completion,
    CompletionRequest,
    Limits,
    LLMProvider,
    ModelConfig,
    Usage,
    _litellm,
    collect,
    create_adapter,
)
from adapters.base import prompt_text
from tests.adapters.wires import ASK, WEATHER


class Echo(BaseAdapter):
    """The least that an adapter can be."""

    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        return await collect(self.stream(request, limits=limits))

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        yield Chunk(text=str(request.messages[0]["content"]))
        yield Chunk(finish_reason="stop")


def echo(**config: int) -> Echo:
    given = ModelConfig(provider=LLMProvider.OPENAI, model="gpt-4.1-mini")
    return Echo(given.model_copy(update=config), deployment="river")


async def test_an_adapter_needs_two_methods() -> None:
    """The others follow from them."""
    adapter = echo()

    assert await adapter.generate("hello") == "hello"
    assert adapter.is_available()
    assert adapter.named() == {"provider": "openai", "deployment": "river"}
    await adapter.aclose()


def test_an_adapter_that_calls_nothing_cannot_be_made() -> None:
    """There is no canned answer to fall back on."""
    with pytest.raises(TypeError, match="abstract"):
        BaseAdapter(ModelConfig(provider=LLMProvider.OPENAI, model="m"))  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("asked", "configured", "expected"),
    [(None, None, 0), (7, None, 7), (None, 9, 9), (7, 9, 7)],
)
def test_an_estimate_says_what_a_call_may_use(
    asked: int | None, configured: int | None, expected: int
) -> None:
    """The prompt as counted here; the most it may answer, or 0 where nothing limits that."""
    adapter = echo(**({} if configured is None else {"max_tokens": configured}))

    found = adapter.estimate(replace(ASK, max_tokens=asked))

    assert found == Usage(
        prompt_tokens=found.prompt_tokens, completion_tokens=expected, estimated=True
    )
    assert 4 <= found.prompt_tokens <= 12


def test_an_estimate_grows_with_all_that_the_model_reads() -> None:
    """Messages, tool calls and tools; an image costs something else than its data's length."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9999}}
    call = {"function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    request = CompletionRequest(
        messages=[
            {"role": "user", "content": "first"},
            {"role": "user", "content": [{"type": "text", "text": "second"}, image, "odd"]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        tools=[WEATHER],
    )

    text = prompt_text(request)

    for words in ("first", "second", "Paris", "The weather in a city"):
        assert words in text
    assert "AAAA" not in text
    assert prompt_text(CompletionRequest(messages=[{"role": "user"}])) == ""


def test_before_the_tokenizer_is_read_four_bytes_are_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quote does not cost seconds."""
    monkeypatch.setattr(_litellm, "_litellm", None)

    assert not _litellm.is_loaded()
    assert _litellm.count_tokens("x" * 400) == 101
    assert _litellm.count_tokens("ü\ud800") == 1
    assert _litellm.count_tokens("") == 0


async def test_tokens_are_counted_offline() -> None:
    """Whatever the text says, and whoever is meant to read it."""
    await _litellm.load("tokenizer")

    assert 8 <= _litellm.count_tokens("The Nile is a river. " * 2) <= 20
    assert _litellm.count_tokens("<|endoftext|>\ud800\0") > 0


async def test_a_long_text_is_counted_from_its_beginning() -> None:
    """Megabytes would hold up the loop for seconds."""
    await _litellm.load("tokenizer")
    words = "The Nile is a river. "

    short = _litellm.count_tokens(words * 9_000)
    long = _litellm.count_tokens(words * 900_000)

    assert long == pytest.approx(100 * short, rel=0.01)


async def test_an_adapter_is_warm_when_what_calls_need_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those seconds are nobody's call; an adapter that needs nothing is always warm."""
    config = ModelConfig(provider=LLMProvider.OPENAI, model="gpt-4.1-mini", api_key="k")
    adapter = create_adapter(config)
    await adapter.warm(saying("hi"))
    assert adapter.is_warm(saying("hi"))

    monkeypatch.setattr(_litellm, "_litellm", None)

    assert not adapter.is_warm(saying("hi"))
    assert echo().is_warm(saying("hi"))


@pytest.mark.parametrize(
    ("provider", "text", "parts"),
    [
        ("custom", "hi", ()),
        ("openai", "hi", ("sdk",)),
        ("anthropic", "hi", ()),
        ("custom", "a" * 5_000, ("tokenizer",)),
        ("openai", "日" * 2_000, ("sdk", "tokenizer")),
    ],
)
async def test_only_what_a_call_needs_is_loaded(
    provider: str, text: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer takes 40 MB, which short prompts can do without, as openai's client its 10."""
    loaded: set[str] = set()
    monkeypatch.setattr(_litellm, "_ready", loaded)
    monkeypatch.setattr(_litellm, "_PARTS", dict.fromkeys(("sdk", "tokenizer"), lambda _: None))
    config = ModelConfig(
        provider=LLMProvider(provider), model="m", api_key="k", api_base="http://127.0.0.1:9/v1"
    )

    await create_adapter(config).warm(saying(text))

    assert loaded == set(parts)


def saying(text: str) -> CompletionRequest:
    return CompletionRequest(messages=[{"role": "user", "content": text}])
