"""No run asks more than its quote says: every pattern, every length, whoever fails."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from subprocess import run
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from adapters import CompletionRequest, MockAdapter, ModelConfig, Usage
from adapters._bound import SHORT_BYTES
from adapters.base import prompt_text
from adapters.errors import ProviderUnavailable
from adapters.mock import Reply
from adapters.prices import Capacity, Price, price_of
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.amounts import Caps, Scope, nanousd
from orchestrator.budget import Plan, Quote, StageQuote, Untouched
from orchestrator.errors import BudgetExceeded, InvalidRun, UnknownPrice
from orchestrator.patterns import Pattern, PatternLibrary, steps
from orchestrator.quoting import (
    Basis,
    _other_writers,
    fitted_quote,
    list_basis,
    plan_of,
    planned,
    quote,
    worst_cases,
)
from orchestrator.resolve import resolve
from tests.counting import calls_of

LIBRARY = PatternLibrary()
LIMITS = {"gpt": 300, "claude": 700, "gemini": 40, "mistral": 2500}
RATES = {"gpt": (1, 8), "claude": (3, 15), "gemini": (2, 2), "mistral": (0, 1)}


def config(**about: Any) -> OrchestratorConfig:
    models = {
        name: {
            "provider": "custom",
            "model": f"{name}-1",
            "api_base": "http://127.0.0.1:9/v1",
            "max_tokens": LIMITS[name],
            "weight": 2.0 if name == "claude" else 1.0,
            "price": {"input_usd": RATES[name][0], "output_usd": RATES[name][1]},
        }
        for name in LIMITS
    }
    panel = {
        "members": ["gpt", "claude", "either"],
        "synthesizer": "claude",
        "fallback_synthesizers": ["gpt"],
        "quorum": 1,
        "grace_s": 0,
    }
    return OrchestratorConfig.model_validate(
        {
            "models": models,
            "routes": {"either": {"models": ["gemini"], "fallback": ["mistral"]}},
            "panels": {"p": panel},
            **about,
        }
    )


def counted(deployment: str, request: CompletionRequest) -> int:
    """As an adapter bounds a prompt: its bytes, and less for a long one, but not much less."""
    schema = json.dumps(request.response_format) if request.response_format else ""
    size = len((prompt_text(request) + schema).encode())
    if size > SHORT_BYTES:
        size = max(SHORT_BYTES, size * 3 // 8)  # three tokens for each that was written in 8 bytes
    return size + 8 * len(request.messages)


def price(model: ModelConfig, request: CompletionRequest) -> Price | None:
    return price_of(model, request=request)


BASIS = Basis(bound=counted, price=price, capacity=lambda model: Capacity())


def quoted(
    request: RequestConfig,
    about: OrchestratorConfig | None = None,
    *,
    patterns: Mapping[str, Pattern] = LIBRARY,
    **more: Any,
) -> Quote:
    about = about or config()
    target = resolve(request, about, patterns)
    pattern = patterns[target.pattern] if target.pattern else None
    return quote(target, pattern, request, about, **{"basis": BASIS, **more})


def stage(found: Quote, name: str) -> StageQuote:
    return next(one for one in found.stages if one.name == name)


# Whole runs.


class Sent:
    """Every call of a run, with what it would be charged at the most it could come to."""

    def __init__(self, about: OrchestratorConfig, fails: Callable[[str, int], bool]) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self._config = about
        self._fails = fails

    def adapter(self, name: str) -> MockAdapter:
        return MockAdapter(
            lambda request: self._answer(name, request),
            config=self._config.models[name],
            deployment=name,
            chunk_characters=10**6,
        )

    def _answer(self, name: str, request: CompletionRequest) -> Reply:
        limit = request.max_tokens or LIMITS[name]
        prompt = counted(name, request)
        self.calls.append((name, prompt, limit))
        if self._fails(name, len(self.calls)):
            return Reply(error=ProviderUnavailable("down", provider="custom", deployment=name))
        text = long_answer(name, str(request.messages[-1]["content"]), 8 * limit)
        usage = Usage(prompt_tokens=prompt, completion_tokens=limit)
        return Reply(text=text, usage=usage, finish_reason="length")

    @property
    def cost_nanousd(self) -> int:
        costs = []
        for name, prompt, answer in self.calls:
            price = price_of(self._config.models[name])
            assert price is not None
            costs.append(price.worst_nanousd(prompt, answer))
        return sum(costs)

    @property
    def tokens(self) -> int:
        return sum(prompt + answer for _, prompt, answer in self.calls)


def long_answer(name: str, prompt: str, size: int) -> str:
    """As long as the limit allows, and of use to every stage: a draft, a ballot, faults, a list."""
    labels = re.findall("⟦begin draft ([A-Z]+)", prompt) or ["A"]
    parts: dict[str, object] = {
        "pick": labels[0],
        "ranking": labels,
        "critiques": [{"label": labels[0], "faults": ["f"]}],
    }
    room = max(size - len(json.dumps(parts)) - 60, 0)
    parts["questions"] = [f"{place}" * (room // 6) + "?" for place in range(5)]
    left = max(size - len(json.dumps({**parts, "reason": name})), 0)
    return json.dumps({**parts, "reason": name + "x" * left})[:size]


async def run_it(
    request: RequestConfig,
    about: OrchestratorConfig,
    *,
    patterns: Mapping[str, Pattern] = LIBRARY,
    fails: Callable[[str, int], bool] = lambda name, place: False,
) -> Sent:
    sent = Sent(about, fails)
    mocks = {name: sent.adapter(name) for name in about.models}
    async with EnhancedOrchestrator(about, adapters=mocks, patterns=patterns) as orchestrator:
        await orchestrator.execute_request(request)
    return sent


@pytest.mark.parametrize("pattern", sorted(LIBRARY))
@pytest.mark.parametrize("max_tokens", [None, 30, 900, 8000])
async def test_a_run_that_answers_at_full_length_stays_within_its_full_quote(
    pattern: str, max_tokens: int | None
) -> None:
    """As much is reserved for every call as its prompt and its answer could come to."""
    request = RequestConfig(prompt="Why? " * 40, model=f"{pattern}/p", max_tokens=max_tokens)

    sent = await run_it(request, config())

    full = quoted(request).full.amount
    assert 0 < sent.cost_nanousd <= full.money_nanousd
    assert 0 < sent.tokens <= full.tokens
    assert 0 < len(sent.calls) <= full.calls


@pytest.mark.parametrize("pattern", sorted(LIBRARY))
@pytest.mark.parametrize("down", ["gemini", "claude", "gpt"])
async def test_a_run_with_failures_stays_within_its_worst_case(pattern: str, down: str) -> None:
    """Fallbacks, stand-ins and tries in vain are counted as if all were charged."""
    request = RequestConfig(prompt="Why?", model=f"{pattern}/p", max_tokens=200)

    sent = await run_it(request, config(), fails=lambda name, place: name == down)

    worst = quoted(request).worst.amount
    assert sent.cost_nanousd <= worst.money_nanousd
    assert sent.tokens <= worst.tokens
    assert len(sent.calls) <= worst.calls


ODD_PATTERNS = {
    "shown_twice": """
      stages:
        - {name: drafts, each: panel, samples: 4}
        - name: answer
          by: synthesizer
          combine: write
          sees: all
          prompt: "{{ question }} {{ drafts }} Once more: {{ drafts }} {{ question }} {{ drafts }}"
    """,
    "says_more_where_there_is_less": """
      stages:
        - {name: drafts, each: panel}
        - {name: faults, each: panel, makes: notes, sees: others, unless: agree, max_tokens: 1,
           prompt: "{{ question }} {{ others }}"}
        - name: answer
          by: synthesizer
          combine: write
          sees: [all, previous]
          prompt: "{{ question }} {{ drafts }} {% if previous %}{{ previous }}{% else %}{% for n in
            range(400) %}nothing was found, nothing at all {% endfor %}{% endif %}"
    """,
    "drafts_by_one_and_the_others": """
      stages:
        - {name: draft, by: synthesizer}
        - {name: better, each: panel, sees: others, makes: drafts,
           prompt: "{{ question }} {{ others }}"}
        - {name: best, by: synthesizer, sees: all, makes: drafts,
           prompt: "{{ question }} {{ drafts }}"}
        - {name: notes, by: synthesizer, sees: all, makes: notes,
           prompt: "{{ question }} {{ drafts }}"}
        - {name: answer, by: synthesizer, combine: write, sees: [all, previous],
           prompt: "{{ question }} {{ drafts }} {{ previous }}"}
    """,
    "fields_of_everybody": """
      draft_characters: 500
      stages:
        - {name: drafts, each: panel}
        - name: questions
          each: panel
          combine: fields
          sees: [own, others]
          output: {type: object, properties: {questions: {type: array}}}
          prompt: "{{ question }} {{ own }} {{ others }}"
        - {name: checks, each: items, items: questions, max_items: 7, sees: all,
           prompt: "{{ item }} {{ drafts }} {{ question }}"}
        - {name: order, each: panel, combine: rank, sees: [others, previous],
           prompt: "{{ question }} {{ others }} {{ previous }}"}
        - {name: answer, by: synthesizer, combine: write, sees: [all, previous],
           prompt: "{{ question }} {{ drafts }} {{ previous }} {{ ranking }}"}
    """,
    "rounds_and_roles": """
      stages:
        - {name: drafts, each: panel, roles: [for, against, judge, clerk]}
        - {name: talk, each: panel, rounds: 3, sees: [own, others], makes: drafts,
           system: "You are {{ role }}.", prompt: "{{ question }} {{ own }} {{ others }}"}
        - {name: merged, combine: fields}
        - {name: answer, by: synthesizer, combine: pick, sees: [others, previous],
           prompt: "{{ question }} {{ others }} {{ previous }}"}
    """,
}


def odd_patterns() -> dict[str, Pattern]:
    made = {}
    for name, text in ODD_PATTERNS.items():
        fields = YAML(typ="safe", pure=True).load(text)
        made[name] = Pattern(name=name, description="d", source="s", **fields)
    return made


@pytest.mark.parametrize("pattern", sorted(ODD_PATTERNS))
@pytest.mark.parametrize("down", ["", "claude", "gemini"])
async def test_patterns_of_any_shape_stay_within_their_quotes(pattern: str, down: str) -> None:
    """Texts shown twice, branches, lists of everybody, drafts by whoever stands in."""
    patterns = odd_patterns()
    request = RequestConfig(prompt="Why? " * 9, model=f"{pattern}/p", max_tokens=120)

    sent = await run_it(request, config(), patterns=patterns, fails=lambda name, _: name == down)

    found = quoted(request, patterns=patterns)
    limit = (found.worst if down else found.full).amount
    assert sent.cost_nanousd <= limit.money_nanousd
    assert sent.tokens <= limit.tokens
    assert len(sent.calls) <= limit.calls


@given(
    st.text(min_size=1, max_size=300).filter(str.strip),
    st.sampled_from(sorted(LIBRARY)),
    st.integers(1, 3000),
)
async def test_whatever_is_asked_stays_within_its_quote(
    question: str, pattern: str, max_tokens: int
) -> None:
    """Fences, role marks and characters of many bytes in the question included."""
    request = RequestConfig(prompt=question, model=f"{pattern}/p", max_tokens=max_tokens)

    sent = await run_it(request, config())

    full = quoted(request).full.amount
    assert sent.cost_nanousd <= full.money_nanousd
    assert sent.tokens <= full.tokens


# Who is asked what.


@pytest.mark.parametrize("pattern", sorted(LIBRARY))
def test_a_quote_names_the_stages_as_they_will_run(pattern: str) -> None:
    """One quote a stage, each round by itself."""
    found = quoted(RequestConfig(prompt="Why?", model=f"{pattern}/p"))

    assert [one.name for one in found.stages] == [step.name for step in steps(LIBRARY[pattern])]
    assert all(one.asks for one in found.stages)


def prompt_of(found: Quote, name: str, member: str = "") -> int:
    """The bound of the prompt that a stage sends a member first."""
    asks = stage(found, name).asks
    return next(one.options[0][0].prompt_bound for one in asks if member in ("", one.member))


def test_everybody_sees_the_drafts_of_the_others_and_not_its_own() -> None:
    """So who writes long drafts itself has a shorter prompt than the others."""
    found = quoted(RequestConfig(prompt="Why?", model="council/p"))

    gpt, claude, either = (
        prompt_of(found, "reviews", name) for name in ("gpt", "claude", "either")
    )

    assert gpt - claude == 3 * (LIMITS["claude"] - LIMITS["gpt"])
    assert claude - either == 3 * (LIMITS["mistral"] - LIMITS["claude"])


def test_a_synthesizer_is_asked_alone_and_all_who_stand_in_may_follow() -> None:
    """In the order in which they would."""
    found = quoted(RequestConfig(prompt="Why?", model="compare/p"))

    (asked,) = stage(found, "answer").asks
    ((first, second),) = asked.options
    assert (asked.member, first.deployment, second.deployment) == ("claude", "claude", "gpt")
    assert asked.full.amount.money_nanousd == first.full_nanousd


def test_a_list_of_questions_goes_to_those_who_did_not_write_the_draft() -> None:
    """As expected; should somebody else have written it, to any member."""
    found = quoted(RequestConfig(prompt="Why?", model="fact_check/p"))

    checks = stage(found, "checks").asks
    assert [asked.member for asked in checks] == ["gpt", "either", "gpt", "either", "gpt"]
    for asked in checks:
        served = {call.deployment for row in asked.options for call in row}
        assert served == set(LIMITS)
        assert asked.options[0][0].prompt_bound > 8 * LIMITS["claude"] // 5


def test_replies_are_shown_with_the_questions_they_reply_to() -> None:
    """A writer reads both, so the longer the list the longer its prompt."""
    plan, checks = LIBRARY["fact_check"].stages[1:3]

    def writers_prompt(list_tokens: int) -> int:
        stages = list(LIBRARY["fact_check"].stages)
        stages[1] = plan.model_copy(update={"max_tokens": list_tokens})
        stages[2] = checks.model_copy(update={"max_tokens": 600})
        pattern = LIBRARY["fact_check"].model_copy(update={"stages": tuple(stages)})
        request = RequestConfig(prompt="Why?", model="fact_check/p")
        return prompt_of(quoted(request, patterns={"fact_check": pattern}), "answer")

    assert writers_prompt(600) > writers_prompt(60) + 500


def test_a_prompt_that_says_more_where_nothing_is_shown_counts_as_that() -> None:
    """Which of them is sent depends on what happens before."""
    request = RequestConfig(prompt="Why?", model="says_more_where_there_is_less/p", max_tokens=1)

    found = quoted(request, patterns=odd_patterns())

    assert prompt_of(found, "answer") > 400 * len("nothing was found, nothing at all ") * 3 // 8


def test_a_response_format_counts_where_it_is_sent() -> None:
    """To whoever writes the answer; to all who draft where one of the drafts becomes it."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x" * 1000, "schema": {}}}

    def grown(pattern: str, name: str) -> bool:
        plain, structured = (
            prompt_of(
                quoted(RequestConfig(prompt="Why?", model=f"{pattern}/p", response_format=wish)),
                name,
            )
            for wish in (None, wanted)
        )
        return structured - plain > 500

    assert (grown("compare", "drafts"), grown("compare", "answer")) == (False, True)
    assert (grown("best_of_n", "candidates"), grown("best_of_n", "judgement")) == (True, False)


