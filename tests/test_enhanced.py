"""Patterns run to one answer: who is asked what, what ends early, what is left after failures."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import CompletionRequest, InvalidRequest, MockAdapter, RateLimited, ToolCall
from adapters.errors import ProviderTimeout
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.clock import FakeClock
from orchestrator.errors import (
    DeadlineExceeded,
    InvalidRun,
    PatternError,
    QuorumNotMet,
    UnknownModel,
)
from orchestrator.events import (
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    TextReset,
)
from orchestrator.patterns import Pattern, PatternLibrary
from orchestrator.responses import OrchestratorResponse, Receipt

NAMES = ("gpt", "claude", "gemini")
LIBRARY = PatternLibrary()
Answers = Callable[[str, CompletionRequest], Reply | str]


def config(**about: Any) -> OrchestratorConfig:
    return OrchestratorConfig.model_validate(
        {
            "models": {name: {"provider": "openai", "model": f"{name}-1"} for name in NAMES},
            "panels": {
                "p": {
                    "members": list(NAMES),
                    "synthesizer": "claude",
                    "fallback_synthesizers": ["gpt"],
                    "quorum": 2,
                    "grace_s": 3,
                }
            },
            "retry": {"attempts": 1},
            **about,
        }
    )


def stage_of(request: CompletionRequest) -> str:
    """Which stage of a built-in pattern sent this: its own words say it."""
    # What asks to go on with an answer stands behind what was asked first.
    asked = [message for message in request.messages if message["role"] == "user"]
    begun = any(message["role"] == "assistant" for message in request.messages)
    text = str(asked[-2 if begun else -1]["content"])
    marks = {
        "Pick ": "pick",
        "Rank all": "rank",
        "Analyse the drafts": "analysis",
        "Find the faults": "critique",
        "Write your answer anew": "revise",
        "Write up to five questions": "plan",
        "Reply briefly": "check",
        "person who asked should get": "write",
        "Write the final answer": "write",
    }
    return next((stage for mark, stage in marks.items() if mark in text), "draft")


class Panel:
    """Three mocks that answer by stage; remembers who was asked what."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, CompletionRequest]] = []
        self.adapters = {name: MockAdapter(self._script(name), deployment=name) for name in NAMES}

    def _script(self, name: str) -> Callable[[CompletionRequest], Reply | str]:
        def answer(request: CompletionRequest) -> Reply | str:
            stage = stage_of(request)
            self.asked.append((name, stage, request))
            given = self.answers.get(stage, f"{stage} by {name}.\nTwo lines.")
            return given(name, request) if callable(given) else given  # type: ignore[no-any-return]

        return answer

    def stages(self) -> list[str]:
        return [stage for _, stage, _ in self.asked]

    def by_stage(self, stage: str) -> list[tuple[str, CompletionRequest]]:
        return [(name, request) for name, asked, request in self.asked if asked == stage]

    def engine(self, settings: OrchestratorConfig | None = None, **about: Any) -> Any:
        return EnhancedOrchestrator(settings or config(), adapters=self.adapters, **about)

    async def run(self, pattern: str, **about: Any) -> OrchestratorResponse:
        request = {"prompt": "Q?", "model": f"{pattern}/p", "seed": 1, **about}
        async with self.engine() as engine:
            response: OrchestratorResponse = await engine.execute_request(
                RequestConfig.model_validate(request)
            )
        return response


async def listen(engine: EnhancedOrchestrator, **about: Any) -> list[Event]:
    request = RequestConfig.model_validate({"prompt": "Q?", "seed": 1, **about})
    async with aclosing(engine.stream_request(request)) as events:
        return [event async for event in events]


def told(text: str) -> Callable[[str, CompletionRequest], str]:
    return lambda name, _: text.format(name=name)


def dumps(**fields: Any) -> str:
    return json.dumps(fields)


def content_of(events: list[Event]) -> str:
    """What a listener has put together in the end."""
    text = ""
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, TextReset):
            text = ""
    return text


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# The patterns, one by one.


async def test_compare_asks_each_once_and_one_writes() -> None:
    """N + 1 calls; the last stage is not run on every model."""
    panel = Panel()

    response = await panel.run("compare")

    assert panel.stages() == ["draft", "draft", "draft", "write"]
    assert panel.asked[-1][0] == "claude"
    assert response.content == "write by claude.\nTwo lines."
    assert response.status == "complete"
    assert response.receipt.stages[-1].outcome == {"synthesizer": "claude", "tried": ["claude"]}
    assert list(response.model_responses) == list(NAMES)


@pytest.mark.parametrize("pattern", sorted(LIBRARY))
async def test_the_question_reaches_every_call_but_the_checks(pattern: str) -> None:
    """Once the user's question was never put into a template."""
    panel = Panel(plan=dumps(questions=["When?"]), rank=dumps(ranking=["A", "B"], reason=""))

    await panel.run(pattern, prompt="How tall is canary hill?")

    for name, stage, request in panel.asked:
        asked = "When?" if stage == "check" else "How tall is canary hill?"
        assert asked in str(request.messages[-1]["content"]), (name, stage)


async def test_fusion_hands_the_writer_drafts_and_analysis() -> None:
    """N + 2 calls, and the analysis replaces no draft."""
    panel = Panel(analysis=dumps(consensus=["it is blue"], contradictions=[]))

    response = await panel.run("fusion")

    ((_, request),) = panel.by_stage("write")
    prompt = str(request.messages[-1]["content"])
    assert "it is blue" in prompt
    assert prompt.count("begin draft") == 3
    assert response.receipt.stages[1].outcome["unparsable"] == 0
    assert response.receipt.calls == 5


async def test_an_analysis_in_prose_is_counted_and_handed_on() -> None:
    """Words are better than nothing, and the receipt says what they are."""
    panel = Panel(analysis="They all say blue.")

    response = await panel.run("fusion")

    ((_, request),) = panel.by_stage("write")
    assert "They all say blue." in str(request.messages[-1]["content"])
    assert response.receipt.stages[1].outcome["unparsable"] == 1
    assert response.status == "complete"


