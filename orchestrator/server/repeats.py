"""Replies that came from the cache alone, given again for a moment as they went out.

The engine finds a cached answer in a millisecond or two, most of which is the receipt it writes.
Somebody who asks the same a thousand times a second is given the same bytes instead, the name of
the run in them included: that of the run which found the answer in the cache.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.clock import Clock
from orchestrator.endpoints.calls import Reply
from orchestrator.server.keys import KeyRecord

FOR_S = 5.0  # after that long the cache is looked into again: what was cleared does not live on
LOOKING_S = 0.5  # while one caller looks, the others are given what there was
MOST = 1024
LARGEST_BYTES = 128 * 1024  # of a body and its reply: all of them together stay below 128 MB


class Asked(NamedTuple):
    """What two requests have in common that may be given the same bytes."""

    path: str
    body: bytes
    key_id: str
    models: tuple[str, ...]  # that the key may ask for
    epoch: int  # which configuration answers


@dataclass(slots=True)
class _Kept:
    reply: Reply
    until_s: float


class Repeats:
    """Replies to be given again.

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Asked, _Kept] = OrderedDict()
        self._epoch = 0

    def asked(self, path: str, body: bytes, key: KeyRecord | None) -> Asked | None:
        """What a request is known by; None where it must be counted against limits of its key."""
        if key is None:
            return Asked(path, body, "", (), self._epoch)
        if key.requests_per_minute is not None or key.tokens_per_minute is not None:
            return None
        return Asked(path, body, key.id, key.models, self._epoch)

    def find(self, asked: Asked) -> Reply | None:
        """The reply to be given again, if there is one and nobody need look anew."""
        kept = self._kept.get(asked)
        if kept is None:
            return None
        now_s = self._clock.monotonic()
        if now_s < kept.until_s:
            return kept.reply
        if now_s >= kept.until_s + FOR_S:  # nobody has asked for long
            del self._kept[asked]
        kept.until_s = now_s + LOOKING_S
        return None

    def keep(self, asked: Asked, reply: Reply) -> None:
        """Remember a reply if it may be repeated, and forget one that may not be any more."""
        self._kept.pop(asked, None)
        if not reply.may_repeat or not isinstance(reply.body, bytes):
            return
        if len(asked.body) + len(reply.body) > LARGEST_BYTES:
            return
        self._kept[asked] = _Kept(reply, self._clock.monotonic() + FOR_S)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all of them, those on their way included: another configuration answers now."""
        self._epoch += 1
        self._kept.clear()
