"""`Idempotency-Key`: one run for one key, the same reply for whoever asks again, nobody else's."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import MockAdapter
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.clock import FakeClock
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.server import idempotency as module
from orchestrator.server.idempotency import LARGEST_BODY, TTL_S, Idempotency, replies_file

PATH = "/v1/chat/completions"


class Answering:
    """Answers with a number, or as it is told; waits for its gate."""

    def __init__(self) -> None:
        self.calls = 0
        self.status = 200
        self.body: bytes | None = None
        self.headers: Mapping[str, str] = {"content-type": "application/json", "x-run": "1"}
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def __call__(self, call: Call) -> Reply:
        self.calls += 1
        body = self.body if self.body is not None else b'{"answer": %d}' % self.calls
        self.begun.set()
        await self.gate.wait()
        return Reply(status=self.status, headers=self.headers, body=body)


def call(
    body: Any = None,
    key: str | None = "k-1",
    *,
    tenant: str = "acme",
    key_id: str = "",
    path: str = PATH,
) -> Call:
    return Call(
        method="POST",
        path=path,
        body=json.dumps(body if body is not None else {"model": "gpt"}).encode(),
        headers={} if key is None else {"idempotency-key": key},
        tenant=tenant,
        key_id=key_id,
    )


@pytest.fixture
def answering() -> Answering:
    return Answering()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "idempotency.db"


@pytest.fixture
async def once(answering: Answering, path: Path, clock: FakeClock) -> AsyncIterator[Idempotency]:
    made = Idempotency(answering, path, clock=clock)
    yield made
    await made.aclose()


def is_there(path: Path) -> bool:
    return path.exists()


def damaged(path: Path, damage: str) -> None:
    """Put something in the place of the file."""
    path.parent.mkdir()
    if damage == "broken":
        path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    else:
        path.mkdir()


def code(reply: Reply) -> str:
    assert isinstance(reply.body, bytes)
    found = json.loads(reply.body)["error"]["code"]
    assert isinstance(found, str)
    return found


async def test_the_same_request_is_answered_once(once: Idempotency, answering: Answering) -> None:
    """The second time the stored reply comes, byte for byte, and says so."""
    first, second = await once.answer(call()), await once.answer(call())

    assert answering.calls == 1
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert {**first.headers, "idempotent-replayed": "true"} == second.headers
    assert (second.status, second.body) == (first.status, first.body)


async def test_without_a_key_every_request_is_a_new_one(
    once: Idempotency, answering: Answering, path: Path
) -> None:
    """And no file is made for it."""
    await once.answer(call(key=None))
    await once.answer(call(key=None))
    await once.answer(Call(method="GET", path="/v1/models", headers={"idempotency-key": "k-1"}))

    assert answering.calls == 3
    assert not is_there(path)


@pytest.mark.parametrize(
    "other", [call({"model": "claude"}), call(path="/v1/responses"), call({"model": "gpt "})]
)
async def test_a_key_belongs_to_one_request(
    once: Idempotency, answering: Answering, other: Call
) -> None:
    """Another body or path under it is a mistake of the caller's, and nothing is run for it."""
    await once.answer(call())

    reply = await once.answer(other)

    assert (reply.status, code(reply), answering.calls) == (422, "idempotency_error", 1)


async def test_a_twin_in_flight_is_told_to_wait(once: Idempotency, answering: Answering) -> None:
    """It is not run a second time; once the first is answered, the reply is there."""
    answering.gate.clear()
    first = asyncio.create_task(once.answer(call()))
    await answering.begun.wait()

    twins = await asyncio.gather(*(once.answer(call()) for _ in range(20)))
    answering.gate.set()
    await first

    assert {(twin.status, code(twin)) for twin in twins} == {(409, "idempotency_in_progress")}
    assert twins[0].headers["retry-after"] == "1"
    assert (await once.answer(call())).headers["idempotent-replayed"] == "true"
    assert answering.calls == 1


async def test_of_many_at_once_one_is_run(once: Idempotency, answering: Answering) -> None:
    """Whoever comes first; the others are told to wait or are given its reply."""
    replies = await asyncio.gather(*(once.answer(call()) for _ in range(50)))

    assert answering.calls == 1
    assert {reply.status for reply in replies} <= {200, 409}


@pytest.mark.parametrize(
    ("status", "is_stored"),
    [
        (200, True),
        *((status, False) for status in (400, 401, 403, 404, 413, 429, 503)),
        *((status, True) for status in (500, 502, 504)),
    ],
)
async def test_what_was_refused_before_it_began_is_not_stored(
    once: Idempotency, answering: Answering, status: int, is_stored: bool
) -> None:
    """A corrected or later try may use the same key; what came of a run stays what it was."""
    answering.status = status
    await once.answer(call())
    answering.status = 200

    reply = await once.answer(call())

    assert ("idempotent-replayed" in reply.headers) is is_stored
    assert reply.status == (status if is_stored else 200)


