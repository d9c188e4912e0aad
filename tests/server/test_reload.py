"""Another configuration while the gateway runs: taken whole, or not at all."""

import asyncio
import gc
import logging
import threading
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from adapters import LLMProvider, MockAdapter, ModelConfig
from adapters.mock import Reply as Said
from orchestrator import EnhancedOrchestrator, OrchestratorConfig
from orchestrator.clock import SystemClock
from orchestrator.config import CacheConfig, LedgerConfig, ServerConfig
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.patterns import PatternLibrary
from orchestrator.server import reload
from orchestrator.server.app import create_app
from orchestrator.server.reload import Setting, Source, Switch, needs_restart, read_setting
from orchestrator.server.run import Server
from orchestrator.simulator import Simulator
from tests.server.conftest import Held

Serving = Callable[..., AbstractAsyncContextManager["Reloading"]]
MODEL = '{{provider: custom, model: "{model}", api_base: "{base}", price: free}}'
PATTERN = """\
name: mine
description: Two drafts, and one answer.
source: A test.
stages:
  - {{name: drafts, each: panel, prompt: "{{{{ question }}}}"}}
  - {{name: answer, by: synthesizer, combine: write, sees: [all],
     prompt: "{words}: {{{{ question }}}} {{{{ drafts }}}}"}}
"""


def written(base: str, model: str, more: str = "") -> str:
    """A configuration whose one model says which configuration it is of."""
    return f"models:\n  one: {MODEL.format(model=model, base=base)}\n{more}"


