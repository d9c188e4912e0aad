"""BaseOrchestrator: deployments, routes and panels; the one place through which every call goes."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from adapters.base import BaseAdapter
from adapters.config import ModelConfig
from adapters.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    StreamBroken,
)
from adapters.types import Chunk, CompletionRequest
from orchestrator.clock import Clock, SystemClock, all_done
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import (
    DeadlineExceeded,
    InvalidRun,
    NoDeploymentLeft,
    OrchestratorError,
    QuorumNotMet,
    UnknownModel,
)
from orchestrator.events import Event, RunFinished, RunStarted
from orchestrator.panel import (
    CLOSING_S,
    Answer,
    Ending,
    Member,
    Patience,
    fan_out,
    stage_share_s,
)
from orchestrator.patterns import Pattern, PatternLibrary
from orchestrator.prompts import draft_request, plain_request, without_tools
from orchestrator.receipts import AttemptLog, StageLog
from orchestrator.resolve import resolve
from orchestrator.responses import OrchestratorResponse
from orchestrator.run import Deployment, Run
from orchestrator.synthesis import Draft, best
from orchestrator.yaml_source import suggestion


class BaseOrchestrator:
    """Asks deployments, routes and panels. Patterns are `EnhancedOrchestrator`'s.

    A deployment or a route answers with its own stream. Of a panel every member is asked at once,
    and the usable answer of the heaviest member is the content.

    >>> import asyncio
    >>> from adapters import MockAdapter, ModelConfig
    >>> from orchestrator import BaseOrchestrator, OrchestratorConfig, RequestConfig
    >>> config = OrchestratorConfig(
    ...     models={"gpt": ModelConfig(provider="openai", model="gpt-5-mini")}
    ... )
    >>> async def main() -> str:
    ...     mock = {"gpt": MockAdapter(["Paris."])}
    ...     async with BaseOrchestrator(config, adapters=mock) as orchestrator:
    ...         response = await orchestrator.execute_request(RequestConfig(prompt="Capital?"))
    ...         return response.content
    >>> asyncio.run(main())
    'Paris.'

    Args:
        config: The configuration; a run keeps the one it began with.
        adapters: Adapters to use instead of those the configuration would make. They are closed
            with the orchestrator. A name that is not configured is added.
        clock: Where the time comes from.
        patterns: The patterns to choose from, by name; default: the built-in ones and those of
            `config.patterns_dir`.
    """

    def __init__(
        self,
        config: OrchestratorConfig,
        *,
        adapters: Mapping[str, BaseAdapter] | None = None,
        clock: Clock | None = None,
        patterns: Mapping[str, Pattern] | None = None,
    ) -> None:
        given = adapters or {}
        models = config.models | {
            name: adapter.config for name, adapter in given.items() if name not in config.models
        }
        self._config = config.model_copy(update={"models": models})
        self._deployments = {
            name: Deployment(name, model, given.get(name)) for name, model in models.items()
        }
        self._retired: list[Deployment] = []
        self._running: set[asyncio.Task[None]] = set()
        self._clock = clock or SystemClock()
        folders = [Path(config.patterns_dir)] if config.patterns_dir else []
        self.patterns: Mapping[str, Pattern] = (
            PatternLibrary(*folders) if patterns is None else patterns
        )

    @property
    def config(self) -> OrchestratorConfig:
        """The configuration as it stands, models added and removed included."""
        return self._config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the runs there are and close every adapter."""
        await _end(self._running)
        deployments = [*self._deployments.values(), *self._retired]
        self._retired.clear()
        closing = {asyncio.create_task(one.aclose()): one.name for one in deployments}
        try:
            stuck = await all_done(self._clock, closing, CLOSING_S)
        finally:
            for task in closing:
                task.cancel()
        ended = [task for task in closing if task not in stuck and not task.cancelled()]
        for error in [task.exception() for task in ended]:
            if error is not None:
                raise error
        if stuck:
            names = ", ".join(repr(closing[task]) for task in closing if task in stuck)
            raise OrchestratorError(f"{names} did not close within {CLOSING_S:g} s")

    # The models.

    def add_model(self, name: str, model: ModelConfig, adapter: BaseAdapter | None = None) -> None:
        """Configure a deployment; runs that begin from now on know it.

        Raises:
            InvalidRun: the name is taken.
        """
        if name in self._config.models or name in self._config.routes | self._config.panels:
            raise InvalidRun(f"{name!r} is configured already; remove it first")
        self._deployments[name] = Deployment(name, model, adapter)
        self._configure({**self._config.models, name: model})

    def remove_model(self, name: str) -> None:
        """Forget a deployment; runs that have begun still finish with it.

        Raises:
            UnknownModel: there is none of that name.
        """
        if name not in self._deployments:
            raise UnknownModel(
                f"Unknown model {name!r}{suggestion(name, self._deployments)}; "
                f"configured: {', '.join(map(repr, self._deployments))}"
            )
        self._retired.append(self._deployments.pop(name))
        models = {known: model for known, model in self._config.models.items() if known != name}
        self._configure(models)

    def list_models(self) -> dict[str, ModelConfig]:
        """The deployments there are."""
        return dict(self._config.models)

    def _configure(self, models: Mapping[str, ModelConfig]) -> None:
        self._config = self._config.model_copy(update={"models": dict(models)})

    # Runs.

    async def execute_request(self, request: RequestConfig) -> OrchestratorResponse:
        """The answer to a request: what `stream_request` ends in.

        Raises:
            UnknownModel: the request names nothing that is configured.
            InvalidRun: the request contradicts itself or the configuration.
            ProviderError: the one deployment that was asked failed.
            NoDeploymentLeft: every deployment of the route failed.
            QuorumNotMet: no member of the panel gave a usable answer.
            DeadlineExceeded: the time ended before there was one answer.
        """
        async with aclosing(self.stream_request(request)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    return event.response
        raise AssertionError("a run ends with RunFinished or with an error")

    async def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]:
        """The events of a run as they happen; consume it inside `contextlib.aclosing`.

        Leaving it early ends the run: every call is cancelled and its connection closed.
        Raises what `execute_request` raises.
        """
        run = self._begin(request)
        task = asyncio.create_task(self._drive(run))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: run.channel.close())
        try:
            while (event := await run.channel.get()) is not None:
                yield event
            if task.cancelled():
                raise OrchestratorError("The orchestrator was closed while the run went on")
            task.result()
        finally:
            await _end({task})

    def _begin(self, request: RequestConfig) -> Run:
        """Resolve and check a request; nothing has been called yet."""
        target = resolve(request, self._config, self.patterns)
        return Run(request, target, dict(self._deployments), self._config, self._clock)

    def _members(self, run: Run) -> Sequence[Member]:
        return run.target.members

    def _stage_names(self, run: Run) -> tuple[str, ...]:
        return ("answer",) if run.target.is_plain else ("drafts",)

    async def _drive(self, run: Run) -> None:
        target = run.target
        run.channel.put(
            RunStarted(
                run_id=run.run_id,
                model=target.name,
                pattern=target.pattern,
                members=tuple(member.name for member in self._members(run)),
                stages=self._stage_names(run),
                seed=run.seed,
            )
        )
        try:
            if target.is_plain:
                await self._answer_plain(run)
            else:
                await self._answer_panel(run)
        except Exception:
            if run.open_stage is not None:
                run.end_stage(run.open_stage, "failed")
            raise
        run.channel.put(RunFinished(response=run.response()))

    async def _answer_plain(self, run: Run) -> None:
        """One deployment or route, its stream handed on as it comes."""
        (member,) = run.target.members
        stage = run.begin_stage("answer", members=(member,))
        request = plain_request(run.request, run.messages)
        answers, _ = await self._ask_all(
            run, stage, [partial(self._ask, run, stage, member, request, deliver=True)]
        )
        failed = answers[0].error if answers else None
        run.end_stage(stage, "failed" if failed or not answers else "ok")
        if not answers or (failed and run.is_over):
            raise _out_of_time(run) from failed
        if failed is not None:
            raise self._plain_failure(run, stage, failed)

    def _plain_failure(self, run: Run, stage: StageLog, error: Exception) -> Exception:
        failures = [made for made in stage.attempts if made.status == "failed"]
        if len(failures) < 2 or run.delivery.has_begun:
            return error
        told = "; ".join(f"{made.deployment}: {made.error}: {made.message}" for made in failures)
        none_left = NoDeploymentLeft(f"{run.target.name!r} has no deployment left: {told}")
        none_left.__cause__ = error
        return none_left

    async def _answer_panel(self, run: Run) -> None:
        """Every member at once; the best usable draft is the answer."""
        if run.request.pattern is not None:
            raise InvalidRun("BaseOrchestrator runs no patterns; use EnhancedOrchestrator")
        if run.request.tools is not None:
            raise InvalidRun("A draft is the answer here, and drafts get no tools; drop 'tools'")
        members, messages = run.target.members, without_tools(run.messages)
        stage = run.begin_stage("drafts", members=members)
        calls = [
            partial(
                self._ask,
                run,
                stage,
                member,
                draft_request(run.request, messages, sample=member.sample, is_answer=True),
            )
            for member in members
        ]
        answers, ending = await self._ask_all(
            run, stage, calls, quorum=run.target.enough(len(members)), grace_s=run.target.grace_s
        )
        drafts = self._gather(run, stage, answers, ending)
        self._need_a_draft(run, stage, drafts)
        run.missing = absent(members, drafts)
        run.is_partial = ending == "run"
        run.end_stage(stage, "degraded" if stage.causes else "ok")
        chosen = best(drafts)
        run.delivery.replace(chosen.text, chosen.finish_reason, "")

    # Asking.

    async def _attempt(
        self, run: Run, deployment: Deployment, request: CompletionRequest
    ) -> AsyncGenerator[Chunk, None]:
        """One call to one deployment. Every call of every stage goes through here, and only here.

        Whatever guards a call stands in this body, one guard a line, top to bottom.
        """
        limits = run.call_limits()
        async with aclosing(deployment.adapter.stream(request, limits=limits)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _ask(
        self,
        run: Run,
        stage: StageLog,
        member: Member,
        request: CompletionRequest,
        *,
        deliver: bool = False,
        format_is_ours: bool = False,
    ) -> Answer:
        """Ask a member: its deployments in order, until one answers or nothing may follow.

        Args:
            run: The run this belongs to.
            stage: The stage that asks.
            member: Whom to ask.
            request: What to ask.
            deliver: Hand the answer on as it comes. After its first piece nobody else is tried.
            format_is_ours: A deployment that refuses the response format may answer without it.
        """
        waiting = deque((name, request) for name in member.deployments)
        number = 0
        while True:
            name, wanted = waiting.popleft()
            number += 1
            answer = await self._ask_one(run, stage, member, name, wanted, number, deliver)
            error = answer.error
            if error is None or run.is_over or (deliver and run.delivery.has_begun):
                return answer
            if format_is_ours and wanted.response_format and type(error) is InvalidRequest:
                waiting.appendleft((name, replace(wanted, response_format=None)))
            while waiting and not may_follow(
                error, run.deployments[name].config, run.deployments[waiting[0][0]].config
            ):
                waiting.popleft()
            if not waiting:
                return answer

    async def _ask_one(
        self,
        run: Run,
        stage: StageLog,
        member: Member,
        name: str,
        request: CompletionRequest,
        number: int,
        deliver: bool,
    ) -> Answer:
        deployment = run.deployments[name]
        attempt = AttemptLog(stage, member, name, deployment.config, number)
        try:
            async with aclosing(self._attempt(run, deployment, request)) as chunks:
                async for chunk in chunks:
                    attempt.add(chunk, tell=not deliver)
                    if deliver:
                        await run.delivery.add(chunk)
            completion = attempt.fold.completion()
        except (asyncio.CancelledError, Exception) as error:  # a bug in one call ends no panel
            if _is_cancelled():  # whatever the adapter made of it
                attempt.cancelled()
                raise asyncio.CancelledError from error
            failure = _as_failure(error, deployment, attempt.fold.text)
            attempt.failed(failure)
            return Answer(member=member, error=failure, elapsed_s=attempt.elapsed_s)
        attempt.finished(completion)
        return Answer(member=member, completion=completion, elapsed_s=attempt.elapsed_s)

    async def _ask_all(
        self,
        run: Run,
        stage: StageLog,
        calls: Sequence[Callable[[], Coroutine[Any, Any, Answer]]],
        *,
        quorum: int = 1,
        grace_s: float = float("inf"),
        stages_after: int = 0,
        has_drafts: bool = False,
    ) -> tuple[list[Answer], Ending]:
        """Make calls at once, within the quorum's grace and the stage's share of the time."""
        share_s = stage_share_s(run.left_s, stages_after)
        patience = Patience(
            quorum=quorum,
            grace_s=grace_s,
            stage_ends_s=run.clock.monotonic() + share_s,
            run_ends_s=run.ends_s,
            has_drafts=has_drafts,
        )
        reasons: dict[Ending, str] = {
            "all": "",
            "quorum": f"not waited for: a quorum of {quorum} was met and {grace_s:g} s were over",
            "stage": f"no answer within this stage's {share_s:.3g} s",
            "run": f"no answer within the run's {run.time_s:g} s",
        }

        def tell(ending: Ending) -> None:
            stage.ending = reasons[ending]

        answers, ending = await fan_out(calls, patience, run.clock, before_cancelling=tell)
        return answers, ending

    # What comes of it.

    def _gather(
        self, run: Run, stage: StageLog, answers: Sequence[Answer], ending: Ending
    ) -> list[Draft]:
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
            as_draft(member, usable[member.name])
            for member in stage.members
            if member.name in usable
        ]

    def _need_a_draft(self, run: Run, stage: StageLog, drafts: Sequence[Draft]) -> None:
        """Say that the quorum was missed; end the run if there is nothing at all.

        Raises:
            DeadlineExceeded: nobody answered in the run's time.
            QuorumNotMet: nobody gave a usable answer.
        """
        quorum = run.target.enough(len(stage.members))
        if drafts:
            if len(drafts) < quorum:
                run.degrade(stage, f"{len(drafts)} usable of {len(stage.members)}, quorum {quorum}")
            return
        run.end_stage(stage, "failed")
        if run.is_over:
            raise _out_of_time(run)
        raise QuorumNotMet(
            f"No member of {run.target.name!r} gave a usable answer: " + "; ".join(stage.causes)
        )


def _is_cancelled() -> bool:
    """Whether somebody has asked this very task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_failure(error: BaseException, deployment: Deployment, text: str) -> Exception:
    """What failed a call, as an error. A cancellation that nobody asked for is one as well."""
    if isinstance(error, Exception):
        return error
    failure = StreamBroken(
        "the call was cancelled from within",
        partial_text=text,
        provider=deployment.config.provider.value,
        deployment=deployment.name,
    )
    failure.__cause__ = error
    return failure


def may_follow(error: Exception, failed: ModelConfig, following: ModelConfig) -> bool:
    """Whether a call that failed on one deployment may be tried on another.

    What a provider's filter refused is not shopped around. A prompt that was too long needs a
    larger window, or one whose size nobody has told us.
    """
    if isinstance(error, ContentFiltered):
        return False
    if isinstance(error, ContextWindowExceeded):
        if failed.context_tokens is None or following.context_tokens is None:
            return True
        return following.context_tokens > failed.context_tokens
    return True


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


def _out_of_time(run: Run) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"The run's {run.time_s:g} s ended before there was an answer; allow more with time_s"
    )


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel what still runs, wait for it, and take note of how it ended."""
    ending = set(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
    for task in ending:
        if not task.cancelled():
            task.exception()
