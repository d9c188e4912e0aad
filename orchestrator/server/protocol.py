"""HTTP on a socket as uvicorn speaks it, with a limit on how long and how large its head may be."""

import asyncio
import importlib.util
from typing import Any

from orchestrator.wire.writing import dump

_TOO_LARGE = dump(
    {
        "error": {
            "message": "The headers are too large",
            "type": "invalid_request_error",
            "param": None,
            "code": "headers_too_large",
        }
    }
)
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s"
) % (len(_TOO_LARGE), _TOO_LARGE)


def protocol(*, head_s: float, head_bytes: int) -> type[asyncio.Protocol]:
    """The protocol of a connection: by httptools where it is installed, else by h11.

    Args:
        head_s: How long the head of a request may take to come.
        head_bytes: How large it may be.
    """
    limits = {"head_s": head_s, "head_bytes": head_bytes}
    return type("Limited", (_Limits, _base()), limits)


class _Limits(asyncio.Protocol):
    """Before uvicorn's own, which waits for a head for ever, and with httptools keeps all of it."""

    head_s: float
    head_bytes: int
    cycle: Any  # uvicorn's: the request at hand
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _slow: asyncio.TimerHandle | None = None
    _seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._awaits_head():
            self._unwatch()
            return
        self._watch()
        self._seen += len(data)
        if self._seen > self.head_bytes and not self.transport.is_closing():
            self.transport.write(REFUSAL)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _awaits_head(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _watch(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self.head_s, self._too_slow)

    def _unwatch(self) -> None:
        self._seen = 0
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        if self._awaits_head():
            self.transport.close()


def _base() -> type[asyncio.Protocol]:
    if importlib.util.find_spec("httptools") is not None:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415

        return HttpToolsProtocol
    from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415 - not beside httptools

    return H11Protocol
