"""What the faults do: changes to an answer before it is put into words, or to its reply."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from itertools import pairwise
from time import time
from typing import Literal

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator import phrases
from orchestrator.simulator.answers import counted, with_text
from orchestrator.simulator.ask import Allowance, Answer, Ask, ErrorKind, Tokens, Wrong
from orchestrator.simulator.replies import cut_at, refusal_reply
from orchestrator.simulator.reply import Ending, Event, Reply
from orchestrator.simulator.wire_format import WireFormat, event

MIB = 2**20
MARK = "0mark0mark0mark0"
PINGS = 3_000
DRIP_GAP_S = 1.0
PING_GAP_S = 0.1
SPLITS_MAX = 200
OVERLAP_CHARACTERS = 20
ODD_TEXT = " naïve — 東京\u2028line\x85next 🙂👩‍👩‍👧 "  # odd on purpose
HTML = (
    b"<!DOCTYPE html>\n<html><head><title>One moment</title></head><body><h1>Checking your "
    b"connection</h1><p>This page is not an API answer.</p></body></html>\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a fault may look at."""

    wire: WireFormat
    ask: Ask
    answer: Answer
    key: str
    size: int | None
    retry_after_s: float
    context_tokens: int
    elsewhere: str  # the same address on another host


AnswerChange = Callable[[Ask, Answer, int | None], Answer]
ReplyChange = Callable[[Reply, Exchange], Reply]


def error(kind: ErrorKind, *, echo: bool = False) -> ReplyChange:
    """An error in the provider's own words."""

    def change(reply: Reply, exchange: Exchange) -> Reply:
        ask = exchange.ask
        allowance = Allowance()
        if kind == "rate":
            wait_s = exchange.retry_after_s
            allowance = Allowance(
                remaining_requests=0, reset_requests_s=wait_s, retry_after_s=wait_s
            )
        wrong = Wrong(
            kind=kind,
            model=exchange.answer.model,
            key=exchange.key if echo else "",
            prompt_tokens=max(ask.prompt_tokens(), exchange.context_tokens + 1),
            context_tokens=exchange.context_tokens,
            api_version=ask.api_version,
            allowance=allowance,
        )
        return refusal_reply(exchange.wire, wrong, streamed=ask.streamed)

    return change


def rate_limited(name: str, spelling: Callable[[], str] | str) -> ReplyChange:
    """A 429 whose only hint is this header."""

    def change(reply: Reply, exchange: Exchange) -> Reply:
        refused = refusal_reply(
            exchange.wire, Wrong(kind="rate", model=exchange.answer.model, message="Slow down.")
        )
        kept = [h for h in refused.headers if not re.search("retry-|reset", h[0])]
        value = spelling if isinstance(spelling, str) else spelling()
        return replace(refused, headers=(*kept, (name, value)) if name else tuple(kept))

    return change


def rate_limited_in_words(reply: Reply, exchange: Exchange) -> Reply:
    """A 429 whose only hint stands in its message."""
    words = "Rate limit reached. Please try again in 3.89s."
    wrong = Wrong(kind="rate", model=exchange.answer.model, message=words)
    refused = refusal_reply(exchange.wire, wrong)
    kept = tuple(h for h in refused.headers if not re.search("retry-|reset", h[0]))
    return replace(refused, headers=kept)


def insufficient_balance(reply: Reply, exchange: Exchange) -> Reply:
    """The 402 of hosts that are paid in advance."""
    kind = {"type": "unknown_error", "param": None, "code": "invalid_request_error"}
    body = orjson.dumps({"error": {"message": "Insufficient Balance", **kind}})
    return Reply(status=402, events=(Event("body", body),))


def html(status: int) -> ReplyChange:
    """A web page where JSON belongs."""

    def change(reply: Reply, exchange: Exchange) -> Reply:
        body = (Event("body", HTML),)
        return Reply(status=status, content_type="text/html; charset=UTF-8", events=body)

    return change


def redirect(status: int) -> ReplyChange:
    """The same address on another host."""

    def change(reply: Reply, exchange: Exchange) -> Reply:
        where = (("location", exchange.elsewhere),)
        body = (Event("body", b"moved\n"),)
        return Reply(status=status, content_type="text/plain", headers=where, events=body)

    return change


