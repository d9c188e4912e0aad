"""BaseAdapter: one call to one deployment, within its limits, with an answer that can be trusted."""

import asyncio
import copy
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar, NoReturn

from adapters import _litellm, _read
from adapters._formats import WireFormat
from adapters._media import refused_url
from adapters._scrub import scrub
from adapters.config import MissingVariable, ModelConfig, first_set, resolve_references
from adapters.errors import (
    AuthenticationFailed,
    EmptyAnswer,
    InvalidRequest,
    MalformedResponse,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    StreamBroken,
)
from adapters.types import (
    Chunk,
    Completion,
    CompletionFold,
    CompletionRequest,
    FinishReason,
    Limits,
    ToolCall,
    Usage,
)

_STANDARD_FIELDS = (
    "tools",
    "tool_choice",
    "response_format",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "reasoning_effort",
)


class BaseAdapter(ABC):
    """Calls one deployment. Subclasses say how a provider differs, mostly in class attributes.

    Attributes:
        config: The deployment's configuration.
        deployment: Its configured name; it stands in every error.
    """

    extra_fields: ClassVar[frozenset[str]] = frozenset(
        (
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "n",
            "parallel_tool_calls",
            "presence_penalty",
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

    def is_available(self) -> bool:
        """Whether a call could be made: the key is there. Makes no call."""
        return True

    def estimate(self, request: CompletionRequest) -> Usage:
        """Tokens this call may use: the prompt, counted by us, and the most it may answer.

        `completion_tokens` is 0 where neither the request nor the configuration limits it.
        """
        return Usage(
            prompt_tokens=_litellm.count_tokens(self.config.model, _prompt_text(request)),
            completion_tokens=request.max_tokens or self.config.max_tokens or 0,
            estimated=True,
        )

    async def generate(self, prompt: str) -> str:
        """The answer to one prompt, as text."""
        request = CompletionRequest(messages=[{"role": "user", "content": prompt}])
        return (await self.complete(request)).text

    async def aclose(self) -> None:
        """Give up the connections of the running event loop."""

    def named(self) -> dict[str, str]:
        """Who this is, as the errors say it."""
        return {"provider": self.config.provider.value, "deployment": self.deployment}


class LiteLLMAdapter(BaseAdapter):
    """An adapter over litellm's completion call. The six providers are subclasses."""

    prefix: ClassVar[str]  # litellm's name for the provider
    wire: ClassVar[WireFormat]
    default_base: ClassVar[str]
    path: ClassVar[str] = ""  # what litellm wants behind the base
    key_variables: ClassVar[tuple[str, ...]] = ()
    clients: ClassVar[_litellm.Clients] = "handler"
    asks_for_usage: ClassVar[bool] = False  # streams carry usage only when asked
    unsupported: ClassVar[frozenset[str]] = frozenset()  # fields the provider does not know
    reads_events_itself: ClassVar[bool] = False  # streams: `read_event` instead of litellm

    def __init__(self, config: ModelConfig, *, deployment: str = "") -> None:
        super().__init__(config, deployment=deployment)
        self._connection: _litellm.Connection | None = None
        self._secret = ""

    def is_available(self) -> bool:
        try:
            return bool(self._api_key())
        except AuthenticationFailed:
            return False

    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        with self._scrubbed():
            fields = self._fields(request)
            await _litellm.load()
            async with self._call(limits, streamed=False) as call:
                async with _Clocks(self, limits).total():
                    response = await _litellm.complete(
                        call, self._connected(), self.clients, fields
                    )
                text, reasoning, tool_calls = self.read_answer(response, call.body or {})
                reported = _read.read_usage(self.read_usage(response, call.body or {}))
                usage = reported if call.usage_seen else None
                return self._checked(call, request, text, reasoning, tool_calls, usage)

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        fold = CompletionFold()
        with self._scrubbed(fold):
            fields = self._fields(request)
            if self.asks_for_usage:
                fields["stream_options"] = {"include_usage": True}
            await _litellm.load()
            async with self._call(limits, streamed=True) as call:
                clocks = _Clocks(self, limits)
                async with clocks.content():
                    source = await _litellm.open_stream(
                        call, self._connected(), self.clients, fields
                    )
                pieces = self._pieces(call, source, fields)
                async with aclosing(pieces):
                    async for chunk in clocks.watch(pieces):
                        fold.add(chunk)
                        if chunk.has_content:
                            yield _content_only(chunk, call.model)
                answer = self._checked(
                    call, request, fold.text, fold.reasoning, fold.tool_calls, fold.usage
                )
                yield Chunk(
                    finish_reason=answer.finish_reason, usage=answer.usage, model=answer.model
                )

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.aclose()

    # What a provider may do differently.

    def read_answer(
        self, response: Any, body: Mapping[str, Any]
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        """Text, reasoning and tool calls of a plain answer: litellm's reading of it."""
        return _read.read_message(response)

    def read_usage(self, response: Any, body: Mapping[str, Any]) -> Any:
        """The usage object of a plain answer."""
        return getattr(response, "usage", None)

    def read_event(self, event: Mapping[str, Any]) -> Chunk:
        """One event of a stream, for an adapter that reads its events itself."""
        raise NotImplementedError

    def provider_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A last change to what litellm is given."""
        return fields

    def fetches_media(self) -> bool:
        """Whether it is the provider's machines that fetch the media an URL points to."""
        return True

    # How a call is made.

    def _fields(self, request: CompletionRequest) -> dict[str, Any]:
        self._refuse_unknown(request)
        given = {
            name: value
            for name in _STANDARD_FIELDS
            if (value := getattr(request, name)) is not None and name not in self.unsupported
        }
        if "max_tokens" not in given and self.config.max_tokens is not None:
            given["max_tokens"] = self.config.max_tokens
        fields = {
            **copy.deepcopy(given),
            **copy.deepcopy(dict(request.extra)),
            "allowed_openai_params": sorted(given),  # the provider decides, not litellm's tables
            "model": f"{self.prefix}/{self.config.model}",
            "messages": copy.deepcopy(list(request.messages)),
            "api_key": self._api_key(),
            "api_base": self._api_base() + self.path,
        }
        return self.provider_fields(fields)

    def _refuse_unknown(self, request: CompletionRequest) -> None:
        for name in request.extra:
            if name not in self.extra_fields:
                known = ", ".join(sorted(self.extra_fields))
                self._refuse(f"unknown field {name!r} in extra; known: {known}")
        if request.extra.get("n", 1) != 1:
            self._refuse("n must be 1: a completion is one answer; ask several times for more")
        url = refused_url(
            request.messages, policy=self.config.media_urls, provider_fetches=self.fetches_media()
        )
        if url is not None:
            self._refuse(
                f"media at {url!r} would be fetched from this machine or is no https address;"
                " send a data: URL, or set media_urls: allow for this deployment"
            )

    def _refuse(self, message: str) -> NoReturn:
        raise InvalidRequest(message, **self.named())

    def _api_key(self) -> str:
        if self.config.api_key is not None:
            try:
                self._secret = resolve_references(self.config.api_key.get_secret_value())
            except MissingVariable as error:
                raise AuthenticationFailed(str(error), **self.named()) from None
        else:
            self._secret = first_set(self.key_variables) or self.fallback_key()
        return self._secret

    def fallback_key(self) -> str:
        """What to use where no key is configured."""
        names = " or ".join(self.key_variables)
        raise AuthenticationFailed(f"no key: set {names}, or api_key", **self.named())

    def _api_base(self) -> str:
        try:
            base = resolve_references(self.config.api_base or self.default_base)
        except MissingVariable as error:
            raise InvalidRequest(str(error), **self.named()) from None
        return base.rstrip("/")

    def _connected(self) -> _litellm.Connection:
        if self._connection is None:
            self._connection = _litellm.Connection(
                api_base=self._api_base() + self.path, api_key=self._secret
            )
        return self._connection

    @asynccontextmanager
    async def _call(self, limits: Limits, *, streamed: bool) -> Any:
        call = _litellm.Call(
            format=self.wire,
            limits=limits,
            inner=self._connected().pool(),
            streamed=streamed,
            about=self.named(),
            done_is_complete=self.config.done_without_finish == "complete",
            events=[] if self.reads_events_itself else None,
        )
        try:
            yield call
        finally:
            await call.aclose()

    async def _pieces(
        self, call: _litellm.Call, source: Any, fields: Mapping[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        """The stream's chunks, read by litellm or by `read_event`; broken streams raise."""
        try:
            async for piece in source:
                if call.events is None:
                    yield _read.read_chunk(piece)
                while call.events:
                    yield self.read_event(call.events.pop(0))
        except ProviderError:
            raise
        except Exception as error:
            raise _litellm.explain(call, error, fields) from None
        if call.failure is not None:
            raise call.failure

    def _checked(
        self,
        call: _litellm.Call,
        request: CompletionRequest,
        text: str,
        reasoning: str,
        tool_calls: tuple[ToolCall, ...],
        usage: Usage | None,
    ) -> Completion:
        """The completion, if it is one: whole, not empty, tool calls readable, usage believable."""
        finish = self._finish(call, text, tool_calls)
        if finish in ("stop", "tool_calls") and not (text.strip() or tool_calls):
            raise EmptyAnswer("the provider sent an answer with nothing in it", **self.named())
        if finish != "length":
            for tool_call in tool_calls:
                if not _read.is_json_object(tool_call.arguments):
                    message = f"the arguments of tool call {tool_call.name!r} are not a JSON object"
                    raise MalformedResponse(message, **self.named())

        def count() -> tuple[int, int]:
            written = text + reasoning + "".join(c.name + c.arguments for c in tool_calls)
            model = self.config.model
            prompt = _litellm.count_tokens(model, _prompt_text(request))
            return prompt, _litellm.count_tokens(model, written)

        answered = bool(text or tool_calls)
        return Completion(
            text=text,
            reasoning=reasoning,
            tool_calls=tool_calls,
            finish_reason=finish,
            model=call.model or self.config.model,
            usage=_read.believable(
                usage if call.usage_seen else None, answered=answered, count=count
            ),
        )

    def _finish(
        self, call: _litellm.Call, text: str, tool_calls: tuple[ToolCall, ...]
    ) -> FinishReason:
        if call.finish is None:
            message = "the answer has no finish reason, so it may be cut"
            raise StreamBroken(message, partial_text=text, **self.named())
        finish = _read.finish_reason(
            call.finish, has_tool_calls=bool(tool_calls), has_text=bool(text)
        )
        if finish is None:
            message = f"the provider broke the answer off: {call.finish!r}"
            raise ProviderUnavailable(message, status_code=502, **self.named())
        return finish

    def _scrubbed(self, fold: CompletionFold | None = None) -> "_Scrubbed":
        return _Scrubbed(self, fold)

    def secrets(self) -> tuple[str, ...]:
        """What no message may hold."""
        return (self._secret,)


class _Scrubbed:
    """Takes secrets out of any ProviderError that passes, and adds the text so far."""

    def __init__(self, adapter: LiteLLMAdapter, fold: CompletionFold | None) -> None:
        self._adapter = adapter
        self._fold = fold

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ProviderError):
            error.args = (scrub(str(error.args[0]), self._adapter.secrets()),)
            if isinstance(error, StreamBroken) and self._fold is not None:
                error.partial_text = self._fold.text


class _Clocks:
    """The limits of one call that count content: first content, gap, total."""

    def __init__(self, adapter: BaseAdapter, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._about = adapter.named()
        self._limits = limits
        now = self._loop.time()
        self._end = now + limits.total_s
        self._next_content = now + limits.first_content_s
        self._waiting_for = f"no content within {limits.first_content_s:g} s"

    def total(self) -> Any:
        """Bounds a plain call."""
        return self._bound(self._end)

    def content(self) -> Any:
        """Bounds one wait for content."""
        return self._bound(min(self._end, self._next_content))

    async def watch(self, pieces: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """The same pieces, or `ProviderTimeout` when content stays away. Empty ones do not count."""
        while True:
            async with self.content():
                try:
                    chunk = await anext(pieces)
                except StopAsyncIteration:
                    return
            yield chunk
            if chunk.has_content:  # counted from here: a slow reader is not the provider's fault
                self._next_content = self._loop.time() + self._limits.gap_s
                self._waiting_for = f"no more content for {self._limits.gap_s:g} s"

    @asynccontextmanager
    async def _bound(self, when: float) -> Any:
        scope = asyncio.timeout_at(when)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            late = self._loop.time() >= self._end
            message = f"not finished after {self._limits.total_s:g} s" if late else self._waiting_for
            raise ProviderTimeout(message, **self._about) from error


def _content_only(chunk: Chunk, model: str | None) -> Chunk:
    """The chunk without the usage, which comes once, checked, at the end."""
    return Chunk(
        text=chunk.text, reasoning=chunk.reasoning, tool_calls=chunk.tool_calls, model=model
    )


def _prompt_text(request: CompletionRequest) -> str:
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
