"""Quotes add up, and a plan that does not fit gives way as little as the order allows."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.amounts import DIMENSIONS, Amount, Caps, Scope
from orchestrator.budget import (
    Ask,
    Call,
    Ladder,
    Plan,
    Quote,
    StageQuote,
    Untouched,
    fit,
    say,
    stage_quote,
    total_quote,
)
from orchestrator.config import ShrinkStep
from orchestrator.errors import BudgetExceeded, UnknownPrice

TOKEN_NANOUSD = 100
STEPS: tuple[ShrinkStep, ...] = get_args(ShrinkStep)


def call(
    deployment: str = "gpt",
    *,
    prompt: int = 100,
    answer: int = 1000,
    rate: int | None = TOKEN_NANOUSD,
    tries: int = 3,
    regrown: int = 0,
) -> Call:
    """A call that costs so much a token and will likely need half of what it may."""

    def cost(tokens: int) -> int | None:
        return None if rate is None else tokens * rate

    return Call(
        deployment=deployment,
        prompt_bound=prompt,
        prompt_expected=prompt // 2,
        completion_bound=answer,
        completion_expected=answer // 2,
        full_nanousd=cost(prompt + answer),
        expected_nanousd=cost(prompt // 2 + answer // 2),
        retry_bound=prompt + regrown,
        retry_nanousd=cost(prompt + regrown + answer),
        tries=tries,
        full_s=10.0,
        expected_s=2.0,
    )


def ask(*calls: Call, member: str = "") -> Ask:
    return Ask(member=member or calls[0].deployment, options=(calls,))


def run_quote(plan: Plan, *stages: StageQuote, limit_s: float = 100.0) -> Quote:
    return total_quote("council", "compare", plan, stages, limit_s=limit_s)


# A panel whose members draft and whose synthesizer writes: enough to shrink.

RATES = {"gpt": 100, "claude": 300, "gemini": 50, "mistral": 20}
WEIGHTS = {"gpt": 1.0, "claude": 1.5, "gemini": 1.0, "mistral": 0.5}
PLAN = Plan(members=("gpt", "claude", "gemini", "mistral"), synthesizers=("claude", "gpt"))
LADDER = Ladder(
    steps=STEPS,
    weights=WEIGHTS,
    least_members=2,
    min_tokens=256,
    writers=(("gpt",), ("gemini",), ("mistral",)),
)


def panel_quote(plan: Plan) -> Quote:
    answer = min(plan.max_tokens or 4096, 4096)
    drafts = [ask(call(name, rate=RATES[name], answer=answer)) for name in plan.members]
    prompt = 100 + answer * len(plan.members)
    writers = [
        call(name, rate=RATES[name], prompt=prompt, answer=answer) for name in plan.synthesizers
    ]
    return run_quote(
        plan,
        stage_quote("drafts", drafts, limit_s=100),
        stage_quote("answer", [ask(*writers)], limit_s=100),
    )


def money(plan: Plan) -> int:
    return panel_quote(plan).full.amount.money_nanousd


def a_run(**caps: int) -> Untouched:
    return Untouched(scope=Scope(kind="run", caps=Caps(**caps)))


def fitted(cap_nanousd: int, ladder: Ladder = LADDER) -> Quote:
    return fit(PLAN, panel_quote, [a_run(money_nanousd=cap_nanousd)], ladder)


# How a quote adds up.


def test_calls_of_a_stage_are_made_at_once_and_stages_one_after_another() -> None:
    """Amounts add up; the clock counts the longest call of each stage."""
    stages = [
        stage_quote("drafts", [ask(call()), ask(call("claude"))], limit_s=100),
        stage_quote("answer", [ask(call())], limit_s=100),
    ]

    quote = run_quote(PLAN, *stages)

    assert quote.full.amount == Amount(
        money_nanousd=3 * 1100 * TOKEN_NANOUSD, tokens=3 * 1100, calls=3, time_ms=30_000
    )
    assert quote.full.elapsed_s == 20.0
    assert quote.expected.amount.calls == 3
    assert quote.expected.elapsed_s == 4.0


def test_the_dearest_deployment_of_a_route_is_what_a_budget_must_hold() -> None:
    """Each figure is the most that any of them may need, though no single one needs all."""
    long = call("gpt", prompt=5000, answer=10, rate=1)
    dear = call("claude", prompt=10, answer=10, rate=1_000_000)

    asked = ask(long, dear)

    assert asked.full.amount.tokens == long.full.amount.tokens
    assert asked.full.amount.money_nanousd == dear.full.amount.money_nanousd
    assert asked.full.amount.calls == 1
    assert asked.expected == long.expected


def test_the_worst_case_counts_every_try_of_everybody_who_may_follow() -> None:
    """Retries of one deployment, then those of the next, one after another."""
    asked = ask(call("gpt", tries=3), call("claude", tries=2, regrown=50))

    worst = asked.worst

    assert worst.amount.calls == 5
    assert worst.amount.tokens == 3 * 1100 + 2 * 1150
    assert worst.elapsed_s == 50.0


def test_of_those_who_may_be_asked_instead_only_one_is() -> None:
    """The worst case of alternatives is that of the dearest, not of all."""
    either = Ask(member="gpt", options=((call("gpt"),), (call("claude", rate=900),)))

    worst = either.worst

    assert worst.amount.calls == 3
    assert worst.amount.money_nanousd == 3 * 1100 * 900


def test_a_stage_that_may_not_be_needed_counts_in_full_and_is_expected_by_half() -> None:
    """A budget must hold it all the same."""
    asks = [ask(call()), ask(call()), ask(call())]

    quoted = stage_quote("revise", asks, limit_s=100, is_likely=False)

    assert quoted.full.amount.calls == 3
    assert quoted.expected.amount.calls == 2
    assert quoted.expected.elapsed_s == 1.0


def test_no_run_takes_longer_than_its_deadline() -> None:
    """Whatever the stages could take, the bell ends them."""
    stages = [stage_quote(str(n), [ask(call(tries=9))], limit_s=25.0) for n in range(4)]

    quote = run_quote(PLAN, *stages, limit_s=25.0)

    assert quote.full.elapsed_s == quote.worst.elapsed_s == 25.0
    assert {stage.worst.elapsed_s for stage in quote.stages} == {25.0}


CALLS = st.builds(
    call,
    st.sampled_from(sorted(RATES)),
    prompt=st.integers(0, 10**6),
    answer=st.integers(0, 10**6),
    rate=st.one_of(st.none(), st.integers(0, 10**6)),
    tries=st.integers(1, 12),
    regrown=st.integers(0, 10**5),
)
ROWS = st.lists(CALLS, min_size=1, max_size=2).map(tuple)
ASKS = st.builds(
    Ask, member=st.just("m"), options=st.lists(ROWS, min_size=1, max_size=2).map(tuple)
)
STAGES = st.builds(
    stage_quote,
    st.just("stage"),
    st.lists(ASKS, max_size=3),
    limit_s=st.just(10**9),
    is_likely=st.booleans(),
)


@settings(max_examples=50)
@given(st.lists(STAGES, max_size=3))
def test_what_is_expected_never_exceeds_what_is_full_nor_that_the_worst(
    stages: list[StageQuote],
) -> None:
    """And no deployment has a larger share than the whole."""
    quote = run_quote(PLAN, *stages, limit_s=10**9)

    for name in DIMENSIONS:
        expected, full, worst = (
            getattr(estimate.amount, name) for estimate in (quote.expected, quote.full, quote.worst)
        )
        assert expected <= full <= worst
        assert all(getattr(quote.of_deployment(one), name) <= full for one in RATES)
    assert quote.expected.elapsed_s <= quote.full.elapsed_s <= quote.worst.elapsed_s


def test_a_quote_survives_as_json() -> None:
    """What `plan --json` prints holds every figure, stage by stage."""
    quote = panel_quote(PLAN)

    told = json.loads(quote.to_json())

    assert told["full"]["amount"]["money_nanousd"] == quote.full.amount.money_nanousd
    assert [stage["name"] for stage in told["stages"]] == ["drafts", "answer"]
    assert told["plan"]["members"] == list(PLAN.members)


def test_time_is_no_reason_to_refuse() -> None:
    """Calls are cut to the time there is; a quote of their longest durations says nothing."""
    quote = panel_quote(PLAN)

    assert quote.fits(Caps(time_ms=1))
    assert not quote.fits(Caps(calls=4))
    assert quote.fits(Caps(calls=5, tokens=quote.full.amount.tokens))


# What gives way.


def test_what_fits_is_left_as_it_is() -> None:
    """Exactly enough is enough."""
    quote = fitted(money(PLAN))

    assert quote.plan == PLAN
    assert quote.shrunk == ()


def test_the_lightest_member_goes_first_and_of_equals_the_last() -> None:
    """Nobody goes who need not."""
    without_one = replace(PLAN, members=("gpt", "claude", "gemini"))
    without_two = replace(PLAN, members=("gpt", "claude"))

    once, twice = fitted(money(PLAN) - 1), fitted(money(without_one) - 1)

    assert once.plan == without_one
    assert once.shrunk == ("not asked: mistral",)
    assert twice.plan == without_two
    assert twice.shrunk == ("not asked: gemini, mistral",)


def test_after_the_quorum_answers_become_shorter_and_no_shorter_than_needed() -> None:
    """One step longer would not fit."""
    without_two = replace(PLAN, members=("gpt", "claude"))
    cap = money(replace(without_two, max_tokens=1000))

    quote = fitted(cap)

    assert quote.plan.members == ("gpt", "claude")
    assert quote.plan.max_tokens == 960
    assert money(replace(quote.plan, max_tokens=960 + 64)) > cap
    assert quote.shrunk[-1] == "answers of at most 960 tokens instead of 4096"


def test_then_the_first_writer_that_fits_writes() -> None:
    """In the operator's order, and no cheaper than needed."""
    shortest = replace(PLAN, members=("gpt", "claude"), max_tokens=256)

    quote = fitted(money(shortest) - 1)

    assert quote.plan == replace(shortest, synthesizers=("gpt",))
    assert quote.shrunk[-1] == "written by gpt instead of claude"


