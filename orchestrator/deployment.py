"""A configured model while it is in use: its adapter, and the state of every guard before it."""

from adapters.base import BaseAdapter
from adapters.config import ModelConfig
from adapters.factory import create_adapter
from adapters.prices import Capacity, Price, capacity_of, price_of
from adapters.types import CompletionRequest, EmbeddingRequest, Request, Usage
from orchestrator.attempts import retry_budget
from orchestrator.breaker import Breaker
from orchestrator.clock import Clock
from orchestrator.config import BreakerConfig, BudgetsConfig, RetryConfig
from orchestrator.limits import usual_limit
from orchestrator.pacing import Pace
from orchestrator.routing import Candidate, Latencies
from orchestrator.shared_windows import SharedWindows

_ENDPOINT = ("provider", "model", "api_base", "api_key")
USUAL_TOKENS = 500  # of an answer, to compare prices by


class Deployment:
    """One per name and orchestrator. The adapter is made when it is first called.

    Attributes:
        name: The configured name.
        config: The model behind it.
        breaker: Whether it may be called at all.
        pace: How fast.
        retries: How often again.
        latencies: Seconds to the first content of recent calls that were streamed.
        durations: Seconds that recent calls took that were not.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        adapter: BaseAdapter | None = None,
        *,
        clock: Clock,
        breaker: BreakerConfig,
        retry: RetryConfig,
        shared: SharedWindows | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.breaker = Breaker(breaker, clock, deployment=name)
        self.pace = Pace(config.rates, clock, deployment=name, shared=shared)
        self.retries = retry_budget(retry)
        self.latencies = Latencies()
        self.durations = Latencies()
        self._adapter = adapter

    def go_on_from(self, before: "Deployment", *, same_breaker: bool, same_retry: bool) -> None:
        """Begin with what is known of the same endpoint, as far as it is configured alike."""
        if same_breaker:
            self.breaker = before.breaker
        if same_retry:
            self.retries = before.retries
        if before.config.rates == self.config.rates:
            self.pace = before.pace
        self.latencies, self.durations = before.latencies, before.durations

    def leads_to(self, model: ModelConfig) -> bool:
        """Whether a call of another configuration goes to the same endpoint with the same key."""
        return all(getattr(self.config, name) == getattr(model, name) for name in _ENDPOINT)

    @property
    def adapter(self) -> BaseAdapter:
        if self._adapter is None:
            self._adapter = create_adapter(self.config, deployment=self.name)
        return self._adapter

    @property
    def capacity(self) -> Capacity:
        """How many tokens fit, as far as that is known."""
        return capacity_of(self.config)

    def price(self, request: Request, answered_as: str = "") -> Price | None:
        """What tokens of a request cost; the dearer where another model answers. None: unknown."""
        return price_of(self.config, answered_as=answered_as, request=request)

    def usual_limit(self, request: CompletionRequest, budgets: BudgetsConfig) -> int:
        """How long an answer may be where nobody has said: as the operator and the model allow."""
        capacity, prompt = self.capacity, 0
        if capacity.context_tokens is not None:
            prompt = self.adapter.bound_prompt(request, margin=budgets.margin)
        return usual_limit(budgets, capacity, prompt)

    def longest(self, request: Request, budgets: BudgetsConfig) -> int:
        """The most tokens that can come of a request. Vectors are not counted in tokens."""
        if isinstance(request, EmbeddingRequest):
            return 0
        asked = request.max_tokens or self.config.max_tokens
        return asked or self.capacity.max_output_tokens or budgets.max_tokens

    def times(self, *, is_live: bool) -> Latencies:
        """Seconds after which recent calls had something to give, streamed or in one piece."""
        return self.latencies if is_live else self.durations

    def candidate(self, priced: Request | None = None, *, is_live: bool = True) -> Candidate:
        """What a strategy sees of it; its price only where there is a request to reckon with."""
        return Candidate(
            name=self.name,
            price_nanousd=None if priced is None else self._usual_price(priced),
            first_content_s=self.times(is_live=is_live).quantile(0.5),
            in_flight=self.pace.in_flight,
            weight=self.config.weight,
            is_ready=self.breaker.is_ready,
        )

    def _usual_price(self, request: Request) -> int | None:
        """What a call would cost with an answer of usual length."""
        price = self.price(request)
        if price is None:
            return None
        prompt = self.adapter.bound_prompt(request)
        completion = 0
        if isinstance(request, CompletionRequest):
            completion = min(request.max_tokens or USUAL_TOKENS, USUAL_TOKENS)
        return price.cost_nanousd(Usage(prompt_tokens=prompt, completion_tokens=completion))

    async def aclose(self) -> None:
        if self._adapter is not None:
            await self._adapter.aclose()
