"""What stands before the engine: the address, size, kind and key of a request."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from adapters import MockAdapter
from orchestrator.endpoints import ROUTES
from orchestrator.server.gate import _fit
from orchestrator.server.keys import KeyFile

Serving = Callable[..., AbstractAsyncContextManager[Any]]
CHAT = {"model": "one", "messages": [{"role": "user", "content": "Hi"}]}
PAGES = ("/docs", "/openapi.json", "/metrics")
ANY_ROUTE = [
    *((method, f"{path}x" if path.endswith("/") else path) for method, path in ROUTES),
    *(("GET", path) for path in PAGES),
    ("GET", "/"),
    ("GET", "/nothing"),
    ("POST", "/v1/nothing"),
    ("DELETE", "/v1/models/one"),
    ("OPTIONS", "/v1/chat/completions"),
    ("TRACE", "/health/"),
]


@pytest.fixture
def nobody(keys: KeyFile) -> dict[str, dict[str, str]]:
    """Headers that let nobody in. One key was given to somebody; another was taken back."""
    given = keys.create("alice")
    revoked = keys.create("bob")
    keys.revoke(revoked.record.id)
    return {
        "none": {},
        "made up": {"authorization": "Bearer orc-0123-456"},
        "revoked": {"authorization": f"Bearer {revoked.key}"},
        "its id alone": {"authorization": f"Bearer orc-{given.record.id}-"},
        "its hash": {"authorization": f"Bearer {given.record.sha256}"},
        "another scheme": {"authorization": f"Basic {given.key}"},
        "empty": {"authorization": "", "x-api-key": ""},
        "no value": {"authorization": "Bearer"},
        "in a cookie": {"cookie": f"key={given.key}"},
    }


async def test_no_route_lets_nobody_in(serving: Serving, nobody: dict[str, dict[str, str]]) -> None:
    """Every route, known or not, answers in the same words to whoever has no key."""
    bodies = set()
    words = dict[tuple[str, str], set[bytes]]()
    async with serving() as gateway:
        for method, path in ANY_ROUTE:
            for name, headers in nobody.items():
                reply = await gateway.client.request(method, path, headers=headers)
                assert reply.status_code == 401, (method, path, name)
                assert reply.headers["www-authenticate"] == "Bearer"
                bodies.add(reply.json()["error"]["message"])
                words.setdefault((method, path), set()).add(reply.content)
    assert len(bodies) == 1
    assert {len(said) for said in words.values()} == {1}, "one route tells keys apart"
    assert len({said for one in words.values() for said in one}) == 2  # OpenAI's and Anthropic's
    assert not gateway.mocks["one"].requests


async def test_a_key_opens_and_its_end_closes(serving: Serving, keys: KeyFile) -> None:
    """Until there is a first key everybody is in; a revoked one does not open the door again."""
    async with serving() as gateway:
        before = await gateway.chat()
        new = keys.create("alice")
        without = await gateway.chat()
        bearer = await gateway.chat(headers={"authorization": f"Bearer {new.key}"})
        x_api_key = await gateway.chat(headers={"x-api-key": new.key})
        docs = await gateway.client.get("/docs", headers={"x-api-key": new.key})
        keys.revoke(new.record.id)
        revoked = await gateway.chat(headers={"authorization": f"Bearer {new.key}"})
        nobody = await gateway.chat()

    answers = [before, without, bearer, x_api_key, docs, revoked, nobody]
    assert [one.status_code for one in answers] == [200, 401, 200, 200, 200, 401, 401]
    assert [one.key_id for one in gateway.seen[:3]] == ["", "", new.record.id]


async def test_an_odd_authorization_is_none(serving: Serving, keys: KeyFile) -> None:
    """Whatever bytes are presented as a key: 401, and never a failure of ours."""
    keys.create("alice")
    ask = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: %s\r\n\r\n"
    odd = [b"Bearer k\xc3\xa9y", b"Bearer \xff\xfe", b"", b"Bearer ", b"Bearer " + b"x" * 14_000]
    async with serving() as gateway:
        for presented in odd:
            said = await gateway.raw(ask % presented)
            assert said.startswith(b"HTTP/1.1 401 "), presented


async def test_a_megabyte_of_authorization_is_refused_before_it_is_kept(
    serving: Serving, keys: KeyFile
) -> None:
    """The connection ends with 431, or with nothing where the sender is still sending."""
    keys.create("alice")
    async with serving() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ")
        writer.write(b"x" * 2**20)
        said = b""
        try:
            await writer.drain()
            said = await reader.read()
        except ConnectionError:
            pass
        writer.close()
        health = await gateway.client.get("/health")
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")
    assert health.status_code == 200
    assert not gateway.seen[:-1]


async def test_keys_that_cannot_be_read_let_nobody_in(serving: Serving, keys: KeyFile) -> None:
    """The log says what is wrong with the file; who asks is not told where it is."""
    keys.create("alice")
    keys.path.chmod(0o644)
    async with serving() as gateway:
        reply = await gateway.chat()
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "keys_unavailable"
    assert str(keys.path) not in reply.text


HOSTS = [
    (b"localhost", 200),
    (b"LOCALHOST:8000", 200),
    (b"127.0.0.1", 200),
    (b"[::1]:80", 200),
    (b"ours.example", 200),
    (b"evil.example", 421),
    (b"localhost.evil.example", 421),
    (b"evil.example#localhost", 421),
    (b"localhost@evil.example", 421),
    (b"evil.example@localhost", 421),
    (b"localhost:80:80", 421),
    (b"", 421),
]


async def test_it_is_asked_under_its_own_names_only(serving: Serving) -> None:
    """A page that points its own name to this machine is refused."""
    async with serving(hosts=("ours.example",)) as gateway:
        for host, status in HOSTS:
            said = await gateway.raw(b"GET /v1/models HTTP/1.1\r\nhost: %s\r\n\r\n" % host)
            assert said.startswith(b"HTTP/1.1 %d " % status), host


async def test_on_every_address_it_is_asked_under_any_name_until_some_are_given(
    serving: Serving,
) -> None:
    """What it is called from outside is not known; where the operator says it, that holds."""
    ask = b"GET /v1/models HTTP/1.1\r\nhost: %s\r\n\r\n"
    async with serving(own_hosts=frozenset()) as gateway:
        assert (await gateway.raw(ask % b"any.example")).startswith(b"HTTP/1.1 200 ")
    async with serving(own_hosts=frozenset(), hosts=("ours.example",)) as gateway:
        assert (await gateway.raw(ask % b"ours.example")).startswith(b"HTTP/1.1 200 ")
        assert (await gateway.raw(ask % b"any.example")).startswith(b"HTTP/1.1 421 ")


SPELLINGS = [
    "//health",
    "/health/",
    "/health//",
    "/health;/v1/models",
    "/health%2f..%2fv1/models",
    "/health/../v1/models",
    "/health/%2e%2e/v1/models",
    "/./health/v1/models",
    "/health%00",
    "/health%0d%0a",
    "/HEALTH",
    "/ready/../metrics",
    "/ready%2f..%2fmetrics",
    "/ready;metrics",
    "//v1/models",
    "/v1//models",
    "/v1/./models",
    "/v1/%6dodels",
    "/v1/models%20",
    "/v1/models?path=/health",
    "/%76%31/models",
    "/%2576%2531/models",
    "/v1\\models",
    "http://localhost/v1/models",
    "http://evil.example/health/v1/models",
    "http://localhost/health/../v1/models",
    "*",
]


async def test_no_spelling_of_a_path_goes_round_the_key(serving: Serving, keys: KeyFile) -> None:
    """However a path is written, what is behind it wants a key."""
    keys.create("alice")
    async with serving() as gateway:
        for spelling in SPELLINGS:
            said = await gateway.raw(
                b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % spelling.encode()
            )
            assert said.split(b" ")[1] in {b"401", b"400"}, spelling


KINDS: list[tuple[dict[str, str], int, str | None]] = [
    ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
    ({"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    ({"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
    ({}, 415, "unsupported_media_type"),
    (
        {"content-type": "application/json", "content-encoding": "gzip"},
        415,
        "unsupported_encoding",
    ),
    ({"content-type": "application/json; charset=utf-8"}, 200, None),
    ({"content-type": "APPLICATION/JSON", "content-encoding": "identity"}, 200, None),
    ({"content-type": "application/json", "x-more": "x" * 17_000}, 431, "headers_too_large"),
]


async def test_a_body_is_json_as_it_is(gateway: Any) -> None:
    """What a form in a browser could send is refused, and nothing is ever unpacked."""
    body = json.dumps(CHAT).encode()
    for headers, status, code in KINDS:
        gateway.mocks["one"].requests.clear()
        reply = await gateway.client.post("/v1/chat/completions", content=body, headers=headers)
        assert reply.status_code == status, headers
        assert code is None or reply.json()["error"]["code"] == code
        assert len(gateway.mocks["one"].requests) == (status == 200)


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 2**16):
        yield body[start : start + 2**16]


async def test_a_body_has_a_size(serving: Serving) -> None:
    """One byte above the limit is refused, whether or not the length is told beforehand."""
    body, kind = json.dumps(CHAT).encode(), {"content-type": "application/json"}
    async with serving(body_mb=1) as gateway:
        for size, status in ((2**20, 200), (2**20 + 1, 413)):
            padded = body + b" " * (size - len(body))
            for content in (padded, pieces(padded)):
                reply = await gateway.client.post(
                    "/v1/chat/completions", content=content, headers=kind
                )
                assert reply.status_code == status


async def test_a_slow_body_is_not_waited_for(serving: Serving) -> None:
    """Who sends half a body holds nothing but a socket, and that not for long."""
    async with serving(read_s=0.1) as gateway:
        said = await gateway.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
    assert said.startswith(b"HTTP/1.1 408 ")
    assert not gateway.mocks["one"].requests


@pytest.mark.parametrize("is_fast", [True, False])
async def test_a_slow_head_is_not_waited_for(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    """A connection that never asks anything is closed, and one that did and begins again.

    By httptools, and by h11 where that is not installed.
    """
    if not is_fast:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with serving(read_s=0.1) as gateway:
        for first, head in ((b"", b""), (b"", whole[:20]), (whole, whole[:20])):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            if first:
                writer.write(first)
                await reader.readuntil(b'{"status":"ok"}')
            writer.write(head)
            async with asyncio.timeout(4):  # a connection at rest is kept for 5 s
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


async def test_a_browser_elsewhere_reads_nothing(gateway: Any) -> None:
    """No reply carries a CORS header, nor the name of the server's software."""
    origin = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    replies = [
        await gateway.client.get("/health", headers=origin),
        await gateway.client.options("/v1/chat/completions", headers=origin),
        await gateway.client.options("/docs", headers=origin),
        await gateway.chat(headers=origin),
    ]
    assert [one.status_code for one in replies] == [200, 405, 405, 200]
    for reply in replies:
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert "server" not in reply.headers


