"""EnhancedOrchestrator: runs a pattern stage by stage, within the run's time, to one answer."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from adapters.types import CompletionRequest
from orchestrator.base import BaseOrchestrator
from orchestrator.clock import make_rng
from orchestrator.config import RequestConfig
from orchestrator.errors import InvalidRun, PatternError
from orchestrator.fences import Fences, shuffled_labels
from orchestrator.journal import Opening
from orchestrator.panel import Answer, Ending, Member
from orchestrator.patterns import Pattern, Stage, Step, steps
from orchestrator.prompts import (
    View,
    draft_request,
    note_request,
    question_text,
    stage_messages,
    written_request,
)
from orchestrator.receipts import StageLog, StageStatus
from orchestrator.resolve import Target, numbered, seats
from orchestrator.responses import StageRecord
from orchestrator.run import Run
from orchestrator.synthesis import (
    SYNTHESES,
    Ballot,
    Decision,
    Draft,
    all_agree,
    best,
    finds_no_faults,
    read_items,
    read_pick,
    read_ranking,
)
from orchestrator.verdicts import absent, as_draft, gather, need_a_draft

Call = Callable[[], Coroutine[Any, Any, Answer]]


@dataclass(slots=True, kw_only=True)
class Board:
    """What a run of a pattern has come to so far: the one thing that stages hand on.

    Attributes:
        members: Everybody who may have a draft, by name, with the letter it is shown under.
        drafts: The latest of each member, in the order of the panel.
        notes: Who wrote what the stages after may see as `previous`.
        fields: What the last `fields` stage merged, and its text.
        ranking: The members, best first, once somebody has decided.
        ranking_said: The same as one line, in letters.
        is_shown: Whether any draft was shown to another model.
        is_answered: Whether the last stage gave the answer.
    """

    pattern: Pattern
    fences: Fences
    members: Mapping[str, Member]
    drafts: list[Draft] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    fields: Mapping[str, Any] = field(default_factory=dict)
    fields_text: str = ""
    ranking: tuple[str, ...] = ()
    ranking_said: str = ""
    is_shown: bool = False
    is_answered: bool = False


class EnhancedOrchestrator(BaseOrchestrator):
    """Asks a panel by a pattern and makes one answer of what it says.

    Drafts get neither tools nor the response format: both go to whoever writes the answer. Where
    no one writes (a vote, a pick), the drafts get the response format, and tools are refused.

    >>> import asyncio
    >>> from adapters import MockAdapter, ModelConfig
    >>> from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
    >>> config = OrchestratorConfig(
    ...     models={name: ModelConfig(provider="openai", model=name) for name in ("a", "b")},
    ...     panels={"both": {"members": ["a", "b"], "pattern": "self_consistency"}},
    ... )
    >>> mocks = {"a": MockAdapter(["ANSWER: 4"]), "b": MockAdapter(["Two and two... ANSWER: 4"])}
    >>> async def main() -> str:
    ...     async with EnhancedOrchestrator(config, adapters=mocks) as orchestrator:
    ...         response = await orchestrator.execute_request(RequestConfig(prompt="2 + 2?"))
    ...         return response.content
    >>> asyncio.run(main())
    'ANSWER: 4'
    """

    def _begin(
        self, request: RequestConfig, *, is_live: bool, opening: Opening | None = None
    ) -> Run:
        run = super()._begin(request, is_live=is_live, opening=opening)
        if not run.target.is_plain:
            run.pattern = self.patterns[run.target.pattern]
            _check_fit(run.pattern, run.target, request)
        return run

    def _members(self, run: Run) -> Sequence[Member]:
        return seats(run.pattern, run.target) if run.pattern else run.target.members

    def _stage_names(self, run: Run) -> tuple[str, ...]:
        if run.pattern is None:
            return super()._stage_names(run)
        return tuple(step.name for step in steps(run.pattern))

    async def _answer_panel(self, run: Run) -> None:
        pattern = run.pattern
        assert pattern is not None, "a panel is always asked by a pattern"
        board = new_board(pattern, run, Fences(run.opening.nonce))
        run.notes = (*run.notes, *pattern.notes)
        for step in steps(pattern):
            reason = reason_to_skip(step, board, is_over=run.is_over)
            if reason:
                _skip(run, board, step, reason)
            else:
                await self._run_step(run, board, step)
        if not board.is_answered:
            _answer_with_best(run, board)
        if not board.is_shown:
            run.stages = [_unlabelled(stage) for stage in run.stages]

    async def _run_step(self, run: Run, board: Board, step: Step) -> None:
        try:
            match step.stage.combine:
                case "write":
                    await self._write(run, board, step)
                case None:
                    await self._collect(run, board, step)
                case _:
                    await self._decide(run, board, step)
        except PatternError as error:
            # A template that fails is a failed stage: what there was before is still there.
            if run.open_stage is None or not board.drafts:
                raise
            run.degrade(run.open_stage, str(error))
            run.end_stage(run.open_stage, "failed", "a template failed")

    # Stages that gather drafts or notes.

    async def _collect(self, run: Run, board: Board, step: Step) -> None:
        if step.stage.by:
            await self._collect_by_one(run, board, step)
            return
        items = _items(board, step.stage)
        callers = _callers(run, board, step, items)
        stage = _begin_stage(run, step, callers)
        calls: list[Call] = [
            partial(
                self._ask,
                run,
                stage,
                caller if step.stage.product == "drafts" else replace(caller, label=""),
                self._request(run, board, step, caller, item=items[place] if items else None),
                format_is_ours=step.stage.product != "drafts",
            )
            for place, caller in enumerate(callers)
        ]
        answers, ending = await self._ask_step(run, board, step, stage, calls)
        drafts = gather(run, stage, answers, ending)
        if step.is_first:
            need_a_draft(run, stage, drafts, answers)
            run.missing = absent(callers, drafts)
        _keep(board, step.stage, drafts, dict(zip((c.name for c in callers), items, strict=False)))
        run.end_stage(stage, *_outcome(stage, len(drafts), len(callers)))

    async def _collect_by_one(self, run: Run, board: Board, step: Step) -> None:
        stage = _begin_stage(run, step, run.target.synthesizers[:1])
        answers, ending = await self._ask_in_turn(run, board, step, stage)
        answer = next((answer for answer in answers if answer.is_usable), None)
        drafts = []
        if answer is not None:
            drafts = [as_draft(board.members.get(answer.member.name, answer.member), answer)]
        elif step.is_first:
            for failed in answers:
                run.degrade(stage, f"{failed.member.name} gave no answer: {failed.failure}")
            need_a_draft(run, stage, (), answers)
        else:
            run.degrade(stage, _why_nobody(answers, stage, ending))
        if step.is_first:
            run.missing = tuple(a.member.name for a in answers if not a.is_usable)
        _keep(board, step.stage, drafts, {})
        run.end_stage(stage, "ok" if drafts else "failed", "" if drafts else "no answer")

    # Stages that decide.

    async def _decide(self, run: Run, board: Board, step: Step) -> None:
        """Vote, rank, pick or merge; judges are asked only where their word is needed."""
        combine = SYNTHESES[step.stage.combine or ""]
        decision = combine(board.drafts, ())
        if step.stage.calls and (step.stage.combine == "fields" or not decision.settled):
            stage, ballots = await self._ballots(run, board, step)
            if ballots or step.stage.combine != "fields":
                decision = combine(board.drafts, ballots)
            else:
                decision = Decision(text=None, settled=False, summary="nobody answered")
        else:
            stage = _begin_stage(run, step, ())
        self._settle(run, board, step, stage, decision)

    def _settle(
        self, run: Run, board: Board, step: Step, stage: StageLog, decision: Decision
    ) -> None:
        """Say what was decided, and keep it for the stages after or as the answer."""
        combine, asked = step.stage.combine, bool(stage.attempts)
        stage.outcome = decision.outcome
        unread = decision.outcome.get("unparsable", 0) if asked else 0
        if unread and combine == "fields":
            stage.notes.append("what could not be read was handed on as text")
        elif unread and combine != "vote":  # there it counts drafts without a final answer
            run.degrade(stage, f"{unread} could not be read")
        if not decision.settled and (step.is_last or combine != "fields"):
            run.degrade(stage, decision.summary)
        if combine == "fields":
            board.fields, board.fields_text = decision.fields, decision.text or ""
            board.notes = [("", decision.text)] if decision.text else []
        elif decision.settled:
            board.ranking = decision.ranking
            board.ranking_said = decision.summary if len(board.drafts) > 1 else ""
        if step.is_last and decision.settled and decision.text:
            finish = decision.winner.finish_reason if decision.winner else "stop"
            run.delivery.replace(decision.text, finish, "")
            board.is_answered = True
        failed = decision.text is None or (asked and not decision.settled and combine != "fields")
        degraded: StageStatus = "degraded" if stage.causes else "ok"
        run.end_stage(stage, "failed" if failed else degraded, decision.summary)

    async def _ballots(self, run: Run, board: Board, step: Step) -> tuple[StageLog, list[Ballot]]:
        if step.stage.by:
            stage = _begin_stage(run, step, run.target.synthesizers[:1])
            answers, ending = await self._ask_in_turn(run, board, step, stage)
            if not any(answer.is_usable for answer in answers):
                run.degrade(stage, _why_nobody(answers, stage, ending))
        else:
            judges = _callers(run, board, step, ())
            stage = _begin_stage(run, step, judges)
            calls: list[Call] = [
                partial(
                    self._ask,
                    run,
                    stage,
                    replace(judge, label=""),
                    self._request(run, board, step, judge),
                    format_is_ours=True,
                )
                for judge in judges
            ]
            answers, ending = await self._ask_step(run, board, step, stage, calls)
            gather(run, stage, answers, ending)
        return stage, [
            Ballot(
                by=answer.member.name,
                text=answer.completion.text,
                own=_own_labels(board, step.stage, answer.member),
            )
            for answer in answers
            if answer.is_usable and answer.completion is not None
        ]

    # The stage that writes.

    async def _write(self, run: Run, board: Board, step: Step) -> None:
        """The answer, streamed as it is written; whoever breaks off is followed by the next."""
        stage = _begin_stage(run, step, run.target.synthesizers[:1])
        answers, ending = await self._ask_in_turn(run, board, step, stage, deliver=True)
        writer = next((answer.member.name for answer in answers if answer.is_usable), None)
        tried = list(dict.fromkeys(made.member for made in stage.attempts))
        stage.outcome = {"synthesizer": writer, "tried": tried}
        if writer is not None:
            board.is_answered = True
            stage.notes += [f"{a.member.name}: {a.failure}" for a in answers if not a.is_usable]
            run.end_stage(stage, "ok", f"written by {writer}")
            return
        run.degrade(stage, _why_nobody(answers, stage, ending))
        run.end_stage(stage, "failed", "nobody wrote")

    # Calls.

    async def _ask_in_turn(
        self, run: Run, board: Board, step: Step, stage: StageLog, *, deliver: bool = False
    ) -> tuple[list[Answer], Ending]:
        """The synthesizer, then those who stand in for it, until one is of use."""
        answers: list[Answer] = []
        schema_is_ours = not deliver and step.stage.product != "drafts"

        async def in_turn() -> Answer:
            for member in run.target.synthesizers:
                request = self._request(run, board, step, member)
                answer = await self._ask(
                    run, stage, member, request, deliver=deliver, format_is_ours=schema_is_ours
                )
                answers.append(answer)
                if answer.is_usable and _can_be_read(step.stage, board, answer):
                    break
                # What merely broke off is gone on with, but nobody can end another's tool call.
                if deliver and (answer.error is None or run.delivery.tool_calls):
                    run.delivery.withdraw(f"{member.name}: {answer.failure}")
                if run.is_over:
                    break
            return answers[-1]

        _, ending = await self._ask_step(run, board, step, stage, [in_turn])
        return answers, ending

    async def _ask_step(
        self, run: Run, board: Board, step: Step, stage: StageLog, calls: Sequence[Call]
    ) -> tuple[list[Answer], Ending]:
        """Make a stage's calls at once, in its share of the time."""
        everyone = step.stage.by or step.stage.each == "items"
        return await self._ask_all(
            run,
            stage,
            calls,
            quorum=len(calls) if everyone else run.target.enough(len(calls)),
            grace_s=run.target.grace_s,
            stages_after=_stages_after(board.pattern, step),
            has_drafts=bool(board.drafts),
        )

    def _request(
        self, run: Run, board: Board, step: Step, caller: Member, *, item: str | None = None
    ) -> CompletionRequest:
        stage = step.stage
        view = _view(run, board, step, caller, item)
        board.is_shown = board.is_shown or bool(view.others or view.drafts)
        messages = stage_messages(board.pattern, stage, view, board.fences, run.messages)
        if stage.combine == "write":
            return written_request(run.request, messages)
        if stage.product == "drafts":
            is_answer = board.pattern.stages[-1].combine != "write"
            return draft_request(
                run.request, messages, stage, sample=caller.sample, is_answer=is_answer
            )
        return note_request(run.request, messages, stage)


