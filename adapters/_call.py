"""What the wire said during one call. Light: it is known before any HTTP library is loaded."""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from adapters._formats import Json, WireFormat
from adapters.errors import About, ProviderError
from adapters.types import Limits, Usage


@dataclass(slots=True, kw_only=True)
class Call:
    """One call: its limits, and what the watched transport notes down of its answer."""

    format: WireFormat
    limits: Limits
    inner: Any  # the httpx transport that really sends
    streamed: bool
    about: About
    reads_itself: bool = False  # the adapter reads the answer from the wire, litellm does not
    content: bytes | None = None  # what is sent, whatever litellm has written
    done_is_complete: bool = False  # `[DONE]` without a finish reason ends an answer
    given_up: bool = False  # its caller is gone: nothing must be sent any more
    requests: int = 0
    failure: ProviderError | None = None  # the first; it is what our caller will see
    finish: str | None = None  # the provider's own finish reason
    stop_sequence: str | None = None  # the one that it says has ended the answer
    model: str | None = None
    said_usage: Json | None = None  # what it said of its tokens, in its own words
    ended: bool = False  # the stream came to an orderly end
    body: Json | None = None  # of a plain answer
    sort: tuple[str, ...] | None = None  # the calls that litellm prepares by the same code
    wants_file: bool = False  # the answer is no JSON of its own, and is kept as it came
    file: bytes = field(default=b"", repr=False)
    events: AsyncIterator[Json] | None = field(default=None, repr=False)  # of a stream, checked
    response: Any = field(default=None, repr=False)

    @property
    def usage(self) -> Usage | None:
        """The tokens that the provider reported so far; None when it reported none."""
        return None if self.said_usage is None else self.format.usage(self.said_usage)

    async def aclose(self) -> None:
        """Close the provider's connection, if it is still open."""
        if self.response is not None:
            await self.response.aclose()


class Ended(BaseException):
    """Raised by the transport into litellm when there is nothing more for it to do in a call.

    What came of the call stands in `Call`: a failure, or an answer that the adapter reads itself.
    This is no `Exception`, so litellm and what it calls let it pass as they let a cancellation
    pass, with no retry, no error of their own and no bookkeeping, which cost more than the call.
    """


CURRENT: ContextVar[Call | None] = ContextVar("adapters_current_call", default=None)