class Reloading:
    """A gateway in this process that follows its file, over real sockets."""

    def __init__(self, path: Path, source: Source, server: Server, client: httpx.AsyncClient):
        self.path = path
        self.source = source
        self.server = server
        self.client = client

    async def ask(self, model: str = "one", prompt: str = "Hi") -> dict[str, Any]:
        """The receipt of a run."""
        body = {"model": model, "prompt": prompt}
        reply = await self.client.post("/v1/orchestrations", json=body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()["receipt"]
        return found

    async def metric(self, name: str) -> str:
        """A line of the metrics."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((line for line in lines if line.startswith(name)), "")

    async def uses(self, setting_hash: str) -> None:
        """Wait until calls are answered by this configuration."""
        await until(
            lambda: self.metric_holds(f'orchestrator_config_hash{{hash="{setting_hash}"}} 1')
        )

    async def metric_holds(self, text: str) -> bool:
        return text in (await self.client.get("/metrics")).text


async def until(happens: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await happens():  # which asks the gateway, and so waits
            pass


def hash_of(path: Path) -> str:
    """What receipts call the configuration in a file."""
    setting = read_setting(path)
    return EnhancedOrchestrator(setting.config, patterns=setting.patterns).config_hash


@asynccontextmanager
async def reloading(path: Path) -> AsyncIterator[Reloading]:
    source = Source(path)
    setting = source.read()
    engine = EnhancedOrchestrator(setting.config, patterns=setting.patterns, keeps_receipts=True)
    gate = create_app(engine, source=source)
    settled = uvicorn.Config(gate, port=0, ws="none", lifespan="on", log_config=None)
    ready = asyncio.Event()
    server = Server(settled, gate, drain_s=5, started=ready.set, signals=(), clock=SystemClock())
    task = asyncio.create_task(server.serve())
    await ready.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        try:
            yield Reloading(path, source, server, client)
        finally:
            await client.aclose()
            server.end()
            await task


@pytest.fixture
def base(simulator: Simulator) -> str:
    return simulator.base_url(LLMProvider.CUSTOM)


@pytest.fixture
def path(tmp_path: Path, base: str) -> Path:
    file = tmp_path / "conf" / "config.yaml"
    file.parent.mkdir()
    file.write_text(written(base, "m-1"))
    return file


def write_again(path: Path, text: str) -> None:
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    beside = path.with_name(".config.yaml.swp")
    beside.write_text(text)
    beside.replace(path)


def save_and_keep_the_old(path: Path, text: str) -> None:
    path.rename(path.with_name("config.yaml~"))
    path.write_text(text)


def swap_the_link(path: Path, text: str) -> None:
    """As Kubernetes does: the file leads through a link to a folder, which another replaces."""
    folder = path.with_name(f"..version_{len(list(path.parent.iterdir()))}")
    folder.mkdir()
    (folder / path.name).write_text(text)
    link = path.with_name("..data_tmp")
    link.symlink_to(folder.name)
    link.replace(path.with_name("..data"))


def lead_through_the_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("..data/config.yaml")


async def test_every_way_of_saving_is_noticed(path: Path, base: str) -> None:
    """Written again, renamed over, kept beside, or behind a link that is swapped."""
    ways = [swap_the_link, swap_the_link, rename_over, write_again, save_and_keep_the_old]
    models = []
    swap_the_link(path, written(base, "m-1"))
    lead_through_the_link(path)
    async with reloading(path) as gateway:
        for number, way in enumerate(ways):
            way(path, written(base, f"m-2{'0' * number}"))
            await gateway.uses(hash_of(path))
            receipt = await gateway.ask()
            assert receipt["config_hash"] == hash_of(path), way
            models.append(receipt["stages"][0]["attempts"][0]["model"])

    assert models == ["m-2", "m-20", "m-200", "m-2000", "m-20000"]


async def test_a_mistake_keeps_the_last_good_configuration(
    path: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, whole and with its place; the metric says so until it is mended."""
    caplog.set_level(logging.INFO, "orchestrator")
    good = hash_of(path)
    async with reloading(path) as gateway:
        write_again(path, written(base, "m-2", "routes: {fast: {models: [on]}}\nretrys: {}\n"))
        await until(lambda: gateway.metric_holds("orchestrator_config_reload_failed 1.0"))
        gateway.source.ask()
        gateway.source.ask()
        receipt = await gateway.ask()
        write_again(path, written(base, "m-1", "# mended\n"))
        await until(lambda: gateway.metric_holds("orchestrator_config_reload_failed 0.0"))
        healthy = (await gateway.client.get("/health")).status_code

    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert receipt["config_hash"] == good
    assert healthy == 200
    assert f"{path}:3:26: Unknown model 'on' in routes.fast.models" in errors[0]
    assert f"{path}:4:1: " in errors[0]
    assert "did you mean 'retry'?" in errors[0]
    assert len(errors) <= 2  # once for the change, once more because somebody asked
    assert f"configuration {good} is in use still" in caplog.text


async def test_a_pattern_is_a_part_of_the_configuration(
    tmp_path: Path, path: Path, base: str
) -> None:
    """A change of it gives another hash, and the next run follows it."""
    folder = tmp_path / "patterns"
    folder.mkdir()
    (folder / "mine.yaml").write_text(PATTERN.format(words="First"))
    more = "panels: {both: {members: [one, two], pattern: mine}}\npatterns_dir: ../patterns\n"
    two = f"  two: {MODEL.format(model='m-2', base=base)}\n"
    write_again(path, written(base, "m-1", two + more))
    before = hash_of(path)
    async with reloading(path) as gateway:
        first = await gateway.ask("both")
        (folder / "mine.yaml").write_text(PATTERN.format(words="Second"))
        after = hash_of(path)
        await gateway.uses(after)
        second = await gateway.ask("both")

    assert before != after
    assert [first["config_hash"], second["config_hash"]] == [before, after]


async def test_edits_under_load_fail_nothing_and_mix_nothing(
    path: Path, base: str, thorough: bool
) -> None:
    """Every answer is of the model that the configuration named in its receipt has."""
    swaps = 1000 if thorough else 20
    known = {hash_of(path): "m-1"}
    receipts: list[dict[str, Any]] = []
    answered: dict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by a configuration's hash
    is_over = False

    async def ask(gateway: Reloading) -> None:
        while not is_over:
            receipts.append(receipt := await gateway.ask())
            answered[receipt["config_hash"]].set()

    async with reloading(path) as gateway, asyncio.TaskGroup() as asking:
        for _ in range(4):
            asking.create_task(ask(gateway))
        for number in range(2, swaps + 2):
            rename_over(path, written(base, f"m-{number}"))
            name = hash_of(path)
            known[name] = f"m-{number}"
            gateway.source.ask()
            async with asyncio.timeout(60):
                await answered[name].wait()
        is_over = True

    assert {receipt["config_hash"] for receipt in receipts} >= set(list(known)[1:])
    for receipt in receipts:
        (attempt,) = receipt["stages"][0]["attempts"]
        assert attempt["model"] == known[receipt["config_hash"]]
        assert attempt["status"] == "ok"
    print(f"{swaps} configurations, {len(receipts)} runs, none failed, none mixed")


async def test_only_the_configuration_in_use_is_counted(path: Path, base: str) -> None:
    """However many there were: what a gateway tells of itself does not grow with every edit."""
    async with reloading(path) as gateway:
        for number in range(2, 5):
            write_again(path, written(base, f"m-{number}"))
            gateway.source.ask()
            await gateway.uses(hash_of(path))
        lines = (await gateway.client.get("/metrics")).text.splitlines()

    named = [line for line in lines if line.startswith("orchestrator_config_hash{")]
    assert named == [f'orchestrator_config_hash{{hash="{hash_of(path)}"}} 1.0']


async def test_configurations_that_went_leave_nothing(base: str, thorough: bool) -> None:
    """No engine, no task, no thread and no open file, however many came and went."""
    body = b'{"model": "one", "messages": [{"role": "user", "content": "Hi"}]}'
    call = Call(method="POST", path="/v1/chat/completions", body=body)

    def config(number: int) -> OrchestratorConfig:
        one = ModelConfig(
            provider=LLMProvider.CUSTOM, model=f"m-{number}", api_base=base, price="free"
        )
        return OrchestratorConfig(models={"one": one}, ledger=LedgerConfig(), cache=CacheConfig())

    switch = Switch(EnhancedOrchestrator(config(0), keeps_receipts=True), SystemClock())
    gone: list[weakref.ref[EnhancedOrchestrator]] = []
    held: list[dict[str, int]] = []
    for number in range(1, 301 if thorough else 16):
        assert (await switch.answer(call)).status == 200
        gone.append(weakref.ref(switch.engine))
        switch.swap(Setting(config=config(number), patterns=PatternLibrary()))
        while switch._closing:
            await asyncio.wait(switch._closing)
        gc.collect()
        held.append(holds())
    left = [one for one in gone if one() is not None]
    await switch.aclose()

    assert left == []
    for what, count in held[4].items():  # what all of them share is there by then
        assert held[-1][what] <= count, what
    print(f"{len(gone)} configurations, each with a call: {held[4]}, then {held[-1]}")


def holds() -> dict[str, int]:
    """How many tasks, threads and, where the system says so, open files there are."""
    listing = Path("/proc/self/fd")
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "files": len(list(listing.iterdir())) if listing.is_dir() else 0,
    }