# Before the first call.


def _check_fit(pattern: Pattern, target: Target, request: RequestConfig) -> None:
    """Refuse what a pattern cannot do.

    Raises:
        InvalidRun: too few members, or tools where nobody writes.
    """
    if len(target.members) < pattern.min_members:
        raise InvalidRun(
            f"Pattern {pattern.name!r} needs at least {pattern.min_members} members; "
            f"{target.name!r} has {len(target.members)}"
        )
    if request.tools is not None and pattern.stages[-1].combine != "write":
        raise InvalidRun(
            f"Pattern {pattern.name!r} gives a draft as the answer, and drafts get no tools; "
            "drop 'tools' or use a pattern that writes"
        )


def new_board(pattern: Pattern, run: Run, fences: Fences) -> Board:
    """An empty board, everybody's letter on it. The letters depend on the seed alone."""
    everybody = seats(pattern, run.target)
    if pattern.stages[0].by:
        everybody = (*run.target.synthesizers, *everybody)
    members = {member.name: member for member in everybody}
    labels = shuffled_labels(list(members), make_rng(run.seed, "labels"))
    members = {name: replace(member, label=labels[name]) for name, member in members.items()}
    return Board(pattern=pattern, fences=fences, members=members)


# Between the stages.


def reason_to_skip(step: Step, board: Board, *, is_over: bool) -> str:
    """Why a stage need not, or cannot, run; empty if it should."""
    stage = step.stage
    if step.is_first:
        return ""
    if is_over:
        return "the run's time is over"
    if stage.unless == "agree" and all_agree(board.drafts):
        return "all drafts agree"
    if stage.unless == "no_faults" and _nothing_to_mend(board):
        return "no faults were found"
    if stage.combine is None and "others" in stage.sees and len(board.drafts) < 2:
        return "there is only one draft"
    if stage.combine == "rank" and stage.each and not step.is_last and len(board.drafts) < 3:
        return "nobody would see two drafts to rank"
    if stage.combine is None and "previous" in stage.sees and not board.notes:
        return "there is nothing to work in"
    if stage.each == "items" and not _items(board, stage):
        return "there is nothing to ask"
    return ""


