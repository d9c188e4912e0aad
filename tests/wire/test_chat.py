"""What a chat request asks for: every field is used, refused or reported."""

import json
from typing import Any

import pytest
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from orchestrator.wire.chat import _UNUSED, Asked, ChatBody, asked_of
from orchestrator.wire.errors import Refused
from orchestrator.wire.reading import read_body

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def asked(**fields: Any) -> Asked:
    body = {"model": "alpha", "messages": HELLO, **fields}
    return asked_of(read_body(ChatBody, json.dumps(body).encode()))


# A value for each of OpenAI's fields, and what else must be there.
GIVEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "messages": ([{"role": "user", "content": "Else"}], {}),
    "model": ("beta", {}),
    "audio": ({"format": "mp3", "voice": "ash"}, {}),
    "frequency_penalty": (0.5, {}),
    "function_call": ("auto", {"functions": [{"name": "f"}]}),
    "functions": ([{"name": "f"}], {}),
    "logit_bias": ({"5": 1}, {}),
    "logprobs": (True, {}),
    "max_completion_tokens": (5, {}),
    "max_tokens": (5, {}),
    "metadata": ({"a": "b"}, {}),
    "modalities": (["audio"], {}),
    "moderation": ({"model": "omni"}, {}),
    "n": (2, {}),
    "parallel_tool_calls": (False, {"tools": [TOOL]}),
    "prediction": ({"type": "content", "content": "x"}, {}),
    "presence_penalty": (0.5, {}),
    "prompt_cache_key": ("x", {}),
    "prompt_cache_options": ({"mode": "explicit"}, {}),
    "prompt_cache_retention": ("24h", {}),
    "reasoning_effort": ("low", {}),
    "response_format": ({"type": "json_object"}, {}),
    "safety_identifier": ("x", {}),
    "seed": (5, {}),
    "service_tier": ("flex", {}),
    "stop": (["x"], {}),
    "store": (True, {}),
    "stream": (True, {}),
    "stream_options": ({"include_usage": True}, {"stream": True}),
    "temperature": (0.5, {}),
    "tool_choice": ("required", {"tools": [TOOL]}),
    "tools": ([TOOL], {}),
    "top_logprobs": (2, {"logprobs": True}),
    "top_p": (0.5, {}),
    "user": ("x", {}),
    "verbosity": ("low", {}),
    "web_search_options": ({"search_context_size": "low"}, {}),
}
OPENAIS = sorted(
    CompletionCreateParamsNonStreaming.__annotations__.keys()
    | CompletionCreateParamsStreaming.__annotations__.keys()
    | {
        name
        for kind in CompletionCreateParamsStreaming.__orig_bases__  # type: ignore[attr-defined]
        for name in kind.__annotations__
    }
)


def test_the_table_of_fields_is_the_sdks_own() -> None:
    """A field that a new SDK brings must be thought of."""
    assert sorted(GIVEN) == OPENAIS


@pytest.mark.parametrize("name", OPENAIS)
def test_every_field_of_openai_is_used_refused_or_reported(name: str) -> None:
    """With it, something else is asked, or it is said that it was not used, or it is refused."""
    value, others = GIVEN[name]
    without = asked(**others)
    try:
        given = asked(**{**others, name: value})
    except Refused as refused:
        assert (name, refused.param) == ("modalities", "modalities")  # noqa: PT017 - one refuses
        return

    is_used = given.requests != without.requests or (
        (given.is_streamed, given.with_usage, given.model)
        != (without.is_streamed, without.with_usage, without.model)
    )
    assert is_used != (name in given.ignored)
    assert (name in given.ignored) == (name in _UNUSED)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "auto", "functions": [{"name": "f"}]}, "tool_choice"),
        ({"function_call": "none"}, "function_call"),
        ({"function_call": "none", "tools": [TOOL]}, "function_call"),
        ({"functions": [{"name": "f"}], "tools": [TOOL]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"orchestration": {"progress": True}}, "orchestration.progress"),
    ],
)
def test_what_has_no_effect_beside_the_rest_is_reported(fields: dict[str, Any], name: str) -> None:
    """It would be dropped silently otherwise."""
    assert list(asked(**fields).ignored) == [name]


@pytest.mark.parametrize("name", sorted(_UNUSED))
def test_a_field_that_says_nothing_is_not_reported(name: str) -> None:
    """null is what SDKs send for what was not given."""
    assert asked(**{name: None}).ignored == {}


def test_choices_are_runs_that_differ() -> None:
    """Equal runs would be one, and its answer all of theirs."""
    first, second = asked(n=2, seed=5).requests

    assert (first.seed, second.seed) == (5, 6)
    assert first.cache == second.cache == "off"


# Fusion.


@pytest.mark.parametrize("model", ["fusion", "openrouter/fusion"])
def test_fusion_names_the_default_panel_by_its_pattern(model: str) -> None:
    """No plugin: whoever is configured."""
    (run,) = asked(model=model).requests

    assert (run.model, run.pattern, run.members, run.synthesizer) == (None, "fusion", None, None)


def test_a_fusion_that_is_configured_is_itself() -> None:
    """The configuration's names go before."""
    body = read_body(ChatBody, json.dumps({"model": "fusion", "messages": HELLO}).encode())
    (run,) = asked_of(body, is_configured=True).requests

    assert (run.model, run.pattern) == ("fusion", None)


def test_the_plugin_says_who_answers_and_who_writes() -> None:
    """OpenRouter's fields; those that have no meaning here are reported."""
    plugin = {
        "id": "fusion",
        "analysis_models": ["a", "b"],
        "model": "c",
        "preset": "all",
        "max_completion_tokens": 9,
        "max_tool_calls": 3,
    }
    told = asked(model="fusion", plugins=[plugin])
    (run,) = told.requests

    assert (run.model, run.members, run.synthesizer) == ("all", ("a", "b"), "c")
    assert run.max_tokens == 9
    assert list(told.ignored) == ["plugins[0].max_tool_calls"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "alpha", "plugins": [{"id": "fusion"}]}, "model"),
        (
            {"model": "fusion", "plugins": [{"id": "fusion", "enabled": False}]},
            "plugins[0].enabled",
        ),
        (
            {
                "model": "fusion",
                "plugins": [{"id": "fusion"}],
                "orchestration": {"pattern": "council"},
            },
            "orchestration.pattern",
        ),
        (
            {"model": "fusion", "plugins": [{"id": "fusion", "analysis_models": ["a"] * 9}]},
            "plugins[0].analysis_models",
        ),
    ],
)
def test_a_plugin_that_contradicts_the_rest_is_refused(fields: dict[str, Any], param: str) -> None:
    """Nothing of either would be dropped silently."""
    with pytest.raises(Refused) as caught:
        asked(**fields)

    assert caught.value.param == param
