"""Claims about what the simulator counts as due, against which a ledger can be held."""

import pytest

from adapters.config import LLMProvider
from orchestrator.simulator import Simulator, Tally
from orchestrator.simulator.routes import BASES
from tests.simulator.calling import QUESTION, Caller, request

P = LLMProvider


async def due(
    caller: Caller, model: str, *, streamed: bool, provider: LLMProvider = P.CUSTOM
) -> Tally:
    """What one call adds to the count."""
    before = caller.simulator.tally()
    await caller.ask(provider, model=model, streamed=streamed, wait_s=0.3)
    await caller.simulator.settled()
    after = caller.simulator.tally()
    return Tally(
        calls=after.calls - before.calls,
        billed=after.billed - before.billed,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        completion_tokens=after.completion_tokens - before.completion_tokens,
    )


@pytest.mark.parametrize("provider", P)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_whole_answer_is_due_as_its_usage_says(
    caller: Caller, provider: LLMProvider, streamed: bool
) -> None:
    """The count and the usage are one, in every wire format."""
    counted = await due(caller, "sim", streamed=streamed, provider=provider)

    record = caller.simulator.requests[-1]
    assert counted.calls == counted.billed == 1
    assert (counted.prompt_tokens, counted.completion_tokens) == (
        record.prompt_tokens,
        record.completion_tokens,
    )
    assert counted.completion_tokens > 10


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "lie", ["nousage", "zerousage", "lowusage", "negusage", "strusage", "hugeusage", "usagex3"]
)
async def test_a_lie_in_the_usage_changes_nothing(caller: Caller, lie: str, streamed: bool) -> None:
    """What is due is counted from what was said."""
    honest = await due(caller, "sim", streamed=streamed)

    assert await due(caller, f"sim--{lie}", streamed=streamed) == honest


async def test_usage_can_be_multiplied(caller: Caller) -> None:
    """As often as the number says, twice without one."""
    usage = (await caller.ask(P.CUSTOM)).json["usage"]

    for fault, factor in (("usagex", 2), ("usagex3", 3), ("usagex10", 10)):
        told = (await caller.ask(P.CUSTOM, model=f"sim--{fault}")).json["usage"]
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert told[name] == factor * usage[name]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ["e400", "e429", "e500", "e503html", "errin200", "html200"])
async def test_an_error_costs_nothing(caller: Caller, fault: str, streamed: bool) -> None:
    """It is a call, and none that is billed."""
    assert await due(caller, f"sim--{fault}", streamed=streamed) == Tally(calls=1)


async def test_an_error_instead_of_a_stream_costs_nothing(caller: Caller) -> None:
    """Nor does a stream whose first event is one."""
    assert await due(caller, "sim--errfirst", streamed=True) == Tally(calls=1)


async def test_of_a_broken_stream_what_was_sent_is_due(caller: Caller) -> None:
    """The prompt from the start, the answer as far as it came."""
    whole = await due(caller, "sim", streamed=True)
    path, body = request(P.CUSTOM, "sim", QUESTION, streamed=True)
    size = len(caller.simulator.render(BASES[P.CUSTOM] + path, body))

    found = [
        await due(caller, f"sim--cutat{place}", streamed=True)
        for place in range(0, size, size // 10)
    ]
    counts = [part.completion_tokens for part in found]

    assert {part.prompt_tokens for part in found} == {whole.prompt_tokens}
    assert counts == sorted(counts)
    assert counts[0] <= 1
    assert len(set(counts)) > 7
    assert counts[-1] <= whole.completion_tokens
    for fault in ("stall0", "stallhead", "stallopen"):
        assert (await due(caller, f"sim--{fault}", streamed=True)).completion_tokens == 0


@pytest.mark.parametrize("fault", ["cut0", "cutmid", "stall0", "cutmidclose", "halfjson"])
async def test_a_plain_answer_is_due_whether_or_not_it_arrives(caller: Caller, fault: str) -> None:
    """It was written before the first byte was sent."""
    assert await due(caller, f"sim--{fault}", streamed=False) == await due(
        caller, "sim", streamed=False
    )


async def test_who_leaves_a_stream_pays_for_what_came(simulator: Simulator) -> None:
    """A cancelled call is billed as far as it went."""
    caller = Caller(simulator)
    whole = await due(caller, "sim", streamed=True)
    path, body = request(P.CUSTOM, "sim--gap20ms", QUESTION, streamed=True)

    await caller.post(BASES[P.CUSTOM] + path, body, wait_s=0.2)
    await simulator.settled()

    record = simulator.requests[-1]
    assert record.closed_by_client
    assert record.billed_prompt_tokens == whole.prompt_tokens
    assert 0 < record.billed_completion_tokens < whole.completion_tokens


async def test_each_model_has_a_count_of_its_own(caller: Caller) -> None:
    """And all of them add up, however few records are kept."""
    for model in ("one", "two", "two--e500"):
        await caller.ask(P.CUSTOM, model=model)
    await caller.simulator.settled()

    one, two, whole = (caller.simulator.tally(model) for model in ("one", "two", None))
    assert (one.calls, two.calls, whole.calls) == (1, 2, 3)
    assert (one.billed, two.billed, whole.billed) == (1, 1, 2)
    assert whole.completion_tokens == one.completion_tokens + two.completion_tokens
    assert whole.prompt_tokens == one.prompt_tokens + two.prompt_tokens
    assert caller.simulator.tally("nobody") == Tally()