def test_a_question_counts_as_often_as_it_is_shown() -> None:
    """A template may repeat it."""
    once, longer = (
        quoted(
            RequestConfig(prompt="x" * size, model="shown_twice/p", max_tokens=1),
            patterns=odd_patterns(),
        )
        for size in (100, 1100)
    )

    assert prompt_of(longer, "answer") - prompt_of(once, "answer") == 2 * 1000


def test_whoever_stands_in_for_a_synthesizer_leaves_a_draft_beside_its_own() -> None:
    """Two stages of one author each may leave the drafts of two, and the members' as well."""
    request = RequestConfig(prompt="Why?", model="drafts_by_one_and_the_others/p", max_tokens=500)

    panel = {"members": ["gpt", "claude", "either"], "synthesizer": "claude"}
    alone = quoted(request, config(panels={"p": panel}), patterns=odd_patterns())
    both = quoted(request, patterns=odd_patterns())

    assert 0 < prompt_of(both, "notes") - prompt_of(alone, "notes") - 3 * 500 < 200


def test_a_deployment_alone_is_one_call() -> None:
    """With its retries, and one more where it goes on with an answer that broke off."""
    found = quoted(RequestConfig(prompt="Why?", model="gpt", max_tokens=50))

    (answer,) = found.stages
    ((call,),) = answer.asks[0].options
    assert (found.full.amount.calls, found.worst.amount.calls) == (1, 4)
    assert (call.deployment, call.completion_bound, call.completion_expected) == ("gpt", 50, 25)
    assert call.full_nanousd == call.prompt_bound * 1_000 + 50 * 8_000
    assert call.retry_bound > call.prompt_bound + 50


