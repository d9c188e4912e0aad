"""What simulated models say: seeded, about the prompt, and readable by whoever asked."""

import base64
import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.config import LLMProvider
from orchestrator.simulator.answers import Voice, answer
from orchestrator.simulator.ask import Answer, Ask, Tool, Turn
from tests.simulator.calling import (
    QUESTION,
    TOOL,
    Caller,
    said,
    schema,
    streamed_text,
    thinking,
    tools,
)

P = LLMProvider
FENCED = """Several models answered the question below.

⟦begin question 4f1c⟧
{question}
⟦end question 4f1c⟧

⟦begin draft A 4f1c⟧
{first}
⟦end draft A 4f1c⟧

⟦begin draft B 4f1c⟧
{second}
⟦end draft B 4f1c⟧

{wanted}"""


def ask(prompt: str, **fields: Any) -> Ask:
    """A question in no particular wire format."""
    turns = fields.pop("turns", (Turn("user", prompt),))
    return Ask(provider=P.CUSTOM, model="sim", turns=turns, **fields)


def say(prompt: str, *, model: str = "sim", seed: int = 0, **fields: Any) -> Answer:
    """What the model says."""
    return answer(ask(prompt, **fields), Voice(model=model, seed=seed))


def fenced(question: str, first: str, second: str, wanted: str) -> str:
    """A prompt in which two drafts are quoted."""
    return FENCED.format(question=question, first=first, second=second, wanted=wanted)


def test_the_same_ask_gets_the_same_answer() -> None:
    """Nothing depends on the time or on what was asked before."""
    assert say(QUESTION) == say(QUESTION)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"seed": 1},
        {"temperature": 0.7},
        {"turns": (Turn("system", "Be a pirate."), Turn("user", QUESTION))},
    ],
)
def test_another_model_seed_temperature_or_system_gets_another_answer(other: Any) -> None:
    """Members of a panel differ."""
    assert say(QUESTION).text != say(QUESTION, **other).text


def test_an_answer_is_about_the_question() -> None:
    """It repeats its key words and no word of the instructions."""
    text = say(QUESTION).text

    assert "database index" in text
    assert 20 < len(text.split()) < 200


def test_a_stream_says_what_the_plain_answer_says() -> None:
    """Streaming is no part of what is said."""
    assert say(QUESTION, streamed=True).text == say(QUESTION).text


def test_the_pieces_are_the_text_and_vary() -> None:
    """Joined they are the text; no hundred equal ones; a piece ends with a word or a mark."""
    whole = say(QUESTION)

    assert "".join(whole.pieces) == whole.text
    assert len(set(whole.pieces)) > 5
    assert not any(piece.endswith(" ") for piece in whole.pieces)


def test_sums_are_right_in_most_models_and_wrong_in_some() -> None:
    """A vote on a sum has a majority and dissent."""
    models = [f"model-{index}" for index in range(200)]

    right = [
        "408" in answer(ask("What is 17*24?"), Voice(model=m, wrong_share=0.15)).text
        for m in models
    ]

    assert 0.75 < sum(right) / len(right) < 0.95


@pytest.mark.parametrize(
    ("prompt", "result"),
    [("2+2", "4"), ("10 / 4", "2.5"), ("7 times 6", "42"), ("2^10", "1024"), ("3 - 5", "-2")],
)
def test_sums_are_worked_out(prompt: str, result: str) -> None:
    """The four operations and powers, in signs and in words."""
    assert result in say(f"What is {prompt}?").text


def test_a_closing_line_is_given_when_it_is_asked_for() -> None:
    """Patterns that vote read the answer from a line of its own."""
    text = say('What is 6*7? End with a line "ANSWER: " and the result.').text

    assert text.endswith("\n\nANSWER: 42")


def test_exact_words_are_repeated() -> None:
    """Tests like to know what comes."""
    assert say('Say exactly: "Hello, world"').text == "Hello, world"
    assert say("Reply with only the word: pong").text == "pong"


