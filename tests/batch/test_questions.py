"""What a row asks is told by its shape and by what is set for all rows; nothing gets lost."""

import gzip
import io
import pickle
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import ModelConfig
from orchestrator.batch import asking
from orchestrator.batch.asking import Options, Question, config_digest, question_of
from orchestrator.batch.outcome import Failure
from orchestrator.batch.reading import open_rows
from orchestrator.batch.rows import BadRow, Row
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import PatternError, UnknownModel
from orchestrator.patterns import PatternLibrary
from orchestrator.prompts import conversation
from orchestrator.wire.chat import ChatBody, asked_of
from orchestrator.wire.reading import read_body

MESSAGES = [{"role": "user", "content": "hi"}]


def row(fields: dict[str, object]) -> Row:
    return Row(position=6, line=7, fields=fields)


def asked(fields: dict[str, object], options: Options | None = None) -> Question:
    question = question_of(row(fields), options or Options())
    assert isinstance(question, Question), question
    return question


def refused(fields: dict[str, object], options: Options | None = None) -> Failure:
    failure = question_of(row(fields), options or Options())
    assert isinstance(failure, Failure), failure
    return failure


def line(**body: object) -> dict[str, object]:
    return {"method": "POST", "url": "/v1/chat/completions", "body": body}


def for_all(**fields: object) -> Options:
    return Options(request=RequestConfig.model_validate(fields))


def test_a_prompt_is_asked_with_what_is_set_for_all_rows() -> None:
    """The row has a question and nothing else."""
    question = asked({"prompt": "hi"}, for_all(model="council", system="Be brief.", seed=3))

    assert question.request == RequestConfig(
        prompt="hi", model="council", system="Be brief.", seed=3
    )
    assert question.ignored == {}


def test_a_parameter_beside_a_prompt_is_reported() -> None:
    """A table may have a column of that name, and a line may mean it: nobody can tell."""
    question = asked({"prompt": "hi", "temperature": 0.1, "system": "Be brief.", "city": "Ulm"})

    assert question.request == RequestConfig(prompt="hi")
    assert question.ignored.keys() == {"temperature", "system"}


def test_messages_are_asked_with_the_parameters_beside_them() -> None:
    """As a chat completion; a column that is no parameter is reported."""
    question = asked({"messages": MESSAGES, "temperature": 0.1, "label": 4})

    assert question.request == RequestConfig(messages=tuple(MESSAGES), temperature=0.1)
    assert question.ignored == {"label": "no parameter of a chat completion"}


def test_a_line_of_openais_batches_asks_what_its_body_asks_over_the_wire() -> None:
    """Every parameter is used or reported as the gateway does it."""
    body = {
        "model": "gpt",
        "messages": MESSAGES,
        "max_tokens": 5,
        "max_completion_tokens": 9,
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "stop": ["x", "y"],
        "logit_bias": {"5": 1.0},
        "store": True,
        "orchestration": {"tags": ["a"], "members": ["gpt", "claude"], "pattern": "council"},
    }
    over_the_wire = asked_of(read_body(ChatBody, orjson.dumps(body)))

    question = asked(line(**body))

    assert question.request == over_the_wire.requests[0]
    assert question.ignored == over_the_wire.ignored
    assert {"max_tokens", "store"} <= question.ignored.keys()


def test_what_is_set_for_all_rows_goes_before_a_body_and_says_so() -> None:
    """The lines may name a model that is not configured here."""
    options = for_all(model="council", max_tokens=7, system="Be brief.", extra={"user": "me"})

    question = asked(
        line(model="gpt-4o", messages=MESSAGES, max_tokens=9, top_k=2, user="you"), options
    )

    assert question.request.model == "council"
    assert question.request.max_tokens == 7
    assert question.request.system == "Be brief."
    assert question.request.extra == {"top_k": 2, "user": "me"}
    assert {"model", "max_tokens", "extra"} == question.ignored.keys()
    assert asked(line(model="council", messages=MESSAGES), options).ignored == {}


def test_a_body_without_a_model_asks_whoever_is_asked_by_default() -> None:
    """As a request without a model does."""
    assert asked(line(messages=MESSAGES)).request.model is None


def test_a_stream_and_a_field_that_no_line_has_are_reported() -> None:
    """The answer is written when it is whole."""
    question = asked({**line(model="gpt", messages=MESSAGES, stream=True), "note": 1})

    assert question.ignored == {
        "note": "no field of a line of a batch",
        "stream": "a batch has whole answers",
    }