def test_a_route_holds_for_its_dearest_deployment_and_fears_for_all() -> None:
    """Whoever serves, there is enough; whoever fails, the next is counted as well."""
    found = quoted(RequestConfig(prompt="Why?", model="either"))
    alone = [quoted(RequestConfig(prompt="Why?", model=name)) for name in ("gemini", "mistral")]

    assert found.full.amount.money_nanousd == max(one.full.amount.money_nanousd for one in alone)
    assert found.full.amount.calls == 1
    assert found.worst.amount.money_nanousd == sum(one.worst.amount.money_nanousd for one in alone)


def test_a_hedge_is_a_try_more() -> None:
    """Only where the route says so."""
    about = config(routes={"either": {"models": ["gemini", "mistral"], "hedge": True}})
    request = RequestConfig(prompt="Why?", model="either")

    assert quoted(request).worst.amount.calls == 8
    assert quoted(request, about).worst.amount.calls == 10


def test_several_answers_to_one_call_are_all_charged() -> None:
    """`n` makes a provider bill as many."""
    one = quoted(RequestConfig(prompt="Why?", model="gpt", max_tokens=50))
    five = quoted(RequestConfig(prompt="Why?", model="gpt", max_tokens=50, extra={"n": 5}))

    assert five.full.amount.tokens == one.full.amount.tokens + 4 * 50