async def test_an_analysis_that_fails_leaves_the_drafts_as_they_are() -> None:
    """A whole stage that fails passes its input on."""
    panel = Panel(analysis=Reply(error=RateLimited("slow down")))

    response = await panel.run("fusion")

    ((_, request),) = panel.by_stage("write")
    assert "An analyst compared" not in str(request.messages[-1]["content"])
    assert response.content.startswith("write by claude")
    assert response.status == "degraded"
    assert any("analysis: claude: RateLimited" in cause for cause in response.causes)
    assert response.receipt.stages[1].status == "failed"


async def test_council_members_rank_the_others_and_never_themselves() -> None:
    """Each is shown another prompt: all but its own answer."""

    def ranked(name: str, request: CompletionRequest) -> str:
        text = str(request.messages[-1]["content"])
        shown = [line.split()[2] for line in text.splitlines() if "begin draft" in line]
        return dumps(ranking=sorted(shown), reason="")

    panel = Panel(rank=ranked)
    response = await panel.run("council")

    prompts = {name: str(r.messages[-1]["content"]) for name, r in panel.by_stage("rank")}
    assert len(set(prompts.values())) == 3
    for name, prompt in prompts.items():
        assert f"draft by {name}." not in prompt
        assert sum(f"draft by {other}." in prompt for other in NAMES) == 2
    outcome = response.receipt.stages[1].outcome
    labels = {made.member: made.label for made in response.receipt.stages[0].attempts}
    assert sorted(outcome["ranking"], key=labels.__getitem__) == outcome["ranking"]
    ((_, write),) = panel.by_stage("write")
    best = labels[outcome["ranking"][0]]
    assert f"{best} 1.00" in str(write.messages[-1]["content"])


async def test_two_answers_are_not_ranked_by_their_authors() -> None:
    """Each would be shown one answer, which says nothing about their order."""
    panel = Panel()

    response = await panel.run("council", members=NAMES[:2])

    assert panel.stages() == ["draft", "draft", "write"]
    assert response.receipt.stages[1].status == "skipped"
    assert response.status == "complete"


async def test_an_unreadable_review_is_counted_and_the_run_is_degraded() -> None:
    """One of three does not say what it was asked."""
    panel = Panel(
        rank=lambda name, _: "I like them." if name == "gpt" else dumps(ranking=["A", "B", "C"])
    )

    response = await panel.run("council")

    assert response.receipt.stages[1].outcome["unparsable"] == 1
    assert response.receipt.stages[1].status == "degraded"
    assert "reviews: 1 could not be read" in response.causes
    assert response.content.startswith("write by claude")


async def test_critics_see_the_others_and_authors_see_the_critics() -> None:
    """3 N + 1 calls; the writer gets the revised drafts."""
    panel = Panel(
        critique=lambda name, _: dumps(critiques=[{"label": "A", "faults": [f"{name}: wrong"]}]),
        revise=told("better answer of {name}"),
    )

    response = await panel.run("critique")

    assert response.receipt.calls == 10
    for name, request in panel.by_stage("revise"):
        prompt = str(request.messages[-1]["content"])
        assert f"draft by {name}." in prompt
        assert f"{name}: wrong" not in prompt
        assert prompt.count(": wrong") == 2
    ((_, write),) = panel.by_stage("write")
    prompt = str(write.messages[-1]["content"])
    assert prompt.count("better answer of") == 3
    assert "draft by" not in prompt


async def test_without_faults_nobody_revises() -> None:
    """Nothing to mend, nothing to pay for."""
    panel = Panel(critique=dumps(critiques=[{"label": "A", "faults": []}]))

    response = await panel.run("critique")

    assert "revise" not in panel.stages()
    assert response.receipt.stages[2].status == "skipped"
    assert response.receipt.stages[2].causes == ("no faults were found",)
    assert response.status == "complete"


async def test_when_all_critics_fail_the_drafts_go_on_unrevised() -> None:
    """Its input is passed on unchanged."""
    panel = Panel(critique=Reply(error=RateLimited("slow down")))

    response = await panel.run("critique")

    ((_, write),) = panel.by_stage("write")
    assert str(write.messages[-1]["content"]).count("draft by") == 3
    assert [stage.status for stage in response.receipt.stages] == ["ok", "failed", "skipped", "ok"]
    assert response.status == "degraded"


async def test_a_member_that_fails_to_revise_keeps_its_draft() -> None:
    """An old answer is better than none."""
    panel = Panel(
        critique=dumps(critiques=[{"label": "A", "faults": ["wrong"]}]),
        revise=lambda name, _: Reply(error=RateLimited("no")) if name == "gpt" else "revised text",
    )

    await panel.run("critique")

    ((_, write),) = panel.by_stage("write")
    prompt = str(write.messages[-1]["content"])
    assert prompt.count("revised text") == 2
    assert "draft by gpt." in prompt


async def test_a_debate_ends_when_all_agree() -> None:
    """The second round is not paid for, nor a judge."""
    panel = Panel(
        draft=told("I say {name}\nANSWER: {name}"), revise=told("So be it, says {name}\nANSWER: 4")
    )

    response = await panel.run("debate")

    assert panel.stages() == ["draft"] * 3 + ["revise"] * 3
    assert response.content == "So be it, says gpt\nANSWER: 4"
    assert [stage.status for stage in response.receipt.stages] == ["ok", "ok", "skipped", "ok"]
    assert response.receipt.stages[-1].outcome["votes"] == {"4": 3}
    assert response.status == "complete"


async def test_debaters_see_their_own_answer_and_the_others() -> None:
    """Each another prompt, and each round the latest."""
    panel = Panel(draft=told("{name} begins\nANSWER: {name}"), revise=told("{name} insists"))

    await panel.run("debate")

    for name, request in panel.by_stage("revise")[:3]:
        you, _, others = str(request.messages[-1]["content"]).partition("Others answered:")
        assert f"{name} begins" in you
        assert f"{name} begins" not in others
        assert others.count("begins") == 2
    last = str(panel.by_stage("revise")[-1][1].messages[-1]["content"])
    assert "begins" not in last


async def test_a_lone_debater_is_not_made_to_debate() -> None:
    """With one draft left there is nobody to talk to."""
    panel = Panel(
        draft=lambda name, _: "mine\nANSWER: 1" if name == "gpt" else Reply(error=RateLimited("no"))
    )

    response = await panel.run("debate")

    assert "revise" not in panel.stages()
    assert response.content == "mine\nANSWER: 1"
    assert response.status == "degraded"