async def test_what_takes_long_of_another_configuration_is_done_in_a_thread(
    path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it, and learning what of it must not be logged; before it answers anybody."""
    done: list[tuple[str, bool, str]] = []
    here = threading.get_ident()

    def told(what: str) -> None:
        done.append((what, threading.get_ident() == here, switch.engine.config.models["one"].model))

    def read() -> Setting:
        told("read")
        return read_setting(path)

    monkeypatch.setattr(reload, "know", lambda _: told("know"))
    first = read_setting(path)
    switch = Switch(EnhancedOrchestrator(first.config, patterns=first.patterns), SystemClock())
    follower = reload.Follower(Source(path, read), switch, CollectorRegistry())
    write_again(path, written(base, "m-2"))
    await follower.look()
    used = switch.engine.config.models["one"].model
    await switch.aclose()

    assert done == [("read", False, "m-1"), ("know", False, "m-1")]
    assert used == "m-2"


async def test_what_is_under_way_ends_as_it_began(held: Held) -> None:
    """A stream goes on by the old configuration; its engine is closed when it has ended."""
    closed = []

    class Model(MockAdapter):
        async def aclose(self) -> None:
            closed.append(self.config.model)
            await super().aclose()

    slow = Model([Said(text="At last.", delay_s=1)], sleep=held)
    quick = Model(["At once."])
    one = ModelConfig(provider=LLMProvider.OPENAI, model="gone", price="free")
    two = ModelConfig(provider=LLMProvider.OPENAI, model="stays", price="free")
    before = OrchestratorConfig(models={"one": one, "two": two})
    slow.config, quick.config = one, two
    engine = EnhancedOrchestrator(before, adapters={"one": slow, "two": quick})
    switch = Switch(engine, SystemClock())
    body = b'{"model": "%s", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'

    def call(name: bytes) -> Call:
        return Call(method="POST", path="/v1/chat/completions", body=body % name)

    async def text_of(reply: Reply) -> bytes:
        assert not isinstance(reply.body, bytes)
        return b"".join([piece async for piece in reply.body])

    under_way = asyncio.create_task(text_of(await switch.answer(call(b"one"))))
    await held.began.wait()
    never_read = await switch.answer(call(b"two"))
    after = OrchestratorConfig(models={"two": two})
    switch.swap(Setting(config=after, patterns=PatternLibrary()))
    refused = await switch.answer(call(b"one"))
    answered = await text_of(await switch.answer(call(b"two")))
    closed_before = list(closed)
    held.ends.set()
    finished = await under_way
    assert not isinstance(never_read.body, bytes)
    await never_read.body.aclose()
    await switch.aclose()

    assert refused.status == 404
    assert b"At once." in answered
    assert closed_before == []
    assert b"At last." in finished
    assert closed == ["gone", "stays"]


def test_what_needs_a_restart_is_named() -> None:
    """Whatever of `server` the gateway cannot change while it runs."""
    began = ServerConfig()
    now = ServerConfig(hosts=("a.example",), requests=7, max_tokens=5, heartbeat_s=1.0)

    assert needs_restart(began, now) == ["server.hosts", "server.requests"]
    assert needs_restart(began, began) == []
