"""Decide what the simulated model says. The same ask, seed and turn give the same answer."""

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import sqrt
from random import Random
from typing import Any

import orjson

from adapters.config import LLMProvider
from orchestrator.simulator import phrases
from orchestrator.simulator.ask import (
    CACHE_BLOCK_TOKENS,
    CACHE_FROM_TOKENS,
    Answer,
    Ask,
    Call,
    Embedding,
    Finish,
    Tokens,
    Tool,
)
from orchestrator.simulator.schemas import Hints, schema_of, schema_of_key, value_for
from orchestrator.simulator.words import (
    COMMON,
    WORD,
    asked_in,
    fenced_in,
    in_order,
    keywords,
    labels_in,
    listed,
    options_in,
    plain_number,
    result_of,
    tokens_of,
    unfenced,
)

EPOCH = 1_767_225_600  # 2026-01-01: answers are dated within the year that follows
WRITING = re.compile(
    r"synthesi[sz]|combine|merge (?:the|them|these)|one (?:final |single |best )?answer|"
    r"final answer|best (?:parts|of)|write the answer|\bfuse\b",
    re.IGNORECASE,
)
REVISING = re.compile(r"\banswer anew\b|\brevise\b|\brewrite\b|improve your", re.IGNORECASE)
RANKING = re.compile(r"\brank(?:ing|ed|s)?\b|order (?:them|the|these)|best to worst", re.IGNORECASE)
PICKING = re.compile(
    r"\b(?:pick|choose|select)\b|which (?:one |answer |draft |of )?.{0,30}best|\bvote\b",
    re.IGNORECASE,
)
CRITIC = re.compile(
    r"critiqu|critici[sz]|\bfaults?\b|weakness|flaws?\b|shortcoming|what is wrong", re.IGNORECASE
)
ASKS_QUESTIONS = re.compile(
    r"(?:checking|verification|control) questions|questions (?:that|which|to|for)", re.IGNORECASE
)
CLOSING_LINE = re.compile(
    r"[\"'`“*<]\s*((?:final\s+)?(?:answer|verdict|vote|choice|ranking|winner|pick))\s*:",
    re.IGNORECASE,
)
EXACTLY = re.compile(
    r"\b(?:say|reply|respond|answer|repeat|output)\b[^.\n]{0,30}?\b(?:exactly|only|just|verbatim)\b"
    r"[^.\n\"“]{0,30}?[:\s]+(?:[\"“](?P<quoted>[^\"”]{1,400})[\"”]|(?P<bare>[\w!-]{1,40})\W*$)",
    re.IGNORECASE,
)
PHRASE = re.compile(
    r"include the (?:exact )?(?:phrase|word|text)\s+[\"“]([^\"”]{1,200})[\"”]", re.IGNORECASE
)
NAME = re.compile(r"\bmy name is\s+([A-Z][\w'-]+)", re.IGNORECASE)
BRIEF = re.compile(
    r"\b(?:one|a single|1)[ -](?:short )?sentence\b|\bbriefly\b|\bin (?:a|one) word\b|"
    r"\bjust the\b|\bvery short\b|\bone line\b",
    re.IGNORECASE,
)
YES_NO = re.compile(r"\byes or no\b|\byes/no\b", re.IGNORECASE)
WANTS_JSON = re.compile(r"\bJSON\b")
KEYS = re.compile(r"[`\"']([A-Za-z_][\w-]{0,40})[`\"']")
PLACES = re.compile(r"\b(?:in|at|for|of|from|to)\s+((?:[A-Z][\w.-]+(?:\s+(?=[A-Z]))?)+)")
PAIRED = re.compile(r"\b([A-Z][\w-]+(?:\s[A-Z][\w-]+)*)(?:,|\s+and)\s+(?:and\s+)?(?=[A-Z])")
DRAFT = re.compile(r"(?:draft|answer|response|candidate)\s+([A-Z]{1,2})\b")
SAID = re.compile(r"^\W*(?:final )?answer\W*:[ \t*]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
SENTENCE = re.compile(r"[^.!?\n*-][^.!?\n]{20,200}[.]")
STANCE = re.compile(r"^(?:The answer is )?\(?([A-F]\)|Yes\b|No\b)", re.MULTILINE)
SPEAKER = re.compile(r"(?:\A|\n\n)(user|assistant|tool): ")  # in a conversation that is quoted
DULL_TOPIC = ("the matter", "its context", "the cost of change")
DIGITS = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Who speaks: what is seeded, and how often sums come out wrong."""

    model: str
    seed: int = 0
    turn: int = 0  # the how-manieth time the same was asked at a temperature
    wrong_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """A prompt, understood."""

    ask: Ask
    spoken: str  # the user's last words, without what is quoted in them
    rules: str  # the same with the system's words
    asked: str  # the question
    drafts: dict[str, str]  # quoted answers, by their letters
    a: str
    b: str
    c: str
    labels: tuple[str, ...]
    options: tuple[str, ...]
    lean: dict[str, float]
    rng: Random
    result: tuple[str, int | float] | None
    settled: str  # what most of the drafts conclude
    chosen: str  # the letter of an option, or yes or no, where the question wants one

    def fill(self, sentence: str) -> str:
        return sentence.format(a=self.a, b=self.b, c=self.c, A=self.a[:1].upper() + self.a[1:])

    def some(self, sentences: Sequence[str], count: int = 1) -> list[str]:
        chosen = self.rng.sample(sentences, min(count, len(sentences)))
        return [self.fill(sentence) for sentence in chosen]


def answer(ask: Ask, voice: Voice) -> Answer:
    """What the model says to this."""
    digest = ask.digest(voice.model, str(voice.seed), str(voice.turn))
    if ask.embeds is not None:
        return counted(ask, _embedded(ask, ask.embeds, voice, digest))
    rng = Random(digest)
    scene = _understand(ask, voice, rng)
    calls = _calls(scene)
    reasoning = "".join(scene.fill(line) for line in phrases.THOUGHTS) if ask.thinks else ""
    if calls:
        plan = f"I will call {listed(sorted({call.name for call in calls}))} to answer that."
        text = plan if ask.provider is LLMProvider.COHERE else ""
    else:
        text = _text(scene)
    finish: Finish = "tool_calls" if calls else "stop"
    said = Answer(
        model=voice.model,
        nonce=digest.hex(),
        created=_created(digest),
        text=text,
        finish=finish,
        tokens=None,
        reasoning=reasoning,
        calls=calls,
    )
    return counted(ask, limited(ask, said))


def _created(digest: bytes) -> int:
    return EPOCH + int.from_bytes(digest[:3]) * 2 % 31_536_000


def _embedded(ask: Ask, embeds: Embedding, voice: Voice, digest: bytes) -> Answer:
    """A vector for each turn, which depends on its text and on who is asked."""
    return Answer(
        model=voice.model,
        nonce=digest.hex(),
        created=_created(digest),
        text="",
        finish="stop",
        tokens=None,
        vectors=tuple(
            _vector(Random(f"{voice.seed}/{voice.model}/{turn.text}"), embeds.dimensions)
            for turn in ask.turns
        ),
    )


def _vector(rng: Random, dimensions: int) -> tuple[float, ...]:
    """A direction by chance, of length one, in numbers that 32 bits can hold."""
    found = [rng.gauss() for _ in range(dimensions)]
    length = sqrt(sum(number * number for number in found)) or 1.0
    return tuple(array("f", (number / length for number in found)))


def with_text(ask: Ask, said: Answer, text: str, *, finish: Finish | None = None) -> Answer:
    """The same answer saying something else, counted anew."""
    return counted(ask, replace(said, text=text, calls=(), finish=finish or "stop"))


def counted(ask: Ask, said: Answer) -> Answer:
    """The answer with what it bills."""
    prompt = ask.prompt_tokens()
    if ask.embeds is not None:
        return replace(said, tokens=Tokens(prompt, 0))
    cached = 0
    if prompt >= CACHE_FROM_TOKENS:
        cached = prompt * 3 // 4 // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS
    thinking = len(tokens_of(said.reasoning))
    calls = sum(len(orjson.dumps(call.arguments)) // 3 + 8 for call in said.calls)
    visible = len(tokens_of(said.text)) + calls
    tokens = Tokens(prompt, thinking + max(1, visible), cached, thinking)
    return replace(said, tokens=tokens)


def limited(ask: Ask, said: Answer) -> Answer:
    """Stop sequences and `max_tokens`, thinking included."""
    if said.calls:
        return said
    cuts = [(said.text.find(stop), stop) for stop in ask.stop if stop and stop in said.text]
    if cuts:
        place, stop = min(cuts)
        text = said.text[:place]
        said = replace(said, text=text, finish="stop_sequence", stop_sequence=stop)
    if ask.max_tokens is None:
        return said
    thoughts = tokens_of(said.reasoning)
    tokens = tokens_of(said.text)
    if len(thoughts) + len(tokens) <= ask.max_tokens:
        return said
    return replace(
        said,
        reasoning="".join(thoughts[: ask.max_tokens]),
        text="".join(tokens[: max(0, ask.max_tokens - len(thoughts))]),
        finish="length",
        stop_sequence=None,
    )


def _understand(ask: Ask, voice: Voice, rng: Random) -> _Scene:
    question = ask.question
    system = "\n".join(turn.text for turn in ask.turns if turn.role == "system")
    asked, spoken = asked_in(question), unfenced(question)
    topic = keywords(asked) or list(DULL_TOPIC)
    drafts = _drafts(question)
    labels = tuple(sorted(drafts)) or labels_in(spoken)
    options = options_in(asked)
    settled = _majority(drafts)
    stances = options or (("Yes", "No") if YES_NO.search(f"{system}\n{asked}") else ())
    return _Scene(
        ask=ask,
        spoken=spoken,
        rules=f"{system}\n{spoken}",
        asked=asked,
        drafts=drafts,
        a=topic[0],
        b=topic[1] if len(topic) > 1 else "its context",
        c=topic[2] if len(topic) > 2 else "the cost of change",
        labels=labels,
        options=options,
        lean=_leaning(labels, drafts, settled, f"{voice.seed}\0{question}"),
        rng=rng,
        result=_result(asked, settled, voice, rng),
        settled=settled,
        chosen=_chosen(stances, settled, f"{voice.seed}\0{asked}", rng),
    )


def _chosen(stances: Sequence[str], settled: str, seed: str, rng: Random) -> str:
    """What the drafts settled on, else what most models choose, now and then another."""
    if not stances:
        return ""
    for stance in stances:
        if stance.lower() == settled.lower():
            return stance
    if rng.random() < 0.25:
        return rng.choice(list(stances))
    return Random(blake2b(seed.encode("utf-8", "replace")).digest()).choice(list(stances))


def _drafts(question: str) -> dict[str, str]:
    found = {}
    for what, text in fenced_in(question).items():
        match = DRAFT.match(what)
        if match:
            found[match[1]] = text
    return found


def _majority(drafts: Mapping[str, str]) -> str:
    """The final answer that most drafts give; of equals any, but the same."""
    said = [_concluded(text) for text in drafts.values()]
    counts = Counter(answer for answer in said if answer)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else ""


def _concluded(draft: str) -> str:
    marked = SAID.findall(draft)
    if marked:
        return str(marked[-1]).strip(" *.`")
    stance = STANCE.search(draft)
    if stance:
        return stance[1].rstrip(")")
    numbers = DIGITS.findall(draft)
    return str(numbers[-1]) if numbers else ""


def _leaning(
    names: tuple[str, ...], drafts: Mapping[str, str], settled: str, seed: str
) -> dict[str, float]:
    """How much each is liked by all models alike: a draft for what it says, not for its letter."""
    lean = {}
    for name in names:
        text = drafts.get(name, f"{seed}\0{name}")
        lean[name] = Random(blake2b(text.encode("utf-8", "replace")).digest()).random()
        if name in drafts and (not text.strip() or phrases.REFUSAL in text):
            lean[name] = -1.0
        elif settled and settled in text:
            lean[name] += 0.5
    return lean


def _result(asked: str, settled: str, voice: Voice, rng: Random) -> tuple[str, int | float] | None:
    found = result_of(asked)
    if found is None:
        return None
    written, value = found
    if DIGITS.fullmatch(settled):
        return written, plain_number(float(settled))
    if rng.random() >= voice.wrong_share:
        return found
    return written, plain_number(value + rng.choice((-10, -2, -1, 1, 2, 10)))


def _text(scene: _Scene) -> str:
    """What is said, in the order in which a request may ask for it."""
    ask = scene.ask
    if ask.schema is not None:
        return _json(scene, ask.schema)
    if ask.json or _wants_json(scene.rules):
        return _json(scene, _schema_in(scene))
    exact = EXACTLY.search(scene.asked)
    if exact:
        return str(exact["quoted"] or exact["bare"])
    if ask.turns[-1].role == "tool":
        return _from_tool(scene)
    text = _prose(scene)
    phrase = PHRASE.search(scene.rules)
    if phrase:
        text = f"{text} {phrase[1]}"
    closing = CLOSING_LINE.search(scene.rules)
    return f"{text}\n\n{closing[1]}: {_verdict(scene)}" if closing else text


def _prose(scene: _Scene) -> str:
    spoken = scene.spoken
    writes = bool(WRITING.search(spoken))
    if scene.labels and not writes and RANKING.search(spoken):
        return _ranking(scene)
    if scene.labels and not writes and PICKING.search(spoken):
        return f"The best answer is {_best(scene)}: {scene.some(phrases.MERITS)[0]}."
    if scene.result is not None:
        written, value = scene.result
        forms = ("{w} = {v}", "{w} equals {v}.", "The result of {w} is {v}.", "{w} comes to {v}.")
        return scene.rng.choice(forms).format(w=written, v=value)
    if scene.options:
        return f"The answer is ({scene.chosen}): {scene.some(phrases.MERITS)[0]}."
    if scene.drafts and REVISING.search(spoken):
        return _revised(scene)
    if writes and (scene.drafts or len(spoken) > 300):
        return _synthesis(scene)
    if CRITIC.search(spoken) and (scene.drafts or len(spoken) > 200):
        return _critique(scene)
    if ASKS_QUESTIONS.search(spoken):
        asks = scene.some(phrases.QUESTIONS, 3)
        return "\n".join(f"{place}. {line}" for place, line in enumerate(asks, 1))
    return _plain(scene)


def _plain(scene: _Scene) -> str:
    named = _known_name(scene)
    if named:
        return named
    start = f"{scene.chosen}. " if scene.chosen else ""
    if scene.ask.turns and any(turn.images for turn in scene.ask.turns):
        start += "The image shows a small, plain shape in one colour. "
    if BRIEF.search(scene.spoken):
        return start + scene.some(phrases.OPENINGS)[0]
    earlier = sum(turn.role == "assistant" for turn in scene.ask.turns)
    if earlier:
        start += f"Following on from what was said about {scene.a}: "
    opening, closing = scene.some(phrases.OPENINGS)[0], scene.some(phrases.CLOSINGS)[0]
    bodies = scene.some(phrases.BODIES, 2 + int(scene.rng.random() * 3))
    if scene.rng.random() < 0.3:
        points = "\n".join(f"- {body}" for body in bodies)
        return f"{start}{opening}\n\n{points}\n\n{closing}"
    return start + " ".join([opening, *bodies, closing])


def _known_name(scene: _Scene) -> str:
    if not re.search(r"\bmy name\b", scene.asked, re.IGNORECASE):
        return ""
    for turn in scene.ask.turns:
        match = NAME.search(turn.text)
        if match and turn.role == "user":
            return f"Your name is {match[1]}."
    return ""


def _synthesis(scene: _Scene) -> str:
    taken = [line for text in scene.drafts.values() if (line := _sentence_of(text, scene))]
    points = list(dict.fromkeys(taken))[:5] or scene.some(phrases.BODIES, 3)
    opening, closing = scene.some(phrases.OPENINGS)[0], scene.some(phrases.CLOSINGS)[0]
    start = f"{scene.chosen}. " if scene.chosen else ""
    return (
        f"{start}{opening} {scene.some(phrases.BODIES)[0]}\n\n"
        f"**What is settled.** {scene.some(phrases.AGREEMENTS)[0]}\n\n"
        + "\n".join(f"- {point}" for point in points)
        + f"\n\n**What stays open.** {scene.some(phrases.DIFFERENCES)[0]}\n\n"
        f"**In practice.** {closing}"
    )


def _revised(scene: _Scene) -> str:
    """The caller's own draft, which comes first, with one more thought."""
    own = SAID.sub("", next(iter(scene.drafts.values()))).strip()
    fresh = [line for line in scene.some(phrases.BODIES, 6) if line not in own]
    return " ".join([own, *fresh[:1]])


def _sentence_of(draft: str, scene: _Scene) -> str:
    """A sentence of a draft that is about the question, if it has one."""
    subjects = (scene.a.lower(), scene.b.lower())
    found = [line.strip() for line in SENTENCE.findall(draft)]
    found = [line for line in found if any(subject in line.lower() for subject in subjects)]
    found = [line for line in found if not line.startswith(("So ", "In short", "That is why"))]
    return scene.rng.choice(found) if found else ""


def _critique(scene: _Scene) -> str:
    faults = scene.some(phrases.CRITICISMS, 3)
    lines = "\n".join(f"{place}. {fault}" for place, fault in enumerate(faults, 1))
    return f"{scene.some(phrases.PRAISE)[0]}\n\n{lines}"


def _ranking(scene: _Scene) -> str:
    ranked = _ranked(scene)
    reasons = [scene.fill(reason) for reason in phrases.LABEL_REASONS]
    lines = [
        f"Answer {label}: {reasons[min(place, len(reasons) - 1)]}."
        for place, label in enumerate(ranked)
    ]
    order = "\n".join(f"{place}. Answer {label}" for place, label in enumerate(ranked, 1))
    return "\n".join(lines) + f"\n\nFINAL RANKING:\n{order}"


def _ranked(scene: _Scene) -> list[str]:
    names = scene.labels
    return in_order(names, [scene.lean[name] + 0.3 * scene.rng.random() for name in names])


def _best(scene: _Scene) -> str:
    return _ranked(scene)[0]


def _verdict(scene: _Scene) -> str:
    """What stands after "ANSWER:"."""
    if scene.labels and RANKING.search(scene.spoken):
        return " > ".join(_ranked(scene))
    if scene.result is not None:
        return str(scene.result[1])
    if scene.settled and not scene.options:
        return scene.settled
    if scene.chosen:
        return scene.chosen
    if scene.labels and not scene.drafts:
        return _best(scene)
    return scene.rng.choice((scene.a, scene.a, scene.b))


def _from_tool(scene: _Scene) -> str:
    said = scene.ask.turns[-1].text.strip()
    try:
        found = orjson.loads(said)
    except orjson.JSONDecodeError:
        found = said
    if isinstance(found, dict):
        found = ", ".join(f"{name} {value}" for name, value in found.items())
    return f"According to the tool, for {scene.a}: {str(found)[:600]}"


def _json(scene: _Scene, schema: Any) -> str:
    phrasebook = {
        "fault": phrases.CRITICISMS,
        "weak": phrases.CRITICISMS,
        "blind": phrases.CRITICISMS,
        "reason": phrases.MERITS,
        "consensus": phrases.AGREEMENTS,
        "agree": phrases.AGREEMENTS,
        "contradict": phrases.DIFFERENCES,
        "differ": phrases.DIFFERENCES,
        "question": phrases.QUESTIONS,
    }
    hints = Hints(
        sentences=scene.some(phrases.BODIES, 8),
        phrasebook={word: scene.some(lines, 5) for word, lines in phrasebook.items()},
        topic=(scene.a, scene.b, scene.c),
        labels=scene.labels or scene.options,
        result=scene.result[1] if scene.result else None,
        chosen="" if scene.labels else scene.chosen,
        lean=scene.lean,
    )
    return orjson.dumps(value_for(schema, hints, scene.rng)).decode()


def _wants_json(prompt: str) -> bool:
    if not WANTS_JSON.search(prompt):
        return False
    return bool(re.search(r"\{\s*[\"'`]|\bkeys?\b|\bJSON (?:object|array|schema)", prompt))


def _schema_in(scene: _Scene) -> dict[str, Any]:
    """The shape a prompt asks for in words: a schema, an example, or the names of its keys."""
    for found in _objects_in(scene.rules):
        if isinstance(found.get("properties"), dict):
            return found
        inner = found.get("schema")
        if isinstance(inner, dict) and isinstance(inner.get("properties"), dict):
            return inner
        if found:
            example = schema_of(found, scene.labels)
            for name, part in example["properties"].items():
                if part == {"type": "string"} or part.get("items") == {"type": "string"}:
                    suggested = schema_of_key(name, scene.labels)
                    fits = suggested.get("type", "string") == part["type"]
                    example["properties"][name] = suggested if fits else part
            return example
    place = WANTS_JSON.search(scene.rules)
    near = scene.rules[max(0, place.start() - 200) :] if place else ""
    names = list(dict.fromkeys(KEYS.findall(near)))[:12] or ["answer"]
    properties = {name: schema_of_key(name, scene.labels) for name in names}
    return {"type": "object", "properties": properties, "required": names}


def _objects_in(text: str) -> list[dict[str, Any]]:
    """Every JSON object that stands in the text, outermost ones only; loose ones by their keys."""
    found: list[dict[str, Any]] = []
    place = text.find("{")
    while place >= 0 and len(found) < 8:
        end = _closing(text, place)
        if end < 0:
            break
        piece = text[place:end]
        try:
            parsed = orjson.loads(piece)
        except orjson.JSONDecodeError:
            names = re.findall(r"[\"'`]?([A-Za-z_]\w*)[\"'`]?\s*:", piece)
            parsed = {name: _loose(piece, name) for name in dict.fromkeys(names)}
        if isinstance(parsed, dict) and parsed:
            found.append(parsed)
        place = text.find("{", end)
    return found


def _loose(piece: str, name: str) -> Any:
    """An example of the kind that follows this key in something that is not quite JSON."""
    match = re.search(rf"{re.escape(name)}[\"'`]?\s*:\s*(\S)", piece)
    start = match[1] if match else '"'
    if start == "[":
        return ["text"]
    if start.isdigit():
        return 1
    return {} if start == "{" else "text"


def _closing(text: str, place: int) -> int:
    depth = 0
    for index in range(place, min(len(text), place + 20_000)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return -1


def _calls(scene: _Scene) -> tuple[Call, ...]:
    """The tools to call: those wanted by name, or those the question is about."""
    ask = scene.ask
    if not ask.tools or ask.tool_choice == "none":
        return ()
    named = [tool for tool in ask.tools if tool.name == ask.tool_choice]
    if not named and (
        ask.turns[-1].role == "tool" or SPEAKER.findall(scene.asked)[-1:] == ["tool"]
    ):
        return ()
    chosen = named or [tool for tool in ask.tools if _concerns(tool, scene.asked)]
    if not chosen and ask.tool_choice == "required":
        chosen = [ask.tools[0]]
    calls = [call for tool in chosen for call in _calls_of(tool, scene)]
    return tuple(calls[:8] if ask.parallel else calls[:1])


def _concerns(tool: Tool, question: str) -> bool:
    asked = {word.lower().rstrip("s") for word in WORD.findall(question)} - COMMON
    about = {word.lower().rstrip("s") for word in re.split(r"[^A-Za-z]+", tool.name)}
    if asked & {word for word in about if len(word) > 3}:
        return True
    described = {word.lower().rstrip("s") for word in WORD.findall(tool.description)} - COMMON
    return len(asked & {word for word in described if len(word) > 4}) > 1 or (
        tool.name.lower() in question.lower()
    )


def _calls_of(tool: Tool, scene: _Scene) -> list[Call]:
    properties = tool.parameters.get("properties") or {}
    names = [
        name
        for name, inner in properties.items()
        if isinstance(inner, dict)
        and str(inner.get("type", "string")).lower() == "string"
        and not inner.get("enum")
    ]
    subjects = _subjects(scene.asked)
    hints = Hints(
        sentences=[scene.asked.strip()[:200] or "all"],
        phrasebook={},
        topic=(scene.a, scene.b, scene.c),
        labels=scene.labels,
        result=scene.result[1] if scene.result else None,
        lean=scene.lean,
    )
    calls = []
    for index in range(max(1, len(subjects) if len(names) == 1 else 1)):
        made = value_for(tool.parameters or {"type": "object"}, hints, scene.rng)
        arguments = dict(made) if isinstance(made, dict) else {}
        if len(names) == 1 and subjects and "pattern" not in properties[names[0]]:
            arguments[names[0]] = subjects[index]
        calls.append(Call(tool.name, _with_numbers(arguments, properties, scene.asked)))
    return calls


def _with_numbers(
    arguments: dict[str, Any], properties: dict[str, Any], question: str
) -> dict[str, Any]:
    """Numbers of the question in the places for numbers, when there are enough."""
    numbers = [plain_number(float(found)) for found in DIGITS.findall(question)]
    wanted = [
        name
        for name, inner in properties.items()
        if isinstance(inner, dict)
        and str(inner.get("type", "")).lower() in ("integer", "number")
        and not {"minimum", "maximum", "enum", "multipleOf"} & inner.keys()
    ]
    if not wanted or len(numbers) < len(wanted):
        return arguments
    for name, value in zip(wanted, numbers, strict=False):
        whole = str(properties[name]["type"]).lower() == "integer"
        arguments[name] = int(value) if whole else value
    return arguments


def _subjects(question: str) -> list[str]:
    """The proper names a question is about: `["Paris", "New York"]`."""
    found = [*PAIRED.findall(question), *PLACES.findall(question)]
    names = [name.strip(" .,?!") for name in found]
    after = re.search(r"\band\s+([A-Z][\w-]+(?:\s[A-Z][\w-]+)*)", question)
    if after and names:
        names.append(after[1])
    skip = {"I", "The", "What", "Use", "Call", "Get", "Please", "How"}
    return list(dict.fromkeys(name for name in names if name and name not in skip))[:4]
