"""Decide what an attempt is posted as in the ledger, by what came of it. No I/O."""

from dataclasses import dataclass, replace

from adapters.errors import ConnectionFailed, ProviderError
from adapters.prices import Price
from adapters.types import Usage
from orchestrator.amounts import Amount, Dimension

NOTHING = Amount()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most an attempt can use up: what is reserved for it before it is sent.

    Attributes:
        prompt_tokens: The tokens its prompt can come to.
        completion_tokens: The tokens its answer can come to; 0 where nobody limits it.
        amount: The same with its money and time, for the ledger.
    """

    prompt_tokens: int
    completion_tokens: int
    amount: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """What an attempt has used up.

    Attributes:
        amount: For the ledger. Nothing at all: the reservation is given back.
        usage: Its tokens, flagged where they are ours and not the provider's.
        cost_nanousd: Its money; None where the price is not known.
        is_over: Whether it used more than was reserved for it.
    """

    amount: Amount
    usage: Usage
    cost_nanousd: int | None
    is_over: bool = False


MOST_TOKENS = 100_000_000  # of one call; no model takes or gives as many
NO_BOUND = Bound(prompt_tokens=0, completion_tokens=0, amount=NOTHING)  # nobody reckons with it


def bound_of(
    prompt_tokens: int, completion_tokens: int, price: Price | None, time_ms: int
) -> Bound:
    """The bound of a call of this size."""
    money = 0 if price is None else price.worst_nanousd(prompt_tokens, completion_tokens)
    tokens = prompt_tokens + completion_tokens
    return Bound(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        amount=Amount(money_nanousd=money, tokens=tokens, calls=1, time_ms=time_ms),
    )


def paid_before(usage: Usage, cost_nanousd: int | None) -> Posting:
    """An answer that no call was made for now."""
    return Posting(amount=NOTHING, usage=usage, cost_nanousd=cost_nanousd)


def finished(bound: Bound, usage: Usage, price: Price | None, elapsed_ms: int) -> Posting:
    """A whole answer: what the provider reports."""
    return _posting(bound, usage, price, elapsed_ms)


def unfinished(
    bound: Bound,
    error: BaseException,
    counted: Usage | None,
    price: Price | None,
    elapsed_ms: int,
) -> Posting:
    """A call that failed or was cancelled.

    A refusal costs nothing, nor does what was never sent. What was received is counted. Where
    nobody knows whether the provider charges, the whole reservation is posted: a budget may be
    left unused, and is never overspent.

    Args:
        bound: What was reserved.
        error: What ended the call.
        counted: What is known of its tokens: reported before it failed, or counted from the
            content that came; None if nothing is.
        price: What tokens cost.
        elapsed_ms: How long it lasted.
    """
    if counted is not None:
        return _posting(bound, counted, price, elapsed_ms)
    if isinstance(error, ProviderError) and not error.maybe_billed:
        was_sent = not isinstance(error, ConnectionFailed)
        amount = Amount(calls=1, time_ms=elapsed_ms) if was_sent else NOTHING
        return Posting(amount=amount, usage=Usage(), cost_nanousd=0)
    usage = Usage(
        prompt_tokens=bound.prompt_tokens,
        completion_tokens=bound.completion_tokens,
        estimated=True,
    )
    cost = None if price is None else bound.amount.money_nanousd
    amount = Amount(
        money_nanousd=bound.amount.money_nanousd,
        tokens=usage.total_tokens,
        calls=1,
        time_ms=elapsed_ms,
    )
    return Posting(amount=amount, usage=usage, cost_nanousd=cost)


def _posting(bound: Bound, usage: Usage, price: Price | None, elapsed_ms: int) -> Posting:
    cost = None if price is None else price.cost_nanousd(usage)
    amount = Amount(money_nanousd=cost or 0, tokens=usage.total_tokens, calls=1, time_ms=elapsed_ms)
    reserved = bound.amount
    return Posting(
        amount=amount,
        usage=usage,
        cost_nanousd=cost,
        is_over=bound is not NO_BOUND
        and (amount.money_nanousd > reserved.money_nanousd or amount.tokens > reserved.tokens),
    )


def is_credible(usage: Usage, *, has_content: bool = False) -> bool:
    """Whether every figure is one that a call can come to, true or not."""
    if has_content and not (usage.prompt_tokens and usage.completion_tokens):
        return False
    figures = (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.billed_prompt_tokens or 0,
        usage.billed_completion_tokens or 0,
    )
    return all(0 <= figure <= MOST_TOKENS for figure in figures)


def at_least(counted: Usage, reported: Usage) -> Usage:
    """What was counted, and no less of anything than was reported."""
    return replace(
        reported,
        prompt_tokens=max(counted.prompt_tokens, reported.prompt_tokens),
        completion_tokens=max(counted.completion_tokens, reported.completion_tokens),
        billed_prompt_tokens=None,
        billed_completion_tokens=None,
        estimated=True,
    )


def lowered(
    bound: Bound, price: Price | None, dimension: Dimension, left: int, *, least: int
) -> int | None:
    """How long an answer may be so that a call fits into what is left; None if it cannot.

    Args:
        bound: What did not fit.
        price: What tokens cost.
        dimension: The limit that it is over. Only money and tokens depend on the length.
        left: What is left of that.
        least: A shorter answer than so many tokens is not worth asking for.
    """
    if dimension == "tokens":
        longest = left - bound.prompt_tokens
    elif dimension == "money_nanousd" and price is not None:
        longest = _longest(bound, price, left)
    else:
        return None
    return longest if least <= longest < bound.completion_tokens else None


def _longest(bound: Bound, price: Price, left_nanousd: int) -> int:
    """The most tokens of answer that this money pays for. Prices only rise with the length."""
    low, high = -1, bound.completion_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if price.worst_nanousd(bound.prompt_tokens, middle) <= left_nanousd:
            low = middle
        else:
            high = middle - 1
    return low