async def test_samples_are_taken_in_turn_and_the_majority_wins() -> None:
    """Five in all, every member at least once; the seed moves on for each."""
    panel = Panel(draft=lambda name, _: f"thinking\nANSWER: {5 if name == 'claude' else 4}")

    response = await panel.run("self_consistency", seed=10)

    attempts = response.receipt.stages[0].attempts
    assert [made.member for made in attempts] == [
        "gpt#1",
        "claude#1",
        "gemini",
        "gpt#2",
        "claude#2",
    ]
    assert sorted(r.seed or 0 for r in panel.adapters["gpt"].requests) == [10, 11]
    assert response.content == "thinking\nANSWER: 4"
    assert response.receipt.stages[1].outcome == {
        "votes": {"4": 3, "5": 2},
        "unparsable": 0,
        "dissent": ["claude#1", "claude#2"],
        "winner": "4",
    }
    assert response.receipt.notes
    assert all(made.label == "" for made in attempts)


async def test_samples_of_a_member_that_sits_twice_have_seeds_of_their_own() -> None:
    """Equal seeds would give equal answers, and the vote would count one of them twice."""
    panel = Panel(draft="thinking\nANSWER: 4")

    response = await panel.run("self_consistency", seed=10, members=("gpt", "gpt"))

    names = [made.member for made in response.receipt.stages[0].attempts]
    assert names == [f"gpt#{number}" for number in range(1, 6)]
    assert sorted(r.seed or 0 for r in panel.adapters["gpt"].requests) == [10, 11, 12, 13, 14]


async def test_free_text_samples_are_judged_by_meaning() -> None:
    """No two agree word for word, so one call picks the most common meaning."""
    panel = Panel(
        draft=told("Long thoughts of {name}\nand no end"), pick=dumps(pick="B", reason="common")
    )

    response = await panel.run("self_consistency")

    assert panel.stages() == ["draft"] * 5 + ["pick"]
    outcome = response.receipt.stages[1].outcome
    assert outcome["judge"]["reason"] == "common"
    assert outcome["unparsable"] == 5
    assert response.status == "complete"


async def test_a_vote_without_majority_or_judge_is_degraded() -> None:
    """The heaviest draft is given, and nobody is told that all agreed."""
    panel = Panel(
        draft=told("Long thoughts of {name}\nand no end"), pick=Reply(error=RateLimited("no"))
    )

    response = await panel.run("self_consistency")

    assert response.status == "degraded"
    assert response.content.startswith("Long thoughts of gpt")
    assert any("no two of 5 agree" in cause for cause in response.causes)


async def test_patterns_of_samples_run_on_a_single_deployment() -> None:
    """All samples are its own, so the judge may judge its own."""
    panel = Panel(draft=told("text of {name}\nmore"), pick=dumps(pick="C", reason="r"))

    async with panel.engine() as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?", model="best_of_n/gpt"))

    attempts = response.receipt.stages[0].attempts
    assert [made.member for made in attempts] == ["gpt#1", "gpt#2", "gpt#3", "gpt#4"]
    picked = next(made.member for made in attempts if made.label == "C")
    assert response.receipt.stages[1].outcome["picked"] == picked


async def test_a_judge_is_not_shown_its_own_candidates() -> None:
    """Its own are excluded while there are at least two others."""
    panel = Panel(pick=dumps(pick="A", reason=""))

    response = await panel.run("best_of_n", seed=3)

    ((judge, request),) = panel.by_stage("pick")[:1]
    prompt = str(request.messages[-1]["content"])
    assert judge == "claude"
    assert "draft by claude." not in prompt
    assert prompt.count("begin draft") == 3
    picked = response.receipt.stages[1].outcome["picked"]
    assert not picked.startswith("claude") or response.status == "degraded"


async def test_an_unreadable_judge_is_followed_by_the_next() -> None:
    """Counted, and the stand-in decides."""

    def judged(name: str, request: CompletionRequest) -> str:
        text = str(request.messages[-1]["content"])
        label = next(line.split()[2] for line in text.splitlines() if "begin draft" in line)
        return "Hard to say." if name == "claude" else dumps(pick=label, reason="")

    panel = Panel(pick=judged)
    response = await panel.run("best_of_n")

    assert [name for name, _ in panel.by_stage("pick")] == ["claude", "gpt"]
    assert response.receipt.stages[1].outcome["unparsable"] == 1
    assert response.content.startswith("draft by")
    assert "judgement: 1 could not be read" in response.causes


async def test_without_any_readable_judge_the_best_draft_is_given() -> None:
    """Labelled degraded."""
    panel = Panel(pick="Hard to say.")

    response = await panel.run("best_of_n")

    assert response.status == "degraded"
    assert response.content.startswith("draft by gpt")
    assert any("the best there was" in cause for cause in response.causes)


async def test_facts_are_checked_by_others_who_do_not_see_the_draft() -> None:
    """q + 3 calls; the checks go round the other members."""
    panel = Panel(
        draft="The tower was built in 1889.",
        plan=dumps(questions=["When was it built?", "By whom?", "Where?"]),
        check=told("{name} thinks 1889"),
    )

    response = await panel.run("fact_check")

    assert response.receipt.calls == 6
    checks = panel.by_stage("check")
    assert [name for name, _ in checks] == ["gpt", "gemini", "gpt"]
    assert all("The tower" not in str(request.messages) for _, request in checks)
    ((_, write),) = panel.by_stage("write")
    prompt = str(write.messages[-1]["content"])
    assert "When was it built?\n\ngpt thinks 1889" in prompt
    assert "The tower was built in 1889." in prompt
    assert any("not truth" in note for note in response.receipt.notes)
    assert list(response.model_responses) == ["claude"]


async def test_checks_that_were_never_planned_are_skipped() -> None:
    """An empty list, or a planner that fails: the draft is still written up."""
    for plan in (dumps(questions=[]), Reply(error=RateLimited("no"))):
        panel = Panel(plan=plan)

        response = await panel.run("fact_check")

        assert "check" not in panel.stages()
        assert response.content.startswith("write by claude")
        ((_, write),) = panel.by_stage("write")
        assert "note 1" not in str(write.messages)
        assert "what they replied" not in str(write.messages)


