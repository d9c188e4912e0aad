"""Decide what a request comes to: who may ask, what is answered, which faults strike."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Any

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.answers import Voice, answer, counted
from orchestrator.simulator.ask import Allowance, Answer, Ask, BadAsk, Wrong
from orchestrator.simulator.config import EVERY_MODEL, SimulatorConfig
from orchestrator.simulator.continuing import Begun, Spoken, begun_in, go_on
from orchestrator.simulator.damage import Exchange
from orchestrator.simulator.directives import Plan, UnknownDirective, read_model
from orchestrator.simulator.faults import FAULTS, Fault
from orchestrator.simulator.http import Request
from orchestrator.simulator.limits import RateLimiter
from orchestrator.simulator.replies import answer_reply, cut_at, refusal_reply
from orchestrator.simulator.reply import Event, Reply
from orchestrator.simulator.routes import ELSEWHERE, Route, find_route, key_of

OCCURRENCES_MAX = 100_000
REMEMBERED_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What an answer costs its asker in tokens, whatever its usage says.

    `contents` is how many pieces a stream of it has: who leaves early pays for those that came.
    """

    prompt_tokens: int
    completion_tokens: int
    contents: int

    def so_far(self, sent: int) -> "Bill":
        """The same when only so many of the pieces were sent."""
        if sent >= self.contents:
            return self
        completion = -(-self.completion_tokens * sent // self.contents)
        return replace(self, completion_tokens=completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The reply, when it is due, and what the log says about it."""

    reply: Reply
    provider: LLMProvider
    model: str = ""
    faults: tuple[str, ...] = ()
    ask: Ask | None = None
    answer: Answer | None = None
    bill: Bill | None = None
    latency_s: float = 0.0
    gap_s: float | None = None
    has_key: bool = False

    @property
    def tokens(self) -> tuple[int, int]:
        """What the answer bills, as far as it is a number."""
        tokens = self.answer.tokens if self.answer else None
        if tokens is None or isinstance(tokens.prompt, str) or isinstance(tokens.completion, str):
            return 0, 0
        return tokens.prompt, tokens.completion


class Outcomes:
    """Everything that is decided about requests. Counts them where that matters."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._keys = None
        if config.keys is not None:
            self._keys = {_digest(key.get_secret_value()) for key in config.keys}
        self._strikes: dict[tuple[str, ...], int] = {}
        self._occurrences: dict[bytes, int] = {}
        self._said: dict[bytes, Answer] = {}
        self._spoken = Spoken()
        self._limiters: dict[tuple[str, str], RateLimiter] = {}

    def of(self, request: Request, now_s: float, *, peek: bool = False) -> Outcome:
        """What this request comes to. To `peek` counts nothing and takes nothing."""
        route = find_route(request.method, request.target, request.headers.get("host", ""))
        key = key_of(route.wire.provider, request.headers, request.query)
        outcome = self._decide(route, request, key, now_s, peek=peek)
        return replace(outcome, has_key=bool(key))

    def _decide(
        self, route: Route, request: Request, key: str, now_s: float, *, peek: bool
    ) -> Outcome:
        wire = route.wire
        if route.action == "unknown":
            words = f"Unknown request URL: {request.method} {request.target}."
            return _refused(route, Wrong(kind="not_found", message=words), "")
        if not self._accepts(key):
            return self._unauthorised(route, key)
        if route.action == "list":
            body = Event("body", orjson.dumps(wire.listing(self._config.models)))
            return Outcome(provider=wire.provider, reply=Reply(events=(body,)))
        try:
            ask = wire.read(_body(request), route.about)
            plan = self._plan(ask.model, route.directives)
        except (BadAsk, UnknownDirective) as error:
            param = error.param if isinstance(error, BadAsk) else "model"
            return _refused(route, Wrong(kind="bad_request", message=str(error), param=param), "")
        try:
            faults = self._striking(ask, plan, route, peek=peek)
        except UnknownDirective as error:
            wrong = Wrong(kind="bad_request", message=str(error), param="model")
            return _refused(route, wrong, plan.model)
        outcome = self._answered(ask, plan, faults, request, key, now_s, route, peek=peek)
        return self._timed(outcome, plan)

    def _answered(
        self,
        ask: Ask,
        plan: Plan,
        faults: list[tuple[Fault, int | None]],
        request: Request,
        key: str,
        now_s: float,
        route: Route,
        *,
        peek: bool,
    ) -> Outcome:
        wrong, allowance = self._limits(ask, plan, now_s, peek=peek)
        if wrong is not None:
            reply = refusal_reply(route.wire, wrong, streamed=ask.streamed)
            return Outcome(reply=reply, provider=ask.provider, model=plan.model, ask=ask)
        voice = Voice(
            model=plan.model,
            seed=self._config.seed,
            turn=self._occurrence(ask, plan.model, peek=peek),
            wrong_share=self._config.wrong_share,
        )
        begun = begun_in(ask)
        meant = self._go_on(ask, begun, voice) if begun else self._say(ask, voice)
        said = meant
        for fault, size in faults:
            said = fault.on_answer(ask, said, size) if fault.on_answer else said
        if begun is not None:
            self._spoken.keep_rest(begun, said)
        elif said is not meant:
            self._spoken.keep(ask, said)
        whole = replace(answer_reply(route.wire, ask, said, allowance), gap_s=plan.gap_s)
        reply = whole
        port = request.headers.get("host", "").rpartition(":")[2]
        for fault, size in faults:
            if fault.on_reply is not None:
                exchange = Exchange(
                    wire=route.wire,
                    ask=ask,
                    answer=said,
                    key=key,
                    size=size,
                    retry_after_s=plan.retry_after_s,
                    context_tokens=self._config.context_tokens,
                    elsewhere=f"http://localhost:{port}{ELSEWHERE}{request.target}",
                )
                reply = fault.on_reply(reply, exchange)
        if plan.cut_at is not None and (faults or (plan.every is None and plan.first is None)):
            reply = cut_at(reply, plan.cut_at, clean=plan.cut_clean)
        return Outcome(
            reply=reply,
            provider=ask.provider,
            model=plan.model,
            faults=tuple(fault.name for fault, _ in faults),
            ask=ask,
            answer=said if reply.status == 200 else None,
            bill=_bill(ask, said, whole, reply, [fault for fault, _ in faults]),
        )

    def _go_on(self, ask: Ask, begun: Begun, voice: Voice) -> Answer:
        """The rest of what any model said before, else of what this one says."""
        whole = self._spoken.find(begun) or self._say(begun.ask, voice)
        return self._say(ask, voice) if whole.calls else go_on(ask, begun, whole, voice.model)

    def _say(self, ask: Ask, voice: Voice) -> Answer:
        """The answer, remembered for a while: load tests repeat themselves."""
        limits = f"{ask.max_tokens}{ask.stop}{ask.parallel}{ask.provider}"
        digest = ask.digest(voice.model, str(voice.turn), limits)
        said = self._said.get(digest)
        if said is None:
            if len(self._said) >= REMEMBERED_MAX:
                self._said.clear()
            said = self._said[digest] = answer(ask, voice)
            self._spoken.keep(ask, said)
        return said

    def _accepts(self, key: str) -> bool:
        if not key:
            return False
        return self._keys is None or _digest(key) in self._keys

    def _unauthorised(self, route: Route, key: str) -> Outcome:
        if route.wire.provider is LLMProvider.GOOGLE and not key:
            words = (
                "Method doesn't allow unregistered callers (callers without established "
                "identity). Please use API Key or other form of API consumer identity to call "
                "this API."
            )
            return _refused(route, Wrong(kind="forbidden", message=words), "")
        return _refused(route, Wrong(kind="auth"), "")

    def _plan(self, model: str, path: tuple[str, ...]) -> Plan:
        faults = self._config.faults
        base = model.partition("--")[0]
        configured = faults.get(base, faults.get(EVERY_MODEL, ()))
        return read_model(model, path, configured)

    def _striking(
        self, ask: Ask, plan: Plan, route: Route, *, peek: bool
    ) -> list[tuple[Fault, int | None]]:
        """The faults that apply to this very request."""
        striking = [(FAULTS[name], size) for name, size in plan.faults]
        for fault, _ in striking:
            if not fault.applies(ask.provider, streamed=ask.streamed):
                kind = "streams" if ask.streamed else "plain answers"
                raise UnknownDirective(
                    f"simulator fault {fault.name!r} does not exist for {kind} of {ask.provider}"
                )
        if plan.every is None and plan.first is None:
            return striking
        turn = self._strikes.get((ask.provider, ask.model, *route.directives), 0) + 1
        if not peek:
            self._strikes[ask.provider, ask.model, *route.directives] = turn
        return striking if plan.strikes(turn) else []

    def _limits(
        self, ask: Ask, plan: Plan, now_s: float, *, peek: bool
    ) -> tuple[Wrong | None, Allowance]:
        """What stands against answering, and what is left of the rate limit."""
        allowance = Allowance()
        if "missing" in plan.model:
            wrong = Wrong(kind="not_found", model=plan.model, api_version=ask.api_version)
            return wrong, allowance
        prompt, context = ask.prompt_tokens(), self._config.context_tokens
        if prompt > context:
            wrong = Wrong(
                kind="context", model=plan.model, prompt_tokens=prompt, context_tokens=context
            )
            return wrong, allowance
        limits = self._config.limits.get(plan.model, self._config.limits.get(EVERY_MODEL))
        if limits is None or peek:
            return None, allowance
        limiter = self._limiters.setdefault((ask.provider, plan.model), RateLimiter(limits, now_s))
        allowance = limiter.take(prompt + min(ask.max_tokens or 256, 4096), now_s)
        if allowance.retry_after_s is None:
            return None, allowance
        return Wrong(kind="rate", model=plan.model, allowance=allowance), allowance

    def _occurrence(self, ask: Ask, model: str, *, peek: bool) -> int:
        """How often the same was asked before, where chance is wanted and no seed fixes it."""
        if not ask.temperature or ask.seed is not None:
            return 0
        digest = ask.digest(model)
        turn = self._occurrences.get(digest, 0)
        if not peek:
            if len(self._occurrences) >= OCCURRENCES_MAX:
                self._occurrences.clear()
            self._occurrences[digest] = turn + 1
        return turn

    def _timed(self, outcome: Outcome, plan: Plan) -> Outcome:
        latency = self._config.latency
        config = latency.get(plan.model, latency.get(EVERY_MODEL))
        latency_s, gap_s = plan.latency_s, plan.gap_s
        if config is not None:
            gap_s = config.gap_s if gap_s is None else gap_s
            if latency_s is None and config.median_s:
                nonce = outcome.answer.nonce if outcome.answer else plan.model
                factor = Random(f"{self._config.seed}/{nonce}").lognormvariate(0, config.sigma)
                latency_s = min(config.median_s * factor, config.max_s)
        if outcome.reply.gap_s is not None:
            gap_s = outcome.reply.gap_s
        return replace(outcome, latency_s=latency_s or 0.0, gap_s=gap_s)


def _bill(ask: Ask, said: Answer, whole: Reply, reply: Reply, faults: list[Fault]) -> Bill | None:
    """What is due for an answer; nothing for an error."""
    if reply.status != 200 or not all(fault.billed for fault in faults):
        return None
    changed = any(fault.on_answer for fault in faults) and said.piece_chars is None
    tokens = counted(ask, said).tokens if changed else said.tokens
    assert tokens is not None, "an answer is counted when it is made"
    contents = sum(event.kind == "content" for event in whole.events)
    return Bill(
        prompt_tokens=int(tokens.prompt),
        completion_tokens=int(tokens.completion),
        contents=contents if ask.streamed else 0,
    )


def _refused(route: Route, wrong: Wrong, model: str) -> Outcome:
    reply = refusal_reply(route.wire, wrong)
    return Outcome(reply=reply, provider=route.wire.provider, model=model)


def _body(request: Request) -> Mapping[str, Any]:
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise BadAsk("We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise BadAsk("The body must be a JSON object.")
    return body


def _digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "replace"), digest_size=16).digest()
