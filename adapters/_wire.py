"""Watch the bytes between a provider and litellm, and stop what cannot be trusted.

litellm hides what the wire said: it rewrites statuses, turns cut streams into `stop`, follows
redirects, retries, and splits lines inside a JSON string. So its HTTP clients are given this
transport. Every call has a `Call` in a context variable; the transport records there what the
provider really answered, and raises at the first thing that must not reach litellm; also when the
answer is there and the adapter reads it itself, for then litellm's part is over. What litellm is
given is whole events of valid JSON, a line each.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any

import aiohttp
import httpx

from adapters._call import CURRENT, Call, Ended
from adapters._classify import error_class, retry_after_s, status_of
from adapters._formats import Json, WireError, is_plausible, read_error, said
from adapters._surrogates import dumps, loads
from adapters.errors import (
    ConnectionFailed,
    EmptyAnswer,
    InvalidRequest,
    MalformedResponse,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    StreamBroken,
)
from adapters.types import Limits

ERROR_BODY_BYTES = 64 * 1024
DRAIN_S = 0.2
LARGE_BYTES = 2**20  # of an answer or event: a few milliseconds
_JSON_HEADERS = {"accept": "application/json", "content-type": "application/json"}
_ANSWER_HEADERS = {"content-type": "application/json"}  # of its headers litellm needs no other
_SIZES = frozenset((b"content-length", b"transfer-encoding"))
STEADY_IDS = 3  # an id seen this often in a row is the answer's own
_UNSAFE_IN_LINES = (  # str.splitlines, which httpx uses, breaks lines at these
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def _refuse(call: Call, error: ProviderError) -> Ended:
    """Remember the call's first failure; raise what this returns."""
    call.failure = call.failure or error
    return Ended(type(call.failure).__name__)


class WatchedTransport(httpx.AsyncBaseTransport):
    """Sends a request over the current call's own transport and watches what comes back."""

    def __init__(self, fallback: httpx.AsyncBaseTransport) -> None:
        self._fallback = fallback  # for calls that are not ours, in a shared process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = CURRENT.get()
        if call is None:
            return await self._fallback.handle_async_request(request)
        if call.given_up:
            raise _refuse(call, ConnectionFailed("the call was given up", **call.about))
        call.requests += 1
        if call.requests > 1:  # a hidden retry below us: the first outcome stands
            raise _refuse(call, ConnectionFailed("the connection failed", **call.about))
        if call.content is not None:
            request = _with_content(request, call.content)
        _prepare(request, call.limits)
        response = await _send(call, request)
        call.response = response
        if 300 <= response.status_code < 400:
            raise await _refuse_redirect(call, request, response)
        if response.status_code >= 400:
            raise await _refuse_status(call, response)
        if call.streamed:
            return await _open_stream(call, request, response)
        return await _read_plain(call, request, response)

    async def aclose(self) -> None:
        """litellm closes clients as it pleases; the connections are not its own."""


class Recorder(httpx.AsyncBaseTransport):
    """Stands where a call's connections belong, and sends nothing: it keeps what would be sent."""

    def __init__(self) -> None:
        self.content = b""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.content = await request.aread()
        raise Ended("written")


class Replay(httpx.AsyncBaseTransport):
    """Stands there likewise, and answers with what has come already, on another way."""

    def __init__(self, status: int, body: bytes) -> None:
        self._status, self._body = status, body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            self._status, headers=_ANSWER_HEADERS, content=self._body, request=request
        )


