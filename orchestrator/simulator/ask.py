"""What a request asks for and what is answered, free of any wire format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any, Literal

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator.words import pieces_of

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "stop_sequence", "length", "tool_calls", "content_filter"]
ErrorKind = Literal[
    "bad_request",
    "context",
    "prefill",
    "filtered",
    "auth",
    "forbidden",
    "not_found",
    "too_large",
    "rate",
    "quota",
    "server",
    "bad_gateway",
    "unavailable",
    "overloaded",
]

IMAGE_TOKENS = 85
CACHE_FROM_TOKENS = 1024
CACHE_BLOCK_TOKENS = 128


class BadAsk(Exception):
    """The request breaks the protocol; the answer is the provider's own 400.

    Attributes:
        param: The field at fault, where there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation."""

    role: Role
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Embedding:
    """That what is said is to be turned into vectors, each turn into one.

    Attributes:
        dimensions: How many numbers each is to have.
        packed: Whether they are wanted as base64.
        tokens: How many tokens the turns are, where they came as such.
    """

    dimensions: int
    packed: bool = False
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A call the model makes."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is billed. Text where a number belongs is a fault that someone asked for."""

    prompt: int | str
    completion: int | str  # thinking included
    cached: int | str = 0
    reasoning: int | str = 0

    @property
    def total(self) -> int | str:
        if isinstance(self.prompt, str) or isinstance(self.completion, str):
            return f"{self.prompt}+{self.completion}"
        return self.prompt + self.completion

    @property
    def visible(self) -> int | str:
        """The completion without its thinking, as Gemini counts it."""
        if isinstance(self.completion, str) or isinstance(self.reasoning, str):
            return self.completion
        return self.completion - self.reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for a completion."""

    provider: LLMProvider
    model: str  # as asked for, directives included
    turns: tuple[Turn, ...]
    streamed: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # auto, none, required, or a tool's name
    parallel: bool = True
    json: bool = False
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    thinks: bool = False
    logprobs: int | None = None  # how many other tokens are told beside each; None: none is
    include_usage: bool = True
    api_version: str = ""
    embeds: Embedding | None = None

    @property
    def question(self) -> str:
        """The last thing the user said."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")

    @property
    def prefilled(self) -> bool:
        """Whether the caller began the answer itself."""
        return bool(self.turns) and self.turns[-1].role == "assistant"

    def prompt_tokens(self) -> int:
        """An estimate: four characters a token, a few for each message and image."""
        if self.embeds is not None:
            return self.embeds.tokens or sum(1 + len(turn.text) // 4 for turn in self.turns)
        characters = sum(len(turn.text) for turn in self.turns)
        images = sum(turn.images for turn in self.turns)
        tools = sum(len(orjson.dumps(tool.parameters)) + 40 for tool in self.tools)
        return 3 + 4 * len(self.turns) + (characters + tools) // 4 + images * IMAGE_TOKENS

    def conversation(self) -> bytes:
        """What was said so far, as a key."""
        return self._said_so_far().digest()

    def digest(self, *salt: str) -> bytes:
        """Everything that may change what is said, and nothing else: a stream says the same."""
        state = self._said_so_far()
        for tool in self.tools:
            state.update(f"{tool.name}\0".encode("utf-8", "replace"))
        if self.schema is not None:
            state.update(orjson.dumps(self.schema, option=orjson.OPT_SORT_KEYS))
        if self.embeds is not None:
            state.update(f"{self.embeds}\0".encode())
        for part in (self.tool_choice, self.json, self.thinks, self.temperature, self.seed, *salt):
            state.update(f"{part}\0".encode("utf-8", "replace"))
        return state.digest()

    def _said_so_far(self) -> blake2b:
        state = blake2b(digest_size=32)
        for turn in self.turns:
            state.update(f"{turn.role}\0{turn.images}\0{turn.text}\0".encode("utf-8", "replace"))
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the simulated model says to one `Ask`."""

    model: str  # the name it answers under
    nonce: str  # 64 hex digits; ids are made of it
    created: int
    text: str
    finish: Finish
    tokens: Tokens | None
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    stop_sequence: str | None = None
    cut_arguments: bool = False  # a fault: the last call's arguments end half-way
    no_content: Literal["", "null", "absent"] = ""  # a fault: an answer without any
    piece_chars: int | None = None  # a fault: pieces of this width, for texts without end
    begun: str = ""  # the text that this one is the rest of
    vectors: tuple[tuple[float, ...], ...] = ()  # where that is what was asked for
    quoted: int = 0  # how many of its last characters come once more, as the asker wants it

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed."""
        if self.piece_chars is not None:
            places = range(0, len(self.text), self.piece_chars)
            return [self.text[place : place + self.piece_chars] for place in places]
        return pieces_of(self.text, Random(self.nonce))

    @property
    def thoughts(self) -> list[str]:
        """The reasoning as it is streamed."""
        return pieces_of(self.reasoning, Random(self.nonce)) if self.reasoning else []

    def arguments(self, index: int) -> str:
        """The call's arguments as JSON text, cut if that is the fault."""
        text = orjson.dumps(self.calls[index].arguments).decode()
        if self.cut_arguments and index == len(self.calls) - 1:
            return text[: max(1, len(text) * 2 // 3)]
        return text

    def call_id(self, index: int, length: int = 24) -> str:
        """An id for the call, made of letters and digits."""
        return blake2b(f"{self.nonce}/{index}".encode(), digest_size=16).hexdigest()[:length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left of a rate limit, as the provider's headers tell it."""

    limit_requests: int = 10_000
    remaining_requests: int = 9_999
    reset_requests_s: float = 0.006
    limit_tokens: int = 30_000_000
    remaining_tokens: int = 29_999_000
    reset_tokens_s: float = 0.002
    retry_after_s: float | None = None  # set when the limit is reached
    which: Literal["requests", "tokens"] = "requests"


Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error in the provider's own words: status, headers of its own, body."""

    status: int
    body: dict[str, Any]
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """What an error is about; each wire format finds its own words for it."""

    kind: ErrorKind
    model: str = ""
    message: str = ""  # instead of the usual words
    param: str | None = None
    key: str = ""  # echoed back by providers that do so; never logged
    prompt_tokens: int = 0
    context_tokens: int = 0
    api_version: str = ""
    allowance: Allowance = field(default_factory=Allowance)