NAMES = [
    (b"abc-123", True),
    (b"x" * 128, True),
    (b"x" * 129, False),
    (b"", False),
    (b"a\xc3\xa9", False),
    (b"a\tb", False),
]


@pytest.mark.parametrize(
    ("path", "names"),
    [("/v1/messages", ["request-id", "x-request-id"]), ("/v1/models", ["x-request-id"])],
)
async def test_a_reply_has_its_name_where_its_callers_look(
    gateway: Any, path: str, names: list[str]
) -> None:
    """Anthropic's SDK reads another header than OpenAI's."""
    reply = await gateway.client.post(path, json={}, headers={"x-request-id": "mine"})

    assert sorted(name for name in reply.headers if reply.headers[name] == "mine") == names


async def test_a_request_keeps_its_name_where_it_is_fit_to_be_said(gateway: Any) -> None:
    """What could end a line in a header or a log is replaced by a name of ours."""
    for given, is_kept in NAMES:
        said = await gateway.raw(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-request-id: %s\r\n\r\n" % given
        )
        lines = said.split(b"\r\n")
        (name,) = [line[14:] for line in lines if line.lower().startswith(b"x-request-id: ")]
        assert (name == given) is is_kept
        assert is_kept or name.startswith(b"req_")


async def test_one_too_many_is_told_to_come_again(
    serving: Serving, slow: MockAdapter, held: Any
) -> None:
    """The limit holds for requests that cost something; whether it lives can always be asked."""
    async with serving(mocks={"one": slow}, requests=1) as gateway:
        first = asyncio.create_task(gateway.chat())
        await held.began.wait()
        second = await gateway.chat()
        health = await gateway.client.get("/health")
        held.ends.set()
        answered = await first
        third = await gateway.chat()

    statuses = [one.status_code for one in (answered, second, health, third)]
    assert statuses == [200, 503, 200, 200]
    assert second.headers["retry-after"] == "1"