async def test_a_draft_by_one_falls_back_on_who_stands_in() -> None:
    """And the receipt says who was missing."""
    panel = Panel(
        draft=lambda name, _: Reply(error=RateLimited("no")) if name == "claude" else "the draft"
    )

    response = await panel.run("fact_check")

    assert response.receipt.missing == ("claude",)
    assert [made.member for made in response.receipt.stages[0].attempts] == ["claude", "gpt"]


async def test_a_draft_by_one_that_nobody_gives_ends_the_run() -> None:
    """There is nothing to go on with."""
    panel = Panel(draft=Reply(error=RateLimited("no")))

    with pytest.raises(QuorumNotMet, match="claude gave no answer"):
        await panel.run("fact_check")


# Synthesis that fails.


async def test_a_writer_that_breaks_off_is_gone_on_with() -> None:
    """What the listener has seen stands; the second writer adds what is missing, once."""
    whole = "Half of it by claude, the other half by gpt."

    def written(name: str, request: CompletionRequest) -> Reply | str:
        if name == "claude":
            return Reply(text=whole, cut_after=24)
        assert request.messages[-2] == {"role": "assistant", "content": whole[:24]}
        return whole[4:]

    panel = Panel(write=written)
    async with panel.engine() as engine:
        events = await listen(engine, model="compare/p")

    response = events[-1].response  # type: ignore[union-attr]
    assert not any(isinstance(event, TextReset) for event in events)
    assert content_of(events) == response.content == whole
    assert response.status == "complete"
    last = response.receipt.stages[-1]
    assert last.outcome == {"synthesizer": "gpt", "tried": ["claude", "gpt"]}
    assert [made.continues for made in last.attempts] == [False, True]
    assert "gpt went on with the answer where it had broken off" in last.causes


async def test_a_writer_that_refuses_is_withdrawn_and_followed() -> None:
    """The listener starts anew; the content is the second writer's alone."""
    sorry = "I'm sorry, I can't help with that."
    panel = Panel(write=lambda name, _: sorry if name == "claude" else "All of it, by gpt.")
    async with panel.engine() as engine:
        events = await listen(engine, model="compare/p")

    response = events[-1].response  # type: ignore[union-attr]
    resets = [event for event in events if isinstance(event, TextReset)]
    assert [event.cause for event in resets] == ["claude: refused to answer"]
    assert content_of(events) == response.content == "All of it, by gpt."
    assert response.status == "complete"


async def test_a_writer_that_fails_before_a_word_is_followed_unseen() -> None:
    """Nothing to withdraw."""
    panel = Panel(
        write=lambda name, _: Reply(error=RateLimited("no")) if name == "claude" else "by gpt"
    )
    async with panel.engine() as engine:
        events = await listen(engine, model="compare/p")

    assert not any(isinstance(event, TextReset) for event in events)
    assert content_of(events) == "by gpt"


@pytest.mark.parametrize(
    "useless",
    [
        Reply(text=""),
        Reply(text="I'm sorry, I can't help with that."),
        Reply(text="half of it", cut_after=8),
        Reply(text="stopped", finish_reason="content_filter"),
        Reply(error=ProviderTimeout("no content")),
    ],
)
async def test_when_all_writers_fail_the_best_draft_is_the_answer(useless: Reply) -> None:
    """Degraded, with the cause; half a synthesis is never shown as one."""
    panel = Panel(write=useless)
    async with panel.engine() as engine:
        events = await listen(engine, model="compare/p")

    response = events[-1].response  # type: ignore[union-attr]
    assert content_of(events) == response.content == "draft by gpt.\nTwo lines."
    assert response.status == "degraded"
    assert any("the draft of gpt" in cause for cause in response.causes)
    assert response.receipt.stages[-1].status == "failed"
    assert response.receipt.stages[-1].outcome["synthesizer"] is None


async def test_the_best_draft_is_the_best_ranked_one_and_not_the_longest() -> None:
    """A ranking that was paid for is used."""

    def ranked(name: str, request: CompletionRequest) -> str:
        text = str(request.messages[-1]["content"])
        blocks = text.split("begin draft ")[1:]
        order = sorted(blocks, key=lambda block: "draft by gemini" not in block)
        return dumps(ranking=[block.split()[0] for block in order], reason="")

    panel = Panel(
        rank=ranked,
        write=Reply(error=RateLimited("no")),
        draft=lambda name, _: f"draft by {name}. " + "long " * (100 if name == "gpt" else 1),
    )

    response = await panel.run("council")

    assert response.content.startswith("draft by gemini")
    assert response.status == "degraded"


async def test_a_refused_answer_format_is_dropped_for_judges() -> None:
    """A deployment that knows no schema may still say what it thinks."""

    def ranked(name: str, request: CompletionRequest) -> Reply | str:
        if request.response_format is not None and name == "gpt":
            return Reply(error=InvalidRequest("response_format is not supported"))
        return dumps(ranking=["A", "B", "C"], reason="")

    panel = Panel(rank=ranked)
    response = await panel.run("council")

    reviews = response.receipt.stages[1]
    assert [made.member for made in reviews.attempts] == ["gpt", "gpt", "claude", "gemini"]
    assert [made.status for made in reviews.attempts] == ["failed", "ok", "ok", "ok"]
    assert response.status == "complete"


async def test_a_users_answer_format_is_never_dropped() -> None:
    """It was asked for; an answer in another form would be no answer."""
    panel = Panel(write=Reply(error=InvalidRequest("response_format is not supported")))

    response = await panel.run("compare", response_format={"type": "json_object"})

    writes = [request.response_format for _, request in panel.by_stage("write")]
    assert writes == [{"type": "json_object"}] * 2
    assert response.status == "degraded"


# What goes where.


async def test_tools_and_format_go_to_the_writer_alone() -> None:
    """Drafts get neither; the writer's tool calls are the answer."""
    call = ToolCall(id="1", name="buy", arguments="{}")
    panel = Panel(write=Reply(text="", tool_calls=(call,), finish_reason="tool_calls"))
    tools = ({"type": "function", "function": {"name": "buy"}},)

    response = await panel.run(
        "compare", tools=tools, tool_choice="auto", response_format={"type": "json_object"}
    )

    for _, stage, request in panel.asked:
        assert (request.tools is not None) == (stage == "write")
        assert (request.tool_choice is not None) == (stage == "write")
        assert (request.response_format is not None) == (stage == "write")
    assert response.tool_calls == (call,)
    assert response.finish_reason == "tool_calls"
    assert response.status == "complete"


