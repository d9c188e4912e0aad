"""Make one answer from several: by writing, voting, ranking, picking, or merging fields. Pure.

Whoever runs a pattern asks the judges and the writer; here their words are read and counted.
Nobody's answer is deleted for disagreeing, and what cannot be read is counted, never guessed.
Agreement is a count and nothing else: it says how many agree, not how likely they are right.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from adapters.types import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A member's answer. Drafts are kept in the order of the panel."""

    member: str
    text: str
    label: str = ""
    weight: float = 1.0
    finish_reason: FinishReason = "stop"

    @property
    def is_cut(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """What somebody who was asked to decide, or to write, has written."""

    by: str  # the member
    text: str
    own: frozenset[str] = frozenset()  # the labels of the judge's own drafts: no say in those


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a combination came to.

    Attributes:
        text: The answer; None where nothing could be decided.
        winner: The draft that was chosen, where one was.
        ranking: The members, best first.
        settled: False where chance or weight decided and not the ballots.
        summary: One line for people, in labels, so that models may see it too.
        outcome: For the receipt, in members' names.
        fields: What `fields` merged.
    """

    text: str | None
    winner: Draft | None = None
    ranking: tuple[str, ...] = ()
    settled: bool = True
    summary: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


Synthesis = Callable[[Sequence[Draft], Sequence[Ballot]], Decision]


def write(drafts: Sequence[Draft], ballots: Sequence[Ballot]) -> Decision:
    """The text somebody wrote; the drafts were only read."""
    written = next((ballot for ballot in ballots if ballot.text.strip()), None)
    return Decision(
        text=written.text if written else None,
        settled=written is not None,
        outcome={"synthesizer": written.by if written else None},
    )


def vote(drafts: Sequence[Draft], ballots: Sequence[Ballot]) -> Decision:
    """The answer that most drafts end in; of equals the heavier, then the earlier.

    Where no two agree word for word, a judge's pick of the most common meaning settles it.
    """
    answers = {draft.member: extract_answer(draft.text) for draft in drafts}
    keys = {name: normalise(answer) for name, answer in answers.items() if answer is not None}
    groups: dict[str, list[Draft]] = {}
    for draft in drafts:
        if draft.member in keys:
            groups.setdefault(keys[draft.member], []).append(draft)
    outcome: dict[str, Any] = {
        "votes": {answers[group[0].member]: len(group) for group in groups.values()},
        "unparsable": len(drafts) - len(keys),
        "dissent": [],
    }
    most = max((len(group) for group in groups.values()), default=0)
    if most < 2 and len(drafts) > 1:
        return _vote_by_judge(drafts, ballots, outcome)
    if not groups:
        return _only(drafts, outcome)
    leading = max(
        groups.values(), key=lambda group: (len(group), sum(draft.weight for draft in group))
    )
    winner = best(leading)
    outcome["winner"] = answers[winner.member]
    outcome["dissent"] = [draft.member for draft in drafts if draft not in leading]
    differ = len(keys) - len(leading)
    silent = len(drafts) - len(keys)
    return Decision(
        text=winner.text,
        winner=winner,
        ranking=_first(winner, drafts),
        summary=f"{len(leading)} of {len(drafts)} agree"
        + (f", {differ} differ" if differ else "")
        + (f", {silent} without a final answer" if silent else ""),
        outcome=outcome,
    )


def _vote_by_judge(
    drafts: Sequence[Draft], ballots: Sequence[Ballot], outcome: dict[str, Any]
) -> Decision:
    picked = pick(drafts, ballots)
    if not picked.settled:
        summary = f"no two of {len(drafts)} agree"
    else:
        summary = f"no two agree word for word; a judge found {picked.summary}"
    winner = picked.winner
    outcome |= {
        "winner": winner.member if winner else None,
        "judge": picked.outcome,
        "dissent": [draft.member for draft in drafts if draft != winner],
    }
    return Decision(
        text=picked.text,
        winner=winner,
        ranking=picked.ranking,
        settled=picked.settled,
        summary=summary,
        outcome=outcome,
    )


def _only(drafts: Sequence[Draft], outcome: dict[str, Any]) -> Decision:
    """What is left to decide when there is at most one draft."""
    winner = drafts[0] if drafts else None
    return Decision(
        text=winner.text if winner else None,
        winner=winner,
        ranking=(winner.member,) if winner else (),
        settled=winner is not None,
        summary="only one draft" if winner else "no draft",
        outcome={**outcome, "winner": winner.member if winner else None},
    )


def rank(drafts: Sequence[Draft], ballots: Sequence[Ballot]) -> Decision:
    """Order by mean Borda score without self-votes; 1 is best of all, 0 last on every ballot."""
    if len(drafts) < 2:
        return _only(drafts, {"ranking": [draft.member for draft in drafts], "unparsable": 0})
    by_label = {draft.label: draft for draft in drafts}
    scores: dict[str, list[float]] = {draft.member: [] for draft in drafts}
    unparsable = 0
    for ballot in ballots:
        shown = [label for label in by_label if label not in ballot.own]
        order = read_ranking(ballot.text, shown)
        if order is None:
            unparsable += 1
            continue
        for label, score in borda(order, shown).items():
            scores[by_label[label].member].append(score)
    # An answer that nobody ranked stands in the middle: no ballot speaks for or against it.
    means = {name: sum(got) / len(got) if got else 0.5 for name, got in scores.items()}
    ordered = sorted(drafts, key=lambda draft: (-means[draft.member], *_preference(draft)))
    settled = unparsable < len(ballots)
    shown_scores = ", ".join(
        f"{draft.label or draft.member} {means[draft.member]:.2f}" for draft in ordered
    )
    unread = f"; {unparsable} of {len(ballots)} could not be read" if unparsable else ""
    return Decision(
        text=ordered[0].text,
        winner=ordered[0],
        ranking=tuple(draft.member for draft in ordered),
        settled=settled,
        summary=(shown_scores if settled else "no ranking could be read") + unread * settled,
        outcome={
            "ranking": [draft.member for draft in ordered],
            "scores": {name: round(score, 4) for name, score in means.items()},
            "ballots": len(ballots),
            "unparsable": unparsable,
        },
    )


def borda(order: Sequence[str], shown: Sequence[str]) -> dict[str, float]:
    """Points from 1 (first) to 0 (last); what a ballot left out shares the places behind."""
    if len(shown) < 2:
        return {}
    last = len(shown) - 1
    points = {label: (last - place) / last for place, label in enumerate(order)}
    left_out = [label for label in shown if label not in points]
    shared = (len(left_out) - 1) / 2 / last if left_out else 0.0
    return points | dict.fromkeys(left_out, shared)


def pick(drafts: Sequence[Draft], ballots: Sequence[Ballot]) -> Decision:
    """The draft that most judges picked; of equals the heavier, then the earlier."""
    if len(drafts) < 2:
        return _only(drafts, {"picked": drafts[0].member if drafts else None, "unparsable": 0})
    by_label = {draft.label: draft for draft in drafts}
    votes: dict[str, int] = {}
    reasons: list[str] = []
    unparsable = 0
    for ballot in ballots:
        shown = [label for label in by_label if label not in ballot.own]
        choice = read_pick(ballot.text, shown)
        if choice is None:
            unparsable += 1
            continue
        votes[choice[0]] = votes.get(choice[0], 0) + 1
        if choice[1]:
            reasons.append(choice[1])
    most = max(votes.values(), default=0)
    winner = best([by_label[label] for label in votes if votes[label] == most] or drafts)
    return Decision(
        text=winner.text,
        winner=winner,
        ranking=_first(winner, drafts),
        settled=bool(votes),
        summary=f"{winner.label or winner.member} picked" if votes else "no pick could be read",
        outcome={
            "picked": winner.member,
            "reason": reasons[0] if reasons else "",
            "votes": {by_label[label].member: count for label, count in votes.items()},
            "unparsable": unparsable,
        },
    )


def fields(drafts: Sequence[Draft], ballots: Sequence[Ballot]) -> Decision:
    """Merge JSON objects field by field: the most frequent value, lists united, text kept.

    Reads the ballots where somebody was asked, else the drafts themselves. Where nothing is a
    JSON object, the first text is handed on as it is: words are better than nothing.
    """
    texts = [ballot.text for ballot in ballots] or [draft.text for draft in drafts]
    objects = [found for text in texts if (found := read_object(text)) is not None]
    outcome: dict[str, Any] = {"unparsable": len(texts) - len(objects)}
    if not objects:
        spoken = next((text for text in texts if text.strip()), None)
        return Decision(
            text=spoken, settled=False, summary="no fields could be read", outcome=outcome
        )
    merged = merge_objects(objects)
    return Decision(
        text=json.dumps(merged, ensure_ascii=False, indent=2),
        summary=", ".join(merged),
        outcome=outcome | {"fields": merged},
        fields=merged,
    )


SYNTHESES: Mapping[str, Synthesis] = {
    "write": write,
    "vote": vote,
    "rank": rank,
    "pick": pick,
    "fields": fields,
}

# The reason comes first: a model that writes it down before it decides, decides better.
RANKING_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "ranking": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["reason", "ranking"],
    "additionalProperties": False,
}
PICK_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "pick": {"type": "string"}},
    "required": ["reason", "pick"],
    "additionalProperties": False,
}
BALLOT_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "rank": RANKING_SCHEMA,
    "pick": PICK_SCHEMA,
    "vote": PICK_SCHEMA,
}


# Which draft is best, when nobody judged.


def best(drafts: Sequence[Draft], ranking: Sequence[str] = ()) -> Draft:
    """The first of the ranking; without one a whole draft before a cut one, then the heaviest.

    The longest is not the best. Of equals the earlier in the panel's order.
    """
    places = {member: place for place, member in enumerate(ranking)}
    return min(
        drafts, key=lambda draft: (places.get(draft.member, len(places)), *_preference(draft))
    )


def _preference(draft: Draft) -> tuple[bool, float]:
    return (draft.is_cut, -draft.weight)


def _first(winner: Draft, drafts: Iterable[Draft]) -> tuple[str, ...]:
    """The winner, then the others in the order of the panel."""
    return (winner.member, *(draft.member for draft in drafts if draft != winner))


# Reading what models write.

_MARKED_ANSWER = re.compile(
    # Possessive: white space that leads nowhere is not tried again in every other way.
    r"(?im)^[ \t>*_#-]*(?:final[ \t]++)?answer[ \t]*+(?:is)?[ \t*_]*+[:=][ \t*_]*"
    r"(?P<same>.*)\n?(?P<next>.*)"
)
_SPOKEN_ANSWER = re.compile(
    r"\bthe (?:final |correct )?answer is:?[ \t*_]*(?P<same>[^\n]+)", re.IGNORECASE
)
_HASHED_ANSWER = re.compile(r"^####[ \t]*(?P<same>.+)$", re.MULTILINE)
_SHORT_ANSWER = 80  # characters; a text this short on one line is its own answer


def extract_answer(text: str) -> str | None:
    r"""The final answer of a draft, or None where none can be told from the reasoning.

    >>> extract_answer("6 times 7...\nANSWER: **42**")
    '42'
    >>> extract_answer("It is hard to say. Some argue\nthis, some that.") is None
    True
    """
    if (found := _whole_object(text)) is not None:
        value = found.get("answer", found)
        return value.strip() if isinstance(value, str) else _canonical(value)
    for pattern in (_MARKED_ANSWER, _HASHED_ANSWER):
        for match in reversed(list(pattern.finditer(text))):
            parts = match.groupdict()
            answer = _clean(parts["same"]) or _clean(parts.get("next") or "")
            if answer:
                return answer
    if boxed := _last_box(text):
        return boxed
    spoken = _SPOKEN_ANSWER.findall(text)
    if spoken:
        return _clean(spoken[-1])
    line = text.strip()
    return _clean(line) if line and "\n" not in line and len(line) <= _SHORT_ANSWER else None


def _whole_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, not one that it merely holds."""
    bare = re.sub(r"^```\w*", "", text.strip()).removesuffix("```").strip()
    return read_object(bare) if bare.startswith("{") and bare.endswith("}") else None


def _clean(answer: str) -> str:
    answer = answer.strip().strip("*_` \t")
    return _last_box(answer) or answer.strip("$").strip()


def _last_box(text: str) -> str:
    r"""What stands in the last `\boxed{...}`, braces within it matched."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    start += len("\\boxed{")
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index].strip()
    return ""


def normalise(answer: str) -> str:
    """What two answers must share to count as the same: case, marks and number style do not count.

    >>> normalise("**1,000.00**.") == normalise("1000")
    True
    """
    text = " ".join(answer.casefold().split()).strip("*_`\"'“”‘’ ").rstrip(".!;, ").lstrip("=: ")
    text = text.removeprefix("the ").strip("*_`\"'“”‘’ ")
    number = text.lstrip("$€£").replace(",", "").replace(" ", "").replace("\u2212", "-")
    if re.fullmatch(r"[+-]?\d{1,30}(?:\.\d{0,30})?", number):
        try:
            return format(Decimal(number).normalize(), "f")
        except InvalidOperation:  # pragma: no cover - the pattern lets nothing else through
            return text
    return text


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text: alone, in a code fence, or between other words."""
    return next(_objects(text), None)


def _last_object(text: str, key: str) -> dict[str, Any] | None:
    """The last object that has the key: models quote and think before they decide."""
    return next((found for found in reversed([*_objects(text)]) if key in found), None)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, empty ones left out; not for ever looked for."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    tried = 0
    while start >= 0 and tried < 20:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            found, end = None, start + 1
        if isinstance(found, dict) and found:
            yield found
        start = text.find("{", end)
        tried += 1


_CHAINED = re.compile(r"\b[A-Z]{1,2}(?:\s*[>→]\s*(?:[Dd]raft\s+)?[A-Z]{1,2}\b)+")
_NUMBERED = re.compile(r"(?im)^\W*\d+\W+(?:draft|answer|response)?\W*\b([A-Z]{1,2})\b")
_LISTED = re.compile(r"(?i)ranking\W*((?:\b[A-Z]{1,2}\b[\s,;.]*)+)$")
_LABEL = re.compile(r"\b[A-Z]{1,2}\b")


def read_ranking(text: str, labels: Sequence[str]) -> list[str] | None:
    """Labels, best first, as a reviewer wrote them; None where no order can be read.

    A ranking may be partial. Labels that were not shown, or come twice, do not count.
    """
    found = _last_object(text, "ranking")
    if found is not None and isinstance(found["ranking"], list):
        return _unique(_label_in(str(entry), labels) for entry in found["ranking"]) or None
    if chained := _CHAINED.findall(text):
        return _known(_LABEL.findall(chained[-1]), labels) or None
    if numbered := _NUMBERED.findall(text):
        return _known(numbered, labels) or None
    listed = _LISTED.search(text.strip())
    return _known(_LABEL.findall(listed[1]), labels) or None if listed else None


_NAMED_PICK = re.compile(
    r"(?i)\b(?:pick|choice|choose|best|winner)\b(?:\s+is)?[\s:*_]*(?:draft|answer|response)?"
    r"[\s:*_]*\b([A-Z]{1,2})\b"
)
_LONE_PICK = re.compile(r"(?im)^\W*(?:(?:draft|answer|response)\s+)?([A-Z]{1,2})\W*$")


def read_pick(text: str, labels: Sequence[str]) -> tuple[str, str] | None:
    """The label a judge picked and why; None where no label can be read."""
    found = _last_object(text, "pick")
    if found is not None:
        label = _label_in(str(found["pick"]), labels)
        return (label, str(found.get("reason", ""))) if label else None
    known = _known(_NAMED_PICK.findall(text), labels) or _known(_LONE_PICK.findall(text), labels)
    return (known[-1], "") if known else None


_LEADING_LABEL = re.compile(
    r"\W*(?:(?:draft|answer|response|candidate)\s+)?([a-z]{1,2})\b(?!\s+\w)", re.IGNORECASE
)


def _label_in(entry: str, labels: Sequence[str]) -> str | None:
    """The label in "B", "draft b", "B (the second)" or "my choice is **B**"."""
    leading = _LEADING_LABEL.match(entry)
    if leading and leading[1].upper() in labels:
        return leading[1].upper()
    words = re.findall(r"[A-Za-z]+", entry)
    return words[-1] if words and words[-1] in labels else None


def _known(found: Iterable[str], labels: Sequence[str]) -> list[str]:
    return _unique(label if label in labels else None for label in found)


def _unique(found: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(label for label in found if label is not None))


_LIST_ENTRY = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s+(.+)$", re.MULTILINE)


def read_items(found: Mapping[str, Any], text: str, name: str, limit: int) -> list[str]:
    """The entries of a list a model was asked for, from its JSON, else from a list in its text."""
    value = found.get(name)
    entries = [str(entry) for entry in value] if isinstance(value, list) else None
    if entries is None:
        entries = _LIST_ENTRY.findall(text)
    return [entry.strip() for entry in entries if entry.strip()][:limit]


_NO_FAULTS = re.compile(r"^\W*no (?:\w+ ){0,2}faults?(?: (?:were |was )?found)?\W*$", re.IGNORECASE)


def finds_no_faults(text: str) -> bool:
    """Whether a critique says that nothing is wrong, in so many words or by empty lists."""
    found = read_object(text)
    if found is None:
        return bool(_NO_FAULTS.fullmatch(text.strip()))
    return not any(_leaves(value) for key, value in found.items() if key != "label")


def _leaves(value: object) -> bool:
    """Whether anything but labels and emptiness is left in a critique."""
    if isinstance(value, Mapping):
        return any(_leaves(inner) for key, inner in value.items() if key != "label")
    if isinstance(value, list):
        return any(_leaves(inner) for inner in value)
    return bool(value) and not (isinstance(value, str) and _NO_FAULTS.fullmatch(value.strip()))


def all_agree(drafts: Sequence[Draft]) -> bool:
    """Whether at least two drafts end in the same answer, and all that there are."""
    answers = [extract_answer(draft.text) for draft in drafts]
    keys = {normalise(answer) for answer in answers if answer is not None}
    return len(drafts) > 1 and None not in answers and len(keys) == 1


def merge_objects(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One object from several: lists united, objects merged, of other values the most frequent."""
    names = dict.fromkeys(name for found in objects for name in found)
    return {name: _merge([found[name] for found in objects if name in found]) for name in names}


def _merge(values: Sequence[Any]) -> Any:
    if all(isinstance(value, list) for value in values):
        united = {_canonical(entry): entry for value in reversed(values) for entry in value}
        order = dict.fromkeys(_canonical(entry) for value in values for entry in value)
        return [united[key] for key in order]
    if all(isinstance(value, dict) for value in values):
        return merge_objects(values)
    counts: dict[str, int] = {}
    for value in values:
        counts[_canonical(value)] = counts.get(_canonical(value), 0) + 1
    most = max(counts, key=lambda key: counts[key])
    return next(value for value in values if _canonical(value) == most)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
