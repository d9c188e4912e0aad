"""Words in and out: what a text is about, how it is cut into tokens and streamed."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

TOKEN = re.compile(r"\s*\S{1,12}|\s+")
WORD = re.compile(r"[^\W\d_][\w'-]{2,}")
SUM = re.compile(
    r"(?<![\w.])(-?\d+(?:\.\d+)?)\s*"
    r"(\+|-|\*|/|×|x|÷|\^|plus|minus|times|multiplied by|divided by)\s*"
    r"(-?\d+(?:\.\d+)?)(?![\w.]*\d)",
    re.IGNORECASE,
)
FENCED = re.compile(r"⟦begin (?P<what>.+?) (?P<nonce>\w+)⟧\n(?P<text>.*?)\n⟦end \1 \2⟧", re.DOTALL)
ASKED = re.compile(
    r"<(question|user_question|task|request|user_request|original_prompt|prompt)\b[^>]*>"
    r"(?P<tagged>.*?)</\1>"
    r"|(?:^|\n)\W*(?:the\s+)?(?:original\s+|user'?s?\s+)?(?:question|request|task|prompt)\W*:\s*"
    r"(?P<headed>[^\n]+(?:\n(?!\s*\n)[^\n]+)*)",
    re.IGNORECASE | re.DOTALL,
)
LABELLED = re.compile(
    r"\b(?:answer|response|draft|candidate|option|proposal|reply|member|label)s?\W{1,3}"
    r"([A-Z])\b(?!['’])",
    re.IGNORECASE,
)
CHOICE = re.compile(r"(?:^|[\s(])([A-F])[).:]\s+\S")
# Words that say what to do, not what it is about.
_COMMON_WORDS = """
affect affects become becomes cause caused causes difference differences happen happens
helps influence influences lead leads matter matters prevent prevents require requires slow slows
about above according across after again against all along already also although always among
and another answer answers any anything are ask asked asking assistant back based because been
before begin being below best better between both brief briefly but call called can candidate
candidates check claim claims clear clearly combine compare complete concise concrete consider
could critique critiques describe detail details did different does doing done down draft drafts
during each either else end enough even every exactly explain explained fact facts final find
first following follow for format found from full fully further general get give given gives
giving good great had has have help helpful her here him his how however identify important
include including inside instead instructions into its itself just keep key know label labels
labelled last least less let like line list long look made main make making many may mean member
members mention merge might model models more most much must name names need never new next nor
not note nothing now object off often once one only open order other others otherwise our out
over own panel part people per perhaps please point points possible prompt provide put question
questions quite rank ranked ranking rather read reason reasons remember reply response responses
review role said same say second see seem sentence sentences several shall should show single
some something state step steps still strong such sure synthesis synthesise synthesize system
take task tell text than that the their them then there these they thing things think this those
though three through thus time to together too true try two under until upon use used useful
user uses using value values very want was way well were what when where whether which while who
whom whose why will with within without word words work would write writer written wrong yes yet
you your yourself json schema array string number boolean nonce begins ends fence fenced
untrusted data content verdict vote votes weakness weaknesses strength strengths faults fault
corrected correct improve improved revise revised revision evidence supported unsupported assess
judge judges judged
"""
COMMON = frozenset(_COMMON_WORDS.split())


def tokens_of(text: str) -> list[str]:
    """The text cut into tokens; joined they are the text again."""
    return TOKEN.findall(text)


def pieces_of(text: str, rng: Random) -> list[str]:
    """The text as it is streamed: one to three tokens a piece, cut between words."""
    tokens = tokens_of(text)
    pieces = []
    start = 0
    while start < len(tokens):
        size = 1 + int(rng.random() * 3)
        pieces.append("".join(tokens[start : start + size]))
        start += size
    return pieces


def fenced_in(text: str) -> dict[str, str]:
    """The quoted material of a prompt, by what it is called: `question`, `draft A`."""
    if "⟦" not in text:
        return {}
    return {match["what"]: match["text"] for match in FENCED.finditer(text)}


def unfenced(text: str) -> str:
    """The prompt without its quoted material."""
    return FENCED.sub("", text) if "⟦" in text else text


def asked_in(text: str) -> str:
    """The question inside a prompt that wraps one, else the prompt itself."""
    for what, quoted in fenced_in(text).items():
        if re.search("question|item|task|request|prompt", what):
            return quoted
    for match in ASKED.finditer(text):
        inner = (match["tagged"] or match["headed"] or "").strip()
        if len(inner) > 3:
            return inner
    return text


def keywords(text: str, limit: int = 6) -> list[str]:
    """What the text is about: its most frequent uncommon words, neighbours kept together."""
    text = text[:20_000]
    found = [match for match in WORD.finditer(text) if match[0].lower() not in COMMON]
    counts = Counter(match[0].lower() for match in found)
    chosen = {word for word, _ in counts.most_common(limit)}
    topics: dict[str, str] = {}
    place = 0
    while place < len(found):
        match = found[place]
        place += 1
        if match[0].lower() not in chosen:
            continue
        topic = match[0]
        if place < len(found) and text[match.end() : found[place].start()] == " ":
            topic = f"{topic} {found[place][0]}"
            place += 1
        topics.setdefault(topic.lower(), topic)
    return list(topics.values())


def labels_in(text: str) -> tuple[str, ...]:
    """The letters under which drafts stand in a prompt, `("A", "B", "C")`, or none."""
    found = {match.upper() for match in LABELLED.findall(text)}
    run = []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        if letter not in found:
            break
        run.append(letter)
    return tuple(run) if len(run) > 1 else ()


def options_in(text: str) -> tuple[str, ...]:
    """The letters of a multiple-choice question, `("A", "B", "C")`, or none."""
    found = tuple(dict.fromkeys(CHOICE.findall(text)))
    return found if len(found) > 1 and found == tuple("ABCDEF"[: len(found)]) else ()


def result_of(text: str) -> tuple[str, int | float] | None:
    """The first sum in the text as it is written, and what it comes to."""
    match = SUM.search(text)
    if match is None:
        return None
    left, right = (float(match[1]), float(match[3]))
    sign = match[2].lower()
    if sign in ("+", "plus"):
        value = left + right
    elif sign in ("-", "minus"):
        value = left - right
    elif sign in ("/", "÷", "divided by"):
        if right == 0:
            return None
        value = left / right
    elif sign == "^":
        if abs(left) > 1000 or not 0 <= right <= 12:
            return None
        value = left**right
    else:
        value = left * right
    return match[0], plain_number(value)


def plain_number(value: float) -> int | float:
    """7.0 is 7; others keep four decimals."""
    return int(value) if value == int(value) else round(value, 4)


def in_order(items: Iterable[str], weights: Iterable[float]) -> list[str]:
    """The items, heaviest first."""
    ranked = sorted(zip(weights, items, strict=True), key=lambda pair: (-pair[0], pair[1]))
    return [item for _, item in ranked]


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