async def test_where_a_draft_is_the_answer_drafts_get_the_format_and_tools_are_refused() -> None:
    """Said before any call."""
    panel = Panel(draft=dumps(answer=4))

    response = await panel.run("self_consistency", response_format={"type": "json_object"})

    assert response.content == dumps(answer=4)
    assert all(request.response_format for _, _, request in panel.asked)
    assert not any("ANSWER" in str(request.messages) for _, _, request in panel.asked)
    with pytest.raises(InvalidRun, match="drafts get no tools"):
        await panel.run("best_of_n", tools=({"type": "function"},))


async def test_settings_of_the_answer_reach_drafts_and_writer_but_no_judge() -> None:
    """A limit of ten tokens would cut a ballot; temperature 0 stays 0."""
    panel = Panel(rank=dumps(ranking=["A", "B", "C"]))

    await panel.run("council", max_tokens=10, temperature=0, extra={"user": "u"})

    for _, stage, request in panel.asked:
        if stage == "rank":
            assert (request.max_tokens, request.temperature, request.extra) == (None, None, {})
        else:
            assert (request.max_tokens, request.temperature) == (10, 0)
            assert request.extra == {"user": "u"}


async def test_a_conversation_reaches_drafts_as_it_is_and_the_writer_as_one_question() -> None:
    """History, pictures named, tool calls told in words; the system message stays a system one."""
    messages = (
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "see", "arguments": '{"n":1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "a cat"},
        {"role": "user", "content": "And now?"},
    )
    panel = Panel()

    response = await panel.run("compare", prompt=None, messages=messages)

    drafted = panel.by_stage("draft")[0][1].messages
    assert [message["role"] for message in drafted] == [
        "system",
        "user",
        "assistant",
        "user",
        "user",
    ]
    assert drafted[1] == messages[1]
    assert drafted[2]["content"] == '[called see with {"n":1}]'
    assert drafted[3]["content"] == "[tool result] a cat"
    ((_, write),) = panel.by_stage("write")
    assert str(write.messages[0]["content"]).startswith("Answer in French.")
    assert "user: Look\n[image_url]" in str(write.messages[1]["content"])
    assert "begin conversation, whose last message is the question" in str(write.messages[1])
    assert "user: And now?" in response.receipt.prompt


async def test_whoever_writes_after_a_tools_result_is_not_told_that_it_is_the_question() -> None:
    """An agent sends what its tool has brought; the question was asked before."""
    panel = Panel()
    called = {"id": "1", "type": "function", "function": {"name": "see", "arguments": "{}"}}
    messages = (
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "a cat"},
    )

    await panel.run("compare", prompt=None, messages=messages)

    ((_, write),) = panel.by_stage("write")
    assert "begin conversation, which ends in what tools have brought" in str(write.messages[1])
    assert "tool: a cat" in str(write.messages[1])


async def test_a_pattern_adds_to_the_system_message_of_the_caller() -> None:
    """The conversation itself stays as it is."""
    panel = Panel(draft="ANSWER: 1")

    await panel.run("self_consistency", system="Be brief.")

    sent = panel.asked[0][2].messages
    assert [message["role"] for message in sent] == ["system", "user"]
    assert sent[0]["content"].startswith("Be brief.\n\nReason step by step ")
    assert sent[1]["content"] == "Q?"


async def test_a_draft_cut_by_its_length_limit_is_shown_as_cut() -> None:
    """Whoever reads it must know, and the receipt as well."""
    panel = Panel(
        draft=lambda name, _: (
            Reply(text="so far", finish_reason="length") if name == "gpt" else "whole"
        )
    )

    response = await panel.run("compare")

    ((_, write),) = panel.by_stage("write")
    assert str(write.messages[1]["content"]).count("(cut off by its length limit)") == 2
    assert response.receipt.stages[0].attempts[0].finish_reason == "length"


# Time.


def hanging(gate: asyncio.Event) -> MockAdapter:
    return MockAdapter([Reply(text="late", delay_s=1)], sleep=lambda _: gate.wait())


async def test_at_the_bell_the_best_draft_is_given_as_partial() -> None:
    """The writer hangs; what it had written is withdrawn."""
    clock = FakeClock()

    class Stalling(MockAdapter):
        async def stream(self, request: CompletionRequest, **about: Any) -> Any:
            async for chunk in super().stream(request, **about):
                yield chunk
                if stage_of(request) == "write":
                    await asyncio.Event().wait()

    panel = Panel()
    panel.adapters["claude"] = Stalling(panel._script("claude"), deployment="claude")
    events: list[Event] = []

    async def watch() -> None:
        async with panel.engine(clock=clock) as engine:
            events.extend(await listen(engine, model="compare/p", time_s=10))

    running = asyncio.ensure_future(watch())
    await turns()
    clock.advance(10)
    await running

    response = events[-1].response  # type: ignore[union-attr]
    assert any(isinstance(event, TextReset) for event in events)
    assert content_of(events) == response.content == "draft by gpt.\nTwo lines."
    assert response.status == "partial"
    assert any("the run's 10 s are over" in cause for cause in response.causes)
    assert response.receipt.stages[-1].attempts[0].status == "cancelled"


async def test_members_that_hang_leave_time_for_the_synthesis() -> None:
    """Two thirds of the time are over: whoever answered is written up within the rest."""
    clock = FakeClock()
    panel = Panel()
    panel.adapters["gpt"] = hanging(asyncio.Event())
    panel.adapters["gemini"] = hanging(asyncio.Event())

    async with panel.engine(clock=clock) as engine:
        running = asyncio.ensure_future(
            engine.execute_request(RequestConfig(prompt="Q?", model="compare/p", time_s=12))
        )
        await turns()
        clock.advance(7.9)
        await turns()
        assert not running.done()
        clock.advance(0.2)
        response = await running

    assert response.content == "write by claude.\nTwo lines."
    assert response.status == "degraded"
    assert response.receipt.missing == ("gpt", "gemini")
    assert response.receipt.elapsed_s < 12