class WatchedSession:
    """Stands where litellm's leanest path wants a session of aiohttp, and sends as the others do.

    That path leaves what stands in `extra_body` to whoever sends, as openai's client has it.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    @property  # type: ignore[misc]  # object has it as a field
    def __class__(self) -> Any:  # litellm asks by isinstance, and then uses nothing but `post`
        return aiohttp.ClientSession

    async def post(
        self, *, url: str, headers: Mapping[str, str], json: Json, data: None
    ) -> httpx.Response:
        body = {name: value for name, value in json.items() if name != "extra_body"}
        request = httpx.Request(
            "POST",
            _parsed(url),
            headers={**headers, **_JSON_HEADERS},
            content=dumps({**body, **json.get("extra_body", {})}),
        )
        return await self._transport.handle_async_request(request)


_parsed = lru_cache(maxsize=256)(httpx.URL)  # taking an address apart takes long


def _with_content(request: httpx.Request, content: bytes) -> httpx.Request:
    """The same request with another body."""
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _SIZES]
    return httpx.Request(request.method, request.url, headers=headers, content=content)


def _prepare(request: httpx.Request, limits: Limits) -> None:
    request.headers["accept-encoding"] = "identity"
    for name in ("openai-organization", "openai-project"):
        request.headers.pop(name, None)  # set from the environment, sent to whatever host
    # Only connecting is bounded here. The other clocks count content, so they run above.
    request.extensions["timeout"] = {
        "connect": limits.connect_s,
        "pool": limits.connect_s,
        "read": None,
        "write": None,
    }


async def _send(call: Call, request: httpx.Request) -> httpx.Response:
    host = request.url.host
    transport: httpx.AsyncBaseTransport = call.inner
    try:
        return await transport.handle_async_request(request)
    except httpx.TimeoutException as error:
        limit = f"{call.limits.connect_s:g} s"
        message = f"no connection to {host} within {limit}"
        raise _refuse(call, _unsent(ProviderTimeout(message, **call.about))) from error
    except httpx.ProtocolError as error:  # how litellm's transport reports TLS faults
        message = f"no secure connection to {host}: its certificate was not accepted"
        failure = ConnectionFailed(message, retryable=False, **call.about)
        raise _refuse(call, _unsent(failure)) from error
    except httpx.ConnectError as error:
        if type(error.__cause__).__name__ == "ClientOSError":  # it was connected, and reset
            message = f"{host} closed the connection before it answered"
        else:
            message = f"cannot connect to {host}: {_reason(error)}"
            raise _refuse(call, _unsent(ConnectionFailed(message, **call.about))) from error
        raise _refuse(call, ConnectionFailed(message, **call.about)) from error
    except httpx.RequestError as error:
        message = f"{host} closed the connection before it answered"
        raise _refuse(call, ConnectionFailed(message, **call.about)) from error
    except (httpx.InvalidURL, ValueError) as error:
        message = f"the request cannot be sent: {type(error).__name__}"
        raise _refuse(call, InvalidRequest(message, **call.about)) from error


def _unsent(error: ProviderError) -> ProviderError:
    """The error of a request that nobody got, so nobody bills it."""
    error.maybe_billed = False
    return error


def _reason(error: BaseException) -> str:
    """Why a connection failed, in words that hold no URL and no key."""
    seen = error.__cause__
    os_error = getattr(seen, "os_error", None)
    strerror = getattr(os_error, "strerror", None)
    if isinstance(strerror, str) and strerror:
        return strerror
    return type(seen or error).__name__


async def _refuse_redirect(call: Call, request: httpx.Request, response: httpx.Response) -> Ended:
    await response.aclose()
    target = _host(response.headers.get("location", "")) or "elsewhere"
    message = (
        f"{request.url.host} answered {response.status_code} and points to {target};"
        " redirects are not followed, set api_base to the final address"
    )
    error = ProviderUnavailable(
        message, status_code=response.status_code, retryable=False, **call.about
    )
    return _refuse(call, error)


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):
        return ""


async def _refuse_status(call: Call, response: httpx.Response) -> Ended:
    status = response.status_code
    try:
        raw = await _read_up_to(response, ERROR_BODY_BYTES)
    except httpx.RequestError:
        raw = b""
    finally:
        await response.aclose()
    error = _error_in(call, raw) or WireError(f"HTTP {status}", status=status)
    return _refuse(call, _typed(call, status, error, response.headers))


def _error_in(call: Call, raw: bytes) -> WireError | None:
    try:
        body = loads(raw)
    except ValueError:
        return None
    if isinstance(body, list) and body:  # Gemini sends stream errors as a list of one
        body = body[0]
    if not isinstance(body, dict):
        return None
    found = call.format.error(body) or read_error(body)
    if found is not None:
        return found
    message = said(body)
    kind = str(body.get("type") or body.get("code") or "")
    return WireError(message, kind.lower()) if message else None


def _typed(call: Call, status: int, error: WireError, headers: Mapping[str, str]) -> ProviderError:
    kind = error_class(status, error)
    return kind(
        error.message,
        status_code=status,
        retry_after_s=retry_after_s(headers, error),
        maybe_billed=False,  # it refuses; what had come of an answer before is judged above
        **call.about,
    )


async def _read_up_to(response: httpx.Response, limit: int) -> bytes:
    """At most `limit` bytes of a body, decoded."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part[: limit - size])
        size += len(parts[-1])
        if size >= limit:
            break
    return b"".join(parts)


