"""The faults that can be asked for by name: what each is, and where it makes sense."""

from dataclasses import dataclass

from adapters.config import LLMProvider
from orchestrator.simulator import damage
from orchestrator.simulator.ask import Tokens
from orchestrator.simulator.damage import AnswerChange, ReplyChange

EVERY = frozenset(LLMProvider)
NONE: frozenset[LLMProvider] = frozenset()
ANTHROPIC = frozenset({LLMProvider.ANTHROPIC})
COHERE = frozenset({LLMProvider.COHERE})
GOOGLE = frozenset({LLMProvider.GOOGLE})
MISTRAL = frozenset({LLMProvider.MISTRAL})
CUSTOM = frozenset({LLMProvider.CUSTOM})
CHAT = frozenset({LLMProvider.OPENAI}) | CUSTOM | MISTRAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that can go wrong, and where it makes sense.

    Attributes:
        plain: The wire formats whose plain answers can suffer it.
        streamed: The wire formats whose streams can.
        sized: What a number after the name means, `hugeline8`; empty if none may follow.
        billed: Whether an answer that suffers it costs its asker anything.
    """

    name: str
    description: str
    plain: frozenset[LLMProvider] = EVERY
    streamed: frozenset[LLMProvider] = EVERY
    sized: str = ""
    billed: bool = True
    on_answer: AnswerChange | None = None
    on_reply: ReplyChange | None = None

    def applies(self, provider: LLMProvider, *, streamed: bool) -> bool:
        return provider in (self.streamed if streamed else self.plain)


def _fault(
    name: str,
    description: str,
    *,
    plain: frozenset[LLMProvider] = EVERY,
    streamed: frozenset[LLMProvider] = EVERY,
    answer: AnswerChange | None = None,
    reply: ReplyChange | None = None,
    sized: str = "",
    billed: bool = True,
) -> Fault:
    return Fault(
        name=name,
        description=description,
        plain=plain,
        streamed=streamed,
        sized=sized,
        billed=billed,
        on_answer=answer,
        on_reply=reply,
    )


_TABLE = (
    # the connection
    _fault("cut0", "reset before the status line", reply=damage.nothing("reset", "none")),
    _fault("stall0", "the request is read, nothing is sent", reply=damage.nothing("stall", "none")),
    _fault("stallhead", "the headers, then nothing", reply=damage.nothing("stall", "whole")),
    _fault("cuthead", "the headers, then a reset", reply=damage.nothing("reset", "whole")),
    _fault("cuthalfhead", "half a head, then a reset", reply=damage.nothing("reset", "half")),
    _fault("cutmid", "a reset in the middle of an event or body", reply=damage.cut_middle),
    _fault("cutmidclose", "an orderly end in the middle of the text", reply=damage.close_middle),
    _fault("stallopen", "the events before the text, then silence", plain=NONE,
           reply=damage.stall_open),
    _fault("stallmid", "silence in the middle of the text", reply=damage.stall_middle),
    _fault("drip", "content slower than useful, one piece a gap (1 s)", reply=damage.drip),
    _fault("pingdrip", "keep-alive comments (blank lines when plain) only", reply=damage.pings),
    _fault("splitchunk", "characters torn between TCP segments; CRLF, BOM, U+2028, U+0085",
           answer=damage.odd_text, reply=damage.split_all),
    _fault("oddtext", "U+2028, U+0085 and joined emoji in the text", answer=damage.odd_text),
    _fault("crlf", "lines end in CRLF", plain=NONE, streamed=EVERY - GOOGLE, reply=damage.crlf),
    _fault("bom", "a byte order mark before the first event", plain=NONE, reply=damage.bom),
    # streams that lie
    _fault("endnofinish", "all of the text, an orderly end, no finish", plain=NONE,
           reply=damage.unfinished),
    _fault("anthcut", "no message_delta and no message_stop", plain=NONE, streamed=ANTHROPIC,
           reply=damage.unfinished),
    _fault("gemcut", "no finishReason", plain=NONE, streamed=GOOGLE, reply=damage.unfinished),
    _fault("donenofinish", "all of the text and the last event, no finish reason", plain=NONE,
           streamed=EVERY - GOOGLE, reply=damage.done_unfinished),
    _fault("badjson", "broken JSON between whole events", plain=NONE, reply=damage.bad_json),
    _fault("errevent", "an error event in the middle of a stream that began with 200",
           plain=NONE, reply=damage.error_event),
    _fault("antherr", "an overloaded_error event in mid-stream", plain=NONE, streamed=ANTHROPIC,
           reply=damage.error_event),
    _fault("errfirst", "a rate limit error as the first event of a 200", plain=NONE,
           reply=damage.error_first, billed=False),
    _fault("dupchunks", "first event and finish come twice", plain=NONE, reply=damage.twice),
    _fault("unknownfields", "fields and events nobody knows", reply=damage.unknown_fields),
    _fault("foreignid", "a chunk with another answer's id", plain=NONE, streamed=CHAT,
           reply=damage.foreign_chunk),
    # nothing in it
    _fault("empty", "a 200 without a body", reply=damage.empty),
    _fault("nochoices", "no choice, no candidate, no content block",
           answer=damage.no_content("absent")),
    _fault("nullcontent", "content that is null", answer=damage.no_content("null")),
    _fault("blank", "a text of white space", answer=damage.blank),
    # not what the protocol says
    _fault("html200", "a web page with status 200", reply=damage.html(200), billed=False),
    _fault("halfjson", "JSON that ends half-way in an orderly message", reply=damage.half_json),
    _fault("arrayjson", "JSON wrapped in an array", reply=damage.in_array),
    _fault("deepjson", "JSON nested 100,000 deep", reply=damage.deep, sized="levels"),
    _fault("errin200", "an error object with status 200", reply=damage.error_in_200,
           billed=False),
    _fault("hugeline", "an event of 50 MiB", plain=NONE, reply=damage.huge_line, sized="MiB"),
    _fault("big", "a body of 60 MiB", reply=damage.big_body, sized="MiB"),
    _fault("tinyevents", "a million events of one letter", plain=NONE, reply=damage.tiny_events,
           sized="events"),
    # errors
    _fault("e400", "a bad request", reply=damage.error("bad_request")),
    _fault("e400ctx", "the prompt is too long for the model", reply=damage.error("context")),
    _fault("filter400", "the prompt is refused for its content", reply=damage.error("filtered")),
    _fault("prefill400", "an answer begun by the caller is refused", reply=damage.refused_prefill),
    _fault("e401", "the key is wrong", reply=damage.error("auth")),
    _fault("echo401", "the key is wrong and echoed", reply=damage.error("auth", echo=True)),
    _fault("e402", "the balance is spent", plain=CHAT - MISTRAL, streamed=CHAT - MISTRAL,
           reply=damage.insufficient_balance),
    _fault("e403", "the key may not do this", reply=damage.error("forbidden")),
    _fault("e404", "no such model", reply=damage.error("not_found")),
    _fault("e413", "the request is too large", reply=damage.error("too_large")),
    _fault("e429", "too many requests, with the provider's own hint", reply=damage.error("rate")),
    _fault("e429quota", "the quota is spent", plain=EVERY - MISTRAL, streamed=EVERY - MISTRAL,
           reply=damage.error("quota")),
    _fault("e500", "an internal error", reply=damage.error("server")),
    _fault("e502", "a bad gateway", reply=damage.error("bad_gateway")),
    _fault("e502html", "a bad gateway's web page", reply=damage.html(502)),
    _fault("e503", "unavailable", reply=damage.error("unavailable")),
    _fault("e503html", "an unavailable service's web page", reply=damage.html(503)),
    _fault("e504", "a gateway's time-out page", reply=damage.html(504)),
    _fault("e529", "overloaded", plain=ANTHROPIC | {LLMProvider.CUSTOM},
           streamed=ANTHROPIC | {LLMProvider.CUSTOM}, reply=damage.error("overloaded")),
    # retry-after, spelled in many ways
    _fault("e429-seconds", "retry-after: 2", reply=damage.rate_limited("retry-after", "2")),
    _fault("e429-float", "retry-after: 1.5", reply=damage.rate_limited("retry-after", "1.5")),
    _fault("e429-zero", "retry-after: 0", reply=damage.rate_limited("retry-after", "0")),
    _fault("e429-date", "retry-after: a date",
           reply=damage.rate_limited("retry-after", damage.soon)),
    _fault("e429-past", "retry-after: a date that is over",
           reply=damage.rate_limited("retry-after", damage.past)),
    _fault("e429-ms", "retry-after-ms: 1500", reply=damage.rate_limited("retry-after-ms", "1500")),
    _fault("e429-duration", "retry-after: 6m0s", reply=damage.rate_limited("retry-after", "6m0s")),
    _fault("e429-reset", "x-ratelimit-reset-requests: 6m0s",
           reply=damage.rate_limited("x-ratelimit-reset-requests", "6m0s")),
    _fault("e429-negative", "retry-after: -5", reply=damage.rate_limited("retry-after", "-5")),
    _fault("e429-huge", "retry-after: 1000000000",
           reply=damage.rate_limited("retry-after", "1000000000")),
    _fault("e429-garbage", "retry-after: soon", reply=damage.rate_limited("retry-after", "soon")),
    _fault("e429-none", "no hint at all", reply=damage.rate_limited("", "")),
    _fault("e429-words", "the wait stands in the message only", reply=damage.rate_limited_in_words),
    # redirects to another host
    _fault("redir3", "307 to another host", reply=damage.redirect(307)),
    _fault("redir301", "301 to another host", reply=damage.redirect(301)),
    _fault("redir302", "302 to another host", reply=damage.redirect(302)),
    _fault("redir307", "307 to another host", reply=damage.redirect(307)),
    _fault("redir308", "308 to another host", reply=damage.redirect(308)),
    # usage
    _fault("nousage", "no usage", answer=damage.tokens(lambda tokens: None)),
    _fault("zerousage", "usage of nought", answer=damage.tokens(lambda tokens: Tokens(0, 0))),
    _fault("lowusage", "usage below the text that came",
           answer=damage.tokens(lambda tokens: Tokens(1, 1))),
    _fault("negusage", "negative usage", answer=damage.tokens(lambda tokens: Tokens(-12, -34))),
    _fault("strusage", "usage as text",
           answer=damage.tokens(lambda tokens: Tokens(str(tokens.prompt), str(tokens.completion)))),
    _fault("hugeusage", "usage of 10^12 tokens",
           answer=damage.tokens(lambda tokens: Tokens(10**12, 10**12))),
    _fault("doubleusage", "twice the true usage", answer=damage.tokens(damage.doubled)),
    _fault("usagex", "twice the true usage, or so many times", answer=damage.multiplied,
           sized="times"),
    # the answer
    _fault("wrongmodel", "another model answers", answer=damage.wrong_model),
    _fault("length", "the text is cut by a limit", answer=damage.cut_short),
    _fault("filter", "the text is cut by a content filter", plain=EVERY - MISTRAL,
           streamed=EVERY - MISTRAL, answer=damage.filtered),
    _fault("toolcut", "a tool call's arguments end half-way",
           plain=CHAT | COHERE, streamed=EVERY - GOOGLE, answer=damage.cut_arguments),
    _fault("refuse", "the model declines", answer=damage.refuses),
    _fault("inject", "the text tries to command who reads it", answer=damage.injects),
    _fault("long", "a text of 5 MiB", answer=damage.long, sized="KiB"),
    # the rest of an answer begun
    _fault("overlap", "asked to go on, the model repeats the last 20 characters first",
           answer=damage.overlaps, sized="characters"),
    _fault("startover", "asked to go on, the model gives the whole answer",
           answer=damage.starts_over),
    _fault("anew", "asked to go on, the model begins again and says something else",
           answer=damage.answers_anew),
)  # fmt: skip  # a table reads best as one

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _TABLE}