async def test_time_kept_back_is_spent_when_there_is_nothing_to_keep_it_for() -> None:
    """No draft at two thirds of the time: go on waiting for one."""
    clock, gate = FakeClock(), asyncio.Event()
    panel = Panel()
    panel.adapters = {name: hanging(gate) for name in NAMES}

    async with panel.engine(clock=clock) as engine:
        running = asyncio.ensure_future(
            engine.execute_request(RequestConfig(prompt="Q?", model="compare/p", time_s=12))
        )
        await turns()
        clock.advance(11)
        await turns()
        gate.set()
        response = await running

    assert response.content == "late"


async def test_stages_for_which_no_time_is_left_are_skipped() -> None:
    """And say so in the receipt."""
    clock = FakeClock()

    def late(name: str, _: CompletionRequest) -> str:
        if name == "gemini":
            clock.advance(30)
        return f"draft by {name}"

    panel = Panel(draft=late)
    async with panel.engine(clock=clock) as engine:
        response = await engine.execute_request(
            RequestConfig(prompt="Q?", model="council/p", time_s=30)
        )

    assert [stage.status for stage in response.receipt.stages][1:] == ["skipped", "skipped"]
    assert response.receipt.stages[1].causes == ("the run's time is over",)
    assert response.status == "partial"
    assert response.content == "draft by gpt"


async def test_a_pattern_without_a_draft_at_the_bell_has_no_answer() -> None:
    """The one case in which there is nothing to give."""
    clock = FakeClock()
    panel = Panel()
    panel.adapters = {name: hanging(asyncio.Event()) for name in NAMES}

    async with panel.engine(clock=clock) as engine:
        for pattern in ("council", "fact_check"):
            running = asyncio.ensure_future(
                engine.execute_request(RequestConfig(prompt="Q?", model=f"{pattern}/p", time_s=5))
            )
            await turns()
            clock.advance(5)
            with pytest.raises(DeadlineExceeded):
                await running


async def test_a_judge_that_hangs_costs_its_stage_and_nothing_more() -> None:
    """The analysis is given up in time for the writer."""
    clock, gate = FakeClock(), asyncio.Event()

    class Analyst(MockAdapter):
        async def stream(self, request: CompletionRequest, **about: Any) -> Any:
            if stage_of(request) == "analysis":
                await gate.wait()
            async for chunk in super().stream(request, **about):
                yield chunk

    panel = Panel()
    panel.adapters["claude"] = Analyst(panel._script("claude"), deployment="claude")
    async with panel.engine(clock=clock) as engine:
        running = asyncio.ensure_future(
            engine.execute_request(RequestConfig(prompt="Q?", model="fusion/p", time_s=12))
        )
        await turns()
        clock.advance(8.1)
        response = await running

    assert response.content.startswith("write by claude")
    assert [stage.status for stage in response.receipt.stages] == ["ok", "failed", "ok"]
    assert response.status == "degraded"


# Events and receipts.


@settings(max_examples=40)
@given(
    pattern=st.sampled_from(sorted(LIBRARY)),
    replies=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.builds(Reply, text=st.text(max_size=30), cut_after=st.integers(0, 20)),
            st.just(Reply(error=RateLimited("no"))),
            st.sampled_from(['{"ranking": ["A", "B"]}', '{"pick": "A"}', '{"questions": ["Q"]}']),
        ),
        min_size=4,
        max_size=8,
    ),
)
async def test_the_deltas_since_the_last_reset_are_the_content(
    pattern: str, replies: list[Reply | str]
) -> None:
    """Always, whatever the models do; and stages only ever go forward."""
    adapters = {
        name: MockAdapter(replies[place:] or replies, chunk_characters=3)
        for place, name in enumerate(NAMES)
    }
    events: list[Event] = []
    async with EnhancedOrchestrator(config(), adapters=adapters) as engine:
        try:
            events = await listen(engine, model=f"{pattern}/p")
        except QuorumNotMet:
            return

    response = events[-1].response  # type: ignore[union-attr]
    assert content_of(events) == response.content == response.receipt.content
    assert (response.status == "complete") == (response.causes == ())
    indices = [event.index for event in events if isinstance(event, StageStarted)]
    assert indices == list(range(len(events[0].stages)))  # type: ignore[union-attr]
    finished = [event.stage for event in events if isinstance(event, StageFinished)]
    assert finished == list(events[0].stages)  # type: ignore[union-attr]
    assert Receipt.from_json(response.receipt.to_json()) == response.receipt


async def test_the_last_stage_is_heard_while_it_is_written() -> None:
    """Not after it."""
    gate = asyncio.Event()

    class Pausing(MockAdapter):
        async def stream(self, request: CompletionRequest, **about: Any) -> Any:
            async for chunk in super().stream(request, **about):
                yield chunk
                if stage_of(request) == "write":
                    await gate.wait()

    panel = Panel()
    panel.adapters["claude"] = Pausing(panel._script("claude"), deployment="claude")
    async with (
        panel.engine() as engine,
        aclosing(engine.stream_request(RequestConfig(prompt="Q?", model="compare/p"))) as events,
    ):
        async for event in events:
            if isinstance(event, TextDelta):
                assert not gate.is_set()
                break


async def test_the_first_event_says_who_is_asked_and_what_will_run() -> None:
    """So that progress can be shown from the start."""
    panel = Panel(draft="ANSWER: 1")
    async with panel.engine() as engine:
        events = await listen(engine, model="self_consistency/p", members=NAMES[:2])

    first = events[0]
    assert isinstance(first, RunStarted)
    assert first.members == ("gpt#1", "claude#1", "gpt#2", "claude#2", "gpt#3")
    assert first.stages == ("samples", "vote")
    assert first.pattern == "self_consistency"
    assert isinstance(events[-1], RunFinished)