async def _give_way(raw: bytes) -> None:
    """Let others have their turn where parsing this took long: litellm goes on with it at once."""
    if len(raw) >= LARGE_BYTES:
        await asyncio.sleep(0)


async def _read_plain(
    call: Call, request: httpx.Request, response: httpx.Response
) -> httpx.Response:
    limit = call.limits.body_bytes
    try:
        raw = await _read_up_to(response, limit + 1)
    except httpx.RequestError as error:
        message = "the answer was cut off before its end"
        raise _refuse(call, StreamBroken(message, **call.about)) from error
    finally:
        await response.aclose()
    if len(raw) > limit:
        message = f"the answer is larger than {limit:,} bytes"
        raise _refuse(call, MalformedResponse(message, **call.about))
    if call.wants_file:
        call.file = raw
        raise Ended("answered")
    call.body = body = _parse_answer(call, raw, response.headers)
    await _give_way(raw)
    changed = _note(call, body)  # an answer with nothing in it may still be billed
    _require_answer(call, body)
    call.finish, call.stop_sequence = call.format.finish(body), _stop_in(call, body)
    if call.reads_itself:
        raise Ended("answered")
    if call.said_usage is None and call.format.empty_usage is not None:  # litellm cannot do without
        body[call.format.usage_key] = call.format.empty_usage
        changed = True
    content = dumps(body) if changed else raw
    return httpx.Response(200, headers=_ANSWER_HEADERS, content=content, request=request)


def _stop_in(call: Call, said: Json) -> str | None:
    """The sequence that is said to have stopped the answer; some hosts send a token's number."""
    found = call.format.stop(said)
    return found if isinstance(found, str) else None


def _parse_answer(call: Call, raw: bytes, headers: Mapping[str, str]) -> Json:
    if not raw or raw.isspace():
        raise _refuse(call, EmptyAnswer("the provider sent an empty body", **call.about))
    try:
        body = loads(raw)
    except ValueError as error:
        message = f"the provider sent {_kind(raw)} instead of a JSON answer"
        raise _refuse(call, MalformedResponse(message, **call.about)) from error
    found = _error_in(call, raw) if not isinstance(body, dict) else call.format.error(body)
    if found is not None:
        raise _refuse(call, _typed(call, status_of(found), found, headers))
    if not isinstance(body, dict):
        message = f"the provider sent a JSON {type(body).__name__} instead of an object"
        raise _refuse(call, MalformedResponse(message, **call.about))
    return body


def _require_answer(call: Call, body: Json) -> None:
    if not call.format.has_answer(body):
        raise _refuse(
            call, EmptyAnswer("the provider sent an answer with nothing in it", **call.about)
        )
    fault = call.format.fault(body)
    if fault is not None:
        raise _refuse(call, MalformedResponse(fault, **call.about))


def _kind(raw: bytes) -> str:
    start = raw.lstrip()[:20].lower()
    if start.startswith((b"<!doctype", b"<html", b"<")):
        return "an HTML page"
    return "broken or cut JSON" if start.startswith((b"{", b"[")) else "text"


def _note(call: Call, answer: Json) -> bool:
    """Remember the model's name and whether real usage came; whether nonsense was taken out."""
    call.model = call.model or call.format.model(answer)
    holder = call.format.usage_holder(answer)
    if holder is None:
        return False
    place, key = holder
    if is_plausible(place[key]):
        call.said_usage = {**(call.said_usage or {}), **place[key]}  # Anthropic says it in parts
        return False
    place[key] = call.format.empty_usage
    return True


