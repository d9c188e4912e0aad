"""Lines of batches are what calls would be, and what comes of them is read as strictly."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import CompletionRequest, LLMProvider, ModelConfig, create_adapter
from adapters.batches import (
    BatchReply,
    BatchStatus,
    missing_reply,
    read_replies,
    read_status,
    write_line,
)
from adapters.errors import InvalidRequest, RateLimited
from adapters.prices import price_of
from adapters.types import Usage
from orchestrator.simulator import Simulator
from orchestrator.simulator.directives import Plan

ASKED = CompletionRequest(messages=[{"role": "user", "content": "Say so."}], max_tokens=40)
USED = Usage(prompt_tokens=1_000_001, completion_tokens=500_001, cached_tokens=1001)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def adapter_of(simulator: Simulator, provider: LLMProvider, *how: str) -> Any:
    base = simulator.base_url(provider, *how)
    config = ModelConfig.model_validate(
        {"provider": provider, "model": "gpt-5-mini", "api_key": "sk-none", "api_base": base}
    )
    return create_adapter(config, deployment="one")


@pytest.mark.parametrize("provider", [LLMProvider.OPENAI, LLMProvider.CUSTOM])
async def test_the_way_through_a_batch_ends_in_the_completion_of_a_call(
    provider: LLMProvider,
) -> None:
    """Submitted, found by its tag on the third page, followed, collected and read."""
    async with Simulator() as simulator:
        adapter = adapter_of(simulator, provider)
        line = write_line("a", await adapter.write_body(ASKED))
        status = await adapter.submit_batch(line, tag="mine")
        first = simulator.batches.all[0]
        others = [type(first)(f"b{n}", "", first.provider, "", [], Plan(), {}) for n in range(250)]
        simulator.batches.all.extend(others)
        found = [await adapter.find_batch(tag) for tag in ("mine", "another")]
        seen = []
        while not status.is_over:
            status = await adapter.poll_batch(status.id)
            seen.append(status.state)
        replies = await adapter.collect_batch(status)
        read = await adapter.read_reply(ASKED, replies["a"])
        live = await adapter.complete(ASKED)
        await adapter.aclose()

    assert [one and one.id for one in found] == [status.id, None]
    assert seen == ["in_progress", "finalizing", "completed"]
    assert (read, list(replies)) == (live, ["a"])


async def test_a_cancelled_batch_says_so_of_the_lines_it_did_not_come_to() -> None:
    """They were refused, and nobody is billed for them."""
    async with Simulator() as simulator:
        adapter = adapter_of(simulator, LLMProvider.OPENAI)
        line = write_line("a", await adapter.write_body(ASKED))
        status = await adapter.cancel_batch((await adapter.submit_batch(line, tag="t")).id)
        replies = await adapter.collect_batch(status)
        await adapter.aclose()

    assert (status.state, status.is_over, replies["a"].status) == ("cancelled", True, 503)


@pytest.mark.parametrize(
    "provider", sorted(set(LLMProvider) - {LLMProvider.OPENAI, LLMProvider.CUSTOM})
)
async def test_other_providers_say_that_they_have_no_batches(provider: LLMProvider) -> None:
    """By an error that names who has, without a key or a call."""
    adapter = create_adapter(ModelConfig(provider=provider, model="any"), deployment="one")

    with pytest.raises(InvalidRequest, match=f"{provider.value} has no batches .* openai has"):
        await adapter.submit_batch(b"", tag="t")
    assert not adapter.has_batches


async def test_the_reply_of_a_line_fails_as_that_of_a_call_would() -> None:
    """By its true class, with what the provider said."""
    adapter = create_adapter(
        ModelConfig(provider=LLMProvider.OPENAI, model="gpt-5-mini", api_key="sk-none"),  # type: ignore[arg-type]
        deployment="one",
    )
    body = json.dumps({"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}})

    with pytest.raises(RateLimited, match="Slow down"):
        await adapter.read_reply(ASKED, BatchReply(status=429, body=body.encode()))


def test_a_call_in_a_batch_costs_half() -> None:
    """By the list as by the operator's own price; what is free stays so."""
    own: Any = {"input_usd": "1.37", "output_usd": "10.73"}
    for price in (None, own, "free"):
        config = ModelConfig.model_validate(
            {"provider": "openai", "model": "gpt-5-mini", "price": price}
        )
        live, batched = price_of(config), price_of(config.batched())

        assert live is not None
        assert batched is not None
        assert batched.cost_nanousd(USED) == -(-live.cost_nanousd(USED) // 2)
        assert not config.is_batched


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), JSON), max_size=5))
def test_lines_are_read_or_refused_whatever_they_say(lines: list[tuple[str, Any]]) -> None:
    """Every line has a reply with a status and an object for a body."""
    content = b"".join(
        orjson.dumps({"custom_id": name, "response": said, "error": said}) + b"\n"
        for name, said in lines
    )

    replies = list(read_replies(content))

    assert [name for name, _ in replies] == [name for name, _ in lines]
    assert all(isinstance(orjson.loads(reply.body), dict) for _, reply in replies)


@given(st.binary(max_size=40))
def test_what_is_no_file_of_a_batch_is_refused_by_one_error(content: bytes) -> None:
    """`ValueError` and no other, however it is broken."""
    try:
        list(read_replies(content))
    except ValueError:
        return


@given(st.dictionaries(st.sampled_from(["status", "request_counts", "errors", "metadata"]), JSON))
def test_an_odd_object_is_a_batch_that_is_under_way(said: dict[str, Any]) -> None:
    """Until it says one of the words that mean the end."""
    status = read_status({"id": "batch_1"} | said)

    assert isinstance(status, BatchStatus)
    assert min(status.total, status.completed, status.failed) >= 0
    assert missing_reply(status).status >= 400