async def test_one_tenant_sees_nothing_of_another(once: Idempotency, answering: Answering) -> None:
    """The same key and body of another tenant is another request."""
    mine, theirs = await once.answer(call()), await once.answer(call(tenant="beta"))
    other = await once.answer(call({"model": "claude"}, tenant="gamma"))

    assert answering.calls == 3
    assert mine.body != theirs.body
    assert [reply.status for reply in (mine, theirs, other)] == [200] * 3
    assert not any("idempotent-replayed" in reply.headers for reply in (mine, theirs, other))


async def test_one_key_of_a_tenant_is_not_given_what_another_has_asked(
    once: Idempotency, answering: Answering
) -> None:
    """It may not be allowed to ask for the same."""
    first, second = await once.answer(call(key_id="a")), await once.answer(call(key_id="b"))
    again = await once.answer(call(key_id="a"))

    assert answering.calls == 2
    assert first.body == again.body != second.body


async def test_a_refusal_is_told_in_the_words_of_its_callers(once: Idempotency) -> None:
    """Anthropic's, where messages are asked for."""
    reply = await once.answer(call({"stream": True}, path="/v1/messages"))

    assert isinstance(reply.body, bytes)
    assert json.loads(reply.body)["type"] == "error"
    assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"


@given(one=st.tuples(st.text(), st.text()), other=st.tuples(st.text(), st.text()))
def test_no_two_pairs_have_one_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    """A tenant whose name ends as a key begins cannot reach into another's replies."""
    digests = [
        module._digest(*(part.encode("utf-8", "surrogatepass") for part in pair))
        for pair in (one, other)
    ]

    assert (digests[0] == digests[1]) is (one == other)


async def test_a_reply_is_kept_for_a_day(
    once: Idempotency, answering: Answering, clock: FakeClock
) -> None:
    """After that the key is free."""
    await once.answer(call())
    clock.advance(TTL_S - 1)
    kept = await once.answer(call())
    clock.advance(1)
    later = await once.answer(call({"model": "claude"}))

    assert kept.headers["idempotent-replayed"] == "true"
    assert (later.status, answering.calls) == (200, 2)


async def test_replies_outlive_the_process_and_are_shared_by_workers(
    once: Idempotency, answering: Answering, path: Path, clock: FakeClock
) -> None:
    """A file beside the state: another worker, or the next start, finds them there."""
    await once.answer(call())
    worker = Idempotency(answering, path, clock=clock)

    reply = await worker.answer(call())
    await worker.aclose()

    assert reply.headers["idempotent-replayed"] == "true"
    assert answering.calls == 1
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}


async def test_a_request_that_is_cancelled_frees_its_key(
    once: Idempotency, answering: Answering
) -> None:
    """Whoever hung up may ask again."""
    answering.gate.clear()
    first = asyncio.create_task(once.answer(call()))
    await answering.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    answering.gate.set()

    assert (await once.answer(call())).status == 200
    assert answering.calls == 2