@given(st.permutations(STEPS), st.integers(0, len(STEPS)), st.integers(1, 6_000_000))
def test_the_operators_order_holds_and_what_is_given_fits(
    steps: list[ShrinkStep], count: int, cap: int
) -> None:
    """A later step is only taken when the earlier ones have gone as far as they go."""
    ladder = replace(LADDER, steps=steps[:count])
    ends: dict[ShrinkStep, Callable[[Plan], bool]] = {
        "members": lambda plan: len(plan.members) == ladder.least_members,
        "max_tokens": lambda plan: plan.max_tokens == ladder.min_tokens,
        "synthesizer": lambda plan: plan.synthesizers == ladder.writers[-1],
    }
    untouched: dict[ShrinkStep, Callable[[Plan], bool]] = {
        "members": lambda plan: plan.members == PLAN.members,
        "max_tokens": lambda plan: plan.max_tokens is None,
        "synthesizer": lambda plan: plan.synthesizers == PLAN.synthesizers,
    }

    try:
        quote = fitted(cap, ladder)
    except BudgetExceeded:
        return  # what is refused has a test of its own

    assert quote.fits(Caps(money_nanousd=cap))
    for place, step in enumerate(ladder.steps):
        if not untouched[step](quote.plan):
            assert all(ends[earlier](quote.plan) for earlier in ladder.steps[:place])
    assert all(untouched[step](quote.plan) for step in STEPS if step not in ladder.steps)


