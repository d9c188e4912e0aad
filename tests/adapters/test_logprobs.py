"""How probable tokens were: told as the provider told it, where it was asked for."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import Chunk, Completion, _read, collect
from tests.adapters.wires import ASK, data, wire

ASKED = replace(ASK, extra={"logprobs": True, "top_logprobs": 1})
Json = dict[str, Any]


def told(token: str, logprob: float) -> Json:
    """A token and itself as the most probable one."""
    one = {"token": token, "logprob": logprob, "bytes": list(token.encode())}
    return {**one, "top_logprobs": [one]}


TOLD = [told("The", -0.25), told(" Nile", -1.5), told(".", 0.0)]


def openai_body(logprobs: Any) -> Json:
    choice = {"index": 0, "finish_reason": "stop", "logprobs": logprobs}
    return {
        "id": "c1",
        "object": "chat.completion",
        "model": "gpt-4.1-mini",
        "choices": [{**choice, "message": {"role": "assistant", "content": "The Nile."}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3},
    }


def openai_events(several: list[Any]) -> bytes:
    texts = ("The", " Nile", ".")
    events: list[Json] = [
        {"index": 0, "delta": {"content": text}, "logprobs": logprobs}
        for text, logprobs in zip(texts, several, strict=True)
    ]
    events.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    frames: list[Json] = [{"id": "c1", "model": "gpt-4.1-mini", "choices": [e]} for e in events]
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    return data(*frames, {"id": "c1", "choices": [], "usage": usage}, "[DONE]")


def google_body(tokens: list[Json], text: str, *, last: bool = True) -> Json:
    result = {
        "chosenCandidates": [{"token": t["token"], "logProbability": t["logprob"]} for t in tokens],
        "topCandidates": [
            {"candidates": [{"token": t["token"], "logProbability": t["logprob"]}]} for t in tokens
        ],
    }
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "logprobsResult": result}
    return {
        "candidates": [{**candidate, **({"finishReason": "STOP"} if last else {})}],
        "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 3},
        "modelVersion": "gemini-2.5-flash",
    }


async def both(provider: str, body: Json, events: bytes, *, asked: bool) -> list[Completion]:
    """The plain answer, and the fold of the streamed one."""
    request = ASKED if asked else ASK
    plain = await (await wire(provider, body)).adapter.complete(request)
    return [plain, await collect((await wire(provider, events)).adapter.stream(request))]


@pytest.mark.parametrize("provider", ["openai", "custom"])
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("kind", ["content", "refusal"])
async def test_openais_are_told_if_they_were_asked_for(
    provider: str, asked: bool, kind: str
) -> None:
    """In a stream as in one piece; some hosts tell them unasked, and nobody would expect that."""
    several = [{kind: [one]} for one in TOLD]

    plain, folded = await both(
        provider, openai_body({kind: TOLD}), openai_events(several), asked=asked
    )

    assert plain == folded
    assert list(plain.logprobs) == (TOLD if asked else [])


async def test_googles_are_told_in_openais_shape() -> None:
    """It tells no bytes; an event that has none of them is no harm."""
    events = data(*(google_body([t], t["token"], last=t is TOLD[-1]) for t in TOLD))

    plain, folded = await both("google", google_body(TOLD, "The Nile."), events, asked=True)

    assert plain == folded
    assert [(one["token"], one["logprob"], one["bytes"]) for one in plain.logprobs] == [
        (one["token"], one["logprob"], None) for one in TOLD
    ]
    assert [one["top_logprobs"][0]["token"] for one in plain.logprobs] == ["The", " Nile", "."]


async def test_google_is_asked_for_the_most_probable_ones_too() -> None:
    """litellm sends what it says that it does not support."""
    wired = await wire("google", google_body(TOLD, "The Nile."))

    await wired.adapter.complete(ASKED)

    assert wired.body["generationConfig"] == {"responseLogprobs": True, "logprobs": 1}


ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "refusal", "token", "logprob", "bytes", "top_logprobs"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(logprobs=ANYTHING)
@settings(max_examples=60)
def test_whatever_stands_there_is_of_the_shape_or_left_out(logprobs: Any) -> None:
    """Hosts put lists of their own there: an answer is not lost for that."""
    read = _read.read_logprobs(openai_body(logprobs))

    for one in read:
        assert sorted(one) == ["bytes", "logprob", "token", "top_logprobs"]
        for each in (one, *one["top_logprobs"]):
            each["token"].encode()
            assert -float("inf") < each["logprob"] < float("inf")


async def test_a_piece_without_text_still_tells_of_its_tokens() -> None:
    """A token may be less than a character."""
    wired = await wire("openai", openai_events([{"content": [one]} for one in TOLD]))
    wired.answer = openai_events([{"content": [one]} for one in TOLD]).replace(
        b'"content": " Nile"', b'"content": ""'
    )

    chunks: list[Chunk] = [chunk async for chunk in wired.adapter.stream(ASKED)]

    assert [(chunk.text, len(chunk.logprobs)) for chunk in chunks] == [
        ("The", 1),
        ("", 1),
        (".", 1),
        ("", 0),
    ]
