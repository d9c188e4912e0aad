"""Older callers: what they send is one run, and what they get has the shape that they know."""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from adapters import ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.config import PanelConfig, RetryConfig
from orchestrator.endpoints import ROUTES, Endpoints, serves
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.endpoints.older import ROUTES as OLDER
from orchestrator.simulator import Simulator, simulated

MODELS = {
    "alpha": ModelConfig(provider="openai", model="gpt-5-mini"),
    "beta": ModelConfig(provider="anthropic", model="claude-haiku-4-5"),
    "twin": ModelConfig(provider="openai", model="gpt-5"),
    "other-twin": ModelConfig(provider="openai", model="gpt-5"),
    "broken": ModelConfig(provider="google", model="gemini-2.5-flash"),
    "dead": ModelConfig(provider="mistral", model="mistral-small-latest"),
}
ANALYZE = {"prompt": "Hello", "selected_models": ["alpha", "beta"], "ultra_model": "beta"}
QUERY = {"query": "Hello", "selected_models": ["alpha", "beta"]}


@pytest.fixture
async def engine() -> AsyncIterator[EnhancedOrchestrator]:
    """An orchestrator over the simulator, two of whose models always fail."""
    async with Simulator() as simulator:
        config = OrchestratorConfig(
            models=MODELS,
            panels={"council": PanelConfig(members=("alpha", "beta"), synthesizer="beta")},
            retry=RetryConfig(attempts=1),
        )
        faulty = simulated(config, simulator, directives={"broken": ["e500"], "dead": ["e500"]})
        async with EnhancedOrchestrator(faulty) as orchestrator:
            yield orchestrator


@pytest.fixture
def endpoints(engine: EnhancedOrchestrator) -> Endpoints:
    return Endpoints(engine)


async def ask(endpoints: Endpoints, path: str, body: dict[str, Any], **about: Any) -> Reply:
    call = Call(method="POST", path=path, body=json.dumps(body).encode(), **about)
    return await endpoints.answer(call)


def told(reply: Reply) -> Any:
    assert isinstance(reply.body, bytes)
    return json.loads(reply.body)


async def frames(reply: Reply) -> list[dict[str, Any]]:
    """The frames of a stream; heartbeats are comments and none of them."""
    assert not isinstance(reply.body, bytes)
    text = b"".join([piece async for piece in reply.body]).decode()
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: {") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


# POST /api/analyze


async def test_an_analysis_is_one_run_in_the_shape_of_old(endpoints: Endpoints) -> None:
    reply = await ask(endpoints, "/api/analyze", {**ANALYZE, "pattern": "simple"})

    content = told(reply)
    assert reply.status == 200
    assert content["status"] == "success"
    assert content["analysis_id"] == reply.headers["x-orchestrator-run-id"]
    assert set(content["model_responses"]) == {"alpha", "beta"}
    assert all(content["model_responses"].values())
    assert content["ultra_response"]
    assert set(content["performance"]) == {"total_time_seconds", "model_times", "token_counts"}
    assert content["performance"]["token_counts"]["alpha"]["total_tokens"] > 0
    assert content["metadata"]["pattern"] == "compare"
    assert content["metadata"]["ultra_model"] == "beta"
    assert content["metadata"]["models_used"] == ["alpha", "beta"]
    assert datetime.fromisoformat(content["metadata"]["timestamp"]).tzinfo is not None
    assert content["orchestration"]["status"] == "complete"


@pytest.mark.parametrize(
    ("path", "asked", "old"),
    [
        ("/api/analyze", {}, "confidence"),
        ("/api/analyze", {"pattern": "confidence"}, "confidence"),
        ("/api/analyze", {"pattern": "Comparative"}, "confidence"),
        ("/orchestrator/feather", {}, "gut"),
        ("/orchestrator/feather", {"pattern": "gut"}, "gut"),
    ],
)
async def test_the_old_default_is_told_where_it_is_not_there(
    endpoints: Endpoints, path: str, asked: dict[str, str], old: str
) -> None:
    """Nobody is refused for it, named or not, and nobody gets another in silence."""
    reply = await ask(endpoints, path, {**ANALYZE, **asked})

    content = told(reply)
    assert reply.status == 200
    taken = content["orchestration"]["pattern"]
    reported = f"the old default, {old}, is not there; compare was taken"
    assert taken == old or content["orchestration"]["ignored"]["pattern"] == reported


async def test_a_member_that_fails_is_told_of(endpoints: Endpoints) -> None:
    """An answer that is less than it was meant to be says so in the old shape as well."""
    models = ["alpha", "beta", "broken"]
    body = {**ANALYZE, "selected_models": models, "pattern": "simple"}

    content = told(await ask(endpoints, "/api/analyze", body))

    assert set(content["model_responses"]) == {"alpha", "beta"}
    assert content["orchestration"]["status"] == "degraded"
    assert any("broken" in cause for cause in content["orchestration"]["causes"])


async def test_a_run_that_fails_is_an_error_of_the_old_shape(endpoints: Endpoints) -> None:
    body = {**ANALYZE, "selected_models": ["broken", "dead"], "pattern": "simple"}

    reply = await ask(endpoints, "/api/analyze", body)

    assert reply.status >= 500
    assert told(reply)["status"] == "error"
    assert told(reply)["message"]
    assert reply.headers["deprecation"].startswith("@")


@pytest.mark.parametrize(
    ("sent", "synonym"),
    [
        ("ultra_model", "lead_model"),
        ("ultra_model", "synthesis_model"),
        ("ultra_model", "primary_model"),
        ("selected_models", "models"),
        ("selected_models", "model_names"),
        ("pattern", "mode"),
        ("pattern", "analysis_type"),
        ("pattern", "analysis_pattern"),
    ],
)
async def test_names_that_meant_the_same_are_the_same(
    endpoints: Endpoints, sent: str, synonym: str
) -> None:
    body: dict[str, Any] = {**ANALYZE, "pattern": "compare"}
    body[synonym] = body.pop(sent)

    content = told(await ask(endpoints, "/api/analyze", body))

    assert content["metadata"]["pattern"] == "compare"
    assert content["metadata"]["ultra_model"] == "beta"
    assert content["metadata"]["models_used"] == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("simple", "compare"), ("critical", "critique"), ("Fact Check", "fact_check")],
)
async def test_patterns_are_known_by_their_older_names(
    endpoints: Endpoints, name: str, pattern: str
) -> None:
    content = told(await ask(endpoints, "/api/analyze", {**ANALYZE, "pattern": name}))

    assert content["metadata"]["pattern"] == pattern


