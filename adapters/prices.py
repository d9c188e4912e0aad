"""What calls cost: the price list that comes with litellm, read as data, and the operator's prices.

The list is read once and never changes again, whatever happens to litellm's own copy of it. Rates
are integers of pico-dollars a token, so a sum is exact; a call is rounded up once, to nano-dollars.
Where something about a price is uncertain, the dearer reading counts; where nothing is known there
is no price.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal

import orjson

from adapters import _litellm
from adapters.config import LLMProvider, ModelConfig, PriceConfig
from adapters.types import CompletionRequest, EmbeddingRequest, Request, Usage

PICO = 10**12  # pico-dollars in a dollar
PICO_IN_NANO = 1_000
_PER_MILLION = PICO // 10**6  # pico-dollars a token in a dollar per million tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What tokens cost in pico-dollars, in a call whose prompt is longer than `above_tokens`.

    `input_max` is the most that a token of the prompt can cost, however it is billed.
    """

    above_tokens: int = 0
    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    input_max: int

    def cost_pico(self, usage: Usage) -> int:
        prompt, completion = _billed(usage)
        cached = written = 0
        if usage.billed_prompt_tokens is None:  # else those are counted in other units
            cached = min(max(usage.cached_tokens, 0), prompt)
            written = min(max(usage.cache_write_tokens, 0), prompt - cached)
        thought = min(max(usage.reasoning_tokens, 0), completion)
        return (
            (prompt - cached - written) * self.input
            + cached * self.cached
            + written * self.cache_write
            + (completion - thought) * self.output
            + thought * self.reasoning
        )


_PER_TOKEN = ("input", "cached", "cache_write", "output", "reasoning", "input_max")
Schedule = tuple[Rates, ...]  # of one model, by the length of the prompt, the shortest first


