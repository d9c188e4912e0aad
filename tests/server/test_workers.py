"""Several processes on one socket: they start, one dies and is replaced, and all end together."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from orchestrator.config import counting_folder
from orchestrator.owners import this_process
from orchestrator.server import run, workers

CONFIG = """\
models:
  one: {provider: custom, model: m-1, api_base: "http://127.0.0.1:9/v1", price: free}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def children(pid: int) -> list[int]:
    """The workers of a process: its children that were spawned to serve."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in _command(int(child))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not happens():  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.02)


async def started(config: Path) -> tuple[asyncio.subprocess.Process, str]:
    command = (sys.executable, "-m", "orchestrator", "serve", "-c", str(config), "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *command, "--workers", "2", stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stderr is not None
    return process, (await process.stderr.readline()).decode()


async def ask(url: str, times: int) -> None:
    """On connections of their own, which the workers share out among them."""
    for _ in range(times):
        async with httpx.AsyncClient(timeout=30) as client:
            assert (await client.get(url)).status_code == 200


async def until_counted(url: str, requests: float) -> None:
    """Wait until any worker says that so many were answered, and only it is asked now."""
    async with asyncio.timeout(60), httpx.AsyncClient(timeout=30) as client:
        while await counted(client, url) != (requests, 1.0):
            pass


async def counted(client: httpx.AsyncClient, url: str) -> tuple[float, float]:
    text = (await client.get(url.replace("/health", "/metrics"))).text
    health = 'orchestrator_requests_total{method="GET",path="/health",status="200"} '
    figures = [
        sum(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))
        for start in (health, "orchestrator_requests_in_flight ")
    ]
    return figures[0], figures[1]


def write(config: Path, text: str) -> None:
    beside = config.with_name("beside")
    beside.write_text(text)
    beside.replace(config)


async def heard(process: asyncio.subprocess.Process, line: str, times: int) -> str:
    """What is said until it was this, so often."""
    said = ""
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while len(re.findall(line, said)) < times:
            said += (await process.stderr.readline()).decode()
    return said


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the children of a process are read from /proc"
)


@needs_proc
async def test_a_worker_that_dies_is_replaced_and_all_end_together(
    config: Path, orchestrator_home: Path
) -> None:
    """The socket stays; a killed process is one process less for as long as another one starts.

    What it has counted stays counted, by whomever it is asked for, until all have ended. Until
    their end all of them follow the configuration: where its file changes, and for SIGHUP.
    """
    process, said = await started(config)
    url = said.split()[1].replace("/v1", "/health")
    write(config, CONFIG.replace("m-1", "m-2"))
    rest = await heard(process, "configuration [0-9a-f]{16} is in use, in the place of", 2)
    process.send_signal(signal.SIGHUP)
    rest += await heard(process, "configuration [0-9a-f]{16} is in use still", 2)
    first = children(process.pid)
    await ask(url, 20)
    await until_counted(url, 20)
    os.kill(first[0], signal.SIGKILL)
    await until(lambda: first[0] not in children(process.pid) and len(children(process.pid)) == 2)
    await ask(url, 25)
    await until_counted(url, 45)
    (folder,) = (orchestrator_home / "metrics").iterdir()
    of_the_dead = list(folder.glob(f"gauge_live*_{first[0]}.db"))
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    rest += (await process.stderr.read()).decode()

    assert "2 workers" in said
    assert len(first) == 2
    assert of_the_dead == []
    assert list((orchestrator_home / "metrics").iterdir()) == []
    assert re.search(rf"worker {first[0]} has died; another takes its place", rest)
    assert await process.wait() == 0
    assert "Traceback" not in rest


@needs_proc
async def test_workers_end_when_nobody_watches_them(config: Path) -> None:
    """A process that watches and is killed leaves nobody behind on its port."""
    process, _ = await started(config)
    crew = children(process.pid)
    process.kill()
    await process.wait()

    assert len(crew) == 2
    await until(lambda: not any(b"spawn_main" in _command(pid) for pid in crew))


@pytest.fixture
def planned(config: Path, tmp_path: Path) -> run.Plan:
    return run.Plan(
        config=config, keys=tmp_path / "keys.json", host="127.0.0.1", is_loopback=True, workers=1
    )


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.logs, "set_up", lambda: None)


def test_what_killed_processes_have_counted_is_removed(orchestrator_home: Path) -> None:
    """Of one that still runs, or may, nothing is."""
    parent = orchestrator_home / "metrics"
    gone = replace(this_process(), pid=2**22 + 1)
    for name, owner in (("gone", str(gone)), ("here", str(this_process())), ("begun", "")):
        (parent / name).mkdir(parents=True)
        (parent / name / workers.OWNER).write_text(owner)

    with workers._counting() as folder:
        assert counting_folder() == str(folder)
        assert {one.name for one in parent.iterdir()} == {"here", "begun", folder.name}

    assert counting_folder() is None
    assert not folder.exists()


@pytest.mark.usefixtures("_quiet")
def test_a_worker_that_cannot_start_ends_it_all(planned: run.Plan, config: Path) -> None:
    """Another one would do no better; that it went wrong is told."""
    config.unlink()
    told = []

    with run.listen("127.0.0.1", 0) as listening:
        went_well = workers.supervise(planned, listening, started=lambda: told.append("started"))

    assert not went_well
    assert not told