async def test_a_model_may_be_named_by_its_providers_id(endpoints: Endpoints) -> None:
    """Where one deployment serves it; the reply calls it as the caller did."""
    names = ["gpt-5-mini", "anthropic/claude-haiku-4-5"]
    body = {**ANALYZE, "selected_models": names, "pattern": "simple"}

    content = told(await ask(endpoints, "/api/analyze", body))

    assert set(content["model_responses"]) == set(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "nonesuch"}, "Unknown pattern 'nonesuch'; there are: 'best_of_n', 'compare'"),
        ({"selected_models": ["gpt-5"]}, "served by 'twin', 'other-twin'; name one of them"),
        ({"selected_models": ["alpa"]}, "did you mean 'alpha'?; there are: 'alpha', 'beta'"),
        ({"selected_models": ["alpha", "gpt-5-mini"]}, "are one; name it once"),
        ({"selected_models": "alpha"}, "Invalid 'selected_models'"),
        ({"selected_models": []}, "Invalid 'selected_models'"),
        ({"ultra_model": "nobody"}, "Unknown model 'nobody' in 'ultra_model'"),
        ({"prompt": ""}, "Invalid 'prompt'"),
        ({"temperature": 1}, "Unknown parameter: 'temperature'"),
        ({"options": {"voice": "low"}}, "Unknown parameter: 'options.voice'"),
        ({"options": {"temperature": 5}}, "Invalid 'options.temperature'"),
        ({"document_ids": ["d-1"]}, "no documents are kept here"),
        ({"output_format": "rtf"}, "output_format 'rtf' is not made here"),
        ({"ala_carte_options": ["encrypted"]}, "'encrypted' in 'ala_carte_options' cannot be"),
        ({"ala_carte_options": ["sparkles"]}, "'sparkles' in 'ala_carte_options' is not known"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_the_old_shape(
    endpoints: Endpoints, changes: dict[str, Any], message: str
) -> None:
    """With a message that says what to do, and before anything is called."""
    reply = await ask(endpoints, "/api/analyze", {**ANALYZE, **changes})

    assert reply.status == 400
    assert told(reply)["status"] == "error"
    assert message in told(reply)["message"]


async def test_options_without_effect_are_reported(endpoints: Endpoints) -> None:
    wanted = {"sourcing": True, "fact_check": False}
    body = {**ANALYZE, "pattern": "simple", "ala_carte_options": wanted, "output_format": "plain"}

    reply = await ask(endpoints, "/api/analyze", body)

    assert reply.headers["x-orchestrator-ignored"] == "ala_carte_options.sourcing"
    ignored = told(reply)["orchestration"]["ignored"]
    assert ignored == {"ala_carte_options.sourcing": "the prompt can ask for sources"}


async def test_markdown_is_reported_and_a_file_is_refused(endpoints: Endpoints) -> None:
    for wanted, status in (("markdown", 200), ("json", 400)):
        body = {"prompt": "Hello", "pattern": "compare", "output_format": wanted}

        reply = await ask(endpoints, "/orchestrator/feather", body)

        assert reply.status == status
        assert "output_format" in str(told(reply))


async def test_a_key_may_ask_only_for_its_models(endpoints: Endpoints) -> None:
    """Also by the provider's id; and no message names what the key may not see."""
    for model in ("beta", "claude-haiku-4-5"):
        body = {**ANALYZE, "selected_models": [model], "ultra_model": "alpha"}
        reply = await ask(endpoints, "/api/analyze", body, may_ask=lambda name: name == "alpha")

        assert reply.status in {400, 403}
        assert "twin" not in told(reply)["message"]


# POST /api/orchestrator/analyze


async def test_a_query_is_one_run_in_the_latest_shape(endpoints: Endpoints) -> None:
    reply = await ask(endpoints, "/api/orchestrator/analyze", QUERY)

    content = told(reply)
    assert content["success"] is True
    assert content["error"] is None
    assert set(content["results"]) == {"ultra_synthesis", "formatted_synthesis", "status"}
    assert content["results"]["status"] == "complete"
    assert content["processing_time"] >= 0
    assert content["pipeline_info"]["pipeline_type"] == "compare"
    stages = content["pipeline_info"]["stages_completed"]
    assert content["pipeline_info"]["total_stages"] == len(stages) > 0
    assert content["pipeline_info"]["models_used"] == ["alpha", "beta"]


async def test_details_are_given_stage_by_stage_when_wanted(endpoints: Endpoints) -> None:
    wanted = {"include_pipeline_details": True, "include_initial_responses": True}

    content = told(await ask(endpoints, "/api/orchestrator/analyze", {**QUERY, **wanted}))

    stages = content["pipeline_info"]["stages_completed"]
    assert set(content["results"]) == {*stages, "formatted_output", "initial_responses"}
    assert all(set(content["results"][one]) == {"output", "quality", "status"} for one in stages)
    assert content["results"][stages[-1]]["output"] == content["results"]["formatted_output"]
    assert set(content["results"]["initial_responses"]) == {"alpha", "beta"}


async def test_without_models_the_first_panel_is_asked(endpoints: Endpoints) -> None:
    body = {"query": "Hello", "save_outputs": True, "user_id": "u-1"}

    reply = await ask(endpoints, "/api/orchestrator/analyze", body)

    assert told(reply)["pipeline_info"]["models_used"] == ["alpha", "beta"]
    assert told(reply)["saved_files"] is None
    assert reply.headers["x-orchestrator-ignored"] == "save_outputs"


@pytest.mark.parametrize("path", ["/api/orchestrator/analyze", "/api/orchestrator/analyze/stream"])
async def test_a_query_that_is_refused_says_so_in_the_latest_shape(
    endpoints: Endpoints, path: str
) -> None:
    reply = await ask(endpoints, path, {**QUERY, "analysis_type": "nonesuch"})

    assert reply.status == 400
    assert told(reply)["success"] is False
    assert "Unknown pattern 'nonesuch'" in told(reply)["error"]


# POST /api/orchestrator/analyze/stream


async def test_a_stream_tells_the_run_in_numbered_frames(endpoints: Endpoints) -> None:
    reply = await ask(endpoints, "/api/orchestrator/analyze/stream", {**QUERY, "chunk_size": 20})

    found = await frames(reply)
    names = [frame["event"] for frame in found]
    assert all(set(frame) == {"event", "sequence", "timestamp", "data"} for frame in found)
    assert [frame["sequence"] for frame in found] == list(range(1, len(found) + 1))
    assert all(datetime.fromisoformat(frame["timestamp"]).tzinfo for frame in found)
    assert names[0] == "pipeline_start"
    assert names[-1] == "pipeline_complete"
    wanted = {"stage_start", "stage_complete", "model_start", "model_complete", "model_response"}
    wanted |= {"synthesis_start", "synthesis_chunk", "synthesis_complete"}
    assert wanted <= set(names)
    assert names.count("synthesis_start") == 1
    chunks = [f["data"]["content"] for f in found if f["event"] == "synthesis_chunk"]
    assert all(len(chunk) == 20 for chunk in chunks[:-1])
    assert len(chunks[-1]) <= 20
    whole = next(f["data"]["content"] for f in found if f["event"] == "synthesis_complete")
    assert "".join(chunks) == whole == found[-1]["data"]["results"]["ultra_synthesis"]
    said = {f["data"]["model"] for f in found if f["event"] == "model_response"}
    assert said == {"alpha", "beta"}


@pytest.mark.parametrize(
    ("part", "prefix"), [("synthesis_chunks", "synthesis_"), ("model_responses", "model_")]
)
async def test_a_stream_leaves_out_the_frames_that_are_not_wanted(
    endpoints: Endpoints, part: str, prefix: str
) -> None:
    """Numbered as they come, so that a gap is a loss."""
    body = {**QUERY, "stream_stages": [part]}

    found = await frames(await ask(endpoints, "/api/orchestrator/analyze/stream", body))

    assert all(frame["event"].startswith(("pipeline_", prefix)) for frame in found)
    assert any(frame["event"].startswith(prefix) for frame in found)
    assert [frame["sequence"] for frame in found] == list(range(1, len(found) + 1))


async def test_a_stream_that_fails_ends_in_a_frame_that_says_so(endpoints: Endpoints) -> None:
    body = {"query": "Hello", "selected_models": ["broken", "dead"]}

    reply = await ask(endpoints, "/api/orchestrator/analyze/stream", body)

    found = await frames(reply)
    assert "model_error" in {frame["event"] for frame in found}
    assert found[-1]["event"] == "pipeline_error"
    assert found[-1]["data"]["error"]
    assert found[-1]["sequence"] == len(found)


# The rest.


@pytest.mark.parametrize("path", ["/api/available-models", "/available-models"])
async def test_available_models_are_those_that_can_be_members(
    endpoints: Endpoints, path: str
) -> None:
    call = Call(method="GET", path=path, may_ask=lambda name: name != "twin")

    reply = await endpoints.answer(call)

    models = ["alpha", "beta", "other-twin", "broken", "dead"]
    assert told(reply) == {"status": "success", "available_models": models}


async def test_a_query_of_a_list_is_reported_or_refused(endpoints: Endpoints) -> None:
    for query, status in (({"healthy_only": "true"}, 200), ({"page": "2"}, 400)):
        call = Call(method="GET", path="/api/available-models", query=query)

        reply = await endpoints.answer(call)

        assert reply.status == status
        assert next(iter(query)) in str(told(reply))


async def test_process_and_feather_give_what_each_of_them_gave(endpoints: Endpoints) -> None:
    asked = {"prompt": "Hello", "models": ["alpha", "beta"]}

    first = told(await ask(endpoints, "/orchestrator/process", {**asked, "lead_model": "beta"}))
    second = told(await ask(endpoints, "/orchestrator/feather", {**asked, "pattern": "critique"}))

    result = first["result"]
    assert [one["provider"] for one in result["initial_responses"]] == ["openai", "anthropic"]
    assert result["synthesis"]
    assert result["lead_model"] == "beta"
    assert set(second["initial_responses"]) == {"alpha", "beta"}
    assert second["pattern_used"] == "critique"
    assert second["ultra_response"]
    assert second["models_used"] == ["alpha", "beta"]


async def test_models_and_patterns_are_listed(endpoints: Endpoints) -> None:
    models = await endpoints.answer(Call(method="GET", path="/orchestrator/models"))
    patterns = await endpoints.answer(Call(method="GET", path="/orchestrator/patterns"))

    assert told(models)["models"] == list(MODELS)
    compare = next(one for one in told(patterns) if one["name"] == "compare")
    assert compare["description"]
    assert compare["stages"]


# Paths that were served once.


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("POST", "/api/analyze-with-docs", "documents"),
        ("POST", "/api/analyze-document", "documents"),
        ("GET", "/api/document-analysis/17", "documents"),
        ("POST", "/api/upload-document", "documents"),
        ("GET", "/api/documents/17", "documents"),
        ("GET", "/api/analyze/17/progress", "/v1/orchestrations/{id}"),
        ("GET", "/api/analyze/17/results", "/v1/orchestrations/{id}"),
        ("GET", "/api/analyze/stream", "/api/orchestrator/analyze/stream"),
        ("GET", "/orchestrator/events", "/api/orchestrator/analyze/stream"),
        ("GET", "/llms/alpha/status", "/v1/models"),
        ("GET", "/patterns", "/orchestrator/patterns"),
        ("POST", "/process", "/orchestrator/process"),
        ("GET", "/api/orchestrator/health", "/ready"),
        ("GET", "/api/cache/stats", "/metrics"),
    ],
)
async def test_what_is_not_served_any_more_says_what_to_use_instead(
    endpoints: Endpoints, method: str, path: str, word: str
) -> None:
    """410 in the old shape, and not the 404 of a path that nobody ever knew."""
    reply = await endpoints.answer(Call(method=method, path=path))

    assert reply.status == 410
    assert told(reply)["status"] == "error"
    assert told(reply)["code"] == "gone"
    assert word in told(reply)["message"]
    assert reply.headers["deprecation"].startswith("@")