def test_a_name_is_remembered_over_turns() -> None:
    """The conversation is read, not only its end."""
    turns = (
        Turn("user", "Hi, my name is Alice."),
        Turn("assistant", "Hello!"),
        Turn("user", "What is my name?"),
    )

    assert say("", turns=turns).text == "Your name is Alice."


def test_a_synthesis_draws_on_the_drafts_and_not_on_the_instructions() -> None:
    """It is longer, and a sentence of a draft stands in it."""
    first, second = say(QUESTION, model="a").text, say(QUESTION, model="b").text
    prompt = fenced(QUESTION, first, second, "Write the one answer that they should get.")

    text = say(prompt).text

    sentences = [part for part in re.split(r"(?<=\.)\s", f"{first} {second}") if len(part) > 30]
    assert any(sentence in text for sentence in sentences)
    assert "draft" not in text.lower()
    assert len(text) > 400


def test_a_sum_is_settled_by_the_drafts() -> None:
    """Who writes from drafts goes with them."""
    prompt = fenced("What is 5*5?", "ANSWER: 27", "ANSWER: 27", "Write the one answer.")

    assert "27" in say(prompt).text


def test_judges_like_a_draft_for_what_it_says_and_not_for_its_letter() -> None:
    """Two orders, one winner; a refusal never wins."""
    wanted = 'Pick one. Answer with JSON: {"pick": "<letter>", "reason": "<one sentence>"}'
    good, refusal = say(QUESTION).text, "I'm sorry, but I can't help with that."

    one = json.loads(say(fenced(QUESTION, good, refusal, wanted)).text)
    two = json.loads(say(fenced(QUESTION, refusal, good, wanted)).text)

    assert (one["pick"], two["pick"]) == ("A", "B")
    assert one["reason"]


def test_a_ranking_in_words_can_be_read() -> None:
    """Every letter once, numbered."""
    prompt = fenced(QUESTION, "One.", "Two.", "Rank these answers, best first.")

    found = re.findall(r"^\d\. Answer ([AB])$", say(prompt).text, re.MULTILINE)

    assert sorted(found) == ["A", "B"]


def test_keys_named_in_the_prompt_become_json() -> None:
    """Without a schema the words of the prompt are the schema."""
    text = say("Describe a cat. Answer with a JSON object with the keys `name`, `score`.").text

    found = json.loads(text)
    assert isinstance(found["name"], str)
    assert isinstance(found["score"], int)


SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "ranking": {"type": "array", "items": {"enum": ["A", "B", "C"]}, "uniqueItems": True},
            "winner": {"enum": ["A", "B", "C"]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "count": {"type": "integer", "exclusiveMinimum": 3, "maximum": 5},
            "when": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{3}-\\d{2}$"},
            "note": {"type": "string", "minLength": 200, "maxLength": 210},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        },
        "required": ["ranking", "winner", "confidence", "count", "when", "code", "note", "maybe"],
        "additionalProperties": False,
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["text", "children"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    {
        "type": "array",
        "minItems": 4,
        "maxItems": 6,
        "items": {"type": ["integer", "null"], "multipleOf": 5, "minimum": 12},
    },
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"]},
            {"properties": {"b": {"type": "array", "prefixItems": [{"type": "string"}]}}},
        ]
    },
]


@pytest.mark.parametrize("wanted", SCHEMAS)
@pytest.mark.parametrize("seed", range(5))
def test_json_follows_the_schema(wanted: dict[str, Any], seed: int) -> None:
    """Every keyword that providers accept is kept to."""
    text = say(QUESTION, schema=wanted, json=True, seed=seed).text

    jsonschema.validate(json.loads(text), wanted)


LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "minimum": 2, "maximum": 4},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["x", 1, None]},
        {"type": ["string", "null"], "maxLength": 12},
    ]
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4),
        ),
        st.builds(
            lambda items, low: {"type": "array", "items": items, "minItems": low},
            inner,
            st.integers(0, 3),
        ),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    ),
    max_leaves=8,
)