def test_a_long_question_counts_as_far_as_it_is_shown() -> None:
    """Whoever reads the conversation reads it whole; a prompt shows so many characters of it."""
    short, long = (RequestConfig(prompt="x" * n, model="compare/p") for n in (10**6, 2 * 10**6))

    first, second = quoted(short), quoted(long)

    assert stage(second, "drafts").full.amount.tokens > stage(first, "drafts").full.amount.tokens
    difference = (
        stage(second, "answer").full.amount.tokens - stage(first, "answer").full.amount.tokens
    )
    assert 0 <= difference < 10


@pytest.mark.parametrize(
    ("asked", "model", "capped", "able", "longest"),
    [
        (50, 70, True, 60, 50),
        (None, 70, True, 60, 70),
        (None, None, True, 60, 60),
        (None, None, True, 10**6, 8192),
        (None, None, False, 10**6, 10**6),
        (None, None, False, None, 8192),
    ],
)
def test_how_long_an_answer_may_be(
    asked: int | None, model: int | None, capped: bool, able: int | None, longest: int
) -> None:
    """The request's word, the deployment's, the budgets' where they are limited, the model's."""
    about = config()
    models = {
        name: one.model_copy(update={"max_tokens": model}) for name, one in about.models.items()
    }
    about = about.model_copy(update={"models": models})
    request = RequestConfig(
        prompt="Why?", model="gpt", max_tokens=asked, max_run_tokens=10**9 if capped else None
    )
    basis = Basis(bound=counted, price=price, capacity=lambda _: Capacity(max_output_tokens=able))

    found = quoted(request, about, basis=basis)

    assert found.longest_answer == longest
    assert found.unlimited == (("gpt",) if longest == 8192 and not capped else ())