@pytest.mark.parametrize("path", ["/api/analyze/17/other", "/api/documentsx", "/llm"])
async def test_what_was_never_served_is_not_found(endpoints: Endpoints, path: str) -> None:
    assert (await endpoints.answer(Call(method="GET", path=path))).status == 404


# POST /api/analyze, in the shape of one model and one text.


async def test_a_text_is_analysed_by_one_model(endpoints: Endpoints) -> None:
    """The latest version asked one model under the path of the first."""
    reply = await ask(endpoints, "/api/analyze", {"text": "Hello", "model": "beta"})

    found = told(reply)
    assert (found["success"], found["model_used"], found["error"]) == (True, "beta", None)
    assert found["analysis"]
    assert found["orchestration"]["calls"] == 1


async def test_a_text_without_a_model_is_for_the_default(endpoints: Endpoints) -> None:
    """The old default is nobody's name here, and that is told."""
    reply = await ask(endpoints, "/api/analyze", {"text": "Hello"})

    assert told(reply)["success"]
    assert "model" in told(reply)["orchestration"]["ignored"]
    assert reply.headers["x-orchestrator-ignored"] == "model"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": ""}, 400),
        ({"text": "Hello", "mode": "x"}, 400),
        ({"text": "Hello", "temperature": 9}, 400),
        ({"text": "Hello", "model": "nobody"}, 400),
        ({"text": "Hello", "model": "broken"}, 500),
    ],
)
async def test_a_text_that_cannot_be_served_is_refused_in_its_shape(
    endpoints: Endpoints, body: dict[str, Any], status: int
) -> None:
    """`success` is false, and the error says why."""
    reply = await ask(endpoints, "/api/analyze", body)

    assert reply.status == status
    assert told(reply)["success"] is False
    assert told(reply)["error"]