async def test_a_receipt_holds_the_whole_run() -> None:
    """Who, what, when, how many tokens, and under which configuration."""
    panel = Panel(rank=dumps(ranking=["A", "B", "C"]))

    response = await panel.run("council", seed=7)
    again = await Panel(rank=dumps(ranking=["A", "B", "C"])).run("council", seed=7)

    receipt = response.receipt
    assert (receipt.model, receipt.pattern, receipt.seed) == ("council/p", "council", 7)
    assert receipt.prompt == "Q?"
    assert receipt.config_hash == again.receipt.config_hash
    assert receipt.calls == 7 == sum(len(stage.attempts) for stage in receipt.stages)
    assert receipt.usage.total_tokens == sum(
        made.usage.total_tokens for stage in receipt.stages for made in stage.attempts
    )
    assert sorted(made.label for made in receipt.stages[0].attempts) == ["A", "B", "C"]
    assert all(made.label == "" for made in receipt.stages[1].attempts)
    assert [made.label for made in receipt.stages[0].attempts] == [
        made.label for made in again.receipt.stages[0].attempts
    ]
    assert receipt.run_id != again.receipt.run_id


async def test_a_plain_deployment_runs_without_a_pattern() -> None:
    """The enhanced engine is the base engine where nothing is to be combined."""
    panel = Panel()
    async with panel.engine() as engine:
        events = await listen(engine, model="gpt")

    response = events[-1].response  # type: ignore[union-attr]
    assert response.receipt.pattern == ""
    assert events[0].stages == ("answer",)  # type: ignore[union-attr]
    assert response.content == "draft by gpt.\nTwo lines."


# Leaving early.


class Counting(MockAdapter):
    """Counts the streams that are open."""

    open = 0

    async def stream(self, request: CompletionRequest, **about: Any) -> Any:
        self.open += 1
        try:
            async with aclosing(super().stream(request, **about)) as chunks:
                async for chunk in chunks:
                    await asyncio.sleep(0)
                    yield chunk
        finally:
            try:
                await asyncio.sleep(0)  # as one that closes a connection would
            finally:
                self.open -= 1


def counting() -> Panel:
    """A panel whose models do as they are asked, so that every stage of a pattern runs."""
    panel = Panel(
        rank=dumps(ranking=["A", "B", "C"]),
        pick=dumps(pick="A"),
        plan=dumps(questions=["When?", "Where?"]),
        critique=dumps(critiques=[{"label": "A", "faults": ["wrong"]}]),
    )
    panel.adapters = {name: Counting(panel._script(name), deployment=name) for name in NAMES}
    return panel


def open_streams(panel: Panel) -> int:
    return sum(one.open for one in panel.adapters.values() if isinstance(one, Counting))


@pytest.mark.parametrize("pattern", sorted(LIBRARY))
async def test_a_run_cancelled_at_any_turn_of_the_loop_leaves_nothing_behind(pattern: str) -> None:
    """At the first turn, the second, and so on until a run is over before it is cancelled."""
    before = asyncio.all_tasks()
    for moment in range(1, 1000):
        panel = counting()
        async with panel.engine() as engine:
            request = RequestConfig(prompt="Q?", model=f"{pattern}/p", seed=1)
            running = asyncio.ensure_future(engine.execute_request(request))
            await turns(moment)
            running.cancel()
            await asyncio.wait({running})

            assert open_streams(panel) == 0
            assert asyncio.all_tasks() - before == set()
        if not running.cancelled():
            break
    assert moment > 10
    assert running.result().content


@pytest.mark.parametrize("pattern", sorted(LIBRARY))
async def test_a_listener_may_leave_after_any_event(pattern: str) -> None:
    """After the first, the second, and so on to the last."""
    before = asyncio.all_tasks()
    for wanted in range(1, 1000):
        panel = counting()
        heard: list[Event] = []
        async with panel.engine() as engine:
            request = RequestConfig(prompt="Q?", model=f"{pattern}/p", seed=1)
            async with aclosing(engine.stream_request(request)) as events:
                async for event in events:
                    heard.append(event)
                    if len(heard) == wanted:
                        break

            assert open_streams(panel) == 0
            assert asyncio.all_tasks() - before == set()
        if isinstance(heard[-1], RunFinished):
            break
    assert wanted > 10


# What does not fit.


@pytest.mark.parametrize("pattern", ["compare", "fusion", "council", "critique", "debate"])
async def test_a_pattern_that_needs_a_panel_says_so_before_any_call(pattern: str) -> None:
    """One deployment cannot debate."""
    panel = Panel()
    async with panel.engine() as engine:
        with pytest.raises(InvalidRun, match=r"at least 2 members; '\w+/gpt' has 1"):
            await engine.execute_request(RequestConfig(prompt="Q?", model=f"{pattern}/gpt"))

    assert panel.asked == []


# A pattern of one's own.

NINTH = """\
name: perspectives
description: Three roles answer, a judge merges what they found, one writes.
source: a test
draft_characters: 200
stages:
  - name: views
    each: panel
    roles: [optimist, sceptic, historian, engineer]
    prompt: |
      You are the {{ role }}.
      {{ question }}

  - name: tally
    combine: fields

  - name: choice
    each: panel
    combine: pick
    sees: all
    temperature: 0
    max_tokens: 50
    prompt: |
      {{ question }}
      {{ drafts }}
      Pick one.

  - name: answer
    by: synthesizer
    combine: write
    sees: [all, previous]
    prompt: |
      {{ question }} {{ drafts }} {{ previous }} {{ ranking }}
      Write the answer the person who asked should get.
"""


async def test_a_ninth_pattern_needs_no_python(tmp_path: Path) -> None:
    """A file in a folder is all it takes."""
    (tmp_path / "perspectives.yaml").write_text(NINTH, encoding="utf-8")
    panel = Panel(
        draft=lambda name, request: dumps(view=name, text="x" * 300),
        pick=dumps(pick="A", reason="clear"),
    )
    async with panel.engine(config(patterns_dir=str(tmp_path))) as engine:
        response = await engine.execute_request(
            RequestConfig(prompt="Q?", model="perspectives/p", seed=2)
        )

    first, tally, choice, answer = response.receipt.stages
    assert [made.role for made in first.attempts] == [
        "optimist",
        "sceptic",
        "historian",
        "engineer",
    ]
    assert [made.member for made in first.attempts] == ["gpt#1", "claude", "gemini", "gpt#2"]
    assert tally.attempts == ()
    assert tally.outcome["fields"]["view"] == "gpt"
    assert len(choice.attempts) == 4
    judged = panel.by_stage("pick")[0][1]
    assert (judged.temperature, judged.max_tokens) == (0, 50)
    assert answer.outcome["synthesizer"] == "claude"
    ((_, write),) = panel.by_stage("write")
    prompt = str(write.messages[-1]["content"])
    assert "characters left out" in prompt
    assert " picked" in prompt


