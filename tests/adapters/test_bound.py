"""The most that a prompt can come to: never less than any tokenizer makes of it, and quickly."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import BaseAdapter, CompletionRequest, ModelConfig, _litellm, create_adapter
from adapters._bound import (
    FILE_TOKENS,
    MESSAGE_TOKENS,
    SAMPLE_CHARACTERS,
    SHORT_BYTES,
    SOUND_TOKENS,
    TOOLS_TOKENS,
    Allowances,
    bound_prompt,
)
from tests.adapters.wires import ASK, MODELS, PROVIDERS, WEATHER
from tests.counting import calls_of

NONE = Allowances(preamble=0, image=1_000, unseen=200_000)
PROSE = "The Nile is a river in Africa, and 6,650 km long. "


def bound(content: Any, *, count: Callable[[str], int] | None = None, margin: float = 1.5) -> int:
    """The bound of one message, without what stands around it."""
    request = CompletionRequest(messages=[{"role": "user", "content": content}])
    return bound_prompt(request, NONE, count=count, margin=margin) - MESSAGE_TOKENS


def adapter_of(provider: str, **given_: Any) -> BaseAdapter:
    base = {"api_base": "https://models.example/v1"} if provider == "custom" else {}
    given_.setdefault("model", MODELS[provider])  # type: ignore[index]  # a StrEnum
    return create_adapter(ModelConfig(provider=provider, api_key="k", **base, **given_))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("hello", 5),
        ("Zürich", 7),
        ("尼罗河", 9),
        ("🙂", 4),
        ("\ud83d", 3),  # half a character
        ("\U0001d160", 12),  # composed, it is three
    ],
)
def test_a_short_text_has_no_more_tokens_than_bytes(text: str, expected: int) -> None:
    """However its model cuts it."""
    assert bound(text) == expected


def counted_for(model: str, text: str) -> int:
    """By the tokenizer that litellm takes for a model; loaded it has to be."""
    loaded: Any = _litellm._litellm
    return int(loaded.token_counter(model=model, text=text))


@pytest.mark.parametrize("model", ["", "gpt-4.1-mini", "claude-haiku-4-5"])
async def test_no_tokenizer_makes_more_of_a_short_text(model: str) -> None:
    """Real ones, on what people and other programs write."""
    await _litellm.load("tokenizer")

    @given(st.text(max_size=300))
    def check(text: str) -> None:
        assert counted_for(model, text) <= bound(text) + MESSAGE_TOKENS

    check()


@pytest.mark.parametrize("model", ["", "gpt-4.1-mini", "command-a-03-2025"])
@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "尼罗河是非洲的一条河流。",
        "Der Nil fließt nach Norden; größer ist keiner. ",
        '{"id": 8471, "hash": "9f86d081884c7d65", "ok": true},\n',
        "def f(x):\n    return [y ** 2 for y in x if y]\n\n",
        "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAA",
    ],
    ids=lambda text: text[:9],
)
async def test_a_long_text_is_counted_with_a_margin(model: str, text: str) -> None:
    """Never less than any of these tokenizers makes of it, never more than its bytes."""
    await _litellm.load("tokenizer")
    long = text * (20_000 // len(text))

    found = bound(long, count=_litellm.count_tokens)

    assert counted_for(model, long) <= found <= len(long.encode())
    if text == PROSE:
        assert found < len(long) / 2


def test_samples_are_taken_from_the_whole_of_a_long_text() -> None:
    """A dense part anywhere counts for all of it: it may be the larger one."""
    seen: list[str] = []

    def count(sample: str) -> int:
        seen.append(sample)
        return len(sample) if "x" in sample else 1

    text = PROSE * 400
    assert bound(text, count=count) < len(text) / 10
    assert bound(text + "x" * 400, count=count) == len(text) + 400
    assert bound("x" * 400 + text, count=count) == len(text) + 400
    assert len(seen) < 20
    assert max(map(len, seen)) < 1_000


def test_a_margin_multiplies_and_the_bytes_are_the_limit() -> None:
    """Whatever the margin."""
    text = "x" * 10_000

    assert bound(text, count=lambda sample: len(sample) // 10, margin=2.0) == 2_000
    assert bound(text, count=lambda sample: len(sample) // 10, margin=99.0) == 10_000
    assert bound(text, count=None) == 10_000
    assert bound("x" * SHORT_BYTES, count=lambda _: pytest.fail("counted")) == SHORT_BYTES


def test_everything_that_the_model_reads_is_counted() -> None:
    """Names, tool calls, thinking, tools, the schema of the answer, documents."""
    call = {"id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    documents = [{"data": {"text": "the Nile"}}]
    schema = {"type": "json_schema", "json_schema": {"name": "river", "schema": {}}}
    request = CompletionRequest(
        messages=[
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hello"}, "odd"]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        ],
        tools=[WEATHER],
        response_format=schema,
        extra={"documents": documents},
    )

    found = bound_prompt(request, NONE, count=None, margin=1.5)

    parts = ([call], [WEATHER], schema, {"documents": documents}, "odd")
    read = sum(len(json.dumps(part)) for part in parts) + len("ann" + "hello" + "call_1" + "42")
    assert found == read + 3 * MESSAGE_TOKENS + TOOLS_TOKENS


def url(source: str, kind: str = "image_url") -> dict[str, Any]:
    return {"type": kind, kind: {"url": source}}


SOUND = {"type": "input_audio", "input_audio": {"data": "A" * 64_000, "format": "wav"}}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (url("data:image/png;base64," + "A" * 99_999), 1_000),
        (url("https://example.com/a.png"), 1_000),
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, 1_000),
        (SOUND, 3_000 + SOUND_TOKENS),
        (url("data:audio/mp3;base64," + "A" * 63_978), 3_000 + SOUND_TOKENS),
        (url("data:video/mp4;base64," + "A" * 63_978, "video_url"), 3_000 + SOUND_TOKENS),
        (url("https://example.com/a.mp4", "video_url"), 200_000),
        ({"type": "file", "file": {"file_id": "file-abc"}}, 200_000),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 3_972}},
            3_000 + FILE_TOKENS,
        ),
        ({"type": "image_url"}, len('{"type": "image_url"}')),
        ({"type": "thinking", "thinking": "hm"}, len('{"type": "thinking", "thinking": "hm"}')),
    ],
    ids=lambda value: str(value)[:40],
)
def test_media_count_as_what_they_show_not_as_their_base64(part: Any, expected: int) -> None:
    """What only the provider can open may fill the window; what is no medium is text."""
    assert bound([part]) == expected


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_adapter_bounds_its_prompts(provider: str) -> None:
    """With its own allowances, and litellm loaded or not."""
    found = adapter_of(provider).bound_prompt(ASK)

    assert adapter_of(provider).estimate(ASK).prompt_tokens < found < 2_000


def test_an_unseen_file_may_fill_the_window_of_the_model() -> None:
    """As it is configured, as the list has it, or a million."""
    file = {"type": "file", "file": {"file_id": "file-abc"}}
    request = CompletionRequest(messages=[{"role": "user", "content": [file]}])

    def found(**given_: Any) -> int:
        return adapter_of("openai", **given_).bound_prompt(request) // 1_000

    assert found(model="gpt-5-mini") == 272
    assert found(model="gpt-5-mini", context_tokens=50_000) == 50
    assert found(model="nobody-knows") == 1_048


def test_a_picture_costs_what_the_model_makes_of_it() -> None:
    """One small model counts three times as much as the others, at a tenth of the price."""
    picture = CompletionRequest(
        messages=[{"role": "user", "content": [url("data:image/png;base64,AAAA")]}]
    )

    def found(provider: str, model: str) -> int:
        return adapter_of(provider, model=model).bound_prompt(picture)

    assert found("openai", "gpt-4o-mini") > 50_000 > found("openai", "gpt-5-mini") > 16_000
    assert found("anthropic", "claude-haiku-4-5") < 6_000


async def test_a_long_prompt_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes are sampled as half a megabyte is, and no sample is long."""
    await _litellm.load("tokenizer")
    adapter = adapter_of("openai")
    counted: list[int] = []
    count = _litellm.count_tokens
    monkeypatch.setattr(
        _litellm, "count_tokens", lambda text: counted.append(len(text)) or count(text)
    )

    def bound_of(times: int) -> int:
        saying = [{"role": "user", "content": PROSE * times}]
        return adapter.bound_prompt(CompletionRequest(messages=saying))

    short = calls_of(lambda: bound_of(10_000))
    long = calls_of(lambda: bound_of(100_000))

    assert bound_of(100_000) < len(PROSE) * 100_000 / 2
    assert long < 1.5 * short
    assert max(counted) <= SAMPLE_CHARACTERS