@pytest.mark.parametrize(
    ("window", "limits"),
    [
        ({"scope": "global", "every": "day", "money_usd": 1}, True),
        ({"scope": "global", "every": "day", "calls": 1}, False),
        ({"scope": "deployment", "every": "day", "tokens": 1}, True),
        ({"scope": "deployment", "every": "day", "tokens": 1, "name": "gpt"}, True),
        ({"scope": "deployment", "every": "day", "tokens": 1, "name": "claude"}, False),
        ({"scope": "key", "every": "day", "tokens": 1, "name": "team"}, True),
        ({"scope": "key", "every": "day", "tokens": 1, "name": "other"}, False),
    ],
)
def test_a_limit_that_counts_elsewhere_makes_no_answer_shorter(
    window: dict[str, object], limits: bool
) -> None:
    """An answer is cut by us only where a budget of money or tokens counts it."""
    about = config(budgets={"windows": [window], "max_tokens": 300, "min_tokens": 1})
    models = {
        name: one.model_copy(update={"max_tokens": None}) for name, one in about.models.items()
    }
    about = about.model_copy(update={"models": models})
    basis = Basis(bound=counted, price=price, capacity=lambda _: Capacity(max_output_tokens=900))

    found = quoted(RequestConfig(prompt="Why?", model="gpt", tenant="team"), about, basis=basis)

    assert found.longest_answer == (300 if limits else 900)


