"""What was paid for once and is not paid for again: a run's journal, the cache, calls under way."""

import asyncio
import json
from asyncio import AbstractEventLoop, Future
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from adapters.types import Completion, CompletionRequest
from orchestrator import billing
from orchestrator.cache import (
    CompletionCache,
    Flight,
    SingleFlight,
    cache_key,
    default_secret,
    secret_key,
)
from orchestrator.clock import Clock, all_done, fixed_chance
from orchestrator.config import OrchestratorConfig, RequestConfig, cache_folder
from orchestrator.deployment import Deployment
from orchestrator.errors import JournalError
from orchestrator.journal import PaidCall
from orchestrator.panel import CLOSING_S, is_usable
from orchestrator.receipts import AttemptLog
from orchestrator.run import Run

# What a request says about how it is run, and not about what is asked.
_NO_CONTENT = {
    "cache",
    "tags",
    "notes",
    "time_s",
    "max_cost_usd",
    "max_run_tokens",
    "max_calls",
    "tenant_windows",
}


class Recall:
    """The answers there are already, and those on their way."""

    def __init__(self, config: OrchestratorConfig, clock: Clock) -> None:
        self._cache = (
            CompletionCache(cache_folder(config), config.cache, default_secret(), clock=clock)
            if config.cache is not None
            else None
        )
        self._clock = clock
        self._flights = SingleFlight()
        self._fresh: dict[str, Completion] = {}  # on their way into the cache
        self._keeping: set[Future[None]] = set()
        self._loop: AbstractEventLoop | None = None
        self._secret = b""

    async def open(self) -> None:
        """Open the cache, if there is one. Costs nothing once it is."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what was on its way in another loop is of no use in this one
            self._loop = loop
            self._fresh.clear()
            self._keeping.clear()
        if self._cache is not None:
            await self._cache.open()

    async def aclose(self) -> None:
        """Finish what is being kept, unless its disk hangs, and close the cache."""
        if self._loop is asyncio.get_running_loop():
            await all_done(self._clock, self._keeping, CLOSING_S)
        if self._cache is not None:
            await self._cache.aclose()

    def chance(self, request: RequestConfig) -> tuple[int, str] | None:
        """The seed and nonce that equal requests share, where their answers are kept.

        Prompts hold what was drawn by them: with new ones, only a first stage would ever be found
        again. None: draw them anew.
        """
        if self._cache is None or request.cache == "off":
            return None
        if not self._secret:
            try:
                self._secret = secret_key(default_secret())
            except (OSError, ValueError):
                return None
        told = request.model_dump(mode="json", exclude=_NO_CONTENT)
        return fixed_chance(self._secret, json.dumps(told, sort_keys=True).encode())

    def key(self, run: Run, deployment: Deployment, request: CompletionRequest, sample: int) -> str:
        """The name of a call among all calls; empty where nothing is kept."""
        if run.journal is None and not self._caches(run):
            return ""
        return cache_key(request, deployment.config, tenant=run.request.tenant, sample=sample)

    def join(self, run: Run, key: str) -> AbstractAsyncContextManager[Flight | None]:
        """A part in the call of this key, where equal calls are to be one."""
        if not self._caches(run) or run.request.cache == "refresh":
            return nullcontext()
        return self._flights.join(key)

    async def find(
        self, run: Run, key: str, flight: Flight | None, attempt: AttemptLog
    ) -> Completion | None:
        """The answer of a call that was made before, or is being made; None: it is to be made."""
        if run.journal is not None and (paid := run.journal.find(key)) is not None:
            attempt.source = "journal"
            attempt.posting = billing.paid_before(paid.completion.usage, paid.cost_nanousd)
            return paid.completion
        if flight is None:
            return None
        assert self._cache is not None, "calls are shared where there is a cache"
        found = self._fresh.get(key) or self._cache.get(key)
        attempt.source = "cache"
        if found is None and not flight.leads and not attempt.is_hedge:  # that waits for nobody
            attempt.source = "shared"
            found = await flight.result()
        if found is None:
            attempt.source = "call"
        else:
            attempt.posting = billing.paid_before(found.usage, 0)
        return found

    def keep(
        self,
        run: Run,
        deployment: Deployment,
        key: str,
        flight: Flight | None,
        attempt: AttemptLog,
    ) -> None:
        """A call has come to its end: write it down, and let others have its answer."""
        if not key:
            return
        completion = attempt.fold.completion()
        if run.journal is not None:
            cost = attempt.posting.cost_nanousd if attempt.posting else None
            call = PaidCall(
                key=key, deployment=deployment.name, completion=completion, cost_nanousd=cost
            )
            try:
                run.journal.append(call)
            except JournalError as error:  # what is paid for is used; no more is paid for
                run.halt(error)
        is_ours_alone = attempt.is_shortened and completion.finish_reason == "length"
        if self._caches(run) and is_usable(completion) and not is_ours_alone:
            if flight is not None:
                self._flights.land(key, completion)
            self._fresh[key] = completion
            assert self._cache is not None, "only what is cached is kept there"
            kept = self._cache.keep(key, completion)
            self._keeping.add(kept)
            kept.add_done_callback(partial(self._kept, key, completion))

    def _caches(self, run: Run) -> bool:
        return self._cache is not None and run.request.cache != "off"

    def _kept(self, key: str, completion: Completion, kept: "Future[None]") -> None:
        """It is in the cache now, or will never be; a newer one may still be on its way."""
        self._keeping.discard(kept)
        if self._fresh.get(key) is completion:
            del self._fresh[key]
