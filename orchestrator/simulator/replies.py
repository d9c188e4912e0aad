"""Put an answer or an error into the reply that carries it."""

from dataclasses import replace

import orjson

from orchestrator.simulator.ask import Allowance, Answer, Ask, Wrong
from orchestrator.simulator.reply import Event, Reply
from orchestrator.simulator.wire_format import WireFormat


def answer_reply(wire: WireFormat, ask: Ask, answer: Answer, allowance: Allowance) -> Reply:
    """The reply that carries this answer."""
    headers = wire.headers(ask, answer, allowance)
    if ask.streamed:
        return Reply(
            content_type=wire.stream_type,
            headers=headers,
            events=tuple(wire.events(ask, answer)),
            streamed=True,
        )
    body = Event("body", wire.plain(ask, answer))
    return Reply(content_type=wire.plain_type, headers=headers, events=(body,))


def refusal_reply(wire: WireFormat, wrong: Wrong, *, streamed: bool = False) -> Reply:
    """The reply that carries this error."""
    refusal = wire.refuse(wrong)
    headers = refusal.headers
    if refusal.status == 429 and wrong.kind == "rate":
        headers += wire.limit_headers(wrong.allowance)
    body = Event("body", orjson.dumps(refusal.body))
    kind = wire.stream_type if streamed and wire.errors_as_streams else wire.plain_type
    return Reply(status=refusal.status, content_type=kind, headers=headers, events=(body,))


def cut_at(reply: Reply, place: int, *, clean: bool) -> Reply:
    """The reply whose body ends after so many bytes: in an orderly way, or by a reset."""
    whole = sum(len(one.data) for one in reply.events)
    kept, left = [], place
    for one in reply.events:
        if left <= 0:
            break
        kept.append(Event(one.kind, one.data[:left]))
        left -= len(one.data)
    return replace(
        reply,
        events=tuple(kept),
        ending="whole" if clean else "reset",
        length=None if clean else whole,
    )