def _skip(run: Run, board: Board, step: Step, reason: str) -> None:
    if step.stage.each == "items":
        board.notes = []  # questions that nobody was asked tell a reader nothing
    stage = _begin_stage(run, step, ())
    stage.notes.append(reason)
    run.end_stage(stage, "skipped", reason)


def _items(board: Board, stage: Stage) -> list[str]:
    """What an `each: items` stage asks; nothing for any other."""
    if stage.items is None:
        return []
    return read_items(board.fields, board.fields_text, stage.items, stage.max_items)


def _nothing_to_mend(board: Board) -> bool:
    return bool(board.notes) and all(finds_no_faults(text) for _, text in board.notes)


def _keep(board: Board, stage: Stage, drafts: Sequence[Draft], items: Mapping[str, str]) -> None:
    """Put a stage's outputs on the board. Who gave none keeps the draft it had."""
    if stage.product == "notes":
        board.notes = [
            (draft.member, f"{items[draft.member]}\n\n{draft.text}" if items else draft.text)
            for draft in drafts
        ]
        return
    newest = {draft.member: draft for draft in (*board.drafts, *drafts)}
    order = {name: place for place, name in enumerate(board.members)}
    board.drafts = sorted(newest.values(), key=lambda draft: order.get(draft.member, len(order)))


