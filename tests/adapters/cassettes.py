"""Record a provider's HTTP once and replay it: what is kept, what is not, where it came from.

`ORCHESTRATOR_RECORD` decides where answers come from: from the cassettes when it is not set, else
from the `simulator` or from the `live` providers, and then the cassettes are written anew.
"""

import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import vcr
import yaml
from pydantic import SecretStr
from vcr.cassette import Cassette
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.request import Request

from adapters import BaseAdapter, LLMProvider, ModelConfig
from orchestrator.simulator import Simulator, SimulatorConfig

FOLDER = Path(__file__).parents[2] / "cassettes"
SEED = 1
TEST_KEY = "test-key-that-opens-nothing"
WRONG_KEY = "wrong-key-that-opens-nothing"
UNKNOWN_MODEL = "no-such-model-0"

Source = Literal["cassettes", "simulator", "live"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """What of a provider is recorded: a cheap model that needs no thinking, and its address."""

    model: str
    base: str
    path: str
    key_variables: tuple[str, ...] = ()


SUBJECTS = {
    LLMProvider.OPENAI: Subject(
        "gpt-4.1-mini", "https://api.openai.com/v1", "/chat/completions", ("OPENAI_API_KEY",)
    ),
    LLMProvider.ANTHROPIC: Subject(
        "claude-haiku-4-5", "https://api.anthropic.com", "/v1/messages", ("ANTHROPIC_API_KEY",)
    ),
    LLMProvider.GOOGLE: Subject(
        "gemini-2.5-flash-lite",
        "https://generativelanguage.googleapis.com",
        "/v1beta/models/",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ),
    LLMProvider.COHERE: Subject(
        "command-r7b-12-2024",
        "https://api.cohere.com",
        "/v2/chat",
        ("COHERE_API_KEY", "CO_API_KEY"),
    ),
    LLMProvider.MISTRAL: Subject(
        "mistral-small-latest",
        "https://api.mistral.ai/v1",
        "/chat/completions",
        ("MISTRAL_API_KEY",),
    ),
    LLMProvider.CUSTOM: Subject("qwen3", "https://inference.example/v1", "/chat/completions"),
}

# Headers are kept by name, everything else is left out: keys, cookies, names of organisations and
# machines, times. What is kept is what the adapters read or what says which protocol is spoken.
SECRET_HEADERS = (
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "cookie",
    "openai-organization",
    "openai-project",
)
SECRET_PARAMETERS = ("key", "api_key")
REQUEST_HEADERS = frozenset(("accept", "anthropic-version", "content-type"))
RESPONSE_HEADERS = frozenset(
    (
        "content-type",
        "location",
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-should-retry",
    )
)
# What a body may say about the account.
PRIVATE = (
    (re.compile(r"\borg-[A-Za-z0-9]{8,}"), "org-left-out"),
    (re.compile(r"\bproj_[A-Za-z0-9]{8,}"), "proj_left_out"),
    (re.compile(r"\bprojects/\d{6,}"), "projects/0"),
    (re.compile(r"\b(sk|co|pk)-[A-Za-z0-9_*-]{8,}|\bAIza[\w*-]{20,}"), "key-left-out"),
)


def source() -> Source:
    """Where answers come from in this run of the tests."""
    found = os.environ.get("ORCHESTRATOR_RECORD", "cassettes")
    if found not in ("cassettes", "simulator", "live"):
        raise pytest.UsageError(f"ORCHESTRATOR_RECORD is {found!r}: use 'simulator' or 'live'")
    return found  # type: ignore[return-value]  # just checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """The cassette of one test and one provider; called, it gives the adapter to talk to."""

    provider: LLMProvider
    path: Path
    opened: Callable[[ModelConfig], BaseAdapter]

    @asynccontextmanager
    async def __call__(
        self,
        *,
        model: str | None = None,
        key: str | None = None,
        fault: str = "",
        can_be_provoked: bool = True,
    ) -> AsyncIterator[BaseAdapter]:
        """Play the cassette, or record it if that is what this run is for.

        `fault` is what the simulator is to do; `can_be_provoked` says whether a live provider can
        be brought to do the same. Whatever is tested belongs inside: it is checked before a new
        recording replaces the old one, and at the end the cassette must have been played whole.
        """
        subject = SUBJECTS[self.provider]
        base = subject.base if self.provider is LLMProvider.CUSTOM else None
        chosen: Json = {"provider": self.provider, "model": model or subject.model}
        match source():
            case "cassettes":
                chosen |= {"api_base": base, "api_key": SecretStr(key or TEST_KEY)}
                with replayed(self.path):
                    yield self.opened(ModelConfig(**chosen))
            case "simulator":
                config = SimulatorConfig(seed=SEED, keys=(SecretStr(TEST_KEY),))
                async with Simulator(config) as simulator:
                    address = simulator.base_url(self.provider, *filter(None, [fault]))
                    chosen |= {"api_base": address, "api_key": SecretStr(key or TEST_KEY)}
                    with recorded(self.path, origin("simulator"), (address, subject.base)):
                        yield self.opened(ModelConfig(**chosen))
            case "live":
                self._need_a_live_provider(subject, can_be_provoked=can_be_provoked)
                chosen |= {"api_key": SecretStr(key) if key else None}
                with recorded(self.path, origin("live"), (subject.base, subject.base)):
                    yield self.opened(ModelConfig(**chosen))

    def _need_a_live_provider(self, subject: Subject, *, can_be_provoked: bool) -> None:
        if self.provider is LLMProvider.CUSTOM:
            pytest.skip("custom is no company's endpoint: it is recorded from the simulator")
        if not any(os.environ.get(name) for name in subject.key_variables):
            names = " or ".join(subject.key_variables)
            pytest.skip(f"no key to record {self.provider} with: set {names}")
        if not can_be_provoked:
            pytest.skip("a live provider does this when it likes: recorded from the simulator")


@contextmanager
def replayed(path: Path) -> Iterator[None]:
    """Everything is answered from the cassette, once, and nothing else is asked for."""
    assert path.exists(), f"there is no {path}: record it with ORCHESTRATOR_RECORD=simulator"
    with refused_connections() as tried, missed_requests() as missed:
        with recorder().use_cassette(path, record_mode="none") as cassette:
            yield
        assert not missed, f"asked for what is not on the cassette: {missed}"
        assert not tried, f"reached for the network: {tried}"
    assert_played_once(cassette)


@contextmanager
def recorded(path: Path, about: Json, prefixes: tuple[str, str]) -> Iterator[None]:
    """Record what happens here; the new cassette replaces the old one if it says anything new."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        with recorder(about, prefixes).use_cassette(fresh, record_mode="all") as cassette:
            yield
        assert len(cassette) == 1, f"{len(cassette)} requests where one was due"
        if path.exists() and _lasting(path) == _lasting(fresh):
            fresh.unlink()
        else:
            fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def assert_played_once(cassette: Cassette) -> None:
    """One request, one answer, nothing left over."""
    assert len(cassette) == 1, f"{len(cassette)} exchanges on the cassette"
    assert cassette.play_count == 1, f"the cassette was played {cassette.play_count} times"
    assert cassette.all_played, "the cassette was not played to its end"


def load(path: Path) -> Json:
    """The cassette as it is written."""
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def origin(recorded_from: Literal["simulator", "live"]) -> Json:
    """Where a cassette comes from, as its first lines say it."""
    about: Json = {
        "recorded_from": recorded_from,
        "recorded_at": datetime.now(UTC).date().isoformat(),
        "litellm": version("litellm"),
    }
    return about | ({"simulator_seed": SEED} if recorded_from == "simulator" else {})


def _lasting(path: Path) -> Json:
    """A cassette without its date and version, which alone are no reason to write it anew."""
    return {key: part for key, part in load(path).items() if key not in ("recorded_at", "litellm")}


def recorder(about: Mapping[str, Any] | None = None, prefixes: tuple[str, str] = ("", "")) -> Any:
    """vcrpy, set up so that no secret and no passing circumstance gets into a file."""
    actual, told = prefixes

    def before_record_request(request: Request) -> Request:
        if actual and request.uri.startswith(actual):
            request.uri = told + request.uri.removeprefix(actual)
        request.headers = _kept(request.headers, REQUEST_HEADERS)
        return request

    made = vcr.VCR(
        serializer="annotated",
        match_on=("method", "scheme", "host", "port", "path", "query", "body"),
        filter_headers=SECRET_HEADERS,
        filter_query_parameters=SECRET_PARAMETERS,
        before_record_request=before_record_request,
        before_record_response=_without_account,
        decode_compressed_response=True,
    )
    made.register_serializer("annotated", _AnnotatedYaml(about or {}))
    return made


def _without_account(response: Json) -> Json:
    body = response["body"].get("string", b"")
    text = (body.encode() if isinstance(body, str) else body).decode("utf-8")
    for pattern, instead in PRIVATE:
        text = pattern.sub(instead, text)
    return {
        "status": response["status"],
        "headers": _kept(response["headers"], RESPONSE_HEADERS),
        "body": {"string": text.encode()},
    }


def _kept(headers: Mapping[str, Any], names: frozenset[str]) -> Json:
    found = {name.lower(): value for name, value in headers.items()}
    return {name: found[name] for name in sorted(found) if name in names}


class _AnnotatedYaml:
    """vcrpy's own YAML, with the origin first, text as it reads, and no key sorted."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about

    def serialize(self, cassette: Json) -> str:
        content = {**self._about, **cassette}
        return yaml.dump(
            content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000
        )

    def deserialize(self, text: str) -> Json:
        found = yaml.safe_load(text)
        assert isinstance(found, dict)
        return found


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as lines where YAML can."""


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


@contextmanager
def missed_requests() -> Iterator[list[str]]:
    """The requests a cassette could not answer, also those whose error somebody swallowed."""
    missed: list[str] = []
    original = CannotOverwriteExistingCassetteException.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        missed.append(str(self.failed_request))

    with mock.patch.object(CannotOverwriteExistingCassetteException, "__init__", noted):
        yield missed


@contextmanager
def refused_connections() -> Iterator[list[str]]:
    """No socket connects, not even on this machine; the attempts."""
    tried: list[str] = []

    def refuse(_: socket.socket, address: Any) -> None:
        tried.append(str(address))
        raise AssertionError(f"a replay connects to {address}")

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket.socket, "connect_ex", refuse),
    ):
        yield tried


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it."""
    pending, seen = [error], set[int]()
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        pending += [cause for cause in (found.__cause__, found.__context__) if cause is not None]