async def _open_stream(
    call: Call, request: httpx.Request, response: httpx.Response
) -> httpx.Response:
    parts = response.aiter_bytes()
    first = await _first_part(call, parts)
    if first[:1] in (b"{", b"[", b"<"):
        raise await _refuse_plain_in_stream(call, first, parts, response)
    stream = _WatchedStream(call, first, parts, response)
    if call.reads_itself:
        call.events = stream.events()
        raise Ended("answered")
    headers = [("content-type", "text/event-stream")]
    return httpx.Response(200, headers=headers, stream=stream, request=request)


async def _first_part(call: Call, parts: AsyncIterator[bytes]) -> bytes:
    """The first bytes that say something; a byte order mark and white space say nothing."""
    size, limit = 0, call.limits.body_bytes
    try:
        async for part in parts:
            size += len(part)
            if size > limit:
                message = f"the stream is larger than {limit:,} bytes"
                raise _refuse(call, MalformedResponse(message, **call.about))
            if start := part.lstrip(b"\xef\xbb\xbf \t\r\n"):
                return start
    except httpx.RequestError as error:
        message = "the connection closed before any of the answer arrived"
        raise _refuse(call, ConnectionFailed(message, **call.about)) from error
    return b""


async def _refuse_plain_in_stream(
    call: Call, first: bytes, parts: AsyncIterator[bytes], response: httpx.Response
) -> Ended:
    raw = first
    try:
        async for part in parts:
            raw += part
            if len(raw) > ERROR_BODY_BYTES:
                break
    except httpx.RequestError:
        pass
    finally:
        await response.aclose()
    found = _error_in(call, raw)
    if found is not None:
        return _refuse(call, _typed(call, status_of(found), found, response.headers))
    message = f"the provider sent {_kind(raw)} instead of a stream of events"
    return _refuse(call, MalformedResponse(message, **call.about))


class _WatchedStream(httpx.AsyncByteStream):
    """A stream of events, each checked. litellm is given each as one `data:` line of safe JSON."""

    def __init__(
        self, call: Call, first: bytes, parts: AsyncIterator[bytes], response: httpx.Response
    ) -> None:
        self._call = call
        self._first = first
        self._parts = parts
        self._response = response
        self._ended = False
        self._id = ""
        self._id_count = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for event in self.events():
            yield b"data: " + _one_line(dumps(event)) + b"\n\n"

    async def events(self) -> AsyncIterator[Json]:
        """The events themselves, for an adapter that reads them."""
        call = self._call
        try:
            async for event in self._checked():
                yield event
        except httpx.RequestError as error:
            if call.finish is None:
                raise _refuse(call, _broken(call)) from error
        except LimitExceeded as error:
            raise _refuse(call, MalformedResponse(str(error), **call.about)) from error
        if call.finish is None:
            raise _refuse(call, _broken(call))

    async def _checked(self) -> AsyncIterator[Json]:
        call = self._call
        decoder = EventDecoder(call.limits)
        for raw in decoder.feed(self._first):
            if (event := self._check(raw)) is not None:
                await _give_way(raw)
                yield event
        while not self._ended:
            try:
                part = await anext(self._parts)
            except StopAsyncIteration:
                part, self._ended = b"\n\n", True  # the last event may lack its empty line
                call.ended = True
            for raw in decoder.feed(part):
                if (event := self._check(raw)) is not None:
                    await _give_way(raw)
                    yield event
        await self._drain()

    async def _drain(self) -> None:
        """Read the little that may follow the last event: a connection read to its end is kept."""
        try:
            async with asyncio.timeout(DRAIN_S):
                async for _ in self._parts:
                    pass
        except (TimeoutError, httpx.RequestError):
            await self._response.aclose()

    def _check(self, raw: bytes) -> Json | None:
        call = self._call
        if raw.strip() == b"[DONE]":
            self._ended = call.ended = True
            if call.finish is None and call.done_is_complete:
                call.finish = "stop"
            return None
        try:
            event = loads(raw)
        except ValueError as error:
            message = "the stream holds an event that is not valid JSON"
            raise _refuse(call, StreamBroken(message, **call.about)) from error
        if not isinstance(event, dict):
            raise _refuse(
                call, StreamBroken("the stream holds an event of no meaning", **call.about)
            )
        found = call.format.error(event)
        if found is not None:
            raise _refuse(call, _typed(call, status_of(found), found, self._response.headers))
        if self._is_foreign(event):
            return None
        _note(call, event)
        call.finish = call.format.finish(event) or call.finish
        call.stop_sequence = _stop_in(call, event) or call.stop_sequence
        self._ended = self._ended or call.format.is_last(event)
        return event

    def _is_foreign(self, event: Json) -> bool:
        """Whether the event says more of another answer: its id differs from one seen repeatedly.

        One that says nothing, such as usage, is nobody else's for having an id of its own.
        """
        found = event.get("id")
        if not isinstance(found, str) or not found or not event.get("choices"):
            return False
        if self._id_count < STEADY_IDS:
            self._id_count = self._id_count + 1 if found == self._id else 1
            self._id = found
            return False
        return found != self._id

    async def aclose(self) -> None:
        await self._response.aclose()


