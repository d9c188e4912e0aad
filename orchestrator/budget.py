"""What a run may cost: its calls added up to a quote, and what gives way when it does not fit."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pydantic import TypeAdapter

from orchestrator.amounts import DIMENSIONS, Amount, Caps, Dimension, Scope, say, whose
from orchestrator.config import ShrinkStep
from orchestrator.errors import BudgetExceeded, UnknownPrice

# What a quote is checked against. Time is none of it: every call is cut to what is left of the
# run's time, and a run that is short of it ends with the best answer there is.
QUOTED: tuple[Dimension, ...] = ("money_nanousd", "tokens", "calls")
TOKENS_STEP = 64  # how finely `max_tokens` is lowered


# What is quoted.


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that one deployment may be sent.

    Attributes:
        deployment: Its configured name.
        prompt_bound: The tokens its prompt can come to.
        prompt_expected: The tokens it will likely be.
        completion_bound: The tokens its answers can come to.
        completion_expected: The tokens they will likely be.
        full_nanousd: What it costs at that length; None if the price is not known.
        expected_nanousd: What it will likely cost.
        retry_bound: The tokens of the prompt of a further try, which may go on with an answer
            that was begun.
        retry_nanousd: What a further try costs at its full length.
        tries: How often it can be sent in all, whatever fails.
        full_s: How long one try may take.
        expected_s: How long it will likely take.
    """

    deployment: str
    prompt_bound: int
    prompt_expected: int
    completion_bound: int
    completion_expected: int
    full_nanousd: int | None
    expected_nanousd: int | None
    retry_bound: int
    retry_nanousd: int | None
    tries: int
    full_s: float
    expected_s: float

    @property
    def expected(self) -> "Estimate":
        tokens = self.prompt_expected + self.completion_expected
        return _estimate(self.expected_nanousd, tokens, self.expected_s)

    @property
    def full(self) -> "Estimate":
        tokens = self.prompt_bound + self.completion_bound
        return _estimate(self.full_nanousd, tokens, self.full_s)

    @property
    def worst(self) -> "Estimate":
        tokens = self.retry_bound + self.completion_bound
        dearest = self.full.or_dearer(_estimate(self.retry_nanousd, tokens, self.full_s))
        return Estimate(
            amount=dearest.amount.times(self.tries), elapsed_s=dearest.elapsed_s * self.tries
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What something may use up, and how long it may take as the clock goes."""

    amount: Amount = Amount()
    elapsed_s: float = 0.0

    def then(self, other: "Estimate") -> "Estimate":
        """This, and the other after it."""
        return Estimate(
            amount=self.amount + other.amount, elapsed_s=self.elapsed_s + other.elapsed_s
        )

    def beside(self, other: "Estimate") -> "Estimate":
        """This and the other at once."""
        return Estimate(
            amount=self.amount + other.amount, elapsed_s=max(self.elapsed_s, other.elapsed_s)
        )

    def or_dearer(self, other: "Estimate") -> "Estimate":
        """At most this or the other, whichever is more of each."""
        one, two = self.amount, other.amount
        return Estimate(
            amount=Amount(
                money_nanousd=max(one.money_nanousd, two.money_nanousd),
                tokens=max(one.tokens, two.tokens),
                calls=max(one.calls, two.calls),
                time_ms=max(one.time_ms, two.time_ms),
            ),
            elapsed_s=max(self.elapsed_s, other.elapsed_s),
        )

    def half(self) -> "Estimate":
        """Half of it, rounded up: for what may or may not be needed."""
        halves = {name: -(-getattr(self.amount, name) // 2) for name in DIMENSIONS}
        return Estimate(amount=Amount(**halves), elapsed_s=self.elapsed_s / 2)

    def within(self, limit_s: float) -> "Estimate":
        """The same, ended by a bell."""
        return replace(self, elapsed_s=min(self.elapsed_s, limit_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to one member.

    Attributes:
        member: Who is expected to be asked.
        options: Who may be asked instead, the expected one first. Each is a row of calls: the one
            that should answer, then those that follow if it fails.
    """

    member: str
    options: tuple[tuple[Call, ...], ...]

    @property
    def expected(self) -> Estimate:
        return self.options[0][0].expected

    @property
    def full(self) -> Estimate:
        """One answer, whoever gives it."""
        return _dearest(call.full for calls in self.options for call in calls)

    @property
    def worst(self) -> Estimate:
        """Every try of every deployment that may follow, one after another."""
        return _dearest(_after_another(call.worst for call in calls) for calls in self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageQuote:
    """What one stage may cost.

    Attributes:
        name: The stage's name, its round included.
        expected: What it will likely come to; half of a stage that may not be needed.
        full: Every call made once and answered at its full length: what a budget must hold.
        worst: With every retry, fallback and hedge that the configuration allows.
        asks: Who is asked.
    """

    name: str
    expected: Estimate
    full: Estimate
    worst: Estimate
    asks: tuple[Ask, ...] = ()


def stage_quote(
    name: str, asks: Sequence[Ask], *, limit_s: float, is_likely: bool = True
) -> StageQuote:
    """The quote of a stage that asks all of these at once, in no more time than there is."""
    expected = _at_once(ask.expected for ask in asks)
    return StageQuote(
        name=name,
        expected=(expected if is_likely else expected.half()).within(limit_s),
        full=_at_once(ask.full for ask in asks).within(limit_s),
        worst=_at_once(ask.worst for ask in asks).within(limit_s),
        asks=tuple(asks),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What of a run may give way to fit a budget.

    Attributes:
        members: Who is asked, by name.
        max_tokens: The most any answer may have; None where nothing was lowered.
        synthesizers: Who decides and writes, by name: the first, and who follows if it fails.
    """

    members: tuple[str, ...]
    max_tokens: int | None = None
    synthesizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a run may cost before it starts.

    Attributes:
        model: The name that was asked for.
        pattern: The pattern's name; empty for a deployment or a route.
        plan: Who is asked, how long answers may be, who writes.
        expected: What it will likely come to.
        full: Every call made once and answered at its full length: what a budget must hold.
        worst: With every retry, fallback and hedge that the configuration allows.
        stages: The same, stage by stage.
        unknown_prices: Deployments that may be called and whose price is not known. Their money
            is missing in the sums.
        unlimited: Deployments whose answers have no limit that is known. They are counted at
            `budgets.max_tokens`.
        shrunk: What gave way so that it fits, one line each.
    """

    model: str
    pattern: str
    plan: Plan
    expected: Estimate
    full: Estimate
    worst: Estimate
    stages: tuple[StageQuote, ...]
    unknown_prices: tuple[str, ...] = ()
    unlimited: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()

    def fits(self, caps: Caps) -> bool:
        """Whether every call, made once and at its full length, stays within these limits."""
        return _over(self.full.amount, caps) is None

    def of_deployment(self, name: str) -> Amount:
        """What a deployment may have to serve of `full`."""
        asks = (ask for stage in self.stages for ask in stage.asks)
        mine = (
            [call.full for calls in ask.options for call in calls if call.deployment == name]
            for ask in asks
        )
        return _at_once(_dearest(calls) for calls in mine if calls).amount

    @property
    def longest_answer(self) -> int:
        """The tokens of the longest answer that any call may give."""
        calls = (
            call
            for stage in self.stages
            for ask in stage.asks
            for row in ask.options
            for call in row
        )
        return max((call.completion_bound for call in calls), default=0)

    def to_json(self, *, indent: int | None = 2) -> bytes:
        return _QUOTE.dump_json(self, indent=indent)


def total_quote(
    model: str,
    pattern: str,
    plan: Plan,
    stages: Sequence[StageQuote],
    *,
    limit_s: float,
    unlimited: Iterable[str] = (),
) -> Quote:
    """The quote of a run that goes through these stages, in no more time than there is."""
    rows = [row for stage in stages for ask in stage.asks for row in ask.options]
    unknown = [call.deployment for row in rows for call in row if call.full_nanousd is None]
    return Quote(
        model=model,
        pattern=pattern,
        plan=plan,
        expected=_after_another(stage.expected for stage in stages).within(limit_s),
        full=_after_another(stage.full for stage in stages).within(limit_s),
        worst=_after_another(stage.worst for stage in stages).within(limit_s),
        stages=tuple(stages),
        unknown_prices=tuple(dict.fromkeys(unknown)),
        unlimited=tuple(dict.fromkeys(unlimited)),
    )


def _estimate(money_nanousd: int | None, tokens: int, elapsed_s: float) -> Estimate:
    return Estimate(
        amount=Amount(
            money_nanousd=money_nanousd or 0,
            tokens=tokens,
            calls=1,
            time_ms=int(elapsed_s * 1000),
        ),
        elapsed_s=elapsed_s,
    )


def _after_another(estimates: Iterable[Estimate]) -> Estimate:
    total = Estimate()
    for estimate in estimates:
        total = total.then(estimate)
    return total


def _at_once(estimates: Iterable[Estimate]) -> Estimate:
    total = Estimate()
    for estimate in estimates:
        total = total.beside(estimate)
    return total


def _dearest(estimates: Iterable[Estimate]) -> Estimate:
    most = Estimate()
    for estimate in estimates:
        most = most.or_dearer(estimate)
    return most


# What it must fit into.


class Standing(Protocol):
    """A budget as it stands."""

    @property
    def scope(self) -> Scope: ...

    @property
    def spent(self) -> Amount: ...

    @property
    def held(self) -> Amount: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Untouched:
    """A budget of which nothing is gone yet: that of a run before it starts."""

    scope: Scope
    spent: Amount = Amount()
    held: Amount = Amount()


def _left(standing: Standing) -> Caps:
    """What a budget has left, and nothing less than nothing."""

    def left(name: Dimension) -> int | None:
        cap = getattr(standing.scope.caps, name)
        gone = getattr(standing.spent, name) + getattr(standing.held, name)
        return None if cap is None else max(cap - gone, 0)

    return Caps(**{name: left(name) for name in DIMENSIONS})


def _over(amount: Amount, caps: Caps) -> Dimension | None:
    counted = Caps(**{name: getattr(caps, name) for name in QUOTED})
    return counted.exceeded_by(amount)


@dataclass(frozen=True, slots=True)
class _Excess:
    """A budget that a quote does not fit into."""

    standing: Standing
    dimension: Dimension
    needed: Amount


def _excess(quote: Quote, standings: Sequence[Standing]) -> _Excess | None:
    """The first budget that a quote does not fit into."""
    for standing in standings:
        needed = _needed_of(quote, standing.scope)
        dimension = _over(needed, _left(standing))
        if dimension is not None:
            return _Excess(standing, dimension, needed)
    return None


def _needed_of(quote: Quote, scope: Scope) -> Amount:
    return quote.of_deployment(scope.name) if scope.kind == "deployment" else quote.full.amount


# What gives way.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How a plan may be shrunk, in the operator's order.

    Attributes:
        steps: What gives way, and in which order.
        weights: How much each member counts; the lightest goes first, of equals the last.
        least_members: How many members must stay.
        min_tokens: How short answers may become.
        writers: Who may write instead, the first that fits is taken; each with those who follow
            if it fails.
    """

    steps: Sequence[ShrinkStep]
    weights: Mapping[str, float] = field(default_factory=dict)
    least_members: int = 1
    min_tokens: int = 1
    writers: Sequence[tuple[str, ...]] = ()


QuotePlan = Callable[[Plan], Quote]


def fit(plan: Plan, quote_plan: QuotePlan, standings: Sequence[Standing], ladder: Ladder) -> Quote:
    """The quote of a plan that fits, changed as little as the operator's order allows.

    A step is gone down only as far as is needed, and what saves nothing is not done.

    Args:
        plan: The run as it was asked for.
        quote_plan: What a plan costs.
        standings: The budgets it must fit into.
        ladder: What may give way.

    Raises:
        UnknownPrice: money is limited, and nobody knows what a deployment costs.
        BudgetExceeded: it does not fit, however much gives way.
    """
    asked = quote = quote_plan(plan)
    _need_prices(asked, standings)
    shrunk: list[str] = []
    for step in ladder.steps:
        excess = _excess(quote, standings)
        if excess is None:
            break
        variant = _gone_down(step, quote, quote_plan, standings, ladder, excess)
        if variant is not None and _lacking(variant, excess) < _lacking(quote, excess):
            shrunk.append(_TOLD[step](quote, variant))
            quote = variant
    excess = _excess(quote, standings)
    if excess is not None:
        raise _refusal(asked, quote, excess)
    return replace(quote, shrunk=tuple(shrunk))


def _gone_down(
    step: ShrinkStep,
    quote: Quote,
    quote_plan: QuotePlan,
    standings: Sequence[Standing],
    ladder: Ladder,
    excess: _Excess,
) -> Quote | None:
    """The first variant of a step that fits; if none does, the cheapest; None if there is none."""
    variants = list(_VARIANTS[step](quote, ladder))

    def fits(plan: Plan) -> bool:
        return _excess(quote_plan(plan), standings) is None

    if not variants:
        return None
    if step == "max_tokens":  # each is cheaper than the one before, and they are many
        place = bisect_left(variants, True, key=fits)
        return quote_plan(variants[min(place, len(variants) - 1)])
    quotes: list[Quote] = []
    for plan in variants:
        quotes.append(quote_plan(plan))
        if _excess(quotes[-1], standings) is None:
            return quotes[-1]
    return min(quotes, key=lambda tried: _lacking(tried, excess))


def _lacking(quote: Quote, excess: _Excess) -> int:
    """How much a quote needs of what there is too little of."""
    return int(getattr(_needed_of(quote, excess.standing.scope), excess.dimension))


def _fewer_members(quote: Quote, ladder: Ladder) -> Iterator[Plan]:
    """Without the lightest, without the two lightest, ..."""
    members = quote.plan.members
    lightest_first = sorted(
        range(len(members)), key=lambda place: (ladder.weights.get(members[place], 1.0), -place)
    )
    for count in range(1, len(members) - ladder.least_members + 1):
        gone = set(lightest_first[:count])
        stay = tuple(name for place, name in enumerate(members) if place not in gone)
        yield replace(quote.plan, members=stay)


def _shorter_answers(quote: Quote, ladder: Ladder) -> Iterator[Plan]:
    """From just below the longest answer there may be down to the least."""
    longest = (quote.longest_answer - 1) // TOKENS_STEP * TOKENS_STEP
    for most in range(longest, ladder.min_tokens, -TOKENS_STEP):
        yield replace(quote.plan, max_tokens=most)
    if quote.longest_answer > ladder.min_tokens:
        yield replace(quote.plan, max_tokens=ladder.min_tokens)


def _other_writers(quote: Quote, ladder: Ladder) -> Iterator[Plan]:
    for writers in ladder.writers:
        yield replace(quote.plan, synthesizers=writers)


_VARIANTS: Mapping[ShrinkStep, Callable[[Quote, Ladder], Iterator[Plan]]] = {
    "members": _fewer_members,
    "max_tokens": _shorter_answers,
    "synthesizer": _other_writers,
}


# What is said about it.


def _without(before: Quote, after: Quote) -> str:
    gone = [name for name in before.plan.members if name not in after.plan.members]
    return f"not asked: {', '.join(gone)}"


def _shortened(before: Quote, after: Quote) -> str:
    return f"answers of at most {after.plan.max_tokens} tokens instead of {before.longest_answer}"


def _written_by(before: Quote, after: Quote) -> str:
    return f"written by {after.plan.synthesizers[0]} instead of {before.plan.synthesizers[0]}"


_TOLD: Mapping[ShrinkStep, Callable[[Quote, Quote], str]] = {
    "members": _without,
    "max_tokens": _shortened,
    "synthesizer": _written_by,
}


def _need_prices(quote: Quote, standings: Sequence[Standing]) -> None:
    """Refuse a run whose cost nobody knows where money is limited.

    Raises:
        UnknownPrice: with what to write into the configuration.
    """
    for standing in standings:
        scope = standing.scope
        unknown = [
            name
            for name in quote.unknown_prices
            if scope.kind != "deployment" or name == scope.name
        ]
        if scope.caps.money_nanousd is not None and unknown:
            raise UnknownPrice(
                f"The budget of {whose(scope)} limits money, and the price of "
                f"{', '.join(map(repr, unknown))} is not known; write `price: free` or "
                f"`price: {{input_usd: ..., output_usd: ...}}` at models.{unknown[0]}",
                scope=scope,
                dimension="money_nanousd",
                spent=standing.spent,
                held=standing.held,
                needed=_needed_of(quote, scope),
            )


def _refusal(asked: Quote, cheapest: Quote, excess: _Excess) -> BudgetExceeded:
    standing, dimension = excess.standing, excess.dimension
    scope = standing.scope

    def amount(what: Amount | Caps) -> str:
        return say(dimension, getattr(what, dimension))

    tried = ""
    if cheapest.plan != asked.plan:
        tried = (
            f"; the cheapest variant, {_described(cheapest.plan)}, needs {amount(excess.needed)}"
        )
    return BudgetExceeded(
        f"The budget of {whose(scope)} is {amount(scope.caps)}"
        f" ({amount(standing.spent)} spent, {amount(standing.held)} held),"
        f" and this run needs up to {amount(_needed_of(asked, scope))}{tried};"
        " raise the limit, ask fewer or cheaper models, or lower max_tokens",
        scope=scope,
        dimension=dimension,
        spent=standing.spent,
        held=standing.held,
        needed=excess.needed,
    )


def _described(plan: Plan) -> str:
    """A plan in a few words."""
    count = len(plan.members)
    said = [f"{count} member{'s' * (count != 1)}"]
    if plan.max_tokens is not None:
        said.append(f"answers of at most {plan.max_tokens} tokens")
    if plan.synthesizers:
        said.append(f"written by {plan.synthesizers[0]}")
    return ", ".join(said)


_QUOTE: TypeAdapter[Quote] = TypeAdapter(Quote)