def refused_prefill(reply: Reply, exchange: Exchange) -> Reply:
    """An error for whoever began the answer itself, else nothing."""
    return error("prefill")(reply, exchange) if exchange.ask.prefilled else reply


def error_in_200(reply: Reply, exchange: Exchange) -> Reply:
    """An error's body under a status of 200."""
    kind: ErrorKind = (
        "overloaded" if exchange.wire.provider is LLMProvider.ANTHROPIC else "unavailable"
    )
    return replace(refusal_reply(exchange.wire, Wrong(kind=kind)), status=200)


def nothing(ending: Ending, head: Literal["whole", "half", "none"]) -> ReplyChange:
    """No body, and perhaps no head."""

    def change(reply: Reply, exchange: Exchange) -> Reply:
        length = len(reply.body) if head == "whole" and not reply.streamed else None
        return replace(reply, events=(), head=head, ending=ending, length=length)

    return change


def _middle(events: Sequence[Event]) -> int:
    """Where the middle content event stands."""
    contents = [index for index, one in enumerate(events) if one.kind == "content"]
    return contents[len(contents) // 2] if contents else max(0, len(events) - 1)


def cut_middle(reply: Reply, exchange: Exchange) -> Reply:
    """Half-way into the middle event, or into the body, and then a reset."""
    events = list(reply.events)
    middle = _middle(events)
    data = events[middle].data
    half = Event(events[middle].kind, data[: len(data) // 2])
    length = None if reply.streamed else len(data)
    return replace(reply, events=(*events[:middle], half), ending="reset", length=length)


def close_middle(reply: Reply, exchange: Exchange) -> Reply:
    """A stream that ends in good order between two events, half-way through its text."""
    if reply.streamed:
        return replace(reply, events=reply.events[: _middle(reply.events)])
    return replace(cut_middle(reply, exchange), ending="close")


def stall_middle(reply: Reply, exchange: Exchange) -> Reply:
    """Silence after half of the text."""
    if reply.streamed:
        return replace(reply, events=reply.events[: _middle(reply.events)], ending="stall")
    return replace(cut_middle(reply, exchange), ending="stall")


def stall_open(reply: Reply, exchange: Exchange) -> Reply:
    """Signs that an answer will come, and then silence."""
    first = next((i for i, one in enumerate(reply.events) if one.kind == "content"), 0)
    return replace(reply, events=reply.events[:first], ending="stall")


def drip(reply: Reply, exchange: Exchange) -> Reply:
    """One piece of content a gap, without end."""
    gap_s = reply.gap_s or DRIP_GAP_S
    if reply.streamed:
        contents = [one for one in reply.events if one.kind == "content"]
        opening = [one for one in reply.events[:3] if one.kind == "open"]
        return replace(reply, events=(*opening, *contents * 100), gap_s=gap_s, ending="stall")
    body = reply.body
    drops = tuple(Event("body", body[place : place + 1]) for place in range(len(body)))
    return replace(reply, events=drops, gap_s=gap_s, length=len(body))


def pings(reply: Reply, exchange: Exchange) -> Reply:
    """Signs of life, and no content."""
    gap_s = reply.gap_s or PING_GAP_S
    if reply.streamed:
        pings = (Event("ping", exchange.wire.comment),) * PINGS
        return replace(reply, events=pings, gap_s=gap_s, ending="stall")
    blank = (Event("body", b"\n"),) * PINGS  # as some hosts keep plain answers alive
    return replace(reply, events=blank, gap_s=gap_s, ending="stall", length=PINGS + 1000)


def split(reply: Reply, exchange: Exchange) -> Reply:
    """Every event's characters of several bytes are torn apart between TCP segments."""
    kind = reply.events[0].kind if reply.events else "body"
    body = reply.body
    tears = [place for place in range(1, len(body)) if body[place] & 0xC0 == 0x80][:SPLITS_MAX]
    edges = [0, *tears, len(body)]
    torn = tuple(Event(kind, body[a:b]) for a, b in pairwise(edges))
    return replace(reply, events=torn, flush_each=True)


def crlf(reply: Reply, exchange: Exchange) -> Reply:
    """Every line ends in CRLF."""
    ended = [
        Event(one.kind, one.data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        for one in reply.events
    ]
    return replace(reply, events=tuple(ended))


def bom(reply: Reply, exchange: Exchange) -> Reply:
    """A byte order mark comes first."""
    mark = Event("open", b"\xef\xbb\xbf")
    return replace(reply, events=(mark, *reply.events))


def split_all(reply: Reply, exchange: Exchange) -> Reply:
    """Torn characters, and in streams CRLF and a byte order mark too."""
    if reply.streamed:
        reply = bom(crlf(reply, exchange), exchange)
    return split(reply, exchange)


def unfinished(reply: Reply, exchange: Exchange) -> Reply:
    """All of the text, in good order, without any sign that it is over."""
    return replace(reply, events=tuple(_contents_only(reply, exchange)))


def _contents_only(reply: Reply, exchange: Exchange) -> list[Event]:
    kept = [one for one in reply.events if one.kind in ("open", "content")]
    wire, ask, answer = exchange.wire, exchange.ask, exchange.answer
    if wire.provider is LLMProvider.GOOGLE and answer.text:  # its last text comes with the finish
        kept.append(Event("content", wire.content_event(ask, answer, answer.pieces[-1])))
    return kept


def done_unfinished(reply: Reply, exchange: Exchange) -> Reply:
    """All of the text and the terminal event, without a finish reason."""
    kept = _contents_only(reply, exchange)
    done = [one for one in reply.events if one.kind == "done"]
    return replace(reply, events=(*kept, *done))


def bad_json(reply: Reply, exchange: Exchange) -> Reply:
    """A broken event takes the place of the middle one."""
    end = exchange.wire.line_end * 2
    broken = Event("content", b'data: {"id": "x", "delta": {"content": "brok' + end)
    middle = _middle(reply.events)
    return replace(reply, events=(*reply.events[:middle], broken, *reply.events[middle + 1 :]))


def error_event(reply: Reply, exchange: Exchange) -> Reply:
    """An error after half of the text."""
    kinds: dict[LLMProvider, ErrorKind] = {
        LLMProvider.ANTHROPIC: "overloaded",
        LLMProvider.GOOGLE: "unavailable",
        LLMProvider.MISTRAL: "unavailable",
    }
    error = exchange.wire.error_event(kinds.get(exchange.wire.provider, "server"))
    kept = reply.events[: _middle(reply.events)]
    return replace(reply, events=(*kept, Event("error", error)))


def error_first(reply: Reply, exchange: Exchange) -> Reply:
    """An error and nothing else."""
    return replace(reply, events=(Event("error", exchange.wire.error_event("rate")),))


def empty(reply: Reply, exchange: Exchange) -> Reply:
    """A body of no bytes."""
    return replace(reply, events=())


def half_json(reply: Reply, exchange: Exchange) -> Reply:
    """JSON that ends too early, in a message that does not."""
    if not reply.streamed:
        return cut_at(reply, len(reply.body) // 2, clean=True)
    middle = _middle(reply.events)
    data = reply.events[middle].data.rstrip()
    half = data[: len(data) * 3 // 4] + exchange.wire.line_end * 2
    return replace(reply, events=(*reply.events[:middle], Event("content", half)))


def in_array(reply: Reply, exchange: Exchange) -> Reply:
    """Every JSON object becomes the only item of an array."""
    if not reply.streamed:
        return replace(reply, events=(Event("body", b"[" + reply.body + b"]"),))
    wrapped = [
        Event(one.kind, re.sub(rb"data: (\{.*\})", rb"data: [\1]", one.data))
        for one in reply.events
    ]
    return replace(reply, events=tuple(wrapped))


def deep(reply: Reply, exchange: Exchange) -> Reply:
    """JSON that exhausts whoever parses it by recursion."""
    depth = exchange.size or 100_000
    nested = b'{"choices":' + b"[" * depth + b"]" * depth + b"}"
    if not reply.streamed:
        return replace(reply, events=(Event("body", nested),))
    deep = Event("content", b"data: " + nested + exchange.wire.line_end * 2)
    middle = _middle(reply.events)
    return replace(reply, events=(*reply.events[:middle], deep, *reply.events[middle + 1 :]))


def huge_line(reply: Reply, exchange: Exchange) -> Reply:
    """One event of so many MiB; the pieces share one block of memory."""
    ask, answer = exchange.ask, exchange.answer
    head, tail = exchange.wire.content_event(ask, answer, MARK).split(MARK.encode())
    block = Event("open", b"word and word or " * (MIB // 17) + b"w" * (MIB % 17))
    huge = (Event("content", head), *[block] * (exchange.size or 50), Event("open", tail))
    first = next((i for i, one in enumerate(reply.events) if one.kind == "content"), 0)
    return replace(reply, events=(*reply.events[:first], *huge, *reply.events[first:]))


def big_body(reply: Reply, exchange: Exchange) -> Reply:
    """A body of so many MiB, in one text or in many events."""
    size = (exchange.size or 60) * MIB
    if reply.streamed:
        return _many_events(reply, exchange, count=size // 4096, width=4096)
    marked = with_text(exchange.ask, exchange.answer, MARK)
    head, tail = exchange.wire.plain(exchange.ask, marked).split(MARK.encode())
    block = Event("body", b"word and word or " * (MIB // 17) + b"w" * (MIB % 17))
    events = (Event("body", head), *[block] * (size // MIB), Event("body", tail))
    return replace(reply, events=events)


def tiny_events(reply: Reply, exchange: Exchange) -> Reply:
    """Very many events of one letter."""
    return _many_events(reply, exchange, count=exchange.size or 1_000_000, width=1)


def _many_events(reply: Reply, exchange: Exchange, *, count: int, width: int) -> Reply:
    """So many content events of that width, made of one block of a hundred different ones."""
    wire, ask, answer = exchange.wire, exchange.ask, exchange.answer
    letters = "abcdefghijklmnopqrstuvwxyz "
    texts = [(letters[index % 27] * width)[:width] for index in range(100)]
    events = [wire.content_event(ask, answer, text) for text in texts]
    block = Event("content", b"".join(events))
    rest = Event("content", b"".join(events[: count % 100]))
    first = next((i for i, one in enumerate(reply.events) if one.kind == "content"), 0)
    after = [one for one in reply.events[first:] if one.kind != "content"]
    return replace(reply, events=(*reply.events[:first], *[block] * (count // 100), rest, *after))


def twice(reply: Reply, exchange: Exchange) -> Reply:
    """The first event and the finish come twice."""
    doubled: list[Event] = [*reply.events[:1]]
    for one in reply.events:
        doubled += [one, one] if one.kind == "finish" else [one]
    return replace(reply, events=tuple(doubled))


def unknown_fields(reply: Reply, exchange: Exchange) -> Reply:
    """Fields and events that the protocol may gain one day."""
    extra = rb'{"x_simulated":{"n":[1,2],"s":"?"},'
    pattern = rb"data: \{(?=\")" if reply.streamed else rb"^\s*\{"
    head = rb"data: " if reply.streamed else rb""
    events = [
        Event(one.kind, re.sub(pattern, lambda _: head + extra, one.data, count=1))
        for one in reply.events
    ]
    if reply.streamed and exchange.wire.provider is LLMProvider.ANTHROPIC:
        stranger = event({"type": "x_simulated", "index": 0}, name="x_simulated")
        events.insert(1, Event("open", stranger))
    return replace(reply, events=tuple(events))


def foreign_chunk(reply: Reply, exchange: Exchange) -> Reply:
    """A piece of another answer, with its id, between two pieces of this one."""
    other = replace(exchange.answer, nonce="f" * 64)
    chunk = exchange.wire.content_event(exchange.ask, other, " (a piece of another answer) ")
    middle = _middle(reply.events)
    stranger = Event("content", chunk)
    return replace(reply, events=(*reply.events[:middle], stranger, *reply.events[middle:]))


def no_content(how: Literal["null", "absent"]) -> AnswerChange:
    """An answer that finished without saying anything."""

    def change(ask: Ask, answer: Answer, size: int | None) -> Answer:
        bare = replace(answer, text="", calls=(), reasoning="", finish="stop")
        return replace(bare, no_content=how)

    return change


def blank(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """White space for an answer."""
    return with_text(ask, answer, " \n\n ")


def third(answer: Answer) -> str:
    """The first third of the text."""
    pieces = answer.pieces
    return "".join(pieces[: max(1, len(pieces) // 3)])


def cut_short(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """A third of the text, and the finish that says so."""
    return with_text(ask, answer, third(answer), finish="length")


def filtered(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """A third of the text, stopped for its content."""
    text = "" if ask.provider is LLMProvider.GOOGLE else third(answer)
    return with_text(ask, answer, text, finish="content_filter")


def refuses(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """A polite no."""
    return with_text(ask, answer, phrases.REFUSAL)


def injects(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """The text, followed by commands to its reader."""
    return with_text(ask, answer, f"{answer.text}\n{phrases.INJECTION}")


def long(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """A text of so many KiB."""
    wanted = (size or 5 * 1024) * 1024
    lines = [f"{answer.text} ({index})\n" for index in range(50)]
    block = "".join(lines)
    text = (block * (wanted // len(block) + 1))[:wanted]
    tokens = Tokens(ask.prompt_tokens(), wanted // 4)
    said = replace(answer, text=text, calls=(), finish="stop", tokens=tokens)
    return replace(said, piece_chars=4096)


def wrong_model(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """The answer comes under another name."""
    return replace(answer, model="some-other-model-2019")


def odd_text(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """Characters that break naive parsers, in the middle of prose."""
    if answer.calls or ask.json:
        return answer
    pieces = answer.pieces
    pieces.insert(len(pieces) // 2, ODD_TEXT)
    return counted(ask, replace(answer, text="".join(pieces)))


def cut_arguments(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """The last tool call's arguments end half-way."""
    return replace(answer, cut_arguments=True)


def tokens(change: Callable[[Tokens], Tokens | None]) -> AnswerChange:
    """Another usage."""

    def changed(ask: Ask, answer: Answer, size: int | None) -> Answer:
        assert answer.tokens is not None
        return replace(answer, tokens=change(answer.tokens))

    return changed


def doubled(tokens: Tokens) -> Tokens:
    """Twice the usage."""
    return _times(tokens, 2)


def multiplied(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """So many times the usage."""
    assert answer.tokens is not None
    return replace(answer, tokens=_times(answer.tokens, 2 if size is None else size))


def _times(tokens: Tokens, factor: int) -> Tokens:
    return Tokens(int(tokens.prompt) * factor, int(tokens.completion) * factor, tokens.cached)


def overlaps(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """The rest, and before it so many characters that were there already, asked for or not."""
    if not answer.begun:
        return answer
    count = OVERLAP_CHARACTERS if size is None else size
    repeated = answer.begun[-count:] if count else ""
    return with_text(ask, answer, repeated + _new(answer), finish=answer.finish)


def starts_over(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """The answer from its first word, instead of its rest."""
    if not answer.begun:
        return answer
    return with_text(ask, answer, answer.begun + _new(answer), finish=answer.finish)


def answers_anew(ask: Ask, answer: Answer, size: int | None) -> Answer:
    """The beginning once more, and then other words."""
    if not answer.begun:
        return answer
    whole = answer.begun + _new(answer)
    place = min(len(answer.begun) // 2, 40)
    others = " ".join(reversed(whole[place:].split()))
    return with_text(ask, answer, whole[:place] + others, finish=answer.finish)


def _new(answer: Answer) -> str:
    """The text without the last words that the request wanted repeated."""
    return answer.text[answer.quoted :]


def soon() -> str:
    """Two seconds from now, as an HTTP date."""
    return formatdate(time() + 2, usegmt=True)


def past() -> str:
    """An hour ago, as an HTTP date."""
    return formatdate(time() - 3600, usegmt=True)
