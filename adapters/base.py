"""BaseAdapter: what every adapter promises, and how little that is to build on."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from functools import cached_property
from typing import ClassVar, NoReturn

from adapters import _litellm
from adapters._bound import Allowances, bound_inputs, bound_prompt
from adapters.batches import BatchReply, BatchStatus
from adapters.config import ModelConfig
from adapters.errors import About, InvalidRequest
from adapters.prices import capacity_of
from adapters.types import (
    Chunk,
    Completion,
    CompletionFold,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Limits,
    Request,
    Usage,
)

IMAGE_TOKENS = 16_384  # of the models that see best; most need a tenth
UNSEEN_TOKENS = 1_048_576  # of a file that only the provider opens, where no window is known
UNDER_WAY_TOKENS = 16  # of an answer that was cancelled: written by then, and not seen here


class BaseAdapter(ABC):
    """Calls one deployment. Subclasses say how a provider differs, mostly in class attributes.

    Attributes:
        config: The deployment's configuration.
        deployment: Its configured name; it stands in every error.
        preamble_tokens: What the provider may count before the first message.
        has_batches: Whether its provider may have batches of its own.
    """

    preamble_tokens: ClassVar[int] = 128
    has_batches: ClassVar[bool] = False  # those of OpenAI's protocol
    extra_fields: ClassVar[frozenset[str]] = frozenset(
        (
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "n",
            "parallel_tool_calls",
            "presence_penalty",
            "safety_identifier",
            "service_tier",
            "thinking",
            "top_k",
            "top_logprobs",
            "user",
        )
    )

    def __init__(self, config: ModelConfig, *, deployment: str = "") -> None:
        self.config = config
        self.deployment = deployment

    @abstractmethod
    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        """The whole answer.

        Raises:
            ProviderError: one of its subclasses, by what a caller would do about it. An answer
                that is empty, cut or malformed is an error, never a completion.
        """

    @abstractmethod
    def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        """The answer as it is written; the last chunk carries `finish_reason` and `usage`.

        Consume it inside `contextlib.aclosing`: closing it closes the provider's connection.

        Raises:
            ProviderError: as `complete`; after the first text a break is `StreamBroken`, with the
                text so far as `partial_text`, or the provider's own error.
        """

    async def embed(self, request: EmbeddingRequest, *, limits: Limits = Limits()) -> Embeddings:
        """A vector for each input, in their order.

        Raises:
            InvalidRequest: the provider has no embeddings, or does not take tokens.
            ProviderError: as `complete`.
        """
        raise InvalidRequest(
            f"{self.config.provider.value} has no embeddings; ask a deployment of another provider",
            **self.named(),
        )

    async def write_body(self, request: CompletionRequest) -> bytes:
        """The body that `complete` would send, for a line of a batch. Makes no call.

        Raises:
            InvalidRequest: the request cannot be sent, or the provider has no batches here.
        """
        self._refuse_batches()

    async def read_reply(self, request: CompletionRequest, reply: BatchReply) -> Completion:
        """What `complete` would have made of this reply. Makes no call.

        Raises:
            ProviderError: as `complete`.
        """
        self._refuse_batches()

    async def submit_batch(self, lines: bytes, *, tag: str) -> BatchStatus:
        """Give the provider a batch of lines to answer within a day, at half the price.

        Args:
            lines: JSONL, as `write_line` writes it.
            tag: What `find_batch` finds it by, should nobody hear of its id.

        Raises:
            InvalidRequest: the provider has no batches, or refuses this one.
            ProviderError: as `complete`.
        """
        self._refuse_batches()

    async def find_batch(self, tag: str) -> BatchStatus | None:
        """The batch that was submitted with a tag, if there is one."""
        self._refuse_batches()

    async def poll_batch(self, batch_id: str) -> BatchStatus:
        """How a batch is getting on."""
        self._refuse_batches()

    async def collect_batch(self, status: BatchStatus) -> dict[str, BatchReply]:
        """What came of the lines of a batch that is over, by their ids."""
        self._refuse_batches()

    async def cancel_batch(self, batch_id: str) -> BatchStatus:
        """Have no more lines of a batch answered; those that are stay paid for."""
        self._refuse_batches()

    def _refuse_batches(self) -> NoReturn:
        raise InvalidRequest(
            f"{self.config.provider.value} has no batches that can be asked from here; openai has, "
            "and custom hosts that speak its protocol",
            **self.named(),
        )

    def is_available(self) -> bool:
        """Whether a call could be made: the key is there. Makes no call."""
        return True

    def is_warm(self, request: Request) -> bool:
        """Whether this call could begin at once; else it loads what it needs."""
        return True

    async def warm(self, request: Request) -> None:  # noqa: B027 - most load nothing
        """Load what this call needs, so that those seconds do not count as its own."""

    def count(self, request: Request, fold: CompletionFold) -> Usage:
        """The tokens of an answer that broke off: its prompt, and what had come of it.

        Both are our own count; what the provider had written and we have not seen is allowed for.
        Nothing is written where there was something to embed.
        """
        if isinstance(request, EmbeddingRequest):
            return Usage(prompt_tokens=count_inputs(request), estimated=True)
        calls = "".join(call.name + call.arguments for call in fold.tool_calls)
        written = _litellm.count_tokens(fold.text + fold.reasoning + calls)
        prompt = _litellm.count_tokens(prompt_text(request))
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=written + UNDER_WAY_TOKENS,
            estimated=True,
        )

    def estimate(self, request: CompletionRequest) -> Usage:
        """Tokens this call may use: the prompt, counted by us, and the most it may answer.

        `completion_tokens` is 0 where neither the request nor the configuration limits it.
        """
        return Usage(
            prompt_tokens=_litellm.count_tokens(prompt_text(request)),
            completion_tokens=request.max_tokens or self.config.max_tokens or 0,
            estimated=True,
        )

    def bound_prompt(self, request: Request, *, margin: float = 1.5) -> int:
        """The most prompt tokens that this call can be billed for. Cheap, whatever the length.

        A short text has no more tokens than bytes. A long one is sampled, counted by a tokenizer
        if that is loaded, and multiplied by `margin`: this allows for the model's own tokenizer,
        not for a text made to deceive the samples. Pictures, sound and files have allowances.
        """
        count = _litellm.count_tokens if _litellm.is_loaded("tokenizer") else None
        if isinstance(request, EmbeddingRequest):
            return bound_inputs(request.inputs, count=count, margin=margin)
        return bound_prompt(request, self._allowances, count=count, margin=margin)

    def image_tokens(self) -> int:
        """What the dearest picture comes to."""
        return IMAGE_TOKENS

    @cached_property
    def _allowances(self) -> Allowances:
        return Allowances(
            preamble=self.preamble_tokens,
            image=self.image_tokens(),
            unseen=capacity_of(self.config).context_tokens or UNSEEN_TOKENS,
        )

    async def generate(self, prompt: str) -> str:
        """The answer to one prompt, as text."""
        request = CompletionRequest(messages=[{"role": "user", "content": prompt}])
        return (await self.complete(request)).text

    async def aclose(self) -> None:  # noqa: B027 - most have nothing to give up
        """Give up the connections of the running event loop."""

    def named(self) -> About:
        """Who this is, as the errors say it."""
        return About(provider=self.config.provider.value, deployment=self.deployment)


def count_inputs(request: EmbeddingRequest) -> int:
    """Our own count of the tokens to be embedded."""
    return sum(
        _litellm.count_tokens(one) if isinstance(one, str) else len(one) for one in request.inputs
    )


def prompt_text(request: CompletionRequest) -> str:
    """Everything the model reads as text; media are left out."""
    parts: list[str] = []
    for message in request.messages:
        content = message.get("content")
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, list):
            parts.extend(str(part.get("text", "")) for part in content if isinstance(part, dict))
        if message.get("tool_calls"):
            parts.append(json.dumps(message["tool_calls"], default=str))
    if request.tools:
        parts.append(json.dumps(list(request.tools), default=str))
    return "\n".join(parts)