@given(wanted=NESTED, seed=st.integers(0, 100))
def test_json_follows_any_schema(wanted: dict[str, Any], seed: int) -> None:
    """Nested as deep as it may be."""
    text = say(QUESTION, schema=wanted, json=True, seed=seed).text

    jsonschema.validate(json.loads(text), wanted)


def test_an_array_of_unique_choices_is_a_permutation() -> None:
    """A ranking has every entry once, and not always in the same order."""
    wanted = {"type": "array", "items": {"enum": list("ABCD")}, "uniqueItems": True}

    made = {say(QUESTION, schema=wanted, json=True, seed=seed).text for seed in range(20)}

    assert all(sorted(json.loads(one)) == list("ABCD") for one in made)
    assert len(made) > 3


def test_tools_are_called_when_the_question_is_about_them() -> None:
    """One call a city; none for another question, none when none are wanted."""
    tool = (Tool(TOOL["name"], TOOL["description"], TOOL["parameters"]),)
    weather = "What is the weather in Paris and London?"

    calls = say(weather, tools=tool).calls

    assert [call.arguments for call in calls] == [{"city": "Paris"}, {"city": "London"}]
    assert say(weather, tools=tool, parallel=False).calls == calls[:1]
    assert say(weather, tools=tool, tool_choice="none").calls == ()
    assert say(QUESTION, tools=tool).calls == ()
    assert len(say(QUESTION, tools=tool, tool_choice="required").calls) == 1
    assert say(QUESTION, tools=tool, tool_choice="get_weather").finish == "tool_calls"


def test_no_tool_is_called_again_for_a_quoted_conversation_that_has_its_result() -> None:
    """Whoever writes a panel's answer reads the conversation in a fence, and has the tools."""
    tool = (Tool(TOOL["name"], TOOL["description"], TOOL["parameters"]),)
    asked = "user: How is the weather in Paris?\n\nassistant: [called get_weather with {}]"
    fence = "⟦begin conversation, question 4f1c⟧\n{}\n⟦end conversation, question 4f1c⟧"
    result = f"{asked}\n\ntool: 17 degrees"

    assert say(fence.format(result), tools=tool).calls == ()
    assert say(fence.format(f"{result}\n\nuser: And in Rome?"), tools=tool).calls


def test_a_tools_result_is_told() -> None:
    """The turn after a call says what the tool said."""
    turns = (Turn("user", "What is the weather in Paris?"), Turn("tool", "Sunny, 21 degrees"))

    assert "Sunny, 21 degrees" in say("", turns=turns).text


def test_max_tokens_cuts_and_says_so() -> None:
    """Thinking counts too and may use up everything."""
    whole, cut = say(QUESTION), say(QUESTION, max_tokens=10)
    spent = say(QUESTION, max_tokens=10, thinks=True)

    assert cut.finish == "length"
    assert whole.text.startswith(cut.text)
    assert cut.tokens is not None
    assert cut.tokens.completion == 10
    assert spent.text == ""
    assert spent.tokens is not None
    assert spent.tokens.reasoning == 10


def test_a_stop_sequence_ends_the_text_before_itself() -> None:
    """The first one in the text wins."""
    whole = say(QUESTION).text
    stop = whole.split()[5]

    cut = say(QUESTION, stop=("never", stop))

    assert cut.text == whole[: whole.index(stop)]
    assert (cut.finish, cut.stop_sequence) == ("stop_sequence", stop)


def test_a_long_prompt_is_partly_read_from_the_cache() -> None:
    """As providers do from about a thousand tokens on."""
    short, long = say(QUESTION).tokens, say(f"{'padding ' * 1000}{QUESTION}").tokens

    assert short is not None
    assert long is not None
    assert short.cached == 0
    assert isinstance(long.cached, int)
    assert isinstance(long.prompt, int)
    assert 0 < long.cached < long.prompt