def nested(depth: int) -> bytes:
    """A list in a list in a list, below two objects."""
    return b'{"x":' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}"


MESSAGE = json.dumps(CHAT["messages"][0]).encode()
LIMITS = [
    (b'"n":8', 200),
    (b'"n":9', 400),
    (b'"messages":[%s]' % b",".join([MESSAGE] * 10_000), 200),
    (b'"messages":[%s]' % b",".join([MESSAGE] * 10_001), 400),
    (b'"messages":[]', 400),
    (b'"thinking":' + nested(64), 200),
    (b'"thinking":' + nested(65), 400),
    (b'"thinking":' + nested(100_000), 400),
    (b'"max_tokens":131072', 200),
    (b'"max_tokens":131073', 400),
    (b'"max_completion_tokens":131073', 400),
    (b'"max_tokens":131073,"stream":true', 400),
    (b'"max_tokens":1' + b"0" * 30, 400),
    (b'"max_tokens":-1', 400),
]


async def test_what_is_too_much_is_refused_before_it_costs(gateway: Any) -> None:
    """Each limit, just below and just above; nobody is asked where it is passed."""
    for more, status in LIMITS:
        gateway.mocks["one"].requests.clear()
        body = json.dumps(CHAT).encode()[:-1] + b"," + more + b"}"
        reply = await gateway.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert reply.status_code == status, (more[:40], reply.text[:300])
        assert bool(gateway.mocks["one"].requests) == (status == 200)
        assert status == 200 or reply.json()["error"]["type"] == "invalid_request_error"


NO_HTTP = [
    b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
    b"GET /v1/\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n"
        b"content-length: 2\r\n\r\n{}"
    ),
    b"GET /v1/models HTTP/9.9\r\nhost: localhost\r\n\r\n",
]


async def test_what_is_no_http_is_refused(gateway: Any) -> None:
    """A broken or ambiguous request is a 400 to whoever sent it, and to nobody else."""
    for request in NO_HTTP:
        said = await gateway.raw(request)
        assert said.split(b" ")[1] in {b"400", b"415"}, request
    assert (await gateway.client.get("/health")).status_code == 200


def test_a_header_of_a_reply_cannot_end_its_line() -> None:
    """Whatever an endpoint puts into a header stays one header."""
    assert _fit("a\r\nset-cookie: x\x00é中") == b"a??set-cookie: x?\xe9?"


async def test_an_unforeseen_failure_is_said_as_one(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug behind the gate is a 500 in OpenAI's shape, with nothing of its cause."""

    async def broken(*_: object) -> None:
        raise RuntimeError("sk-secret")

    monkeypatch.setattr(gateway.gate, "_answer", broken)
    reply = await gateway.chat()

    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in reply.text