async def test_no_moment_of_cancellation_leaves_a_key_taken(
    once: Idempotency, answering: Answering
) -> None:
    """After any number of turns of the loop, a reply is stored or the key is free."""
    for turns in range(12):
        task = asyncio.create_task(once.answer(call(key=f"k-{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        assert (await once.answer(call(key=f"k-{turns}"))).status == 200


async def test_a_request_of_a_process_that_was_killed_is_taken_over(
    once: Idempotency, answering: Answering, path: Path
) -> None:
    """Its key is not lost for a day."""
    await once.answer(call(key="other"))
    script = (
        "import os, sys; from pathlib import Path; from orchestrator.server import idempotency as i"
        "; from orchestrator.endpoints.calls import Call\n"
        "store = i._Store(Path(sys.argv[1]), ttl_ms=10**9)\n"
        "call = Call(method='POST', path=sys.argv[2], body=sys.argv[3].encode(), tenant='acme',"
        " headers={'idempotency-key': 'k-1'})\n"
        "store.claim(i._request(call), int(sys.argv[4])); os._exit(9)"
    )
    with closing(sqlite3.connect(path)) as database:
        (began_ms,) = database.execute("SELECT began_ms FROM replies").fetchone()
    words = (str(path), PATH, call().body.decode(), str(began_ms))
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, *words])
    assert done.returncode == 9

    reply = await once.answer(call())

    assert (reply.status, answering.calls) == (200, 2)


async def test_a_stream_is_refused_with_a_reason(once: Idempotency, answering: Answering) -> None:
    """Before it costs anything."""
    reply = await once.answer(call({"model": "gpt", "stream": True}))

    assert (reply.status, code(reply), answering.calls) == (400, "idempotency_of_stream", 0)


@pytest.mark.parametrize("key", ["", "x" * 256, "ключ", "a\x00b", "a\nb", "\x7f"])
async def test_a_key_has_a_size_and_letters(
    once: Idempotency, answering: Answering, key: str
) -> None:
    """What can stand in a header and a log, and no more."""
    reply = await once.answer(call(key=key))

    assert (reply.status, code(reply), answering.calls) == (400, "idempotency_key_invalid", 0)


@pytest.mark.parametrize("beyond", [0, 1])
async def test_a_reply_that_is_too_large_is_not_stored_and_says_so(
    once: Idempotency, answering: Answering, beyond: int
) -> None:
    """Nothing is dropped in silence."""
    answering.body = b"x" * (LARGEST_BODY + beyond)
    answering.headers = {"x-orchestrator-ignored": "store"}

    first, second = await once.answer(call()), await once.answer(call())

    said = "store, idempotency-key" if beyond else "store"
    assert first.headers["x-orchestrator-ignored"] == said
    assert second.body == first.body
    assert answering.calls == 1 + beyond


async def test_the_oldest_replies_of_a_tenant_give_way(
    once: Idempotency, answering: Answering, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tenant's stay."""
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    await once.answer(call(key="theirs", tenant="beta"))
    for number in range(5):
        clock.advance(1)
        await once.answer(call(key=f"k-{number}"))

    again = [await once.answer(call(key=key)) for key in ("k-2", "k-3", "k-4")]
    theirs = await once.answer(call(key="theirs", tenant="beta"))

    assert all("idempotent-replayed" in reply.headers for reply in (*again, theirs))
    assert "idempotent-replayed" not in (await once.answer(call(key="k-0"))).headers


@pytest.mark.parametrize("damage", ["broken", "folder"])
async def test_a_file_that_cannot_be_used_starts_nothing(
    once: Idempotency, answering: Answering, path: Path, damage: str
) -> None:
    """Better to be told than to pay twice; without the header all goes on."""
    damaged(path, damage)

    reply = await once.answer(call())

    assert (reply.status, code(reply), answering.calls) == (503, "idempotency_unavailable", 0)
    assert (await once.answer(call(key=None))).status == 200


async def test_of_many_workers_at_once_one_runs_it(path: Path, answering: Answering) -> None:
    """The file decides, not the memory of any of them."""
    workers = [Idempotency(answering, path) for _ in range(6)]

    replies = await asyncio.gather(
        *(worker.answer(call(key=f"k-{number}")) for number in range(10) for worker in workers)
    )
    for worker in workers:
        await worker.aclose()

    assert answering.calls == 10
    assert {reply.status for reply in replies} <= {200, 409}


async def test_a_file_that_is_locked_starts_nothing_and_holds_nobody_up(
    once: Idempotency, answering: Answering, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on meanwhile; when the lock is gone, so is the trouble."""
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.05)
    await once.answer(call(key="other"))
    with closing(sqlite3.connect(path, isolation_level=None)) as backup:
        backup.execute("BEGIN EXCLUSIVE")
        waiting = asyncio.create_task(once.answer(call()))
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
        backup.execute("ROLLBACK")

    assert (code(await waiting), answering.calls) == ("idempotency_unavailable", 1)
    assert turns > 10
    assert (await once.answer(call())).status == 200


async def test_an_error_nobody_foresaw_frees_the_key(path: Path) -> None:
    """The next try is not told that it is being answered."""

    async def fail(_: Call) -> Reply:
        raise KeyError("oops")

    once = Idempotency(fail, path)
    for _ in range(2):
        with pytest.raises(KeyError):
            await once.answer(call())
    await once.aclose()


async def test_what_is_no_whole_reply_passes_through(path: Path) -> None:
    """Whoever streams unasked is not read to the end for it."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"piece"

    async def stream(_: Call) -> Reply:
        return Reply(body=pieces())

    once = Idempotency(stream, path)
    replies = [await once.answer(call()) for _ in range(2)]
    await once.aclose()
    await once.aclose()

    assert [isinstance(reply.body, bytes) for reply in replies] == [False, False]
    for reply in replies:
        assert not isinstance(reply.body, bytes)
        assert [piece async for piece in reply.body] == [b"piece"]


async def test_a_repeated_completion_is_paid_for_once(path: Path) -> None:
    """Through the endpoints: the provider is asked once, the completion is the same."""
    config = OrchestratorConfig.model_validate(
        {"models": {"gpt": {"provider": "openai", "model": "gpt", "price": "free"}}}
    )
    gpt = MockAdapter(["One.", "Two."], config=config.models["gpt"], deployment="gpt")
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Why?"}]}
    async with EnhancedOrchestrator(config, adapters={"gpt": gpt}) as engine:
        once = Idempotency(Endpoints(engine).answer, path)
        wrong = await once.answer(call({**body, "colour": "red"}))
        replies = [await once.answer(call(body)) for _ in range(2)]
        await once.aclose()

    assert wrong.status == 400
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].body == replies[1].body
    assert len(gpt.requests) == 1


def test_the_usual_file_lies_in_the_state_folder(orchestrator_home: Path) -> None:
    """Beside the keys."""
    assert replies_file() == orchestrator_home / "idempotency.db"