def test_fusion_is_a_model_like_any_where_the_configuration_has_it() -> None:
    """Else it is the plugin of that name."""
    body = line(model="fusion", messages=MESSAGES)

    assert asked(body).request.pattern == "fusion"
    assert asked(body, Options(names=frozenset(("fusion",)))).request.model == "fusion"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "has no prompt, messages or body but nothing"),
        ({"b": 1, "a": 2}, "but 'a', 'b'; write a --template"),
        ({"prompt": 5}, "its prompt is a number; write text"),
        ({"prompt": None}, "its prompt is null; write text"),
        ({"prompt": " "}, "its prompt is empty"),
        ({"messages": "hi"}, "Invalid 'messages'"),
        ({"messages": []}, "Invalid 'messages'"),
        ({"messages": [{"role": "me", "content": "x"}]}, "Invalid 'messages[0].role'"),
        (
            {"body": {}, "url": "/v1/embeddings"},
            "its url is '/v1/embeddings'; a line of a batch has '/v1/chat/completions'",
        ),
        ({"body": {}}, "it has no url; a line of a batch has"),
        ({**line(), "method": "GET"}, "its method is 'GET'; a line of a batch has 'POST'"),
        ({**line(), "body": "x"}, "its body is text; write an object"),
        (line(model="m"), "Missing required parameter: 'messages'"),
        (line(model="m", messages=MESSAGES, temprature=1), "did you mean 'temperature'"),
        (line(model="m", messages=MESSAGES, n=2), "Invalid 'n': a row has one answer"),
    ],
)
def test_a_row_that_asks_nothing_says_where_and_why(fields: dict[str, object], said: str) -> None:
    """As an outcome: the others are asked."""
    failure = refused(fields)

    assert failure.kind == "InvalidRow"
    assert failure.status == 400
    assert failure.message.startswith("Line 7: ")
    assert said in failure.message


def test_a_bad_row_is_the_outcome_that_it_says() -> None:
    """It was found when it was read."""
    failure = question_of(BadRow(position=0, line=1, problem="is not JSON"), Options())

    assert failure == Failure(kind="InvalidRow", message="Line 1: is not JSON", status=400)


# Formats.

SAME: dict[str, bytes] = {
    "prompt.jsonl": b'{"prompt": "hi"}\n',
    "chat.jsonl": orjson.dumps({"messages": MESSAGES}),
    "openai.jsonl": orjson.dumps({"custom_id": "a", **line(messages=MESSAGES)}),
    "table.csv": b'id,prompt\n1,"hi"\n',
    "table.tsv": b"id\tprompt\n1\thi\n",
    "lines.txt": b"hi\n",
    "packed.jsonl.gz": gzip.compress(b'{"prompt": "hi"}\n'),
    "table.parquet": b"",
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_is_asked_whatever_file_it_stands_in(tmp_path: Path, name: str) -> None:
    """A prompt and a message of it are one question, and so is one that came through a pipe."""
    path = tmp_path / name
    path.write_bytes(SAME[name])
    if name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"id": [1], "prompt": ["hi"]}), path)

    questions = [question_of(row, Options()) for row in open_rows(path)]
    if not name.endswith(".parquet"):
        form = name.partition(".")[2].replace("txt", "text")
        piped = open_rows("-", form=form, stdin=io.BytesIO(SAME[name]))
        assert [question_of(row, Options()) for row in piped] == questions

    (question,) = questions
    assert isinstance(question, Question)
    assert question.ignored == {}
    assert conversation(question.request) == ({"role": "user", "content": "hi"},)


# Templates.


def test_a_template_fills_in_columns_as_values() -> None:
    """By their names, or by `row` where a name is no word; never as templates of their own."""
    options = Options(
        request=RequestConfig(model="gpt"), template="{{ word }}: {{ row['First Name'] }}"
    )

    question = asked({"word": "{{ 7 * 7 }}", "First Name": "{% raw %}", "x": 1}, options)

    assert question.request == RequestConfig(model="gpt", prompt="{{ 7 * 7 }}: {% raw %}")
    assert question.ignored == {}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ wrod }}", "'wrod' is undefined; the row has 'word'"),
        ("{{ word.__class__.__mro__ }}", "unsafe"),
        ("{{ row.update({}) }}", "unsafe"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{# nothing #}", "its prompt is empty"),
    ],
)
def test_a_template_that_fails_is_the_rows_outcome(template: str, said: str) -> None:
    """It cannot reach out of its sandbox, and not every row may have what it names."""
    assert said in refused({"word": "hi"}, Options(template=template)).message


