"""THE door: the only file that names litellm.

What goes in is our own list, what comes out is checked.

litellm is imported at the first real call (it costs seconds and 160 MB). Its HTTP clients all run
over `_wire.WatchedTransport`, so a retry, a redirect or a stream cut short inside it cannot go
unnoticed. Nothing of litellm's is used but `acompletion`, `aembedding`, its calls for files and
batches, its exceptions, its token counter, what makes its HTTP clients, and the one switch that
keeps it from logging what nobody reads.
"""

import asyncio
import ctypes
import gc
import importlib
import importlib.util
import logging
import math
import os
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapters import _in_place
from adapters._call import CURRENT, Call, Ended
from adapters._scrub import scrub
from adapters.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelNotFound,
    PermissionDenied,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamBroken,
)

# Where a litellm exception is all we have: it refused a request before sending it. What a
# provider answered is classified from the wire (`_classify.py`). A test walks litellm.exceptions
# and fails on a class that is missing here.
ERRORS: dict[str, type[ProviderError]] = {
    "AuthenticationError": AuthenticationFailed,
    "PermissionDeniedError": PermissionDenied,
    "NotFoundError": ModelNotFound,
    "LiteLLMUnknownProvider": ModelNotFound,
    "ModelNotMappedError": ModelNotFound,
    "ContextWindowExceededError": ContextWindowExceeded,
    "ContentPolicyViolationError": ContentFiltered,
    "GuardrailRaisedException": ContentFiltered,
    "BlockedPiiEntityError": ContentFiltered,
    "ModifyResponseException": ContentFiltered,
    "SensitiveDataRouteException": ContentFiltered,
    "PaymentRequiredError": QuotaExhausted,
    "BudgetExceededError": QuotaExhausted,
    "RateLimitError": RateLimited,
    "RouterRateLimitError": RateLimited,
    "RouterRateLimitErrorBasic": RateLimited,
    "BadRequestError": InvalidRequest,
    "UnprocessableEntityError": InvalidRequest,
    "UnsupportedParamsError": InvalidRequest,
    "ImageFetchError": InvalidRequest,
    "InvalidRequestError": InvalidRequest,
    "RejectedRequestError": InvalidRequest,
    "Timeout": ProviderTimeout,
    "InternalServerError": ProviderUnavailable,
    "ServiceUnavailableError": ProviderUnavailable,
    "BadGatewayError": ProviderUnavailable,
    "MidStreamFallbackError": StreamBroken,
    "APIConnectionError": ConnectionFailed,
    "APIResponseValidationError": MalformedResponse,
    "JSONSchemaValidationError": MalformedResponse,
    "APIError": ProviderUnavailable,
    "OpenAIError": ProviderUnavailable,
    "MockException": ProviderUnavailable,
}

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download at import
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",  # nor at the first call that needs a beta
    "DEFAULT_MAX_RETRIES": "0",
    "LITELLM_TELEMETRY": "False",
}
_SWITCHES: dict[str, Any] = {
    "suppress_debug_info": True,  # else help text on stdout
    "telemetry": False,
    "num_retries": 0,
    "drop_params": False,
    "modify_params": False,
    "disable_hf_tokenizer_download": True,
    "turn_off_message_logging": True,
    "REPEATED_STREAMING_CHUNK_LIMIT": 10**9,
}
COUNTED_CHARACTERS = 200_000
COUNTED_AS = "any"  # the model of a name that says nothing
_TALKATIVE = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpcore", "httpx", "openai")
_UNLOGGED = {"no-log": True}  # what is logged all the same reaches no callback
_loading = threading.Lock()
_litellm: Any = None  # the module, once it is loaded
_shared: "_Shared | None" = None

_ready: set["Part"] = set()

