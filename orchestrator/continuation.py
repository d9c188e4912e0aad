"""Let another model go on with an answer that broke off, and join the two without a seam. Pure.

A model that continues may do exactly that, or repeat the last words first, or begin all over. The
text that was handed out stands; of the continuation only what is new may follow it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from adapters.types import CompletionRequest, Message
from orchestrator.errors import Diverged

# A continuation that begins with this many of the last characters repeats them. Fewer may well be
# meant: "ha ha ha", an indentation, a cell of a table, the digits of a third.
LEAST_OVERLAP = 16
LEAST_WHOLE = 4  # so many are enough where they are all there was: the answer began again
LEAST_LETTERS = 8  # of them, digits included: empty rows of a table and rules say nothing
LONGEST_PERIOD = 200  # a row of a table, a line of a poem: what a text may rightly say twice

ANCHOR_CHARACTERS = 80  # how much of the end is shown again, to be begun with
LEAST_TOKENS = 16
CHARACTERS_A_TOKEN = 4

_PAUSE = " \t\r\n\v\f.…"  # what may stand before repeated words: white space, dots of omission

_GO_ON = (
    "Your last message broke off before its end. Write what is missing, and nothing else: no "
    "introduction, no remark about the break, no code fence around it, and do not start over. "
    "Begin with the last words that are there, character for character, so that the two parts can "
    "be joined, and go straight on from them, in the middle of a word if that is where they end. "
    "These are the last words:\n\n"
)


# What to ask.

# What means nothing for the rest of an answer.
_WHOLE_ONLY = frozenset(("logprobs", "parallel_tool_calls", "top_logprobs"))


def continuation_request(
    request: CompletionRequest, delivered: str, *, prefill: bool
) -> CompletionRequest:
    """The request for the rest of an answer of which this much was handed out.

    With a prefill the text stands last, as the assistant's own message, and the model goes on with
    it. That needs a deployment that says it can, a text that does not end in white space (Anthropic
    refuses one, chat templates trim it), enough of it to be known again should the model begin
    anew, and no thinking before the answer. Otherwise the text is
    shown as an assistant's message and a user's message asks for the rest. It asks to begin with
    the last words once more: a model's answer hardly ever begins with a space or in the middle of
    a word, so without them nobody could tell how the parts belong together. `Seam` takes them out.

    Tools are left out: a call that broke off is not continued, and text is all that is missing.
    So is the response format, because no grammar accepts the second half of an object: whoever
    joins the parts checks them, with `is_whole_json`. `max_tokens` is lowered by an estimate of
    what was handed out. With no word handed out the request stays as it is.
    """
    if not delivered.strip(_PAUSE):
        return request
    begun = {"role": "assistant", "content": delivered}
    messages, spare = _with_begun(request.messages, begun), 0
    if prefill and _takes_prefill(request, delivered):
        # Mistral and DeepSeek ask for the mark; the others go by the message's place.
        messages[-1] = {**messages[-1], "prefix": True}
    else:
        anchor = _anchor(delivered)
        messages.append({"role": "user", "content": _GO_ON + anchor})
        spare = _tokens(anchor)
    limit = request.max_tokens
    if limit is not None:
        limit = max(limit - _tokens(delivered), min(LEAST_TOKENS, limit)) + spare
    extra = {name: value for name, value in request.extra.items() if name not in _WHOLE_ONLY}
    return replace(
        request,
        messages=tuple(messages),
        tools=None,
        tool_choice=None,
        response_format=None,
        max_tokens=limit,
        extra=extra,
    )


def is_prefilled(request: CompletionRequest) -> bool:
    """Whether the request ends in an answer already begun, which some models refuse."""
    return bool(request.messages) and request.messages[-1].get("role") == "assistant"


def _takes_prefill(request: CompletionRequest, delivered: str) -> bool:
    thinks = request.reasoning_effort not in {None, "none"} or "thinking" in request.extra
    is_known_again = len(delivered.strip(_PAUSE)) >= LEAST_WHOLE
    return not thinks and is_known_again and not delivered[-1].isspace()


def _with_begun(messages: Any, begun: Message) -> list[Message]:
    """The conversation with the begun answer last, in one piece if the caller had begun it."""
    *earlier, last = messages
    if last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return [*earlier, {**begun, "content": last["content"] + begun["content"]}]
    return [*messages, begun]


def _anchor(delivered: str) -> str:
    """The last words: long enough to be found again, from the beginning of a word if there is."""
    text = delivered.strip()
    if len(text) <= ANCHOR_CHARACTERS:
        return text
    tail = text[-ANCHOR_CHARACTERS:]
    words = tail.split(maxsplit=1)
    return words[1] if len(words) == 2 and len(words[1]) >= ANCHOR_CHARACTERS // 2 else tail


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_A_TOKEN)


# What may follow.


class Seam:
    """What of a continuation may be handed out behind what was handed out before.

    It holds text back while that may still turn out to be a repetition, and takes out:

    - the longest end of the delivered text that the continuation begins with, if it is at least 16
      characters long with words in it. Dots and white space before it go with it; white space
      after it is handed out once. What the text has just repeated itself ("ha ha ha ha ha ha", a
      third equal row) is meant and stays; a line that is equal to the one before for the first
      time cannot be told from a repetition, and goes.
    - the whole delivered text, when the answer was begun again and came the same way.

    - the last words that `continuation_request` asked to begin with, however few they are.

    Everything else is handed out as it is. In whatever pieces the continuation comes, the result is
    the same.

    >>> seam = Seam("The capital of France is Par")
    >>> seam.feed("of France "), seam.feed("is Paris, on"), seam.feed(" the Seine."), seam.end()
    ('', 'is, on', ' the Seine.', '')

    Args:
        delivered: What was handed out.
        anchored: Whether the continuation was asked for without a prefill.

    Raises:
        Diverged: the answer was begun again and came another way. Nothing was handed out.
    """

    __slots__ = ("_anchor", "_held", "_is_open", "_known", "_space")

    def __init__(self, delivered: str, *, anchored: bool = False) -> None:
        text = delivered.rstrip()
        self._anchor = _anchor(delivered).lstrip(_PAUSE) if anchored else ""
        self._known = text.lstrip(_PAUSE)
        self._space = delivered[len(text) :]  # handed out already, not to be repeated either
        self._held = ""
        self._is_open = False

    def feed(self, text: str) -> str:
        """Another piece of the continuation has come; what may be handed out now."""
        if self._is_open:
            return self._after_space(text)
        self._held += text
        return "" if self._may_repeat(self._held.lstrip(_PAUSE)) else self._settle()

    def end(self) -> str:
        """The continuation is over; what was still held back."""
        return "" if self._is_open else self._settle()

    def _may_repeat(self, start: str) -> bool:
        """Whether more text could make this beginning one that repeats what is known."""
        known = self._known
        if len(start) < len(self._anchor) and self._anchor.startswith(start):
            return True
        if len(start) < len(known) and known.startswith(start):
            return len(known) >= LEAST_WHOLE
        # A place in the known text from which it goes on, with enough behind it to count.
        end = len(known) - max(LEAST_OVERLAP - len(start), 1)
        return end > 0 and known.find(start, 0, end) != -1

    def _settle(self) -> str:
        """Decide what the beginning is; from here on everything is handed out."""
        self._is_open = True
        held, self._held = self._held, ""
        start = held.lstrip(_PAUSE)
        repeated = self._overlap(start)
        if repeated and _is_telling(self._known, repeated):
            return self._after_space(start[repeated:])
        if self._anchor and start.startswith(self._anchor):
            return self._after_space(start[len(self._anchor) :])
        if not repeated and self._begins_anew(start):
            self._refuse()
        self._space = ""
        return held

    def _overlap(self, start: str) -> int:
        """How many of the last known characters the continuation begins with; 0 for too few."""
        known, probe = self._known, start[:LEAST_OVERLAP]
        if len(known) < LEAST_OVERLAP:
            whole = len(known) >= LEAST_WHOLE and start.startswith(known)
            return len(known) if whole else 0
        at = known.find(probe, max(len(known) - len(start), 0))
        while at != -1 and len(known) - at >= LEAST_OVERLAP:
            if start.startswith(known[at:]):
                return len(known) - at
            at = known.find(probe, at + 1)
        return 0

    def _begins_anew(self, start: str) -> bool:
        """Whether it begins like the answer did, in words that stand nowhere else in it."""
        opening = start[:LEAST_OVERLAP]
        return (
            len(opening) == LEAST_OVERLAP
            and self._known.startswith(opening)
            and self._known.find(opening, 1) == -1
        )

    def _after_space(self, text: str) -> str:
        """The text without the white space that was handed out before the break."""
        if not self._space or not text:
            return text
        same = 0
        for there, here in zip(self._space, text, strict=False):
            if there != here:
                break
            same += 1
        self._space = self._space[same:] if same == len(text) else ""
        return text[same:]

    def _refuse(self) -> NoReturn:
        raise Diverged("asked to go on with an answer, the model began another one")


def _is_telling(known: str, count: int) -> bool:
    """Whether so many of the last characters would not come again by themselves.

    They hold words, or are all there is and more than a rule. And they are not more of the same
    that stands before them: a text that has just said something twice may well say it a third time.
    """
    letters = sum(character.isalnum() for character in known[-count:])
    least = 1 if count == len(known) else min(LEAST_LETTERS, count // 2)
    return letters >= least and not _repeats_itself(known, count)


def _repeats_itself(known: str, count: int) -> bool:
    """Whether the last characters, so many, repeat what stands before them or within them."""
    for period in range(1, min(count, LONGEST_PERIOD) + 1):
        size = max(count, 2 * period)
        if size <= len(known) and known[-1] == known[-1 - period]:
            tail = known[-size:]
            if tail[period:] == tail[:-period]:
                return True
    return False


# Whether the whole is whole.


def asks_for_json(response_format: Mapping[str, Any] | None) -> bool:
    """Whether an answer in this format is JSON."""
    return response_format is not None and response_format.get("type") in {
        "json_object",
        "json_schema",
    }


def is_whole_json(text: str) -> bool:
    """Whether a text is one JSON value and nothing else, as the standard has it.

    >>> is_whole_json('{"city": "Paris"}'), is_whole_json('{"city": "Par'), is_whole_json("NaN")
    (True, False, False)
    """
    try:
        json.loads(text, parse_constant=_no_number, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return False
    return True


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
