"""One call to a member while it lasts: who has been tried, who may be, what has been handed out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from adapters.errors import MalformedResponse
from adapters.types import Chunk, Completion, CompletionRequest, Request
from orchestrator.attempts import Fallback, Retry
from orchestrator.channel import Delivery
from orchestrator.continuation import (
    Seam,
    asks_for_json,
    continuation_request,
    is_prefilled,
    is_whole_json,
)
from orchestrator.deployment import Deployment
from orchestrator.errors import RateExceeded
from orchestrator.panel import Answer
from orchestrator.prompts import without_tools
from orchestrator.receipts import AttemptLog


@dataclass(slots=True, kw_only=True)
class Pursuit:
    """The attempts of one call.

    Attributes:
        names: The deployments not tried yet, in the order in which to ask them.
        request: What to ask them.
        delivery: Where the answer is handed out as it comes; None keeps it for the end.
        format_is_ours: Whether the answer may come without the response format.
        name: The deployment that is asked.
        number: How many attempts there have been.
        tries: How many of them at this deployment.
        before: Why those before failed.
        without_room: Who had no room for the call when it was their turn, and may be waited for.
    """

    names: list[str]
    request: Request
    delivery: Delivery | None = None
    format_is_ours: bool = False
    name: str = ""
    number: int = 0
    tries: int = 0
    before: list[Exception] = field(default_factory=list)
    without_room: set[str] = field(default_factory=set)
    _delivered: int = 0  # characters, when this attempt began
    _prefills: bool = True
    _prefilled: bool = False

    def __post_init__(self) -> None:
        self.name = self.names.pop(0)

    def begin(self, deployment: Deployment, now_s: float) -> None:
        """Another attempt, at the deployment whose turn it is."""
        self.number += 1
        self.tries += 1
        self._delivered = len(self._text)
        if self.tries == 1:
            deployment.retries.deposit(now_s)

    def follow(self, step: Retry | Fallback, error: Exception) -> None:
        """Make ready for the next attempt."""
        self.before.append(error)
        # Who was asked before and has no room for a further try is done with.
        if (
            isinstance(error, RateExceeded)
            and self.tries == 1
            and self.name not in self.without_room
        ):
            self.without_room.add(self.name)
            self.names.append(self.name)  # to be waited for, if nobody else answers
        if isinstance(step, Fallback):
            self.names.remove(step.deployment)
            self.name, self.tries, self._prefills = step.deployment, 0, True
        elif step.simpler and self._prefilled:
            self._prefills = False
        elif step.simpler:
            self.request = replace(self._question, response_format=None)

    def hedge(self) -> str:
        """The deployment to ask beside the one that is late."""
        self.number += 1
        return self.names.pop(0)

    def go_on_from(self, answer: Answer, before: Sequence[Answer]) -> None:
        """Of those asked beside each other, go on from this one's answer; others failed before."""
        self.before += [failed.error for failed in before if failed.error is not None]
        if answer.deployment != self.name:
            self.name, self.tries = answer.deployment, 1

    def how(self, step: Retry | Fallback) -> Literal["retry", "fallback", "continuation"]:
        """What the next attempt is to the one before."""
        if self._text:
            return "continuation"
        return "retry" if isinstance(step, Retry) else "fallback"

    @property
    def _question(self) -> CompletionRequest:
        assert isinstance(self.request, CompletionRequest), "there is one way to ask for vectors"
        return self.request

    @property
    def _text(self) -> str:
        return "" if self.delivery is None else self.delivery.content

    @property
    def broke_off(self) -> bool:
        """Whether the last attempt had handed out text."""
        return len(self._text) > self._delivered

    @property
    def cannot_be_continued(self) -> bool:
        """Whether something was handed out that nobody can go on with."""
        return self.delivery is not None and bool(self.delivery.tool_calls)

    @property
    def was_prefilled(self) -> bool:
        """Whether the last attempt was given what was handed out as its own words."""
        return self._prefilled

    @property
    def can_simplify(self) -> bool:
        """Whether this deployment can be asked in a simpler way than it just was."""
        by_format = self.format_is_ours and self._question.response_format is not None
        return self._prefilled or by_format

    def open(self, deployment: Deployment) -> "Piece":
        """What the next attempt is asked, and where its words go."""
        delivery, text, question = self.delivery, self._text, self._question
        self._prefilled = False
        if delivery is None or not text:
            return Piece(question, delivery, is_quiet=bool(delivery and delivery.reasoning))
        delivery.join()
        prefill = deployment.config.prefill and self._prefills
        # It gets no tools, and some providers refuse a conversation that speaks of them then.
        told = replace(question, messages=without_tools(question.messages))
        request = continuation_request(told, text, prefill=prefill)
        self._prefilled = is_prefilled(request)
        wants_json = asks_for_json(question.response_format)
        seam = Seam(text, anchored=not self._prefilled)
        return Piece(request, delivery, seam, is_quiet=True, wants_json=wants_json)