Clients = Literal["sdk", "handler", "seeded", "seeded_for_google", "session"]
# What is loaded only once it is needed: a server that does without saves 50 MB.
Part = Literal["sdk", "tokenizer"]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all calls of a process have in common. Nothing here is bound to an event loop."""

    transport: Any  # our WatchedTransport
    handler: Any  # litellm's AsyncHTTPHandler over our transport
    session: Any  # what passes for an aiohttp session over our transport
    http: Any  # an httpx.AsyncClient over our transport, for the openai SDK
    tls: Any
    unlogged: ContextVar[bool]  # set, litellm writes no log of an answer: a quarter of a call


def is_loaded(*parts: Part) -> bool:
    """Whether litellm has been imported through this door, and these parts of it with it."""
    return _litellm is not None and _ready.issuperset(parts)


def is_loading() -> bool:
    """Whether it is being imported at this moment."""
    return _litellm is None and _loading.locked()


async def load(*parts: Part) -> None:
    """Import litellm if that is still to be done, without holding up the event loop.

    The first call does it too; who knows that a call will come can begin earlier.
    """
    if not is_loaded(*parts):
        await asyncio.to_thread(_load, *parts)


def _load(*parts: Part) -> Any:
    global _litellm, _shared
    with _loading:
        if _litellm is None:
            os.environ.update(_ENVIRONMENT)
            module = importlib.import_module("litellm")
            for name, value in _SWITCHES.items():
                setattr(module, name, value)
            _shared = _build_shared()
            _put_off_the_tokenizer()
            _in_place.install(importlib.import_module("litellm.main"))
            _drop_what_is_left_over()
            asyncio.run(_rehearse(module))
            _quieten()
            gc.freeze()  # 300,000 objects that stay; a full collection took 0.2 s to walk them
            _litellm = module
        for part in set(parts) - _ready:
            _PARTS[part](_litellm)
            gc.freeze()
            _ready.add(part)
    return _litellm


_PARTS: dict[Part, Callable[[Any], object]] = {
    "sdk": lambda _: importlib.import_module("openai.resources.chat.completions"),
    "tokenizer": lambda module: module.token_counter(model=COUNTED_AS, text="none"),
}


def _quieten() -> None:
    """Keep what calls are made with out of the logs, whatever their levels are set to later.

    At their most talkative they tell of addresses with a password in them, and of every byte that
    came; what failed is told by our own errors.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _TALKATIVE:
            logging.getLogger(name).addFilter(_may_be_logged)


def _may_be_logged(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR and CURRENT.get() is None


class _Tokenizer:
    """litellm's tokenizer, read when somebody looks at it."""

    def __getattr__(self, name: str) -> Any:
        from litellm._lazy_imports import get_default_encoding

        return getattr(get_default_encoding(), name)


def _put_off_the_tokenizer() -> None:
    """Have litellm hand on one that is not read yet.

    It gives its own to whoever reads an answer, none of whom looks at it where usage was reported:
    0.2 s on the event loop, and 40 MB.
    """
    vars(importlib.import_module("litellm.main"))["_encoding_cache"] = _Tokenizer()


def _drop_what_is_left_over() -> None:
    """Let go of 7 MB: a file that litellm has read, written anew as text, and never looks at again.

    glibc keeps what was freed until it is asked for it.
    """
    vars(importlib.import_module("litellm.utils"))["json_data"] = None
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


async def _rehearse(module: Any) -> None:
    """Let litellm answer one call by itself, here in the thread that imports.

    Its first call imports and builds for more than a second. A real one would hold up the loop,
    and every clock that runs on it.
    """
    importlib.import_module("litellm._service_logger")
    messages = [{"role": "user", "content": "none"}]
    await module.acompletion(model="openai/none", messages=messages, mock_response="none")


def _build_shared() -> _Shared:
    import httpx  # with litellm, not before: it costs 0.1 s
    from litellm._internal_context import is_internal_call
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, get_ssl_configuration

    from adapters._wire import WatchedSession, WatchedTransport

    tls = get_ssl_configuration()
    transport = WatchedTransport(_plain_transport(tls))
    return _Shared(
        transport=transport,
        handler=AsyncHTTPHandler(transport=transport, follow_redirects=False),
        session=WatchedSession(transport),
        http=httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False),
        tls=tls,
        unlogged=is_internal_call,
    )


def _plain_transport(tls: Any) -> Any:
    """litellm's own aiohttp transport with no limit on connections to one host and no cookies."""
    import aiohttp
    from litellm.llms.custom_httpx.aiohttp_transport import LiteLLMAiohttpTransport

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls, enable_cleanup_closed=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    return LiteLLMAiohttpTransport(client=session)


class Connection:
    """One deployment's connections, a pool for each event loop, and its openai SDK client."""

    def __init__(self, *, api_base: str, api_key: str) -> None:
        self._api_base = api_base
        self._api_key = api_key
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = (
            weakref.WeakKeyDictionary()
        )
        self._sdk: Any = None
        self._given_up: set[asyncio.Task[Any]] = set()
        weakref.finalize(self, _drop_pools, self._pools)  # for those who never call aclose

    def serves(self, api_base: str, api_key: str) -> bool:
        """Whether these connections are to this address with this key."""
        return (self._api_base, self._api_key) == (api_base, api_key)

    def pool(self) -> Any:
        """The transport of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._pools.get(loop)
        if found is None:
            self._drop_those_of_closed_loops()
            found = self._pools[loop] = _plain_transport(_live().tls)
        return found

    def _drop_those_of_closed_loops(self) -> None:
        """A pool keeps its loop alive, so the dictionary alone would keep both for ever."""
        gone = [(loop, pool) for loop, pool in self._pools.items() if loop.is_closed()]
        for loop, pool in gone:
            del self._pools[loop]
            _close_at_once(pool)

    def client(self, kind: Clients) -> Any:
        """What to pass to litellm as `client`."""
        if kind == "handler":
            return _live().handler
        if kind == "session":
            return _live().session
        if kind == "seeded":
            _seed_cohere_client()
            return None
        if kind == "seeded_for_google":
            _seed_google_client()
            return None
        if self._sdk is None:
            from openai import AsyncOpenAI

            self._sdk = AsyncOpenAI(
                api_key=self._api_key,
                base_url=self._api_base,
                http_client=_live().http,
                max_retries=0,
            )
        return self._sdk

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Let a call that was given up end by itself, and look at how: else Python warns."""
        self._given_up.add(task)
        task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()

    async def aclose(self) -> None:
        """Close the running loop's pool, when nothing is under way in it any more."""
        loop = asyncio.get_running_loop()
        if leaving := [task for task in self._given_up if task.get_loop() is loop]:
            await asyncio.wait(leaving)
        pool = self._pools.pop(loop, None)
        if pool is not None:
            await pool.aclose()


