"""Recognise a request to go on with an answer begun, and say what is left of that answer."""

import re
from dataclasses import dataclass, replace
from itertools import takewhile

from orchestrator.simulator.answers import counted, limited
from orchestrator.simulator.ask import Answer, Ask

CONVERSATIONS_MAX = 10_000
TEXTS_MAX = 64  # that were said to one conversation: a panel's, and samples of each
QUOTED_FROM = 8  # a shorter end that two texts share is chance

WANTS_THE_REST = re.compile(
    r"\b(?:broke off|breaks off|left off|cut off|interrupted|continue (?:exactly|from|where))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A request for the rest of an answer.

    Attributes:
        ask: The request that was answered, without the answer begun.
        text: The answer begun.
        quoted: The last words of it, where the request wants them said once more.
    """

    ask: Ask
    text: str
    quoted: str = ""


def begun_in(ask: Ask) -> Begun | None:
    """The answer that this request wants continued, if it does.

    Either the assistant's words stand last, or a user's message behind them asks for the rest.
    """
    last = ask.turns[-1]
    if ask.prefilled:
        before, text, quoted = ask.turns[:-1], last.text, ""
    elif len(ask.turns) > 2 and last.role == "user" and WANTS_THE_REST.search(last.text):
        before, begun = ask.turns[:-2], ask.turns[-2]
        text = begun.text if begun.role == "assistant" else ""
        quoted = _end_in_common(last.text, text)
    else:
        return None
    if not before or not text:
        return None
    return Begun(ask=replace(ask, turns=before), text=text, quoted=quoted)


def _end_in_common(wish: str, text: str) -> str:
    """The last words of a text that a wish ends with, too."""
    text, wish = text.strip(), wish.rstrip()
    alike = (one == other for one, other in zip(reversed(text), reversed(wish), strict=False))
    count = sum(1 for _ in takewhile(bool, alike))
    shared = text[len(text) - count :].lstrip()
    return shared if len(shared) >= min(QUOTED_FROM, len(text)) else ""


class Spoken:
    """What was said to which conversation, so that any model can go on with it."""

    def __init__(self) -> None:
        self._answers: dict[bytes, dict[str, Answer]] = {}

    def keep(self, ask: Ask, said: Answer) -> None:
        """Remember an answer; of very many, the newest."""
        if said.calls or not said.text:
            return
        answers = self._answers.setdefault(ask.conversation(), {})
        if len(answers) < TEXTS_MAX:
            answers.setdefault(said.text, said)
        if len(self._answers) > CONVERSATIONS_MAX:
            del self._answers[next(iter(self._answers))]

    def keep_rest(self, begun: Begun, said: Answer) -> None:
        """Remember an answer whose rest this is: it may break off once more."""
        self.keep(begun.ask, replace(said, text=said.begun + said.text[said.quoted :]))

    def find(self, begun: Begun) -> Answer | None:
        """An answer to this conversation that begins in these words."""
        answers = self._answers.get(begun.ask.conversation(), {})
        return next((said for text, said in answers.items() if text.startswith(begun.text)), None)


def go_on(ask: Ask, begun: Begun, whole: Answer, model: str) -> Answer:
    """The rest of an answer; in the model's own words, where it is not that answer's beginning."""
    known = begun.text.rstrip() if begun.quoted else begun.text
    if whole.text.startswith(known):
        text = whole.text[len(known) :]
    else:
        text = whole.text if known[-1].isspace() else f" {whole.text}"
    rest = replace(
        whole,
        model=model,
        nonce=ask.digest(model, "rest").hex(),
        text=begun.quoted + text,
        reasoning="",
        begun=known,
        quoted=len(begun.quoted),
    )
    return counted(ask, limited(ask, rest))
