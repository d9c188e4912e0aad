"""What comes of one row: its answer, read as the JSON that was wanted, or why there is none."""

import asyncio
from typing import Any

from adapters import MockAdapter, ModelConfig
from adapters.types import CompletionRequest
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.batch.answering import Answerer, LimitReached
from orchestrator.batch.asking import Question
from orchestrator.batch.outcome import Failure, Outcome
from orchestrator.batch.rows import Row

ROW = Row(position=2, line=3, custom_id="c", fields={"prompt": "Which city?"})
SCHEMA = {"type": "object", "required": ["city"]}
WANTED: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def configured() -> OrchestratorConfig:
    model = ModelConfig.model_validate({"provider": "openai", "model": "gpt-5-mini"})
    return OrchestratorConfig(models={"gpt": model})


async def answered(asked: Question | Failure, *says: str) -> tuple[Outcome, MockAdapter]:
    config = configured()
    mock = MockAdapter(list(says))
    async with EnhancedOrchestrator(config, adapters={"gpt": mock}) as engine:
        answer = Answerer(engine, lambda row: asked, stopping=asyncio.Event(), keeps_receipts=True)
        return await answer(ROW), mock


def question(**more: Any) -> Question:
    return Question(request=RequestConfig(prompt="Which city?", model="gpt", **more))


async def test_an_outcome_says_which_row_it_is_of_and_what_was_done_for_it() -> None:
    """With its receipt, where that is wanted, and what the row said to no effect."""
    asked = Question(request=question().request, ignored={"colour": "no such thing"})

    outcome, _ = await answered(asked, "Ulm.")

    assert (outcome.position, outcome.line, outcome.custom_id) == (2, 3, "c")
    assert (outcome.digest, outcome.status, outcome.text) == (ROW.digest, "complete", "Ulm.")
    assert [(use.deployment, use.calls, use.failed) for use in outcome.use] == [("gpt", 1, 0)]
    assert outcome.receipt is not None
    assert outcome.receipt["run_id"] == outcome.run_id
    assert outcome.ignored == {"colour": "no such thing"}
    assert outcome.model == "gpt"


async def test_a_call_is_under_way_from_its_beginning_to_its_end() -> None:
    """Whoever looks is told of which deployment."""
    seen: list[dict[str, int]] = []

    def look(request: CompletionRequest) -> str:
        seen.append(answer.calls_in_flight())
        return "Ulm."

    async with EnhancedOrchestrator(configured(), adapters={"gpt": MockAdapter(look)}) as engine:
        answer = Answerer(engine, lambda row: question(), stopping=asyncio.Event())
        seen.append(answer.calls_in_flight())
        await answer(ROW)
        seen.append(answer.calls_in_flight())

    assert seen == [{}, {"gpt": 1}, {}]


async def test_an_answer_of_another_shape_is_asked_for_once_more() -> None:
    """With what was wrong with it; both calls are counted to the row."""
    outcome, mock = await answered(question(response_format=WANTED), "Ulm", '{"city": "Ulm"}')

    assert (outcome.status, outcome.parsed) == ("complete", {"city": "Ulm"})
    assert outcome.use[0].calls == 2
    assert "cannot be used" in str(mock.requests[-1].messages[-1]["content"])


async def test_an_answer_that_stays_of_another_shape_is_a_failure() -> None:
    """What was said is kept, as is what is wrong with it."""
    outcome, _ = await answered(question(response_format=WANTED), "Ulm", '{"town": "Ulm"}')

    assert outcome.status == "failed"
    assert outcome.failure is not None
    assert outcome.failure.kind == "InvalidAnswer"
    assert "'city' is a required property" in outcome.failure.message
    assert (outcome.text, outcome.parsed) == ('{"town": "Ulm"}', None)


async def test_a_row_that_asks_nothing_is_a_failure_without_a_call() -> None:
    """It says what is wrong with the row."""
    problem = Failure(kind="InvalidRow", message="Line 3: its prompt is empty", status=400)

    outcome, mock = await answered(problem, "Ulm.")

    assert (outcome.status, outcome.failure, outcome.use) == ("failed", problem, ())
    assert not mock.requests


async def test_what_nobody_foresaw_ends_one_row_and_says_nothing_of_its_own() -> None:
    """A bug's message may hold anything."""

    async def answer() -> Outcome:
        class Broken:
            async def execute_request(self, *_: Any, **__: Any) -> Any:
                raise RuntimeError("sk-secret")

            async def quote(self, *_: Any) -> Any: ...

            def breakers(self) -> dict[str, Any]:
                return {}

            def calls_in_flight(self) -> dict[str, int]:
                return {}

        return await Answerer(Broken(), lambda row: question(), stopping=asyncio.Event())(ROW)

    outcome = await answer()

    assert outcome.failure is not None
    assert outcome.failure.kind == "RuntimeError"
    assert "sk-secret" not in str(outcome)


async def test_a_limit_between_two_answers_leaves_the_first() -> None:
    """It is paid for, and says what is wrong with it; the row is not asked all over again."""
    config = configured()
    async with EnhancedOrchestrator(config, adapters={"gpt": MockAdapter(["Ulm"])}) as engine:
        answer = Answerer(
            engine, lambda row: question(response_format=WANTED), stopping=asyncio.Event()
        )
        real, asked = answer._within_cap, 0

        async def within_cap(*about: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked > 1:
                raise LimitReached("enough")
            return await real(*about)

        answer._within_cap = within_cap  # type: ignore[method-assign]
        outcome = await answer(ROW)

    assert (outcome.status, outcome.text, outcome.use[0].calls) == ("failed", "Ulm", 1)


async def test_a_question_that_cannot_even_be_put_is_a_failure_of_its_row() -> None:
    """A fault in what makes questions of rows ends no other row."""

    def ask(row: Row) -> Question | Failure:
        raise KeyError("sk-secret")

    config = configured()
    async with EnhancedOrchestrator(config, adapters={"gpt": MockAdapter([])}) as engine:
        outcome = await Answerer(engine, ask, stopping=asyncio.Event())(ROW)

    assert outcome.failure == Failure(kind="KeyError", message="KeyError", status=500)