class Piece:
    """What one attempt adds to an answer that others may have begun.

    Attributes:
        request: What it is asked.
        continues: Whether it goes on with what was handed out.
    """

    def __init__(
        self,
        request: CompletionRequest,
        delivery: Delivery | None,
        seam: Seam | None = None,
        *,
        is_quiet: bool = False,
        wants_json: bool = False,
    ) -> None:
        self.request = request
        self.continues = seam is not None
        self._delivery = delivery
        self._seam = seam
        self._is_quiet = is_quiet  # its thoughts would follow those of another
        self._wants_json = wants_json
        self._blank: Chunk | None = Chunk()  # what came before the first word; then None

    async def hand_on(self, chunk: Chunk) -> None:
        """Give a chunk to whoever waits for the answer, without what was there already.

        Raises:
            Diverged: it tells something else from the start on; nothing of it was handed out.
            MalformedResponse: JSON was asked for, and the parts do not make any.
        """
        if self._delivery is None:
            return
        if self._is_quiet and chunk.reasoning:
            chunk = replace(chunk, reasoning="")
        if self._seam is not None:
            text = self._seam.feed(chunk.text)
            if chunk.finish_reason is not None:
                text += self._seam.end()
                is_meant_whole = self._wants_json and chunk.finish_reason == "stop"
                if is_meant_whole and not is_whole_json(self._delivery.content + text):
                    raise MalformedResponse("an answer in two parts came to no JSON")
            chunk = replace(chunk, text=text, logprobs=())
        elif self._blank is not None:
            chunk = self._from_first_word(chunk, self._blank)
        await self._delivery.add(chunk)

    def _from_first_word(self, chunk: Chunk, blank: Chunk) -> Chunk:
        """The chunk with the text so far, once there is more to it than white space.

        An answer of nothing else is none. Until a word is handed out, another may take its place.
        """
        text, logprobs = blank.text + chunk.text, blank.logprobs + chunk.logprobs
        if text.strip() or chunk.tool_calls or chunk.finish_reason is not None:
            self._blank = None
            same = text == chunk.text and logprobs == chunk.logprobs
            return chunk if same else replace(chunk, text=text, logprobs=logprobs)
        self._blank = replace(blank, text=text, logprobs=logprobs)
        return replace(chunk, text="", logprobs=())

    def whole(self, completion: Completion) -> Completion:
        """The answer as it was handed out, given the attempt's own part of it."""
        if self._seam is None or self._delivery is None:
            return completion
        return replace(completion, text=self._delivery.content, reasoning=self._delivery.reasoning)


class RaceLost(Exception):
    """Another attempt at the same call was first."""


class Race:
    """Two attempts at one call: the first that has something to give goes on alone.

    Attributes:
        failed: What those came to that had nothing to give.
    """

    def __init__(self) -> None:
        self.failed: list[Answer] = []
        self._winner: AttemptLog | None = None
        self._won: asyncio.Future[asyncio.Task[Answer]] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return self._winner is None

    def claim(self, attempt: AttemptLog) -> None:
        """This attempt has something to give.

        Raises:
            RaceLost: the other one had before.
        """
        if self._winner is None:
            self._winner = attempt
            task = asyncio.current_task()
            assert task is not None, "an attempt is a task of its own"
            self._won.set_result(task)
        elif self._winner is not attempt:
            raise RaceLost

    def has_lost(self, attempt: AttemptLog) -> bool:
        return self._winner not in (None, attempt)

    async def result(self, racing: Sequence[asyncio.Task[Answer]]) -> Answer:
        """What the winner comes to; where all fail, what the one asked last came to."""
        running = set(racing)
        while running and not self._won.done():
            waited_for: set[asyncio.Future[Any]] = {*running, self._won}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            running = {task for task in running if not task.done()}
        winner = self._won.result() if self._won.done() else None
        ended = [task for task in racing if task is not winner and task not in running]
        self.failed = [task.result() for task in ended if not task.cancelled()]
        for task in running:
            if task is not winner:
                task.cancel()
        if winner is not None:
            return await winner
        if not self.failed:
            raise asyncio.CancelledError
        return self.failed.pop()