def test_what_may_be_skipped_is_expected_by_half() -> None:
    """A revision needs faults, a vote two drafts that differ; a ranking is always asked for."""
    for pattern, name, expected, full in (
        ("critique", "revise", 2, 3),
        ("debate", "vote", 1, 1),
        ("debate", "debate 2", 2, 3),
        ("council", "reviews", 3, 3),
    ):
        found = stage(quoted(RequestConfig(prompt="Why?", model=f"{pattern}/p")), name)
        assert (found.expected.amount.calls, found.full.amount.calls) == (expected, full)
    found = stage(quoted(RequestConfig(prompt="Why?", model="debate/p")), "vote")
    ((call, *_),) = found.asks[0].options
    assert call.expected_nanousd is not None
    assert found.expected.amount.money_nanousd == -(-call.expected_nanousd // 2)


def test_known_speeds_make_the_expected_time_and_the_limits_the_longest() -> None:
    """A stage lasts as long as its slowest call; nothing lasts longer than the run may."""
    basis = Basis(bound=counted, price=price, call_s={"gpt": 3.0, "claude": 7.0, "gemini": 4.0}.get)
    request = RequestConfig(prompt="Why?", model="compare/p")

    found = quoted(request, basis=basis)
    hurried = quoted(request, basis=basis, time_s=100.0)

    assert found.expected.elapsed_s == 14.0
    assert found.full.elapsed_s == 240.0
    assert found.worst.elapsed_s == 300.0
    assert hurried.full.elapsed_s == hurried.worst.elapsed_s == 100.0


def test_a_run_without_a_question_is_refused() -> None:
    """As the run itself would be."""
    with pytest.raises(InvalidRun, match="no question"):
        quoted(RequestConfig(model="compare/p"))


# What gives way.


def fitted(
    cap_usd: str, model: str = "compare/p", about: OrchestratorConfig | None = None
) -> Quote:
    about = about or config(budgets={"min_tokens": 10})
    request = RequestConfig(prompt="Why?", model=model, max_cost_usd=Decimal(cap_usd))
    target = resolve(request, about, LIBRARY)
    pattern = LIBRARY[target.pattern] if target.pattern else None
    standing = Untouched(scope=Scope(kind="run", caps=Caps(money_nanousd=nanousd(cap_usd))))
    return fitted_quote(target, pattern, request, about, [standing], basis=BASIS)


def test_a_plan_is_the_target_that_is_run() -> None:
    """Whoever is left, in the order of the panel; whoever writes, from among the members too."""
    target = resolve(RequestConfig(model="compare/p"), config(), LIBRARY)
    plan = plan_of(target)

    shrunk = planned(target, Plan(members=("gpt", "either"), synthesizers=("either", "gpt")))

    assert planned(target, plan) == target
    assert [member.name for member in shrunk.members] == ["gpt", "either"]
    assert [member.name for member in shrunk.synthesizers] == ["either", "gpt"]
    assert shrunk.synthesizers[0].deployments == ("gemini", "mistral")


def test_a_member_that_stands_there_twice_may_write_once() -> None:
    """By its own name, without a number."""
    about = config()
    request = RequestConfig(prompt="Why?", members=("claude", "gpt", "gpt"), synthesizer="claude")
    target = resolve(request, about, LIBRARY)

    shrunk = planned(target, Plan(members=("gpt#2",), synthesizers=("gpt",)))

    assert [member.name for member in shrunk.members] == ["gpt#2"]
    assert [(one.name, one.sample) for one in shrunk.synthesizers] == [("gpt", 0)]


def test_a_run_is_shrunk_by_the_order_and_fits() -> None:
    """Members down to the least the pattern works with, then answers, then who writes."""
    first, second, third = fitted("0.05"), fitted("0.025"), fitted("0.003")

    assert first.shrunk == ("not asked: either",)
    assert second.plan.members == third.plan.members == ("gpt", "claude")
    assert second.shrunk[1:] == ("answers of at most 192 tokens instead of 700",)
    assert second.plan.synthesizers == ("claude", "gpt")
    assert (third.plan.max_tokens, third.plan.synthesizers) == (10, ("gpt",))
    assert third.fits(Caps(money_nanousd=3_000_000))


def test_whoever_writes_instead_has_a_price_and_nobody_dearer_behind() -> None:
    """Otherwise what fits by the quote would not fit when somebody fails."""
    about = config(
        panels={
            "p": {
                "members": ["gpt", "either", "claude"],
                "synthesizer": "claude",
                "fallback_synthesizers": ["mistral", "gpt", "gemini"],
                "quorum": 3,
            }
        },
        budgets={"shrink": ["synthesizer"]},
    )
    local = about.models["mistral"].model_copy(update={"price": None})
    unpriced = about.model_copy(update={"models": {**about.models, "mistral": local}})
    whole = quoted(RequestConfig(prompt="Why?", model="compare/p"), about)
    almost = str(Decimal(whole.full.amount.money_nanousd - 1) / 10**9)

    assert fitted(almost, about=about).plan.synthesizers == ("mistral",)
    target = resolve(RequestConfig(model="compare/p"), unpriced, LIBRARY)
    assert _other_writers(target, unpriced, BASIS) == [
        ("gpt",),
        ("gemini",),
    ]
    target = resolve(RequestConfig(model="compare/p"), about, LIBRARY)
    assert _other_writers(target, about, BASIS) == [
        ("mistral",),
        ("gpt", "mistral"),
        ("gemini", "mistral"),
        ("either", "mistral", "gemini"),
    ]


def test_of_members_who_could_write_the_heaviest_is_asked_first() -> None:
    """As the synthesizer is chosen where none is named."""
    panel = {"members": ["gpt", "claude", "either"], "synthesizer": "mistral"}
    about = config(panels={"p": panel})

    target = resolve(RequestConfig(model="compare/p"), about, LIBRARY)

    first = [writers[0] for writers in _other_writers(target, about, BASIS)]
    assert first == ["claude", "gpt", "either"]


def test_a_plain_run_is_only_shortened() -> None:
    """There is nobody to leave out."""
    found = fitted("0.002", model="gpt")

    assert found.shrunk == ("answers of at most 192 tokens instead of 300",)


def test_what_cannot_fit_is_refused_and_what_has_no_price_is_not_guessed() -> None:
    """The message says what would help."""
    unpriced = config()
    local = unpriced.models["gpt"].model_copy(update={"price": None})
    unpriced = unpriced.model_copy(update={"models": {**unpriced.models, "gpt": local}})

    with pytest.raises(
        BudgetExceeded, match=r"cheapest variant, 2 members, answers of at most 10 "
    ):
        fitted("0.0001")
    with pytest.raises(
        UnknownPrice, match=r"'gpt' is not known; write `price: free` or `price: \{"
    ):
        fitted("100", about=unpriced)


def test_the_configuration_is_told_of_panels_that_can_never_be_asked() -> None:
    """Not of those that fit once something gives way."""
    panels = {
        "dear": {"members": ["claude", "gpt"], "synthesizer": "claude", "pattern": "critique"},
        "cheap": {"members": ["gemini", "mistral"], "pattern": "compare"},
    }

    def found(cap_usd: float) -> list[str]:
        about = config(panels=panels, budgets={"per_run": {"money_usd": cap_usd}, "min_tokens": 40})
        return worst_cases(about, LIBRARY, basis=BASIS)

    (warning,) = found(0.004)
    assert warning.startswith("panels.dear: not even a short question fits: The budget of a run is")
    assert found(1.0) == []
    assert worst_cases(config(), LIBRARY, basis=BASIS) == []


# What it costs to know.


def test_a_quote_needs_no_litellm() -> None:
    """It is read from the configuration and the price list."""
    code = (
        "import sys\n"
        "from orchestrator import RequestConfig, load_config\n"
        "from orchestrator.patterns import PatternLibrary\n"
        "from orchestrator.quoting import quote\n"
        "from orchestrator.resolve import resolve\n"
        "about, library = load_config('configs/orchestrator.yaml'), PatternLibrary()\n"
        "request = RequestConfig(prompt='Why?', model='council')\n"
        "target = resolve(request, about, library)\n"
        "found = quote(target, library[target.pattern], request, about)\n"
        "assert found.expected.amount.money_nanousd > 0\n"
        "assert found.unknown_prices == found.unlimited == ()\n"
        "print(sorted({'litellm', 'aiohttp', 'openai'} & set(sys.modules)))\n"
    )

    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_a_quote_is_quick() -> None:
    """It is made before every run of a pattern: some thousand calls of functions, and no more."""
    about = config()
    request = RequestConfig(prompt="Why?", model="council/p")
    target = resolve(request, about, LIBRARY)
    basis = list_basis(about)
    quote(target, LIBRARY["council"], request, about, basis=basis)

    assert calls_of(lambda: quote(target, LIBRARY["council"], request, about, basis=basis)) < 10_000