def _drop_pools(pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any]) -> None:
    """Close what is left of the pools at once; their loops may be gone."""
    for pool in list(pools.values()):
        _close_at_once(pool)
    pools.clear()


def _close_at_once(pool: Any) -> None:
    connector = getattr(pool.client, "connector", None)
    if connector is not None and not connector.closed:
        pool._mark_connector_closed(pool.client)  # noqa: SLF001 - it knows how, without a loop


def _live() -> _Shared:
    assert _shared is not None, "load() comes first"
    return _shared


def _seed_cohere_client() -> None:
    """litellm's Cohere path takes no `client`: give ours to the one it keeps for that provider."""
    _seed_client("COHERE_CHAT", {"ssl_verify": None})


def _seed_google_client() -> None:
    """Nor does its path to Gemini's embeddings, which keeps it under a time that it sets itself."""
    _seed_client("VERTEX_AI", {"timeout": 300})


def _seed_client(provider: str, params: dict[str, Any]) -> None:
    from litellm.llms.custom_httpx.http_handler import get_async_httpx_client
    from litellm.types.utils import LlmProviders

    kept = get_async_httpx_client(LlmProviders[provider], params=params)
    if kept.client is not _live().handler.client:
        kept.client = _live().handler.client


async def complete(
    call: Call, connection: Connection, kind: Clients, fields: Mapping[str, Any]
) -> Any:
    """One plain call. Returns litellm's ModelResponse, or the body if the adapter reads it itself.

    Raises:
        ProviderError: whatever went wrong, by its true class.
    """
    response = await _send(call, connection, kind, fields)
    return call.body if call.reads_itself else response


async def open_stream(
    call: Call, connection: Connection, kind: Clients, fields: Mapping[str, Any]
) -> AsyncIterator[Any]:
    """Begin a streamed call. Yields the wire's events, or the chunks that litellm makes of them.

    Chunks are taken from inside litellm's stream wrapper, which would add an invented finish
    reason and an invented usage, at eighteen times the cost.
    """
    wrapper = await _send(call, connection, kind, {**fields, "stream": True})
    if call.events is not None:
        return call.events
    token = CURRENT.set(call)
    try:
        inner = await wrapper.fetch_stream()  # Gemini sends its request only now
    except (Exception, Ended) as error:  # noqa: BLE001 - litellm raises anything; explain() names it
        raise explain(call, error, fields) from None
    finally:
        CURRENT.reset(token)
    return aiter(inner)


async def embed(
    call: Call, connection: Connection, kind: Clients, fields: Mapping[str, Any]
) -> Any:
    """One call for embeddings, whose body stands in the call. Returns the body of the answer.

    Raises:
        ProviderError: whatever went wrong, by its true class.
    """
    call.sort = _in_place.sort_of(kind, fields)
    sending = _litellm.aembedding(
        client=connection.client(kind),
        max_retries=0,
        num_retries=0,
        timeout=call.limits.total_s + 60.0,  # never fires: ours do
        **_UNLOGGED,
        **fields,
    )
    await _sent(call, connection, fields, sending)
    return call.body


BatchAction = Literal["upload", "submit", "poll", "list", "cancel", "collect"]
# Its own functions for batches take no client, so what they are made of is called: of which class,
# which method, and what it calls its argument.
_BATCHES: dict[BatchAction, tuple[str, str, str]] = {
    "upload": ("OpenAIFilesAPI", "acreate_file", "create_file_data"),
    "collect": ("OpenAIFilesAPI", "afile_content", "file_content_request"),
    "submit": ("OpenAIBatchesAPI", "acreate_batch", "create_batch_data"),
    "poll": ("OpenAIBatchesAPI", "aretrieve_batch", "retrieve_batch_data"),
    "cancel": ("OpenAIBatchesAPI", "acancel_batch", "cancel_batch_data"),
    "list": ("OpenAIBatchesAPI", "alist_batches", ""),
}