def _callers(run: Run, board: Board, step: Step, items: Sequence[str]) -> tuple[Member, ...]:
    """Whom a stage asks at once: everybody at first, then those who have a draft."""
    if step.stage.each == "items":
        authors = {draft.member for draft in board.drafts}
        others = [member for member in run.target.members if member.name not in authors]
        asked = others or run.target.members
        return numbered([asked[place % len(asked)] for place in range(len(items))])
    if step.is_first:
        return tuple(board.members.values())
    if board.pattern.stages[0].by:
        return tuple(board.members[member.name] for member in run.target.members)
    return tuple(board.members[draft.member] for draft in board.drafts)


def _view(run: Run, board: Board, step: Step, caller: Member, item: str | None) -> View:
    """What a caller sees. The order is shuffled anew for each, by the run's seed."""
    stage = step.stage
    hidden = _own_labels(board, stage, caller) if stage.by else frozenset()
    own = next((draft for draft in board.drafts if draft.member == caller.name), None)
    drafts = list(board.drafts)
    make_rng(run.seed, step.name, caller.name).shuffle(drafts)
    others = [
        draft
        for draft in drafts
        if draft.label not in hidden and (stage.by is not None or draft != own)
    ]
    return View(
        question=question_text(run.messages),
        label=own.label if own else "",
        role=caller.role,
        round=step.round,
        rounds=stage.rounds,
        structured=run.request.response_format is not None,
        own=own if "own" in stage.sees else None,
        others=tuple(others) if "others" in stage.sees else (),
        drafts=tuple(drafts) if "all" in stage.sees else (),
        notes=tuple(text for author, text in board.notes if author != caller.name)
        if "previous" in stage.sees
        else (),
        ranking=board.ranking_said,
        item=item,
    )