@dataclass(frozen=True, slots=True)
class Price:
    """What calls of one deployment cost.

    More than one schedule stands for a call that may be billed by any of them: the dearest counts.
    """

    schedules: tuple[Schedule, ...]
    call_pico: int = 0  # for every call, whatever its tokens

    def cost_nanousd(self, usage: Usage) -> int:
        """The cost of a call that used these tokens, rounded up."""
        prompt, _ = _billed(usage)
        costs = (_reached(schedule, prompt)[-1].cost_pico(usage) for schedule in self.schedules)
        return _to_nano(max(costs) + self.call_pico)

    def worst_nanousd(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The most that a call of no more than these tokens can cost, however they are billed."""
        prompt, completion = max(prompt_tokens, 0), max(completion_tokens, 0)
        costs = (
            prompt * max(rates.input_max for rates in reached)
            + completion * max(max(rates.output, rates.reasoning) for rates in reached)
            for reached in (_reached(schedule, prompt) for schedule in self.schedules)
        )
        return _to_nano(max(costs) + self.call_pico)

    def halved(self) -> "Price":
        """The price of the same call in a provider's batch; halves of a pico-dollar go up."""
        schedules = tuple(
            tuple(
                replace(rates, **{name: -(-getattr(rates, name) // 2) for name in _PER_TOKEN})
                for rates in schedule
            )
            for schedule in self.schedules
        )
        return Price(schedules, -(-self.call_pico // 2))

    def or_dearer(self, other: "Price") -> "Price":
        """The price of a call that may be billed by this one or by the other."""
        return Price(self.schedules + other.schedules, max(self.call_pico, other.call_pico))


def _billed(usage: Usage) -> tuple[int, int]:
    """Prompt and completion tokens that are charged."""
    prompt, completion = usage.billed_prompt_tokens, usage.billed_completion_tokens
    return (
        max(usage.prompt_tokens if prompt is None else prompt, 0),
        max(usage.completion_tokens if completion is None else completion, 0),
    )


def _reached(schedule: Schedule, prompt_tokens: int) -> Schedule:
    """The rates that hold up to a prompt of this length; the last ones hold for it."""
    return tuple(
        rates for rates in schedule if rates.above_tokens < prompt_tokens or not rates.above_tokens
    )


def _to_nano(pico: int) -> int:
    return -(-pico // PICO_IN_NANO)


_NOTHING = Rates(input=0, cached=0, cache_write=0, output=0, reasoning=0, input_max=0)
FREE = Price(((_NOTHING,),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much fits into a model's window, and into one answer; None where nobody says."""

    context_tokens: int | None = None
    max_output_tokens: int | None = None


def price_of(
    config: ModelConfig, *, answered_as: str = "", request: Request | None = None
) -> Price | None:
    """The price of a deployment; None where it is not known.

    What the configuration says comes first, then the list price of the model.

    Args:
        config: The deployment.
        answered_as: The model the provider says it answered as. When it is another one, the dearer
            of the two counts.
        request: What is asked; without one, any completion. Some requests cost more than others: a
            dearer tier of service, sound, a long-lived cache; and what tools that the provider runs
            itself will cost, no list says.
    """
    price = _live_price_of(config, answered_as=answered_as, request=request)
    return price.halved() if price is not None and config.is_batched else price


def _live_price_of(
    config: ModelConfig, *, answered_as: str, request: Request | None
) -> Price | None:
    """The price of a call that is answered at once."""
    if config.price == "free":
        return FREE
    if config.price is not None:
        return _own_price(config.price)
    if isinstance(request, EmbeddingRequest):
        find = partial(_list_price_of_embedding, config.provider)
    else:
        find = partial(_list_price, config.provider, wishes=wishes_of(request, config.provider))
    listed = find(config.model)
    if not answered_as or answered_as == config.model:
        return listed
    other = find(answered_as)
    if listed is None or other is None:
        return listed or other
    return listed.or_dearer(other)


def capacity_of(config: ModelConfig) -> Capacity:
    """What fits into a deployment's window and answers: the configuration's word, then the list."""
    row = _row(config.provider, config.model) or {}
    return Capacity(
        context_tokens=config.context_tokens or _whole(row.get("max_input_tokens")),
        max_output_tokens=_whole(row.get("max_output_tokens")),
    )


@lru_cache(maxsize=256)
def _own_price(price: PriceConfig) -> Price:
    """The operator's price. What it does not say costs as much as the rest."""
    asked, answered = _configured(price.input_usd), _configured(price.output_usd)
    cached, written, thought = (
        default if given is None else _configured(given)
        for given, default in (
            (price.cached_input_usd, asked),
            (price.cache_write_usd, asked),
            (price.reasoning_usd, answered),
        )
    )
    rates = Rates(
        input=asked,
        cached=cached,
        cache_write=written,
        output=answered,
        reasoning=thought,
        input_max=max(asked, cached, written),
    )
    return Price(((rates,),))


def _configured(usd_per_million: Decimal) -> int:
    """Pico-dollars a token. Digits finer than that are rounded up."""
    return int((usd_per_million * _PER_MILLION).to_integral_value(rounding=ROUND_CEILING))


# What a request asks for that changes its price.

Caching = Literal["none", "short", "long", "unknown"]
_STANDARD = frozenset(("", "auto", "default", "standard", "standard_only", "flex"))  # or cheaper
_OWN_TOOLS = frozenset(("function", "custom"))  # the caller runs them; others the provider does
_SILENT = ("data:image/", "data:application/pdf", "data:text/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What of a request changes the price of its tokens."""

    tier: str = ""
    sound: bool = False
    caching: Caching = "unknown"
    provider_tools: bool = False


def wishes_of(request: CompletionRequest | None, provider: LLMProvider) -> Wishes:
    """What of a request changes the price of its tokens; without one, what is usual."""
    if request is None:
        return Wishes()
    tier = str(request.extra.get("service_tier") or "").lower() if request.extra else ""
    return Wishes(
        tier="" if tier in _STANDARD else tier,
        sound=any(_may_sound(part) for part in _parts(request)),
        caching=_caching(request) if provider is LLMProvider.ANTHROPIC else "unknown",
        provider_tools=any(
            tool.get("type", "function") not in _OWN_TOOLS for tool in request.tools or ()
        ),
    )


def _parts(request: CompletionRequest) -> Iterator[Any]:
    for message in request.messages:
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            yield from content if isinstance(content, Iterable) else ()


def _may_sound(part: Any) -> bool:
    """Whether a part of a message may hold sound, which some models charge more for."""
    if not isinstance(part, Mapping) or part.get("type") == "text":
        return False
    place = part.get(str(part.get("type")))
    place = place if isinstance(place, Mapping) else {"url": place}
    source = str(place.get("url") or place.get("file_data") or "")
    return not source.startswith(_SILENT)


def _caching(request: CompletionRequest) -> Caching:
    """Whether a request writes to Anthropic's cache, and for how long."""
    found: Caching = "none"
    rest: list[Any] = [*_parts(request), *(request.tools or ())]
    rest.extend(m["cache_control"] for m in request.messages if "cache_control" in m)
    while rest:
        value = rest.pop()
        if isinstance(value, Mapping):
            if value.get("ttl") == "1h":
                return "long"
            if "cache_control" in value or value.get("type") == "ephemeral":
                found = "short"
            rest.extend(value.values())
        elif isinstance(value, (list, tuple)):
            rest.extend(value)
    return found


# The list.

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Listing:
    """Where a provider's models stand in the list: before their names, and as whose."""

    prefixes: tuple[str, ...]
    owners: tuple[str, ...]


_LISTINGS = {
    LLMProvider.OPENAI: _Listing(("",), ("openai",)),
    LLMProvider.ANTHROPIC: _Listing(("",), ("anthropic",)),
    LLMProvider.GOOGLE: _Listing(("gemini/", ""), ("gemini",)),
    LLMProvider.COHERE: _Listing(("", "cohere/"), ("cohere_chat", "cohere")),
    LLMProvider.MISTRAL: _Listing(("mistral/", ""), ("mistral",)),
}
_CHAT = frozenset(("chat", "responses", "completion"))
_EMBEDDING = frozenset(("embedding",))


@cache
def _rows(modes: frozenset[str] = _CHAT) -> Mapping[str, Row]:
    """The rows of the list that price a chat, or embeddings, with one of our providers."""
    owners = {owner for listing in _LISTINGS.values() for owner in listing.owners}
    return MappingProxyType(
        {
            name: MappingProxyType(row)
            for name, row in orjson.loads(_litellm.read_price_list()).items()
            if row.get("litellm_provider") in owners and row.get("mode") in modes
        }
    )


def _row(
    provider: LLMProvider, model: str, rows: Callable[[], Mapping[str, Row]] = _rows
) -> Row | None:
    """The row of a model, under one of its names."""
    listing = _LISTINGS.get(provider)
    if listing is None:
        return None
    found = (rows().get(prefix + name) for name in _names(model) for prefix in listing.prefixes)
    return next((row for row in found if row and row["litellm_provider"] in listing.owners), None)


_SNAPSHOT = re.compile(r"-(?:\d{4}-\d\d-\d\d|\d{8}|00\d)$")  # 2025-08-07, 20251001, 001


def _names(model: str) -> Iterator[str]:
    """The names a model may have in the list, the likeliest first.

    A dated snapshot costs what the model costs of which it is one, and so does the latest. Four
    digits are no date here: Mistral's `-2402` and `-2603` are different models.
    """
    name = model.removeprefix("models/")
    yield name
    if name.startswith("ft:"):  # ft:model:organisation:suffix:id
        yield ":".join(name.split(":")[:2])
    yield _SNAPSHOT.sub("", name)
    yield name.removesuffix("-latest")
    if not name[-1:].isdigit():
        yield f"{name}-latest"


@lru_cache(maxsize=1024)
def _list_price(provider: LLMProvider, model: str, wishes: Wishes) -> Price | None:
    row = _row(provider, model)
    if row is None or wishes.provider_tools:
        return None
    always_caches = provider is not LLMProvider.ANTHROPIC
    above = sorted({int(found[1]) for key in row if (found := _ABOVE.fullmatch(key))})
    suffixes = [
        (0, ""),
        *((thousands * 1000, f"_above_{thousands}k_tokens") for thousands in above),
    ]
    schedule: list[Rates] = []
    for tokens, suffix in suffixes:
        rates = _rates(row, tokens, suffix, wishes, always_caches=always_caches)
        if rates is None:
            return None
        schedule.append(rates)
    return Price((tuple(schedule),), _call_pico(model, row))


@lru_cache(maxsize=1024)
def _list_price_of_embedding(provider: LLMProvider, model: str) -> Price | None:
    """What the tokens of texts cost that are embedded; there are no others."""
    row = _row(provider, model, partial(_rows, _EMBEDDING))
    asked = None if row is None else _pico(row.get("input_cost_per_token"))
    if asked is None:
        return None
    rates = replace(_NOTHING, input=asked, cached=asked, cache_write=asked, input_max=asked)
    return Price(((rates,),))


_ABOVE = re.compile(r"(?:input|output)_cost_per_token_above_(\d+)k_tokens")


def _rates(
    row: Row, above_tokens: int, suffix: str, wishes: Wishes, *, always_caches: bool
) -> Rates | None:
    """One schedule's rates; None where a token's price is missing, zero or no number."""

    def rate(name: str, default: int | None) -> int | None:
        standard = _pico(row.get(name + suffix))
        if not wishes.tier:
            return standard or default
        dearer = _pico(row.get(f"{name}{suffix}_{wishes.tier}"))
        return max(dearer, standard or 0) if dearer else default

    asked, answered = rate("input_cost_per_token", None), rate("output_cost_per_token", None)
    if asked is None or answered is None:
        return None
    if wishes.sound:
        asked = max(asked, _sound_pico(row))
    cached = asked if wishes.sound else rate("cache_read_input_token_cost", asked) or asked
    short = rate("cache_creation_input_token_cost", asked) or asked
    long = rate("cache_creation_input_token_cost_above_1hr", short) or short
    written = max(short, long) if wishes.caching == "long" else short
    if wishes.caching == "unknown":
        written_max = short if always_caches else max(short, long)
    else:
        written_max = asked if wishes.caching == "none" else written
    return Rates(
        above_tokens=above_tokens,
        input=asked,
        cached=cached,
        cache_write=written,
        output=answered,
        reasoning=rate("output_cost_per_reasoning_token", answered) or answered,
        input_max=max(asked, cached, written_max),
    )


def _sound_pico(row: Row) -> int:
    """The most that a token of sound costs."""
    prices = (row[name] for name in row if name.startswith("input_cost_per_audio_token"))
    return max((_pico(price) or 0 for price in prices), default=0)


def _call_pico(model: str, row: Row) -> int:
    """What a call costs besides its tokens: some models search the web in every one."""
    searching = row.get("search_context_cost_per_query") if "search" in model else None
    prices = searching.values() if isinstance(searching, Mapping) else ()
    return max(_pico(price) or 0 for price in (*prices, row.get("input_cost_per_request")))


def _pico(usd: Any) -> int | None:
    """Pico-dollars of a price in the list, rounded up; None for what is no price: 0, NaN, text."""
    if isinstance(usd, bool) or not isinstance(usd, (int, float)):
        return None
    if not (math.isfinite(usd) and usd > 0):
        return None
    return int((Decimal(repr(usd)) * PICO).to_integral_value(rounding=ROUND_CEILING))


def _whole(tokens: Any) -> int | None:
    return tokens if isinstance(tokens, int) and tokens > 0 else None
