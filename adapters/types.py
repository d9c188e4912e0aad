"""The values that cross the adapter boundary: a request in, a completion (or its chunks) out."""

from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Vector = tuple[float, ...] | str
Message = Mapping[str, Any]  # OpenAI's own shape; the wire is the one place where Any is honest
Logprob = dict[str, Any]  # OpenAI's shape again: token, logprob, bytes, top_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """One question to one model, in OpenAI's own shapes and names.

    `None` means "not given": the provider's default applies. `extra` holds further fields from
    the closed list `BaseAdapter.extra_fields`; any other name is refused, never forwarded.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to be turned into vectors; of OpenAI's own models, lists of tokens as well.

    `None` means "not given": the model's own number of dimensions applies.
    """

    inputs: Sequence[str] | Sequence[Sequence[int]]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether an input is a list of tokens."""
        return any(not isinstance(one, str) for one in self.inputs)


Request = CompletionRequest | EmbeddingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long one call may take and how much it may send back. Seconds are wall-clock time.

    The clocks count *content*, never bytes: keep-alive comments reset none of them.
    """

    connect_s: float = 5.0  # DNS, TCP and TLS
    first_content_s: float = 15.0  # request sent -> first text, reasoning or tool call (streams)
    gap_s: float = 15.0  # between two pieces of content (streams)
    total_s: float = 120.0  # the whole call
    event_bytes: int = 8 * 2**20  # one event of a stream
    body_bytes: int = 32 * 2**20  # a whole answer, plain or streamed
    events: int = 500_000  # events in one stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call. `estimated` is set when a figure is ours and not the provider's.

    `billed_*` are what the provider charges, where that differs from what it counts: Cohere counts
    a preamble of its own and does not charge for it.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # part of prompt_tokens read from the provider's cache
    cache_write_tokens: int = 0  # part of prompt_tokens written to it
    reasoning_tokens: int = 0  # part of completion_tokens spent on thinking
    billed_prompt_tokens: int | None = None
    billed_completion_tokens: int | None = None
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            billed_prompt_tokens=_sum(
                (self.billed_prompt_tokens, self.prompt_tokens),
                (other.billed_prompt_tokens, other.prompt_tokens),
            ),
            billed_completion_tokens=_sum(
                (self.billed_completion_tokens, self.completion_tokens),
                (other.billed_completion_tokens, other.completion_tokens),
            ),
            estimated=self.estimated or other.estimated,
        )


def _sum(*counts: tuple[int | None, int]) -> int | None:
    """The sum of what is billed, or else counted; None where all that is counted is billed."""
    if all(billed is None for billed, _ in counts):
        return None
    return sum(counted if billed is None else billed for billed, counted in counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A finished tool call. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of the tool call at `index`; `arguments` pieces are concatenated."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a streamed completion. The last one carries `finish_reason` and `usage`.

    `logprobs` are of the tokens that have come, where they were asked for.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None
    logprobs: tuple[Logprob, ...] = ()
    stop_sequence: str | None = None  # comes with `finish_reason`

    @property
    def has_content(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One model's whole answer. `model` is the name the provider answered under.

    `logprobs` are those of its tokens, if they were asked for and the provider has told them.
    `stop_sequence` is which of the request's own ended it, where the provider says so.
    """

    text: str
    finish_reason: FinishReason
    model: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    logprobs: tuple[Logprob, ...] = ()
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector for each input, in their order, all of one length.

    A vector is its numbers, or, where that was asked for, the base64 of little-endian 32-bit
    floats. `model` is the name the provider answered under.
    """

    vectors: tuple[Vector, ...]
    model: str
    usage: Usage = Usage()


async def collect(chunks: AsyncIterable[Chunk]) -> Completion:
    """Fold a stream into the completion that `BaseAdapter.complete` would have returned.

    Raises whatever the stream raises; a stream of an adapter never ends quietly without a
    finish reason, so one that does (a hand-made one) is refused with `ValueError`.
    """
    fold = CompletionFold()
    async for chunk in chunks:
        fold.add(chunk)
    return fold.completion()


def in_one_chunk(completion: Completion) -> Chunk:
    """A whole completion as the one chunk of a stream whose fold it is."""
    calls = tuple(
        ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)
        for index, call in enumerate(completion.tool_calls)
    )
    return Chunk(
        text=completion.text,
        reasoning=completion.reasoning,
        tool_calls=calls,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        model=completion.model,
        logprobs=completion.logprobs,
        stop_sequence=completion.stop_sequence,
    )


class CompletionFold:
    """Accumulates chunks; `completion()` is what they amount to."""

    __slots__ = (
        "_finish_reason",
        "_logprobs",
        "_model",
        "_reasoning",
        "_stop_sequence",
        "_text",
        "_tools",
        "_usage",
    )

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: dict[int, tuple[str, str, list[str]]] = {}
        self._logprobs: list[Logprob] = []
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._model: str | None = None
        self._stop_sequence: str | None = None

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        if chunk.logprobs:
            self._logprobs += chunk.logprobs
        for delta in chunk.tool_calls:
            call_id, name, pieces = self._tools.get(delta.index, ("", "", []))
            pieces.append(delta.arguments)
            self._tools[delta.index] = (call_id or delta.id or "", name or delta.name or "", pieces)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._usage = chunk.usage or self._usage
        self._model = self._model or chunk.model
        self._stop_sequence = chunk.stop_sequence or self._stop_sequence

    @property
    def has_content(self) -> bool:
        return bool(self._text or self._reasoning or self._tools)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(id=call_id, name=name, arguments="".join(pieces))
            for _, (call_id, name, pieces) in sorted(self._tools.items())
        )

    @property
    def logprobs(self) -> tuple[Logprob, ...]:
        return tuple(self._logprobs)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._finish_reason

    @property
    def stop_sequence(self) -> str | None:
        return self._stop_sequence

    @property
    def usage(self) -> Usage | None:
        return self._usage

    @property
    def model(self) -> str | None:
        return self._model

    def completion(self) -> Completion:
        if self._finish_reason is None:
            raise ValueError("the stream ended without a finish reason")
        return Completion(
            text=self.text,
            reasoning=self.reasoning,
            tool_calls=self.tool_calls,
            finish_reason=self._finish_reason,
            usage=self._usage or Usage(estimated=True),
            model=self._model or "",
            logprobs=self.logprobs,
            stop_sequence=self._stop_sequence,
        )