@pytest.mark.parametrize("provider", P)
async def test_every_wire_format_streams_what_it_says_plainly(
    caller: Caller, provider: LLMProvider
) -> None:
    """The fold of a stream is the plain answer."""
    plain = await caller.ask(provider)
    streamed = await caller.ask(provider, streamed=True)

    assert said(provider, plain) == streamed_text(provider, streamed) != ""


@pytest.mark.parametrize("provider", P)
async def test_every_wire_format_carries_a_schema(caller: Caller, provider: LLMProvider) -> None:
    """JSON that follows it, plain and streamed."""
    wanted = SCHEMAS[0]
    fields = schema(provider, wanted)

    plain = await caller.ask(provider, **fields)
    streamed = await caller.ask(provider, streamed=True, **fields)

    jsonschema.validate(json.loads(said(provider, plain)), wanted)
    assert streamed_text(provider, streamed) == said(provider, plain)


async def test_samples_at_a_temperature_differ_unless_a_seed_is_given(caller: Caller) -> None:
    """Self-consistency has something to vote on; a seed makes it repeat itself."""

    async def text(**fields: Any) -> str:
        return said(P.OPENAI, await caller.ask(P.OPENAI, **fields))

    sampled = {await text(temperature=0.8) for _ in range(4)}
    cold = {await text(temperature=0) for _ in range(3)}
    seeded = {await text(temperature=0.8, seed=3) for _ in range(3)}

    assert (len(sampled), len(cold), len(seeded)) == (4, 1, 1)