async def test_a_key_may_not_ask_for_anothers_model_by_a_text(endpoints: Endpoints) -> None:
    reply = await ask(
        endpoints,
        "/api/analyze",
        {"text": "Hello", "model": "beta"},
        may_ask=lambda name: name == "alpha",
    )

    assert reply.status == 403


# POST /orchestrator/feather, as its frontend sent it.


async def test_the_frontends_feather_is_an_analysis(endpoints: Endpoints) -> None:
    """What it put into `args` counts, and it is told in the words of `/api/analyze`."""
    reply = await ask(
        endpoints,
        "/orchestrator/feather",
        {
            "prompt": "Hello",
            "models": ["alpha", "beta"],
            "args": {"pattern": "critique", "ultra_model": "beta", "output_format": "plain"},
            "kwargs": {},
        },
    )

    found = told(reply)
    assert set(found["model_responses"]) == {"alpha", "beta"}
    assert found["metadata"]["pattern"] == "critique"
    assert found["metadata"]["ultra_model"] == "beta"
    assert found["ultra_response"]


async def test_the_frontends_feather_names_no_field_twice(endpoints: Endpoints) -> None:
    """Nor one that means nothing."""
    asked = {"prompt": "Hello", "models": ["alpha", "beta"]}
    for more, param in (
        ({"args": {"pattern": "critique"}, "pattern": "debate"}, "pattern"),
        ({"args": {"depth": 3}}, "args.depth"),
        ({"args": {}, "kwargs": {"depth": 3}}, "kwargs"),
    ):
        reply = await ask(endpoints, "/orchestrator/feather", {**asked, **more})

        assert reply.status == 400
        assert told(reply)["param"] == param


@pytest.mark.parametrize(("method", "path"), OLDER)
async def test_every_older_endpoint_is_served_and_says_what_to_use_instead(
    endpoints: Endpoints, method: str, path: str
) -> None:
    """RFC 9745 and RFC 5829, on errors as on answers."""
    reply = await endpoints.answer(Call(method=method, path=path, body=b"{}"))

    assert serves(path)
    assert reply.headers["deprecation"].removeprefix("@").isdigit()
    successor, _, relation = reply.headers["link"].partition("; ")
    assert relation == 'rel="successor-version"'
    assert any(known == successor.strip("<>") for _, known in ROUTES)
