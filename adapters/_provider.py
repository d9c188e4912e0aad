"""How a provider is called through litellm: fields in, limits around, a checked answer out."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

from adapters import _formats, _litellm, _read
from adapters._bound import SHORT_BYTES
from adapters._call import Call, Ended
from adapters._clocks import Clocks
from adapters._embedding import EmbeddingFormat, believable_usage, read_vectors
from adapters._formats import Json
from adapters._media import refused_url
from adapters._scrub import scrub, secrets_in
from adapters._surrogates import Halves, dumps, whole
from adapters.base import BaseAdapter, count_inputs, prompt_text
from adapters.batches import (
    ENDPOINT,
    OBJECTS,
    TAG,
    BatchReply,
    BatchStatus,
    read_replies,
    read_status,
)
from adapters.config import MissingVariable, ModelConfig, first_set, resolve_references
from adapters.errors import (
    AuthenticationFailed,
    EmptyAnswer,
    InvalidRequest,
    MalformedResponse,
    ModelNotFound,
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
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    Limits,
    Logprob,
    Request,
    ToolCall,
)

_OF_FILES = Limits(total_s=1800.0, body_bytes=2**30)  # which are larger than any answer
_NO_SUCH_ADDRESS = frozenset((405, 410, 501))
_PAGE, _MOST_PAGES = 100, 50  # of a list of batches, the newest first
BYTES_A_CHARACTER = 4  # at most, in UTF-8
_OPENAI_TRANSLATED = frozenset(("tools", "tool_choice", "response_format", "max_tokens"))
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


def _parts_of(clients: _litellm.Clients) -> tuple[_litellm.Part, ...]:
    """What every call through these clients needs of litellm."""
    return ("sdk",) if clients == "sdk" else ()


class LiteLLMAdapter(BaseAdapter):
    """An adapter over litellm's calls. The six providers are subclasses."""

    prefix: ClassVar[str]  # litellm's name for the provider
    wire: ClassVar[_formats.WireFormat]
    default_base: ClassVar[str]
    path: ClassVar[str] = ""  # what litellm wants behind the base
    key_variables: ClassVar[tuple[str, ...]] = ()
    clients: ClassVar[_litellm.Clients] = "handler"
    asks_for_usage: ClassVar[bool] = False  # streams carry usage only when asked
    ignored: ClassVar[frozenset[str]] = frozenset()  # wishes this provider has no field for
    embeds_as: ClassVar[EmbeddingFormat | None] = None
    embedding_clients: ClassVar[_litellm.Clients] = "handler"
    reads_itself: ClassVar[bool] = False  # from the wire's JSON; litellm only sends the request

    def __init__(self, config: ModelConfig, *, deployment: str = "") -> None:
        super().__init__(config, deployment=deployment)
        self._connection: _litellm.Connection | None = None
        self._secrets: frozenset[str] = frozenset()  # whatever it was given so far

    def is_available(self) -> bool:
        try:
            return bool(self._api_key())
        except AuthenticationFailed:
            return False

    def is_warm(self, request: Request) -> bool:
        return _litellm.is_loaded(*self._parts(request))

    async def warm(self, request: Request) -> None:
        await _litellm.load(*self._parts(request))

    def _parts(self, request: Request) -> tuple[_litellm.Part, ...]:
        """What a call needs of litellm: a tokenizer only where bytes are too many for a bound."""
        if isinstance(request, EmbeddingRequest):
            clients, characters = self.embedding_clients, sum(map(len, request.inputs))
        else:
            clients, characters = self.clients, len(prompt_text(request))
        is_short = BYTES_A_CHARACTER * characters <= SHORT_BYTES
        return _parts_of(clients) if is_short else (*_parts_of(clients), "tokenizer")

    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        return await self._complete(request, limits)

    async def _complete(
        self, request: CompletionRequest, limits: Limits, *, inner: Any = None
    ) -> Completion:
        """One call over the deployment's connections, or over others."""
        with self._scrubbed():
            fields = self._fields(request)
            await _litellm.load(*_parts_of(self.clients))
            connection = self._connected()
            async with self._call(connection, limits, streamed=False, inner=inner) as call:
                async with Clocks(self.named(), limits).total():
                    response = await _litellm.complete(call, connection, self.clients, fields)
                try:
                    read = self.read_answer(response, call.body or {})
                    text, reasoning, tool_calls = whole(read[0]), whole(read[1]), read[2]
                    logprobs = self._logprobs(request, response, call)
                except Exception as error:  # noqa: BLE001 - whatever stands where text belongs
                    raise _litellm.explain(call, error, fields) from None
                answer = self._checked(call, request, text, reasoning, tool_calls)
                return replace(answer, logprobs=logprobs) if logprobs else answer

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        fold, with_logprobs = CompletionFold(), _wants_logprobs(request)
        with self._scrubbed(fold):
            fields = self._fields(request)
            if self.asks_for_usage:
                fields["stream_options"] = {"include_usage": True}
            await _litellm.load(*_parts_of(self.clients))
            connection = self._connected()
            async with self._call(connection, limits, streamed=True) as call:
                clocks = Clocks(self.named(), limits)
                async with clocks.content():
                    source = await _litellm.open_stream(call, connection, self.clients, fields)
                pieces = self._pieces(call, source, fields)
                async with aclosing(pieces):
                    try:
                        async with aclosing(clocks.watch(pieces)) as chunks:
                            async for chunk in chunks:
                                fold.add(chunk)
                                if chunk.has_content or (with_logprobs and chunk.logprobs):
                                    yield _content_only(
                                        chunk, self._answered_as(call), with_logprobs=with_logprobs
                                    )
                    except ProviderTimeout:
                        if call.finish is None:  # else only the connection's end is late
                            raise
                    except StreamBroken:
                        if call.ended and not fold.has_content:
                            self._fail_empty()
                        raise
                answer = self._checked(call, request, fold.text, fold.reasoning, fold.tool_calls)
                yield Chunk(
                    finish_reason=answer.finish_reason,
                    usage=answer.usage,
                    model=answer.model,
                    stop_sequence=answer.stop_sequence,
                )

    async def embed(self, request: EmbeddingRequest, *, limits: Limits = Limits()) -> Embeddings:
        if self.embeds_as is None:
            return await super().embed(request, limits=limits)
        with self._scrubbed():
            fields, content = self._embedding_fields(self.embeds_as, request)
            await _litellm.load(*_parts_of(self.embedding_clients))
            connection = self._connected()
            asking = self._call(
                connection, limits, streamed=False, wire=self.embeds_as.wire, content=content
            )
            async with asking as call:
                async with Clocks(self.named(), limits).total():
                    body = await _litellm.embed(call, connection, self.embedding_clients, fields)
                return self._embedded(self.embeds_as, call, request, body)

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.aclose()

    # What a provider may do differently.

    def read_answer(
        self, response: Any, body: Mapping[str, Any]
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        """Text, reasoning and tool calls of a plain answer, by default as litellm read it."""
        return _read.read_message(response)

    def read_logprobs(self, response: Any, body: Mapping[str, Any]) -> tuple[Logprob, ...]:
        """How probable the tokens of a plain answer were, by default as litellm read it."""
        return _read.read_logprobs(response)

    def reader(self) -> _read.Reader:
        """What turns the pieces of one stream into chunks: litellm's, or the provider's events."""
        return _read.Reader()

    def write_fields(self, given: dict[str, Any]) -> dict[str, Any]:
        """The request's fields as litellm is to be given them."""
        return given

    def fetches_media(self) -> bool:
        """Whether it is the provider's machines that fetch the media an URL points to."""
        return True

    # How a call is made.

    def _fields(self, request: CompletionRequest) -> dict[str, Any]:
        """What litellm is given: our own list of fields, and nothing that is not on it."""
        self._refuse_unknown(request)
        given = {
            name: value
            for name in _STANDARD_FIELDS
            if (value := getattr(request, name)) is not None
        }
        if self.config.max_tokens is not None:
            given.setdefault("max_tokens", self.config.max_tokens)
        extra = {name: value for name, value in request.extra.items() if value is not None}
        given = _plain({**given, **extra})
        for name in self.ignored | {"n"}:
            given.pop(name, None)
        try:
            written = self.write_fields(given)
        except (AttributeError, KeyError, TypeError) as error:
            message = "tools, tool_choice, response_format or thinking is not in its proper shape"
            raise InvalidRequest(message, **self.named()) from error
        return {
            **written,
            "model": f"{self.prefix}/{self.config.model}",
            "messages": _plain(request.messages),
            "api_key": self._api_key(),
            "api_base": self._api_base() + self.path,
        }

    def _embedding_fields(
        self, embeds_as: EmbeddingFormat, request: EmbeddingRequest
    ) -> tuple[dict[str, Any], bytes]:
        """What litellm is given to address a request with, and the request's own body."""
        if request.has_tokens and not embeds_as.takes_tokens:
            self._refuse("only openai takes tokens to embed; send the text itself")
        fields = {
            "model": f"{embeds_as.prefix}/{self.config.model}",
            "input": ["none"],  # what is really sent, it need not see
            "api_key": self._api_key(),
            "api_base": self._api_base() + embeds_as.path,
        }
        return fields, dumps(embeds_as.write(self.config.model, request))

    def _embedded(
        self, embeds_as: EmbeddingFormat, call: Call, request: EmbeddingRequest, body: Any
    ) -> Embeddings:
        """The vectors, if they are all there and can be true."""
        try:
            vectors = read_vectors(embeds_as.found(body), request)
        except ValueError as error:
            raise MalformedResponse(f"the provider sent {error}", **self.named()) from None
        except (AttributeError, KeyError, TypeError) as error:
            message = f"the answer could not be read ({type(error).__name__})"
            raise MalformedResponse(message, **self.named()) from None
        return Embeddings(
            vectors=vectors,
            model=self._answered_as(call) or self.config.model,
            usage=believable_usage(call.usage, lambda: count_inputs(request)),
        )

    def _refuse_unknown(self, request: CompletionRequest) -> None:
        for name in request.extra:
            if name not in self.extra_fields:
                known = ", ".join(sorted(self.extra_fields))
                self._refuse(f"unknown field {name!r} in extra; known: {known}")
        if request.extra.get("n") not in (None, 1):
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
        """The key as it is now; it is remembered, to be taken out of messages."""
        if self.config.api_key is not None:
            try:
                key = resolve_references(self.config.api_key.get_secret_value())
            except MissingVariable as error:
                raise AuthenticationFailed(str(error), **self.named()) from None
        else:
            key = first_set(self.key_variables) or ""
        self._secrets |= {key}
        if not (key.isascii() and key.isprintable()):
            message = "the key holds a character that no header can carry, perhaps a line end"
            raise AuthenticationFailed(message, **self.named())
        return key or self.fallback_key()

    def fallback_key(self) -> str:
        """What to use where no key is configured."""
        names = " or ".join(self.key_variables)
        raise AuthenticationFailed(f"no key: set {names}, or api_key", **self.named())

    def _api_base(self) -> str:
        written = self.config.api_base or self.default_base
        try:
            base = resolve_references(written)
        except MissingVariable as error:
            raise InvalidRequest(str(error), **self.named()) from None
        self._secrets |= secrets_in(base)
        if not _is_http(base):
            shown = written.rpartition("@")[2]
            self._refuse(f"api_base {shown!r} is not the address of a server: http(s)://host/...")
        return base.rstrip("/")

    def _connected(self) -> _litellm.Connection:
        """The connections to this base with this key; variables may have changed meanwhile."""
        base, key = self._api_base() + self.path, self._api_key()
        if self._connection is None or not self._connection.serves(base, key):
            self._connection = _litellm.Connection(api_base=base, api_key=key)
        return self._connection

    @asynccontextmanager
    async def _call(
        self,
        connection: _litellm.Connection,
        limits: Limits,
        *,
        streamed: bool,
        wire: _formats.WireFormat | None = None,
        content: bytes | None = None,
        inner: Any = None,
        wants_file: bool = False,
    ) -> AsyncIterator[Call]:
        call = Call(
            format=wire or self.wire,
            limits=limits,
            inner=inner or connection.pool(),
            streamed=streamed,
            about=self.named(),
            done_is_complete=self.config.done_without_finish == "complete",
            content=content,
            reads_itself=self.reads_itself or content is not None,
            wants_file=wants_file,
        )
        try:
            yield call
        except ProviderError as error:
            error.usage = call.usage
            if not call.requests:  # refused on our side
                error.maybe_billed = False
            raise
        finally:
            call.failure = None  # it leads in a circle, by where it was raised, to the call
            await call.aclose()

    async def _pieces(
        self, call: Call, source: Any, fields: Mapping[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        """The stream's chunks; a broken stream raises."""
        reader, join = self.reader(), _Joiner()
        try:
            async for piece in source:
                yield join.chunk(reader.read(piece))
            yield join.chunk(reader.end())
            yield join.end()
        except ProviderError:
            raise
        except (Exception, Ended) as error:  # noqa: BLE001 - litellm raises anything; explain() names it
            raise _litellm.explain(call, error, fields) from None
        if call.failure is not None:
            raise call.failure

    def _checked(
        self,
        call: Call,
        request: CompletionRequest,
        text: str,
        reasoning: str,
        tool_calls: tuple[ToolCall, ...],
    ) -> Completion:
        """The completion, if it is one: whole, not empty, tool calls readable, usage believable."""
        finish = self._finish(call, text, tool_calls)
        if finish in ("stop", "tool_calls") and not (text.strip() or tool_calls):
            self._fail_empty()
        if finish != "length":
            self._check_calls(tool_calls)

        written = text + "".join(call.name + call.arguments for call in tool_calls)

        def count() -> tuple[int, int]:
            prompt = _litellm.count_tokens(prompt_text(request))
            return prompt, _litellm.count_tokens(reasoning + written)

        return Completion(
            text=text,
            reasoning=reasoning,
            tool_calls=tool_calls,
            finish_reason=finish,
            model=self._answered_as(call) or self.config.model,
            usage=_read.believable(call.usage, written=written, count=count),
            stop_sequence=_stopped_by(request, call.stop_sequence) if finish == "stop" else None,
        )

    def _logprobs(
        self, request: CompletionRequest, response: Any, call: Call
    ) -> tuple[Logprob, ...]:
        """What was asked for: some hosts tell it unasked."""
        return self.read_logprobs(response, call.body or {}) if _wants_logprobs(request) else ()

    def _answered_as(self, call: Call) -> str | None:
        """The model that the provider says has answered; it is kept in receipts."""
        if call.model is None or call.model == self.config.model:
            return call.model
        return _shown(call.model, self._secrets)

    def _check_calls(self, tool_calls: tuple[ToolCall, ...]) -> None:
        for tool_call in tool_calls:
            if not tool_call.name:
                raise MalformedResponse("a tool call has no name", **self.named())
            if not _read.is_json_object(tool_call.arguments):
                message = f"the arguments of tool call {tool_call.name!r} are not a JSON object"
                raise MalformedResponse(message, **self.named())

    def _fail_empty(self) -> NoReturn:
        raise EmptyAnswer("the provider sent an answer with nothing in it", **self.named())

    def _finish(self, call: Call, text: str, tool_calls: tuple[ToolCall, ...]) -> FinishReason:
        if call.finish is None and not call.streamed:
            call.finish = "stop"  # a whole JSON body is a whole answer
        if call.finish is None:
            message = "the answer has no finish reason, so it may be cut"
            raise StreamBroken(message, partial_text=text, **self.named())
        finish = _read.finish_reason(
            call.finish, has_tool_calls=bool(tool_calls), has_text=bool(text)
        )
        if finish is None:
            message = f"the provider broke the answer off: {call.finish!r}"
            raise ProviderUnavailable(message, status_code=502, maybe_billed=True, **self.named())
        return finish

    @contextmanager
    def _scrubbed(self, fold: CompletionFold | None = None) -> Generator[None, None, None]:
        """Take the key out of any error that passes, and add what had come before it."""
        try:
            yield
        except ProviderError as error:
            error.args = (scrub(str(error.args[0]), self._secrets),)
            if fold is not None and fold.has_content:
                error.maybe_billed = True  # whatever it says of itself
            if isinstance(error, StreamBroken) and fold is not None:
                error.partial_text = fold.text
            raise


class OpenAILikeAdapter(LiteLLMAdapter):
    """What OpenAI itself and every compatible endpoint have in common."""

    prefix = "openai"
    wire = _formats.OPENAI
    clients: ClassVar[_litellm.Clients] = "sdk"
    asks_for_usage = True
    reads_itself = True  # they have our shape already, and two models of each cost the most
    has_batches = True

    def write_fields(self, given: dict[str, Any]) -> dict[str, Any]:
        """Sampling fields go into the body as they are: the provider judges them, not litellm."""
        translated = {name: given.pop(name) for name in _OPENAI_TRANSLATED & given.keys()}
        return {**translated, "extra_body": given} if given else translated

    def read_answer(
        self, response: Any, body: Mapping[str, Any]
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        """Read from the body, as streams are: litellm loses refusals."""
        text, reasoning, calls = _read.read_message(body)
        shown, thought = _read.split_thinking(text)
        return shown, reasoning + thought, calls

    def read_logprobs(self, response: Any, body: Mapping[str, Any]) -> tuple[Logprob, ...]:
        return _read.read_logprobs(body)

    def reader(self) -> _read.Reader:
        return _read.ThinkingReader()

    # Batches of the provider's own.

    async def write_body(self, request: CompletionRequest) -> bytes:
        """As litellm writes it for a call, up to where it would be sent."""
        with self._scrubbed():
            fields = self._fields(request)
            await _litellm.load(*_parts_of(self.clients))
            connection, recorder = self._connected(), _litellm.recorder()
            async with self._call(connection, Limits(), streamed=False, inner=recorder) as call:
                await _litellm.complete(call, connection, self.clients, fields)
            return bytes(recorder.content)

    async def read_reply(self, request: CompletionRequest, reply: BatchReply) -> Completion:
        inner = _litellm.replay(reply.status, reply.body)
        return await self._complete(request, Limits(), inner=inner)

    async def submit_batch(self, lines: bytes, *, tag: str) -> BatchStatus:
        file = (f"{tag}.jsonl", lines, "application/jsonl")
        try:
            uploaded = await self._ask_batches("upload", file=file, purpose="batch")
        except ProviderError as error:
            if not isinstance(error, ModelNotFound) and error.status_code not in _NO_SUCH_ADDRESS:
                raise
            self._refuse(
                f"its address has no files for batches ({error.status_code}: {error}); "
                "ask it row by row"
            )
        return read_status(
            await self._ask_batches(
                "submit",
                completion_window="24h",
                endpoint=ENDPOINT,
                input_file_id=str(uploaded["id"]),
                metadata={TAG: tag},
            )
        )

    async def find_batch(self, tag: str) -> BatchStatus | None:
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = await self._ask_batches("list", limit=_PAGE, **after)
            listed = [read_status(one) for one in page.get("data") or () if "id" in one]
            found = next((one for one in listed if one.tag == tag), None)
            if found is not None or not listed or not page.get("has_more"):
                return found
            after = {"after": listed[-1].id}
        return None

    async def poll_batch(self, batch_id: str) -> BatchStatus:
        return read_status(await self._ask_batches("poll", batch_id=batch_id))

    async def cancel_batch(self, batch_id: str) -> BatchStatus:
        return read_status(await self._ask_batches("cancel", batch_id=batch_id))

    async def collect_batch(self, status: BatchStatus) -> dict[str, BatchReply]:
        found: dict[str, BatchReply] = {}
        for file in reversed(status.files):  # an answer goes before an error
            try:
                found |= read_replies(await self._batch_file(file))
            except ValueError as error:
                message = f"the file {file} of a batch could not be read: {error}"
                raise MalformedResponse(message, **self.named()) from None
        return found

    async def _batch_file(self, file_id: str) -> bytes:
        with self._scrubbed():
            await _litellm.load("sdk")
            connection = self._connected()
            asking = self._call(
                connection, _OF_FILES, streamed=False, wire=OBJECTS, wants_file=True
            )
            async with asking as call, Clocks(self.named(), _OF_FILES).total():
                await _litellm.batch(call, connection, "collect", {"file_id": file_id})
                return call.file

    async def _ask_batches(self, action: _litellm.BatchAction, **fields: Any) -> Json:
        with self._scrubbed():
            await _litellm.load("sdk")
            connection = self._connected()
            asking = self._call(connection, _OF_FILES, streamed=False, wire=OBJECTS)
            async with asking as call, Clocks(self.named(), _OF_FILES).total():
                await _litellm.batch(call, connection, action, fields)
                return call.body or {}


_shown = lru_cache(maxsize=256)(scrub)  # a name comes with every piece of an answer


@lru_cache(maxsize=1024)
def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """The value in JSON's own containers, all of them new: litellm changes what it is given."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(inner) for inner in value]
    return value


class _Joiner:
    """Joins halves of characters across the chunks of one stream."""

    def __init__(self) -> None:
        self._text, self._reasoning = Halves(), Halves()

    def chunk(self, chunk: Chunk) -> Chunk:
        text, reasoning = self._text.feed(chunk.text), self._reasoning.feed(chunk.reasoning)
        if text is chunk.text and reasoning is chunk.reasoning:
            return chunk
        return replace(chunk, text=text, reasoning=reasoning)

    def end(self) -> Chunk:
        return Chunk(text=self._text.end(), reasoning=self._reasoning.end())


def _stopped_by(request: CompletionRequest, said: str | None) -> str | None:
    """What is said to have stopped the answer, if that was asked for."""
    wanted = [request.stop] if isinstance(request.stop, str) else request.stop or ()
    return said if said in wanted else None


def _wants_logprobs(request: CompletionRequest) -> bool:
    return bool(request.extra.get("logprobs"))


def _content_only(chunk: Chunk, model: str | None, *, with_logprobs: bool) -> Chunk:
    """The chunk without the usage, which comes once, checked, at the end."""
    return Chunk(
        text=chunk.text,
        reasoning=chunk.reasoning,
        tool_calls=chunk.tool_calls,
        model=model,
        logprobs=chunk.logprobs if with_logprobs else (),
    )