def test_a_template_over_the_name_of_a_row_is_told_that_it_is_no_column() -> None:
    """It stands in the file, and equal rows are equal whatever they are called."""
    row = Row(position=0, line=2, custom_id="a7", fields={"word": "moon"})

    failure = question_of(row, Options(template="{{ custom_id }}: {{ word }}"))

    assert isinstance(failure, Failure)
    assert "custom_id is what it is called, and none of its columns" in failure.message


def test_what_is_no_template_is_said_before_a_row_is_read() -> None:
    """Every row would fail for it."""
    with pytest.raises(PatternError, match="the template, line 2: unexpected"):
        Options(template="Define\n{{ word } }}")


def test_options_can_be_sent_to_another_process() -> None:
    """Each of them turns rows into questions by itself."""
    options = Options(request=RequestConfig(model="gpt"), template="{{ x }}")

    assert pickle.loads(pickle.dumps(options)) == options


def test_a_template_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes of a row has a limit, and it stops there."""
    monkeypatch.setattr(asking, "MOST_CHARACTERS", 1_000)
    template = "{% for _ in range(99999) %}{{ word }}{% endfor %}"

    assert "longer than 1000" in refused({"word": "hi"}, Options(template=template)).message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.dictionaries(
    st.sampled_from(["prompt", "messages", "body", "url", "method", "model", "n", "x"]), JSON
)


@settings(max_examples=30)
@given(FIELDS, st.sampled_from(["", "{{ x }}", "{{ row }}"]))
def test_any_row_asks_something_or_says_why_not(fields: dict[str, object], template: str) -> None:
    """No content of a file ends a batch."""
    assert isinstance(question_of(row(fields), Options(template=template)), Question | Failure)


# What changes answers.


def config(**more: object) -> OrchestratorConfig:
    models = {name: {"provider": "openai", "model": f"{name}-1"} for name in ("gpt", "o", "spare")}
    written = {
        "models": models,
        "panels": {"council": {"members": ["gpt", "o"]}},
        "routes": {"fast": {"models": ["o"]}},
        **more,
    }
    return OrchestratorConfig.model_validate(written)


PATTERNS = PatternLibrary()


def digest(options: Options, given: OrchestratorConfig | None = None) -> str:
    return config_digest(options, given or config(), PATTERNS)


def test_whatever_changes_answers_changes_the_digest() -> None:
    """What is asked, of whom, how they are put together."""
    others = [
        for_all(model="council"),
        for_all(model="critique/council"),
        for_all(model="gpt"),
        for_all(model="fast"),
        for_all(members=["gpt", "spare"]),
        for_all(model="council", system="Be brief."),
        for_all(model="council", temperature=0.1),
        for_all(model="council", response_format={"type": "json_object"}),
        Options(request=RequestConfig(model="council"), template="{{ x }}"),
        Options(),
    ]

    assert len({digest(one) for one in others}) == len(others)
    changed = [
        config(panels={"council": {"members": ["gpt", "o"], "quorum": 2}}),
        config(models={**config().models, "o": ModelConfig(provider="openai", model="o-2")}),
    ]
    council = for_all(model="council")
    assert len({digest(council), *(digest(council, one) for one in changed)}) == 3


def test_what_changes_no_answer_leaves_the_digest() -> None:
    """Limits can be raised, keys replaced and models added in the middle of a batch."""
    council = for_all(model="council")
    kept = [
        for_all(model="council", max_cost_usd=5, time_s=9, tags=["x"], cache="refresh"),
        for_all(model="council", max_calls=7, tenant="me"),
    ]

    assert {digest(one) for one in kept} == {digest(council)}
    keyed = ModelConfig(provider="openai", model="o-1", api_key="${KEY}", price="free")
    other = config(
        models={**config().models, "o": keyed, "more": keyed},
        budgets={"per_run": {"money_usd": 3}},
        timeouts={"run_s": 900},
        retry={"attempts": 9},
    )
    assert digest(council, other) == digest(council)
    assert digest(Options(), other) != digest(Options()), "rows may name any model"


def test_a_model_that_is_not_there_is_said_before_anything_is_asked() -> None:
    """Every row would fail for it."""
    with pytest.raises(UnknownModel, match="did you mean 'council'"):
        digest(for_all(model="concil"))
