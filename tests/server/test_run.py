"""`orchestrator serve`: where it listens, whom it refuses to let in, and how it ends."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from adapters import LLMProvider
from orchestrator.cli import main
from orchestrator.config import OrchestratorConfig
from orchestrator.server import run
from orchestrator.server.keys import KeyFile
from orchestrator.simulator import Simulator
from tests.server.conftest import Serving

Call = Callable[..., Result]
CONFIG = """\
models:
  one: {{provider: custom, model: m-1, api_base: "{base}", price: free}}
  slow: {{provider: custom, model: m-2--700ms, api_base: "{base}", price: free}}
"""


@pytest.fixture
def call() -> Call:
    """Call the command as a shell would."""

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), prog_name="orchestrator")

    return invoke


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(base="http://127.0.0.1:9/v1"))
    return path


@pytest.fixture
def for_simulator(config: Path, simulator: Simulator) -> Path:
    config.write_text(CONFIG.format(base=simulator.base_url(LLMProvider.CUSTOM)))
    return config


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not happens():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)


class Served:
    """The command in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, said: str) -> None:
        self.process = process
        self.said = said
        self.client = httpx.AsyncClient(base_url=said.split()[1], timeout=60)

    async def chat(self, model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        return await self.client.post("/chat/completions", json=body)

    async def page(self, path: str) -> httpx.Response:
        return await self.client.get(self.said.split()[1].replace("/v1", path))

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.said.split()[1].split(":")[2].removesuffix("/v1"))

    async def until_in_flight(self, count: int) -> None:
        """Wait until so many are, that asks itself included."""
        while f"in_flight {count}.0" not in (await self.page("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and what it has said since it listened."""
        await self.client.aclose()
        assert self.process.stderr is not None
        said = (await self.process.stderr.read()).decode()
        return await self.process.wait(), said


async def served(config: Path, *words: str) -> Served:
    command = (sys.executable, "-m", "orchestrator", "serve", "-c", str(config), "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *command, *words, stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stderr is not None
    line = (await process.stderr.readline()).decode()
    assert line.startswith("Serving "), line
    return Served(process, line)


async def test_it_answers_and_drains(for_simulator: Path, simulator: Simulator) -> None:
    """After SIGTERM what is under way is finished, and the process ends well."""
    gateway = await served(for_simulator)
    asking = asyncio.create_task(gateway.chat("slow"))
    await until(lambda: simulator.in_flight == 1)
    gateway.process.send_signal(signal.SIGTERM)
    answered = await asking
    code, said = await gateway.ended()

    assert f"configuration {for_simulator}" in gateway.said
    assert "no key is asked for" in gateway.said
    assert (answered.status_code, code) == (200, 0)
    (access,) = [line for line in said.splitlines() if "orchestrator.access" in line]
    assert f"{answered.headers['x-request-id']} key=- POST /v1/chat/completions 200 " in access
    assert "Traceback" not in said


async def test_the_first_signal_lets_go_on_and_the_second_ends_at_once(config: Path) -> None:
    """Two bodies are on their way: the one that comes is answered, the other is not waited for."""
    gateway = await served(config)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += b"content-type: application/json\r\ncontent-length: 3\r\n\r\n{"
    first, second = [await asyncio.open_connection(*gateway.address) for _ in range(2)]
    for _, writer in (first, second):
        writer.write(head)
    await gateway.until_in_flight(3)
    gateway.process.send_signal(signal.SIGINT)
    while (await gateway.page("/ready")).status_code == 200:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    first[1].write(b"} ")
    finished = await first[0].readuntil(b"\r\n")
    began_s = time.monotonic()
    gateway.process.send_signal(signal.SIGINT)
    said = await second[0].read()
    for _, writer in (first, second):
        writer.close()
    code, log = await gateway.ended()

    assert finished == b"HTTP/1.1 400 Bad Request\r\n"
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in said
    assert b'"code":"shutting_down"' in said
    assert code == 0
    assert time.monotonic() - began_s < 10
    assert "Traceback" not in log


@pytest.fixture
def slow_litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What passes for litellm takes a minute to import; the file is there once that has begun."""
    begun = tmp_path / "begun"
    package = tmp_path / "first" / "litellm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"""
import pathlib, time
pathlib.Path({str(begun)!r}).touch()
time.sleep(60)
""")
    path = os.pathsep.join((str(package.parent), *sys.path))
    monkeypatch.setenv("PYTHONPATH", path)
    return begun


async def test_the_end_does_not_wait_for_an_import(config: Path, slow_litellm: Path) -> None:
    """A request that has only begun to load what it needs is ended like any other."""
    gateway = await served(config)
    asking = asyncio.create_task(gateway.chat("one"))
    await until(slow_litellm.exists)
    began_s = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    while (await gateway.page("/ready")).status_code == 200:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    gateway.process.send_signal(signal.SIGTERM)
    answered = await asking
    code, said = await gateway.ended()

    assert (answered.status_code, code) == (503, 0)
    assert time.monotonic() - began_s < 30
    assert " 503 " in said


async def test_a_server_that_ends_leaves_the_program_around_it_alone(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is loading: only who serves and nothing else may leave without a look back."""
    left: list[int] = []
    monkeypatch.setattr("orchestrator.server.run.is_loading", lambda: True)
    monkeypatch.setattr("os._exit", left.append)

    async with serving():
        pass

    assert left == []


def test_it_is_open_to_others_only_with_a_key(call: Call, config: Path, tmp_path: Path) -> None:
    """Without any it does not even listen, and says how to make one; a revoked one is none."""
    keys = tmp_path / "keys.json"
    words = ("serve", "-c", str(config), "--host", "0.0.0.0", "--port", "0", "--keys", str(keys))
    none = call(*words)
    file = KeyFile(keys)
    file.revoke(file.create("alice").record.id)
    revoked = call(*words)
    file.create("bob")

    for refused in (none, revoked):
        assert refused.exit_code == 2
        assert "`orchestrator keys create NAME`" in " ".join(refused.stderr.split())
    planned = run.plan(config, host="0.0.0.0", keys=keys)
    assert (planned.is_loopback, planned.hosts) == (False, frozenset())


def test_on_this_machine_no_key_is_needed(config: Path, orchestrator_home: Path) -> None:
    """The names it is asked under are those of this machine, however the address is written."""
    for host, address in (("localhost", None), ("127.0.0.1", "127.0.0.1"), ("127.0.0.2", None)):
        planned = run.plan(config, host=host)
        assert planned.is_loopback
        assert {"127.0.0.1", "localhost", "[::1]", planned.host} <= planned.hosts | {"::1"}
        assert address in (None, planned.host)
        assert planned.keys == orchestrator_home / "keys.json"


@pytest.mark.parametrize(
    ("budgets", "price", "keys", "capped"),
    [
        ({}, None, (), False),
        ({}, None, ({},), False),
        ({}, "free", (), True),
        ({"per_run": {"money_usd": 1}}, None, (), False),
        ({"windows": [{"scope": "global", "every": "day", "money_usd": 1}]}, None, (), True),
        ({"windows": [{"scope": "global", "every": "day", "calls": 9}]}, None, (), False),
        ({"windows": [{"scope": "deployment", "every": "day", "money_usd": 1}]}, None, (), True),
        ({"windows": [{"scope": "key", "every": "day", "money_usd": 1}]}, None, (), True),
        (
            {"windows": [{"scope": "key", "every": "day", "money_usd": 1, "name": "k0"}]},
            None,
            ({}, {"money_usd_per_day": 1}),
            True,
        ),
        ({}, None, ({"money_usd_per_day": 1}, {}), False),
    ],
)
def test_money_without_end_is_seen(
    tmp_path: Path, budgets: Any, price: Any, keys: Any, capped: bool
) -> None:
    """A day's or a month's limit has to hold for all, for each caller, or for each deployment."""
    models = {"one": {"provider": "openai", "model": "gpt-5-mini", "price": price}}
    config = OrchestratorConfig.model_validate({"models": models, "budgets": budgets})
    file = KeyFile(tmp_path / "keys.json")
    for number, limits in enumerate(keys):
        file.create(f"k{number}", **limits)
    file.revoke(file.create("gone").record.id)

    assert run.is_capped(config, file.list()) is capped


def test_that_nothing_limits_money_is_said(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line with the way out, before anything is served; not where nothing costs."""
    monkeypatch.setattr(run, "serve", lambda *_, **__: None)
    free = call("serve", "-c", str(config), "--port", "0")
    config.write_text(
        config.read_text().replace("price: free", "price: {input_usd: 1, output_usd: 1}")
    )
    priced = call("serve", "-c", str(config), "--port", "0")

    assert (free.exit_code, priced.exit_code) == (0, 0)
    assert "Warning" not in free.stderr
    assert "Warning: nothing limits what calls cost in a day" in priced.stderr
    assert "--usd-per-day" in priced.stderr


def test_what_cannot_be_served_is_refused(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with exit code 2 and one sentence."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for words, said in (
        (("--host", "no.such.name"), "'no.such.name' is no address of this machine"),
        (("--port", "70000"), "0<=x<=65535"),
        (("--workers", "0"), "1<=x<=64"),
    ):
        refused = call("serve", "-c", str(config), *words)
        assert refused.exit_code == 2
        assert said in " ".join(refused.stderr.split())


def test_a_port_that_is_taken_is_said_to_be(call: Call, config: Path) -> None:
    """The message names the port and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = call("serve", "-c", str(config), "--port", str(port))

    assert refused.exit_code == 2
    assert f"port {port} of 127.0.0.1 cannot be listened on" in " ".join(refused.stderr.split())
    assert "another --port" in " ".join(refused.stderr.split())


def test_keys_that_cannot_be_read_are_no_reason_to_serve_without(
    call: Call, config: Path, tmp_path: Path
) -> None:
    """A broken file, or one that others can read, is one error with exit code 2."""
    keys = tmp_path / "keys.json"
    KeyFile(keys).create("alice")
    keys.chmod(0o644)
    refused = call("serve", "-c", str(config), "--keys", str(keys))

    assert refused.exit_code == 2
    assert "make it mode 600" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('ledger: {url: "sqlite://"}\n', "ledger.url is in memory"),
        ("", None),
        ('ledger: {url: "postgresql://localhost/ledger"}\n', None),
    ],
)
def test_workers_share_what_they_count(config: Path, more: str, said: str | None) -> None:
    """A ledger in memory is refused where each process would have one of its own."""
    config.write_text(config.read_text() + more)

    assert run.plan(config, host="127.0.0.1").workers == 1
    if said is None:
        assert run.plan(config, host="127.0.0.1", workers=2).workers == 2
    else:
        with pytest.raises(run.CannotServe, match=said):
            run.plan(config, host="127.0.0.1", workers=2)


REDIS = "limits: {url: 'redis://127.0.0.1:9'}\n"


def test_rates_that_each_worker_would_use_up_are_refused(config: Path) -> None:
    """A provider's limit per minute cannot be kept by processes that do not know of each other."""
    limited = config.read_text().replace(
        "price: free}\n  slow", "price: free, rates: {requests_per_minute: 5}}\n  slow"
    )
    config.write_text(limited)

    assert run.plan(config, host="127.0.0.1").workers == 1
    with pytest.raises(run.CannotServe, match=r"models\.one\.rates .* name a Redis in limits.url"):
        run.plan(config, host="127.0.0.1", workers=2)
    config.write_text(limited + REDIS)
    assert run.plan(config, host="127.0.0.1", workers=2).workers == 2


def test_limits_of_keys_that_each_worker_would_use_up_are_refused(
    config: Path, tmp_path: Path
) -> None:
    """The key is named; one that was revoked limits nobody."""
    keys = tmp_path / "keys.json"
    record = KeyFile(keys).create("alice", requests_per_minute=5).record

    assert run.plan(config, host="127.0.0.1", keys=keys).workers == 1
    with pytest.raises(run.CannotServe, match=f"of key {record.id} are kept in memory"):
        run.plan(config, host="127.0.0.1", keys=keys, workers=2)
    KeyFile(keys).revoke(record.id)
    assert run.plan(config, host="127.0.0.1", keys=keys, workers=2).workers == 2


def test_redis_that_cannot_be_asked_is_told_of_before_anything_is_served(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package is not there, or its address is not: one sentence, exit code 2."""
    config.write_text(config.read_text() + REDIS)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "redis.asyncio", None)
        unavailable = call("serve", "-c", str(config))
    config.write_text(config.read_text().replace("redis://127.0.0.1:9", "${NO_SUCH_PLACE}"))
    unknown = call("serve", "-c", str(config))

    for refused, said in (
        (unavailable, "pip install 'llm-orchestrator-gateway[redis]'"),
        (unknown, "limits.url: environment variable NO_SUCH_PLACE is not set"),
    ):
        assert refused.exit_code == 2
        assert said in " ".join(refused.stderr.split())