def _own_labels(board: Board, stage: Stage, judge: Member) -> frozenset[str]:
    """The letters a judge has no say in: those of its own drafts.

    A single judge that wrote all but one of the drafts must be allowed to judge its own, or there
    would be nothing to choose from.
    A vote is about what most drafts say, and there the judge's own counts like any other.
    """
    if stage.combine not in {"rank", "pick"}:
        return frozenset()
    if not stage.by:
        own = {draft.label for draft in board.drafts if draft.member == judge.name}
        return frozenset(own)
    own = {
        draft.label
        for draft in board.drafts
        if board.members[draft.member].deployments == judge.deployments
    }
    return frozenset(own) if len(board.drafts) - len(own) >= 2 else frozenset()


def _can_be_read(stage: Stage, board: Board, answer: Answer) -> bool:
    """Whether a judge's words hold the choice they were asked for."""
    assert answer.completion is not None, "a usable answer has a completion"
    own = _own_labels(board, stage, answer.member)
    labels = [draft.label for draft in board.drafts if draft.label not in own]
    match stage.combine:
        case "rank":
            return read_ranking(answer.completion.text, labels) is not None
        case "pick" | "vote":
            return read_pick(answer.completion.text, labels) is not None
        case _:
            return True


def _stages_after(pattern: Pattern, step: Step) -> int:
    """How many later steps make calls, and so need time."""
    return sum(later.stage.calls for later in steps(pattern)[step.index + 1 :])


# What is said about it.


def _begin_stage(run: Run, step: Step, members: Sequence[Member]) -> StageLog:
    return run.begin_stage(
        step.name,
        combine=step.stage.combine or "",
        index=step.index,
        total=step.total,
        members=members,
    )


def _outcome(stage: StageLog, usable: int, asked: int) -> tuple[StageStatus, str]:
    if not usable:
        return "failed", "no usable answer"
    return "degraded" if stage.causes else "ok", f"{usable} of {asked}"


def _why_nobody(answers: Sequence[Answer], stage: StageLog, ending: Ending) -> str:
    failures = [f"{answer.member.name}: {answer.failure}" for answer in answers]
    if ending in {"stage", "run"}:
        failures.append(stage.ending)
    return "; ".join(failures) or "nobody was asked"


def _answer_with_best(run: Run, board: Board) -> None:
    """Give the best draft there is, and say that it is one."""
    chosen = best(board.drafts, board.ranking)
    cause = f"the answer is the draft of {chosen.member}, the best there was"
    if run.is_over:
        run.is_partial = True
        cause = f"the run's {run.time_s:g} s are over; {cause}"
    run.causes.append(cause)
    run.delivery.replace(chosen.text, chosen.finish_reason, cause)


def _unlabelled(stage: StageRecord) -> StageRecord:
    return replace(stage, attempts=tuple(replace(made, label="") for made in stage.attempts))