@pytest.mark.parametrize("provider", P)
async def test_images_are_taken(caller: Caller, provider: LLMProvider) -> None:
    """As data, in the provider's own shape."""
    dot = base64.b64encode(b"no picture, but that is never looked at").decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{dot}"}}
    text: Any = {"type": "text", "text": "What is in this picture?"}
    if provider is P.GOOGLE:
        parts = [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": dot}}]
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": parts}]}
    elif provider is P.ANTHROPIC:
        source = {"type": "base64", "media_type": "image/png", "data": dot}
        picture = {"type": "image", "source": source}
        body = {"messages": [{"role": "user", "content": [text, picture]}]}
    else:
        body = {"messages": [{"role": "user", "content": [text, url]}]}

    got = await caller.ask(provider, **body)

    assert "image" in said(provider, got)


@pytest.mark.parametrize("provider", P)
async def test_tool_calls_carry_their_arguments(caller: Caller, provider: LLMProvider) -> None:
    """The city stands in the arguments, as text or as an object."""
    got = await caller.ask(provider, prompt="What is the weather in Oslo?", **tools(provider))

    assert b"Oslo" in got.body
    assert b"get_weather" in got.body


@pytest.mark.parametrize(
    ("prompt", "pattern"),
    [
        ("Which is a river? A) Nile B) Everest C) Mars", r"^The answer is \([ABC]\): "),
        ("Is water wet? Answer yes or no.", r"^(Yes|No)\. "),
        ("Explain inflation in one sentence.", r"^[^.]*inflation[^.]*\.$"),
        ("Write verification questions for a text about whales.", r"^1\. .*\?\n2\. .*\?\n3\. "),
        ('Include the exact phrase "XK-7392". Describe rain.', r"XK-7392"),
        ('Is it? Yes or no. End with "VERDICT: " and it.', r"VERDICT: (Yes|No)$"),
    ],
)
def test_a_wish_for_a_form_is_heeded(prompt: str, pattern: str) -> None:
    """Letters, yes and no, brevity, lists, phrases, closing lines."""
    assert re.search(pattern, say(prompt).text, re.DOTALL)


def test_a_critic_names_faults_and_an_author_revises() -> None:
    """A numbered list of faults; then the own draft with something added."""
    own = say(QUESTION).text

    faults = say(fenced(QUESTION, own, "Other.", "Critique these: name their weaknesses.")).text
    revised = say(fenced(QUESTION, own, "Other.", "Write your answer anew.")).text

    assert re.search(r"^1\. .+\n2\. .+\n3\. ", faults, re.MULTILINE)
    assert revised.startswith(own)
    assert len(revised) > len(own)


def test_what_the_drafts_agree_on_is_repeated() -> None:
    """Who reads two equal final answers gives the same."""
    wanted = 'Write your answer anew. End with a line "ANSWER: ".'
    prompt = fenced("Where is the Louvre?", "ANSWER: Paris", "It is so.\nANSWER: Paris", wanted)

    assert say(prompt).text.endswith("ANSWER: Paris")


@pytest.mark.parametrize(
    ("wish", "check"),
    [
        ('{"title": "x", "tags": ["y"], "score": 3, "done": true}', ("title", str)),
        ('{"title": "x", "tags": ["y"], "score": 3, "done": true}', ("tags", list)),
        ('{"title": "x", "tags": ["y"], "score": 3, "done": true}', ("score", int)),
        ('{"title": "x", "tags": ["y"], "score": 3, "done": true}', ("done", bool)),
        ("{title: string, ratings: [1, ...], nested: {...}}", ("ratings", list)),
        ('{"type": "object", "properties": {"n": {"type": "integer"}}}', ("n", int)),
        ('{"schema": {"properties": {"n": {"type": "integer"}}}}', ("n", int)),
        ('{"verdict": "yes|no", "confidence": 0.5}', ("confidence", float)),
        ("with the keys 'is_new', 'reasons' and 'confidence'", ("is_new", bool)),
    ],
)
def test_an_example_in_the_prompt_is_the_schema(wish: str, check: tuple[str, type]) -> None:
    """Strict JSON, loose JSON, a schema, or keys in words."""
    found = json.loads(say(f"Describe whales. Answer with a JSON object: {wish}").text)

    assert isinstance(found[check[0]], check[1])


def test_a_choice_in_an_example_is_made() -> None:
    """`yes|no` asks for one of the two."""
    found = json.loads(say('Answer with JSON: {"verdict": "yes|no"}').text)

    assert found["verdict"] in ("yes", "no")


def test_letters_of_drafts_go_where_letters_belong() -> None:
    """One entry a draft; a ranking of all; a pick of one."""
    wanted = {
        "type": "object",
        "properties": {
            "critiques": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"label": {"type": "string"}, "faults": {"type": "array"}},
                    "required": ["label", "faults"],
                },
            },
            "ranking": {"type": "array", "items": {"type": "string"}},
            "pick": {"type": "string"},
        },
        "required": ["critiques", "ranking", "pick"],
    }
    prompt = fenced(QUESTION, "One.", "Two.", "Judge.")

    found = json.loads(say(prompt, schema=wanted, json=True).text)

    assert [one["label"] for one in found["critiques"]] == ["A", "B"]
    assert sorted(found["ranking"]) == ["A", "B"]
    assert found["pick"] in ("A", "B")


def test_numbers_of_the_question_become_arguments() -> None:
    """Add 5 and 7 calls with 5 and 7."""
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    }
    tool = Tool("add_numbers", "Add two numbers together", parameters)

    (call,) = say("Use add_numbers to add 5 and 7.", tools=(tool,)).calls

    assert call.arguments == {"a": 5, "b": 7}


@pytest.mark.parametrize("provider", P)
async def test_thinking_is_streamed_before_the_text(caller: Caller, provider: LLMProvider) -> None:
    """And is no part of the text."""
    plain = await caller.ask(provider)
    got = await caller.ask(provider, streamed=True, **thinking(provider))

    text = streamed_text(provider, got)
    assert text
    assert "The question is about" not in text
    assert (b"question is" in got.body.partition(text[:3].encode())[0]) or provider is P.OPENAI
    assert len(got.body) > len(plain.body)
