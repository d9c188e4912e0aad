"""Recorded exchanges of real providers, read as the providers meant them.

The recordings are not part of this repository. A folder of them holds `EXPECTED.jsonl`, a line for
each with the request in OpenAI's terms and what the answer says, and the vcrpy cassettes it names.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import vcr
from pydantic import SecretStr
from vcr.request import Request

from adapters import (
    Completion,
    CompletionRequest,
    MalformedResponse,
    ModelConfig,
    ProviderError,
    collect,
)
from tests.adapters.conftest import Opened

VARIABLE = "ORCHESTRATOR_RECORDINGS"
WITHOUT = f"set {VARIABLE} to a folder of recorded exchanges"
FIELDS = {field.name for field in dataclasses.fields(CompletionRequest)} - {"extra"}
INLINE_THINKING = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The recordings of chat endpoints that the adapters call."""
    lines = (folder / "EXPECTED.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line]
    return [row for row in rows if row.get("endpoint") != "v1"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for each recording, or one that says why there is none."""
    if "row" not in metafunc.fixturenames:
        return
    named = os.environ.get(VARIABLE)
    if named and (Path(named) / "EXPECTED.jsonl").is_file():
        rows = read_rows(Path(named))
        metafunc.parametrize("row", rows, ids=[row["path"] for row in rows])
    else:
        metafunc.parametrize("row", [None], ids=["none"])


def missing(named: str | None, *, in_ci: bool) -> None:
    """Skip where nobody asked for recordings; a folder that CI names has to be there."""
    if named and in_ci:
        pytest.fail(f"{VARIABLE} names {named!r}, which holds no EXPECTED.jsonl")
    pytest.skip(WITHOUT)


@pytest.fixture
def recorder() -> vcr.VCR:
    """Plays cassettes, never records; Gemini's two versions of one endpoint are the same."""
    player = vcr.VCR(record_mode="none", decode_compressed_response=True, match_on=["endpoint"])

    def endpoint(request: Request) -> tuple[str, str, str]:
        path = str(request.path).replace("/v1alpha/", "/v1beta/")
        return request.method, request.host, path

    def same_endpoint(sent: Request, recorded: Request) -> None:
        assert endpoint(sent) == endpoint(recorded)

    player.register_matcher("endpoint", same_endpoint)
    return player


async def test_a_recording_is_read_as_the_provider_meant_it(
    row: dict[str, Any] | None, recorder: vcr.VCR, opened: Opened
) -> None:
    """Text, reasoning, tool calls, finish, usage; or status and retry-after. One request each."""
    if row is None:
        missing(os.environ.get(VARIABLE), in_ci=bool(os.environ.get("CI")))
        return
    folder = Path(os.environ[VARIABLE])
    base = {"api_base": row["api_base"]} if row["provider"] == "custom" else {}
    adapter = opened(
        ModelConfig(
            provider=row["provider"], model=row["model"], api_key=SecretStr("not-a-key"), **base
        )
    )
    request = the_request(row["request"])

    failure: ProviderError | None = None
    completion: Completion | None = None
    with recorder.use_cassette(str(folder / row["path"])) as cassette:
        try:
            if row["stream"]:
                completion = await collect(adapter.stream(request))
            else:
                completion = await adapter.complete(request)
        except ProviderError as error:
            failure = error

    assert cassette.play_count == 1
    if failure is not None:
        assert refusal_of(row) == refusal_as_read(row, failure), str(failure)
    else:
        assert completion is not None
        assert not row["expect"]["error"]
        assert answer_of(row["expect"], completion) == answer_as_read(row["expect"], completion)


def the_request(given: Mapping[str, Any]) -> CompletionRequest:
    """The recorded request as ours: fields of ours by name, the others as `extra`."""
    renamed = {"max_completion_tokens": "max_tokens"}
    named = {renamed.get(name, name): value for name, value in given.items()}
    fields = {name: value for name, value in named.items() if name in FIELDS}
    extra = {name: value for name, value in named.items() if name not in FIELDS}
    return CompletionRequest(**fields, extra=extra)


def refusal_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the recording says of its error: that it is one, its status, how long to wait."""
    is_odd = bool(row["expect"].get("content_is_object"))
    wait = row["retry_after"]
    return (
        row["expect"]["error"] or is_odd,
        row["status"] if row["status"] >= 400 else None,
        round(float(wait)) if wait and row["status"] >= 400 else None,
    )


def refusal_as_read(row: Mapping[str, Any], error: ProviderError) -> tuple[Any, ...]:
    """The same of the error that was raised."""
    is_odd = bool(row["expect"].get("content_is_object"))
    wait = error.retry_after_s
    said = row["retry_after"] and row["status"] >= 400
    return (
        row["expect"]["error"] or (is_odd and isinstance(error, MalformedResponse)),
        error.status_code if row["status"] >= 400 else None,
        round(wait) if said and wait is not None else None,
    )


def answer_of(expect: Mapping[str, Any], completion: Completion) -> dict[str, Any]:
    """What the recorded bytes say."""
    text, reasoning = expect["text"], expect["reasoning"]
    inline = INLINE_THINKING.match(text)
    if inline and completion.text != text:  # it may be moved to where it belongs
        text, reasoning = text[inline.end() :], inline[1]
    usage = expect["usage"]
    names = ("prompt", "completion", "cached", "reasoning_tokens")
    return {
        "text": text.strip(),
        "reasoning": reasoning.strip(),
        "tool_calls": [(c["name"], as_json(c["arguments"])) for c in expect["tool_calls"]],
        "finish_reason": {"eos": "stop"}.get(expect["finish_reason"], expect["finish_reason"]),
        "usage": {name: usage[name] for name in names if usage.get(name) is not None},
        "estimated": usage.get("prompt") is None,
    }


def answer_as_read(expect: Mapping[str, Any], completion: Completion) -> dict[str, Any]:
    """The same of the completion, as far as the recording says anything."""
    usage = completion.usage
    counted = {
        "prompt": usage.prompt_tokens,
        "completion": usage.completion_tokens,
        "cached": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
    said = expect["usage"]
    if said.get("tool_prompt") and counted["prompt"] == said["prompt"] + said["tool_prompt"]:
        counted["prompt"] = said["prompt"]  # tokens of the provider's own tools may be counted in
    return {
        "text": completion.text.strip(),
        "reasoning": completion.reasoning.strip(),
        "tool_calls": [(call.name, as_json(call.arguments)) for call in completion.tool_calls],
        "finish_reason": completion.finish_reason if expect["finish_reason"] else None,
        "usage": {name: counted[name] for name in counted if said.get(name) is not None},
        "estimated": usage.estimated,
    }


def as_json(arguments: Any) -> Any:
    """Arguments as values: how a provider spaces its JSON is its own affair."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def test_recordings_that_ci_names_have_to_be_there() -> None:
    """Nothing is skipped in silence because a path was misspelt."""
    with pytest.raises(pytest.fail.Exception, match="names 'nowhere'"):
        missing("nowhere", in_ci=True)


def test_nobody_needs_recordings() -> None:
    """Without them the test is skipped, and says how to have it."""
    with pytest.raises(pytest.skip.Exception, match=WITHOUT):
        missing(None, in_ci=True)
