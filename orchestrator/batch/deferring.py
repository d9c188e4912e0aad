"""Take a row as far as its call without making it, and on from its reply once that is there.

Both times it is the engine that does so, over adapters that write down instead of sending.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass

from adapters.base import BaseAdapter
from adapters.batches import BatchReply
from adapters.config import RatesConfig
from adapters.errors import InvalidRequest
from adapters.factory import create_adapter
from adapters.types import (
    Chunk,
    Completion,
    CompletionFold,
    CompletionRequest,
    Limits,
    Request,
    Usage,
    in_one_chunk,
)
from orchestrator.amounts import usd
from orchestrator.batch.answering import Ask, LimitReached, NotAsked
from orchestrator.batch.asking import Question
from orchestrator.batch.outcome import Failure
from orchestrator.batch.rows import Row
from orchestrator.batch.work import Stop
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import OrchestratorError
from orchestrator.resolve import resolve

_NEVER = 2**31  # failures until a deployment is left alone: its answers are here already


@dataclass(slots=True)
class Slot:
    """What the engine and the adapter under it have to tell each other about a row.

    Attributes:
        body: What would be sent.
        deployment: Whom it would be sent to.
        reply: What has come back.
        held_nanousd: What is held for it.
    """

    body: bytes = b""
    deployment: str = ""
    reply: BatchReply | None = None
    held_nanousd: int = 0


SLOT: ContextVar[Slot] = ContextVar("orchestrator_batch_slot")


class Deferred(InvalidRequest):
    """Ends a run whose call is asked in a batch."""


class DeferringAdapter(BaseAdapter):
    """Writes a row's call instead of making it, and reads the reply once that is there."""

    def __init__(self, inner: BaseAdapter) -> None:
        super().__init__(inner.config, deployment=inner.deployment)
        self._inner = inner

    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        slot = SLOT.get()
        if slot.reply is not None:
            return await self._inner.read_reply(request, slot.reply)
        slot.body = await self._inner.write_body(request)
        slot.deployment = self.deployment
        raise Deferred("the row is asked in a batch", maybe_billed=False, **self.named())

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        yield in_one_chunk(await self.complete(request, limits=limits))

    def is_warm(self, request: Request) -> bool:
        return self._inner.is_warm(request)

    async def warm(self, request: Request) -> None:
        await self._inner.warm(request)

    def count(self, request: Request, fold: CompletionFold) -> Usage:
        return self._inner.count(request, fold)

    def bound_prompt(self, request: Request, *, margin: float = 1.5) -> int:
        return self._inner.bound_prompt(request, margin=margin)


class Room:
    """What a batch may cost, all in all: what rows at a provider may come to is held for them.

    Args:
        cap_nanousd: The most that it may cost.
        spent_nanousd: What it has cost before.
        stop: Says when nothing more is to be asked.
        blocked: Is told when a row waits for room.

    Attributes:
        waiting: How many rows do.
    """

    def __init__(
        self, cap_nanousd: int, spent_nanousd: int, stop: Stop, blocked: Callable[[], None]
    ) -> None:
        self.waiting = 0
        self._cap, self._spent, self._held = cap_nanousd, spent_nanousd, 0
        self._stop = stop
        self._blocked = blocked
        self._changed = asyncio.Event()

    async def hold(self, needed_nanousd: int) -> str:
        """Hold so much for a row, once there is room for it.

        Raises:
            LimitReached: there is none, and none will come.
            NotAsked: the batch ends meanwhile.
        """
        while self._spent + self._held + needed_nanousd > self._cap:
            if self._stop.event.is_set():
                raise NotAsked
            if not self._held:
                raise LimitReached(
                    f"The batch may cost {usd(self._cap)}; {usd(self._spent)} of it is spent, and "
                    f"the next row may cost up to {usd(needed_nanousd)}; raise --max-cost, or "
                    "lower what a row may cost with --max-tokens"
                )
            await self._wait()
        self.take(needed_nanousd)
        SLOT.get().held_nanousd += needed_nanousd
        return ""

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            changed = self._changed
            self._blocked()
            await changed.wait()
        finally:
            self.waiting -= 1

    async def settle(self, held: str, spent_nanousd: int) -> None:
        """Give back what is held for a row, unless it is on its way to a provider."""
        slot = SLOT.get()
        if not slot.body:
            self.give_back(slot.held_nanousd, spent_nanousd)
            slot.held_nanousd = 0

    def take(self, nanousd: int) -> None:
        """Hold so much."""
        self._held += nanousd

    def give_back(self, held_nanousd: int, spent_nanousd: int = 0) -> None:
        """It is not held any more; so much of it was spent."""
        self._held -= held_nanousd
        self._spent += spent_nanousd
        self.wake()

    def wake(self) -> None:
        """Have those look again who wait."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class PaidBefore:
    """Where rows are read that are paid for already."""

    async def hold(self, needed_nanousd: int) -> str:
        return ""

    async def settle(self, held: str, spent_nanousd: int) -> None:
        """Nothing was held."""


# Who can be asked so.


def unfit(
    request: RequestConfig, config: OrchestratorConfig, patterns: Mapping[str, object]
) -> str:
    """Why a request cannot be asked in a provider's batch; "" if it can.

    Raises:
        OrchestratorError: it names what there is not.
    """
    target = resolve(request, config, patterns)
    if not target.is_plain or len(target.members) > 1:
        return (
            f"{target.name!r} asks several models in turn, and a provider's batch is one call a "
            "row; name a model"
        )
    member = target.members[0]
    if member.route:
        return (
            f"{member.route!r} is a route; name one of its models: {', '.join(member.deployments)}"
        )
    adapter = create_adapter(config.models[member.name], deployment=member.name)
    if not adapter.has_batches:
        return (
            f"{member.name!r} is of {adapter.config.provider.value}, which has no batches that can "
            "be asked from here; openai has, and custom hosts that speak its protocol"
        )
    return ""


def only_plain(ask: Ask, config: OrchestratorConfig, patterns: Mapping[str, object]) -> Ask:
    """The same, but rows that cannot be asked in a batch are refused."""

    def asked(row: Row) -> Question | Failure:
        question = ask(row)
        if isinstance(question, Failure):
            return question
        problem = ""
        with suppress(OrchestratorError):  # then the engine says what is wrong with it
            problem = unfit(question.request, config, patterns)
        if not problem:
            return question
        return Failure(kind="InvalidRow", message=f"Line {row.line}: {problem}", status=400)

    return asked


def batched(config: OrchestratorConfig) -> OrchestratorConfig:
    """The configuration for answers that come in batches: at their price, at any rate, once."""
    models = {
        name: model.model_copy(update={"rates": RatesConfig()}).batched()
        for name, model in config.models.items()
    }
    once = config.retry.model_copy(update={"attempts": 1})
    patient = config.breaker.model_copy(update={"failures": _NEVER, "calls": _NEVER})
    changed = {"models": models, "retry": once, "breaker": patient, "limits": None}
    return config.model_copy(update=changed)