async def batch(
    call: Call, connection: Connection, action: BatchAction, fields: Mapping[str, Any]
) -> Any:
    """One call about a provider's own batches. What came of it stands in the call.

    Raises:
        ProviderError: whatever went wrong, by its true class.
    """
    openai = importlib.import_module("litellm.llms.openai.openai")
    owner, method, argument = _BATCHES[action]
    given = {argument: dict(fields)} if argument else dict(fields)
    sending = getattr(getattr(openai, owner)(), method)(
        **given, openai_client=connection.client("sdk")
    )
    await _sent(call, connection, {}, sending)
    return call.body


def recorder() -> Any:
    """Connections that keep what would be sent as their `content`, and send nothing."""
    from adapters._wire import Recorder

    return Recorder()


def replay(status: int, body: bytes) -> Any:
    """Connections that answer with what has come already."""
    from adapters._wire import Replay

    return Replay(status, body)


async def _send(
    call: Call, connection: Connection, kind: Clients, fields: Mapping[str, Any]
) -> Any:
    call.sort = _in_place.sort_of(kind, fields)
    sending = _litellm.acompletion(
        client=connection.client(kind),
        max_retries=0,
        num_retries=0,
        timeout=call.limits.total_s + 60.0,  # never fires: ours do
        drop_params=False,
        _skip_mcp_handler=True,  # else tools need a package that is not there
        _skip_responses_api_bridge=True,  # else some models' tools go elsewhere
        **_UNLOGGED,
        **fields,
    )
    return await _sent(call, connection, fields, sending)


async def _sent(
    call: Call,
    connection: Connection,
    fields: Mapping[str, Any],
    sending: Coroutine[Any, Any, Any],
) -> Any:
    """What litellm makes of a call, if anything."""
    try:
        response = await _given_up_whole(call, connection, sending)
    except Ended as ended:
        response = None  # what came of it stands in the call
        ended.__traceback__ = None  # it leads in a circle to all that litellm had at hand
    except Exception as error:  # noqa: BLE001 - litellm raises anything; explain() names it
        raise explain(call, error, fields) from None
    if call.failure is not None:  # litellm answered in spite of what the wire said
        raise call.failure
    return response


async def _given_up_whole(
    call: Call, connection: Connection, sending: Coroutine[Any, Any, Any]
) -> Any:
    """Await this; when cancelled, see that it comes to an end that leaves nothing behind.

    litellm may prepare a request in a thread and would lose the coroutine that the thread returns.
    So a call cancelled before its request is let go on to the transport, which sends nothing.
    Nobody waits for that: the thread may have something to import, or no processor to run on.
    """
    context = copy_context()
    context.run(CURRENT.set, call)
    context.run(_live().unlogged.set, True)
    task = asyncio.get_running_loop().create_task(sending, context=context)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        call.given_up = True
        connection.leave(task)
        if call.requests:
            task.cancel()
            await asyncio.wait({task})
        raise


def explain(call: Call, error: BaseException, fields: Mapping[str, Any]) -> ProviderError:
    """Which error this is: what the wire said if it said anything, else litellm's class."""
    if call.failure is not None:
        return call.failure
    message = scrub(str(error), (str(fields.get("api_key", "")),))
    if call.requests:  # litellm's words would quote the answer and its own source
        return MalformedResponse(
            f"the answer could not be read ({type(error).__name__})", **call.about
        )
    known = (ERRORS[base.__name__] for base in type(error).__mro__ if base.__name__ in ERRORS)
    kind = next(known, InvalidRequest)
    if kind.default_retryable:  # nothing was sent, so sending it again changes nothing
        kind = InvalidRequest
    return kind(_without_prefix(message), **call.about)


def _without_prefix(message: str) -> str:
    """The message without litellm's names, its source, and its advice on its own settings."""
    first = re.split(r" To drop |\s*Traceback \(most|\. Handle with |\. File an issue", message)[0]
    return first.removeprefix("litellm.").strip()


def read_price_list() -> bytes:
    """The price list that lies beside litellm, which is not imported for it."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("model_prices_and_context_window_backup.json").read_bytes()


def count_tokens(text: str) -> int:
    """An estimate of the tokens in a text, offline. Before the tokenizer is read: 4 bytes a token.

    Every model is counted for by the same tokenizer. The newer one of OpenAI takes a second to read
    and 80 MB to keep, and would be read in the middle of a call, when a first answer breaks off.
    Of a long text only the beginning is counted: counting megabytes would hold up the loop.
    """
    if not text:
        return 0
    if not is_loaded("tokenizer"):
        return len(text.encode("utf-8", "replace")) // 4 + 1
    counted = text[:COUNTED_CHARACTERS]
    found = int(_litellm.token_counter(model=COUNTED_AS, text=counted))
    return math.ceil(found * len(text) / len(counted))
