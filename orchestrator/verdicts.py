"""What a stage's answers come to: drafts, or the error that says why there is none."""

from collections.abc import Sequence

from adapters.errors import ContentFiltered, ContextWindowExceeded, InvalidRequest
from orchestrator.errors import (
    AllRefused,
    BudgetExceeded,
    DeadlineExceeded,
    JournalError,
    LedgerError,
    NoDeploymentLeft,
    QuorumNotMet,
)
from orchestrator.panel import Answer, Ending, Member
from orchestrator.receipts import StageLog
from orchestrator.run import Run
from orchestrator.synthesis import Draft

# Errors that blame what was asked. Where every deployment says so, the caller is to hear it.
AT_FAULT_ITSELF = {
    kind.__name__ for kind in (InvalidRequest, ContextWindowExceeded, ContentFiltered)
}


def gather(run: Run, stage: StageLog, answers: Sequence[Answer], ending: Ending) -> list[Draft]:
    """The usable answers as drafts, in the order of the panel; what is missing is said.

    A straggler that was not waited for after a met quorum is no fault: it was agreed on.
    """
    usable = {answer.member.name: answer for answer in answers if answer.is_usable}
    for answer in answers:
        if not answer.is_usable:
            run.degrade(stage, f"{answer.member.name} gave no answer: {answer.failure}")
    answered = {answer.member.name for answer in answers}
    late = [member.name for member in stage.members if member.name not in answered]
    if late and ending == "quorum":
        stage.notes.append(f"{', '.join(late)} {stage.ending}")
    elif late:
        run.degrade(stage, f"{', '.join(late)}: {stage.ending}")
    return [
        as_draft(member, usable[member.name]) for member in stage.members if member.name in usable
    ]


def need_a_draft(
    run: Run, stage: StageLog, drafts: Sequence[Draft], answers: Sequence[Answer]
) -> None:
    """Say that the quorum was missed; end the run if there is nothing at all.

    Raises:
        DeadlineExceeded: nobody answered in the run's time.
        BudgetExceeded: nobody could be paid.
        LedgerError: no spending can be counted.
        JournalError: no paid call can be written down.
        AllRefused: every member says that the request is wrong.
        QuorumNotMet: nobody gave a usable answer.
    """
    quorum = run.target.enough(len(stage.members))
    if drafts:
        if len(drafts) < quorum:
            run.degrade(stage, f"{len(drafts)} usable of {len(stage.members)}, quorum {quorum}")
        return
    run.end_stage(stage, "failed")
    if run.is_over:
        raise out_of_time(run)
    for kind in (BudgetExceeded, LedgerError, JournalError):
        errors = [answer.error for answer in answers if isinstance(answer.error, kind)]
        if errors and len(errors) == len(answers):
            raise errors[0]
    refused = [answer for answer in answers if isinstance(answer.error, InvalidRequest)]
    is_the_request = len(refused) == len(stage.members)
    raise (AllRefused if is_the_request else QuorumNotMet)(
        f"No member of {run.target.name!r} gave a usable answer: " + "; ".join(stage.causes)
    )


def plain_failure(run: Run, stage: StageLog, error: Exception) -> Exception:
    """What to raise: the error of one, of the request itself, or that nobody is left."""
    failures = [made for made in stage.attempts if made.status == "failed"]
    asked = {made.deployment for made in failures}
    is_own = len(asked) < 2 or run.delivery.has_begun
    is_the_request = isinstance(error, ContentFiltered) or all(
        made.error in AT_FAULT_ITSELF for made in failures
    )
    if is_own or is_the_request or isinstance(error, BudgetExceeded):
        return error
    told = "; ".join(f"{made.deployment}: {made.error}: {made.message}" for made in failures)
    busy = [run.deployments[name].breaker.state.probe_in_s for name in asked]
    busy.append(getattr(error, "retry_after_s", None))
    none_left = NoDeploymentLeft(
        f"{run.target.name!r} has no deployment left: {told}",
        retry_after_s=min((wait_s for wait_s in busy if wait_s is not None), default=None),
    )
    none_left.__cause__ = error
    return none_left


def as_draft(member: Member, answer: Answer) -> Draft:
    """What a member's usable answer is to the others."""
    assert answer.completion is not None, "a usable answer has a completion"
    return Draft(
        member=member.name,
        label=member.label,
        text=answer.completion.text,
        weight=member.weight,
        finish_reason=answer.completion.finish_reason,
    )


def absent(members: Sequence[Member], drafts: Sequence[Draft]) -> tuple[str, ...]:
    """The members without a draft."""
    present = {draft.member for draft in drafts}
    return tuple(member.name for member in members if member.name not in present)


def out_of_time(run: Run) -> DeadlineExceeded:
    """The time has ended, and how more is allowed."""
    return DeadlineExceeded(
        f"The run's {run.time_s:g} s ended before there was an answer; allow more with time_s"
    )
