"""Replies from the cache alone are given again for a moment, and only to who may have them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters import MockAdapter, ModelConfig
from orchestrator import OrchestratorConfig
from orchestrator.clock import FakeClock
from orchestrator.config import CacheConfig, LedgerConfig
from orchestrator.endpoints.calls import Reply
from orchestrator.server.keys import KeyFile
from orchestrator.server.repeats import FOR_S, LARGEST_BYTES, LOOKING_S, MOST, Asked, Repeats

Serving = Callable[..., AbstractAsyncContextManager[Any]]


def caching() -> OrchestratorConfig:
    return OrchestratorConfig(
        models={"one": ModelConfig(provider="openai", model="one", price="free")},
        cache=CacheConfig(),
        ledger=LedgerConfig(),
    )


def run_id(reply: httpx.Response) -> str:
    assert reply.status_code == 200
    return str(reply.headers["x-orchestrator-run-id"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return tmp_path


async def test_what_the_cache_answered_is_given_again_byte_for_byte(
    home: Path, serving: Serving
) -> None:
    """The first is paid for, the second found, the third given again under a name of its own."""
    mocks = {"one": MockAdapter(["Hello there.", "Another."])}
    async with serving(mocks=mocks, config=caching()) as gateway:
        paid, found, again = [await gateway.chat() for _ in range(3)]

    assert len(mocks["one"].requests) == 1
    assert run_id(paid) != run_id(found) == run_id(again)
    assert again.content == found.content
    assert again.json()["choices"] == paid.json()["choices"]
    assert again.headers["x-orchestrator-cost-usd"] == "0.000000000"
    assert again.headers["x-request-id"] != found.headers["x-request-id"]
    assert [one.status for one in gateway.seen] == [200] * 3


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.5},
        {"headers": {"idempotency-key": "k"}},
        {"orchestration": {"cache": "refresh"}},
        {"orchestration": {"cache": "off"}},
        {"stream": True},
    ],
)
async def test_another_request_is_looked_at_anew(
    home: Path, serving: Serving, other: dict[str, Any]
) -> None:
    """One field more, a stream, or a caller who wants no cached answer."""
    mocks = {"one": MockAdapter(["Hello there."])}
    async with serving(mocks=mocks, config=caching()) as gateway:
        await gateway.chat()
        found = await gateway.chat()
        other_reply = await gateway.chat(**other)

    assert other_reply.status_code == 200
    assert other_reply.headers.get("x-orchestrator-run-id", "") != run_id(found)


async def test_keys_share_nothing_here(home: Path, serving: Serving, keys: KeyFile) -> None:
    """Neither with another tenant nor where a limit of the key would have to be counted."""
    alice, bob = keys.create("alice"), keys.create("bob")
    slow = keys.create("alice", requests_per_minute=4)
    mocks = {"one": MockAdapter(["Hello there."])}
    async with serving(mocks=mocks, config=caching()) as gateway:

        async def ask(key: str) -> httpx.Response:
            return await gateway.chat(headers={"authorization": f"Bearer {key}"})

        for_alice = [run_id(await ask(alice.key)) for _ in range(3)]
        for_bob = run_id(await ask(bob.key))
        for_slow = [await ask(slow.key) for _ in range(5)]
        keys.revoke(alice.record.id)
        revoked = await ask(alice.key)

    assert for_alice[1] == for_alice[2]
    assert for_bob not in for_alice
    assert [one.status_code for one in for_slow] == [200] * 4 + [429]
    assert len({run_id(one) for one in for_slow[:4]}) == 4
    assert revoked.status_code == 401


async def test_without_a_cache_nothing_is_given_again(serving: Serving) -> None:
    """Every request is a call of its own."""
    mocks = {"one": MockAdapter(["Hello there.", "Another.", "A third."])}
    async with serving(mocks=mocks) as gateway:
        replies = [await gateway.chat() for _ in range(3)]

    assert len(mocks["one"].requests) == 3
    assert len({run_id(one) for one in replies}) == 3


def test_after_a_moment_one_looks_while_the_others_are_served() -> None:
    """Whatever was cleared or ran out meanwhile is seen within seconds."""
    clock = FakeClock()
    repeats = Repeats(clock)
    asked, reply = by(repeats, b"body"), Reply(body=b"reply", may_repeat=True)
    repeats.keep(asked, reply)
    clock.advance(FOR_S - 0.01)
    assert repeats.find(asked) is reply

    clock.advance(0.01)
    assert repeats.find(asked) is None
    assert repeats.find(asked) is reply
    clock.advance(LOOKING_S)
    assert repeats.find(asked) is None

    repeats.keep(asked, Reply(body=b"paid for"))
    assert repeats.find(asked) is None


def test_what_nobody_asked_for_lately_is_gone() -> None:
    """However often it is asked for then."""
    clock = FakeClock()
    repeats = Repeats(clock)
    asked = by(repeats, b"body")
    repeats.keep(asked, Reply(body=b"reply", may_repeat=True))

    clock.advance(2 * FOR_S)

    assert repeats.find(asked) is None
    assert repeats.find(asked) is None


def test_little_is_kept() -> None:
    """The oldest go first, and nothing large stays."""
    repeats = Repeats(FakeClock())
    bodies = [b"%d" % number for number in range(MOST + 1)]
    every = [by(repeats, body) for body in bodies]
    for asked in every:
        repeats.keep(asked, Reply(body=b"reply", may_repeat=True))
    large = by(repeats, b"large")
    repeats.keep(large, Reply(body=b"x" * LARGEST_BYTES, may_repeat=True))

    assert [repeats.find(asked) is None for asked in (every[0], every[1], large)] == [
        True,
        False,
        True,
    ]


def test_another_configuration_gives_nothing_of_the_one_before() -> None:
    """Nor what was on its way when it came."""
    repeats = Repeats(FakeClock())
    kept, under_way = by(repeats, b"kept"), by(repeats, b"under way")
    repeats.keep(kept, Reply(body=b"reply", may_repeat=True))

    repeats.clear()
    repeats.keep(under_way, Reply(body=b"reply", may_repeat=True))

    assert repeats.find(by(repeats, b"kept")) is None
    assert repeats.find(by(repeats, b"under way")) is None


def by(repeats: Repeats, body: bytes) -> Asked:
    asked = repeats.asked("/", body, None)
    assert asked is not None
    return asked