def test_what_saves_nothing_is_not_done() -> None:
    """Whom to ask and how long answers are does not change how many calls there are."""
    calls = panel_quote(PLAN).full.amount.calls
    ladder = replace(LADDER, steps=("max_tokens", "synthesizer", "members"))

    quote = fit(PLAN, panel_quote, [a_run(calls=calls - 1)], ladder)

    assert quote.plan == replace(PLAN, members=("gpt", "claude", "gemini"))
    assert quote.shrunk == ("not asked: mistral",)


def test_what_does_not_fit_at_all_is_refused_with_every_figure() -> None:
    """The limit, what is spent and held, what is needed, and the cheapest that was tried."""
    scope = Scope(kind="key", name="team", every="day", caps=Caps(money_nanousd=30_000_000))
    standing = Untouched(
        scope=scope,
        spent=Amount(money_nanousd=20_000_000),
        held=Amount(money_nanousd=9_990_000),
    )

    with pytest.raises(BudgetExceeded) as caught:
        fit(PLAN, panel_quote, [standing], LADDER)

    error = caught.value
    cheapest = Plan(members=("gpt", "claude"), max_tokens=256, synthesizers=("mistral",))
    assert str(error) == (
        "The budget of key 'team' for a day is $0.03 ($0.02 spent, $0.00999 held), and this run "
        "needs up to $0.00815; the cheapest variant, 2 members, answers of at most 256 tokens, "
        "written by mistral, needs $0.00016; raise the limit, ask fewer or cheaper models, or "
        "lower max_tokens"
    )
    assert error.needed.money_nanousd == money(cheapest)
    assert (error.scope, error.dimension) == (scope, "money_nanousd")
    assert (error.spent, error.held) == (standing.spent, standing.held)


