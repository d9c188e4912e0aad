"""A reply before it is sent: its head, its events and how it ends. Values only."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.simulator.ask import Headers

EventKind = Literal["open", "content", "finish", "usage", "done", "ping", "error", "body"]
Ending = Literal["whole", "close", "reset", "stall"]


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of the body. A plain answer is one event of kind `body`."""

    kind: EventKind
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is sent back, byte for byte, and how the connection is left.

    `ending` is `whole` for an orderly end of the message, `close` for an orderly end of the
    connection in mid-message, `reset` for a TCP reset, `stall` for silence without end.
    """

    status: int = 200
    content_type: str = "application/json"
    headers: Headers = ()
    events: tuple[Event, ...] = ()
    streamed: bool = False
    head: Literal["whole", "half", "none"] = "whole"
    ending: Ending = "whole"
    length: int | None = None  # a Content-Length that is not the true one
    gap_s: float | None = None  # between contents; None spreads them over the latency
    flush_each: bool = False  # every event in a TCP segment of its own

    @property
    def body(self) -> bytes:
        return b"".join(event.data for event in self.events)


def schedule(reply: Reply, latency_s: float, gap_s: float | None) -> list[float]:
    """When each event is due, in seconds after the request.

    A plain answer comes at the latency. Of a streamed one the head comes at a quarter of it, the
    first content at 30 % and the last at 100 %; with a gap, contents follow each other by it.
    """
    if not reply.streamed:
        return [latency_s + (gap_s or 0.0) * index for index in range(len(reply.events))]
    contents = sum(event.kind in ("content", "ping") for event in reply.events)
    step = gap_s if gap_s is not None else 0.7 * latency_s / max(1, contents - 1)
    due = 0.25 * latency_s
    times, seen = [], 0
    for event in reply.events:
        if event.kind in ("content", "ping"):
            due = max(due, 0.3 * latency_s + seen * step)
            seen += 1
        elif seen and seen == contents and gap_s is None:
            due = max(due, latency_s)
        times.append(due)
    return times