def _broken(call: Call) -> StreamBroken:
    return StreamBroken("the stream ended before the answer was complete", **call.about)


def _one_line(raw: bytes) -> bytes:
    """The same JSON without what litellm's line readers stumble over."""
    for unsafe, escaped in _UNSAFE_IN_LINES:
        if unsafe in raw:
            raw = raw.replace(unsafe, escaped)
    if b"[DONE]" in raw:  # litellm takes these six characters for the end, wherever they stand
        raw = raw.replace(b"[DONE]", b"\\u005bDONE]")
    return raw


class LimitExceeded(ValueError):
    """A stream is larger than its limits allow."""


class EventDecoder:
    """Turns bytes of a text/event-stream into the data of its events, whatever the split.

    Line ends may be LF, CRLF or CR; a BOM, comments, and the fields `event`, `id` and `retry`
    are dropped, and so are empty `data` lines, which say nothing in JSON. An event ends at an
    empty line. (HTML standard, section 9.2.6.)
    """

    __slots__ = (
        "_data",
        "_data_size",
        "_events",
        "_limits",
        "_rest",
        "_rest_size",
        "_size",
        "_skip_lf",
        "_started",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rest: list[bytes] = []  # an unfinished line
        self._rest_size = 0
        self._data: list[bytes] = []  # data lines of an unfinished event
        self._data_size = 0
        self._size = 0
        self._events = 0
        self._skip_lf = False
        self._started = False

    def feed(self, part: bytes) -> list[bytes]:
        """The data of every event that this part completes.

        Raises:
            LimitExceeded: an event, their number, or their sum is too large.
        """
        self._size += len(part)
        if self._size > self._limits.body_bytes:
            raise LimitExceeded(f"the stream is larger than {self._limits.body_bytes:,} bytes")
        if not part:
            return []
        if self._skip_lf:
            part = part.removeprefix(b"\n")
        self._skip_lf = part.endswith(b"\r")
        events: list[bytes] = []
        if b"\r" in part:
            part = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *whole, rest = part.split(b"\n")
        for line in whole:
            if self._rest:
                line = b"".join((*self._rest, line))
                self._rest.clear()
                self._rest_size = 0
            self._take(line, events)
        if rest:
            self._rest.append(rest)
            self._rest_size += len(rest)
            self._bound(self._rest_size)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not self._started:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._data_size = 0
                self._events += 1
                if self._events > self._limits.events:
                    raise LimitExceeded(f"more than {self._limits.events:,} events in one stream")
        elif line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            if data:
                self._data.append(data)
                self._data_size += len(data) + 1
                self._bound(self._data_size - 1)

    def _bound(self, size: int) -> None:
        if size > self._limits.event_bytes:
            raise LimitExceeded(f"an event is larger than {self._limits.event_bytes:,} bytes")