def test_a_deployments_own_budget_holds_only_what_it_may_serve() -> None:
    """What the others cost is nothing to it."""
    share = panel_quote(PLAN).of_deployment("mistral").money_nanousd
    scope = Scope(kind="deployment", name="mistral", every="hour", caps=Caps(money_nanousd=share))
    enough = Untouched(scope=scope)
    short = replace(enough, spent=Amount(money_nanousd=1))

    assert share < money(PLAN)
    assert fit(PLAN, panel_quote, [enough], LADDER).shrunk == ()
    assert fit(PLAN, panel_quote, [short], LADDER).shrunk == ("not asked: mistral",)


def test_an_unknown_price_is_refused_where_money_is_limited() -> None:
    """The message names the deployment and both remedies."""

    def unpriced(plan: Plan) -> Quote:
        return run_quote(plan, stage_quote("drafts", [ask(call("local", rate=None))], limit_s=9))

    with pytest.raises(UnknownPrice) as caught:
        fit(PLAN, unpriced, [a_run(money_nanousd=10**12)], LADDER)

    for word in ("'local'", "price: free", "price: {input_usd:", "models.local"):
        assert word in str(caught.value)
    assert fit(PLAN, unpriced, [a_run(tokens=10**9)], LADDER).unknown_prices == ("local",)


def test_a_deployments_budget_minds_no_other_deployments_price() -> None:
    """Only what counts in it must have one."""

    def unpriced(plan: Plan) -> Quote:
        asks = [ask(call("local", rate=None)), ask(call("gpt"))]
        return run_quote(plan, stage_quote("drafts", asks, limit_s=9))

    scope = Scope(kind="deployment", name="gpt", caps=Caps(money_nanousd=10**12))

    assert fit(PLAN, unpriced, [Untouched(scope=scope)], LADDER).shrunk == ()


def test_amounts_are_said_in_the_words_of_their_kind() -> None:
    """Money in dollars, the rest counted."""
    said = [say(name, 1_500) for name in DIMENSIONS]

    assert said == ["$0.0000015", "1,500 tokens", "1,500 calls", "1.5 s"]
    assert say("calls", 1) == "1 call"