def one_stage_more(last: dict[str, Any], **about: Any) -> Pattern:
    return Pattern.model_validate(
        {
            "name": "own",
            "description": "x",
            "source": "x",
            "stages": [{"name": "drafts", "each": "panel"}, {"name": "end", **last}],
            **about,
        }
    )


async def test_fields_may_be_the_answer() -> None:
    """Drafts that are objects, merged field by field."""
    panel = Panel(draft=lambda name, _: dumps(verdict="no" if name == "gpt" else "yes", by=[name]))
    own = one_stage_more({"combine": "fields"})

    async with panel.engine(patterns={"own": own}) as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?", model="own/p"))

    assert json.loads(response.content) == {"verdict": "yes", "by": list(NAMES)}


async def test_fields_nobody_can_read_leave_the_best_draft() -> None:
    """As the last stage they must be fields."""
    panel = Panel(draft="prose\nonly", pick=Reply(error=RateLimited("no")))
    prompt = "{{ question }} {{ drafts }} Pick "
    asked = one_stage_more(
        {"combine": "fields", "by": "synthesizer", "sees": "all", "prompt": prompt}
    )

    for own in (one_stage_more({"combine": "fields"}), asked):
        async with panel.engine(patterns={"own": own}) as engine:
            response = await engine.execute_request(RequestConfig(prompt="Q?", model="own/p"))

        assert response.content == "prose\nonly"
        assert response.status == "degraded"


async def test_a_template_that_fails_in_a_run_costs_its_stage() -> None:
    """The drafts are there, so there is an answer; the operator is told what is wrong."""
    prompt = "{{ question }} {{ drafts }} {{ 1 // (count - 3) }}"
    own = one_stage_more({"combine": "write", "by": "synthesizer", "sees": "all", "prompt": prompt})
    panel = Panel()

    async with panel.engine(patterns={"own": own}) as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?", model="own/p"))

    assert response.content.startswith("draft by gpt")
    assert response.status == "degraded"
    assert any("a template failed: ZeroDivisionError" in cause for cause in response.causes)
    assert response.receipt.stages[-1].status == "failed"


async def test_a_template_that_fails_in_the_first_stage_ends_the_run() -> None:
    """Nothing was asked, nothing can be given."""
    own = Pattern.model_validate(
        {
            "name": "own",
            "description": "x",
            "source": "x",
            "stages": [
                {"name": "drafts", "each": "panel", "prompt": "{{ question }} {{ 1 // count }}"},
                {"name": "end", "combine": "vote"},
            ],
        }
    )
    panel = Panel()

    async with panel.engine(patterns={"own": own}) as engine:
        with pytest.raises(PatternError, match="ZeroDivisionError"):
            await engine.execute_request(RequestConfig(prompt="Q?", model="own/p"))


async def test_a_vote_without_a_judge_needs_no_call() -> None:
    """And is decided by weight where no two agree."""
    own = one_stage_more({"combine": "vote"})
    panel = Panel(draft=told("ANSWER: {name}"))

    async with panel.engine(patterns={"own": own}) as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?", model="own/p"))

    assert panel.stages() == ["draft"] * 3
    assert response.content == "ANSWER: gpt"
    assert response.status == "degraded"
    assert "end: no two of 3 agree" in response.causes


@pytest.mark.parametrize("works", [True, False])
async def test_one_may_start_and_all_go_on(works: bool) -> None:
    """A draft by one, a note by one, answers by all, a ranking by one."""
    note = {"name": "note", "by": "synthesizer", "makes": "notes", "sees": "all"}
    own = Pattern.model_validate(
        {
            "name": "own",
            "description": "x",
            "source": "x",
            "stages": [
                {"name": "draft", "by": "synthesizer"},
                {**note, "prompt": "{{ question }} {{ drafts }} Analyse the drafts"},
                {
                    "name": "all",
                    "each": "panel",
                    "sees": "all",
                    "prompt": "{{ question }} {{ drafts }} Write your answer anew",
                },
                {
                    "name": "rank",
                    "by": "synthesizer",
                    "combine": "rank",
                    "sees": "others",
                    "prompt": "{{ question }} {{ others }} Rank all",
                },
            ],
        }
    )
    panel = Panel(
        rank=dumps(ranking=["A", "B", "C"]),
        analysis="A note." if works else Reply(error=RateLimited("no")),
    )

    async with panel.engine(patterns={"own": own}) as engine:
        response = await engine.execute_request(RequestConfig(prompt="Q?", model="own/p", seed=4))

    assert sorted(name for name, _ in panel.by_stage("revise")) == sorted(NAMES)
    assert response.receipt.stages[1].status == ("ok" if works else "failed")
    assert response.content.startswith("revise by")
    assert set(response.receipt.stages[3].outcome["ranking"]) == set(NAMES)
    ((judge, ranked),) = panel.by_stage("rank")
    assert f"revise by {judge}." not in str(ranked.messages[-1]["content"])


async def test_nobody_stands_in_when_the_time_is_over() -> None:
    """A writer that fails at the bell is followed by the best draft, not by another call."""
    clock = FakeClock()

    def late(name: str, _: CompletionRequest) -> Reply:
        clock.advance(30)
        return Reply(error=RateLimited("no"))

    panel = Panel(write=late)
    async with panel.engine(clock=clock) as engine:
        response = await engine.execute_request(
            RequestConfig(prompt="Q?", model="compare/p", time_s=30)
        )

    assert [name for name, _ in panel.by_stage("write")] == ["claude"]
    assert response.status == "partial"


async def test_an_unknown_pattern_is_told_with_those_there_are() -> None:
    """Before any call."""
    panel = Panel()
    async with panel.engine() as engine:
        with pytest.raises(UnknownModel, match="did you mean 'council'"):
            await engine.execute_request(RequestConfig(prompt="Q?", model="p", pattern="counsil"))
