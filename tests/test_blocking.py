"""The loop that those who do not await stand on: threads, forks, ends, interruptions."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from adapters import MockAdapter, ModelConfig
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OpenAI, OrchestratorConfig
from orchestrator.blocking import THREAD, LoopThread
from orchestrator.simulator import Simulator
from tests.faces import HELLO, simulated_elsewhere

ENDS_S = 12.0  # on a busy machine; what hangs, hangs for ever


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """A loop that ends with the test."""
    made = LoopThread()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:  # type: ignore[misc]  # in a thread, not in the test's loop
    with simulated_elsewhere() as running:
        yield running


def scripted(
    monkeypatch: pytest.MonkeyPatch, *script: Reply | str
) -> tuple[OpenAI, MockAdapter, list[EnhancedOrchestrator]]:
    """A client whose only model follows a script, and the engines that it makes."""
    adapter, made = MockAdapter(list(script)), list[EnhancedOrchestrator]()

    def make(config: OrchestratorConfig) -> EnhancedOrchestrator:
        made.append(EnhancedOrchestrator(config, adapters={"alpha": adapter}))
        return made[-1]

    monkeypatch.setattr("orchestrator.client.EnhancedOrchestrator", make)
    model = ModelConfig(provider="openai", model="alpha")  # type: ignore[arg-type]
    return OpenAI(config=OrchestratorConfig(models={"alpha": model})), adapter, made


async def ended(engine: EnhancedOrchestrator) -> None:
    """Wait until no run goes on."""
    await asyncio.gather(*engine._running, return_exceptions=True)


def ask(client: OpenAI, text: str = "Why?") -> str | None:
    asked: list[Any] = [{"role": "user", "content": text}]
    reply = client.chat.completions.create(model="alpha", messages=asked)
    return reply.choices[0].message.content


# The thread.


def test_the_loops_own_thread_must_not_wait_for_itself(thread: LoopThread) -> None:
    """It would wait for ever."""

    async def nothing() -> None: ...

    async def wait_within() -> None:
        thread.run(nothing())

    with pytest.raises(RuntimeError, match="must not wait for itself"):
        thread.run(wait_within())


def test_what_is_finished_from_the_loops_own_thread_is_not_waited_for(thread: LoopThread) -> None:
    """The collector of garbage may come by there."""
    ended = threading.Event()

    async def end() -> None:
        ended.set()

    async def finish_within() -> None:
        thread.finish(end)

    thread.run(finish_within())

    assert ended.wait(2)


def test_nothing_is_left_to_finish_where_there_is_no_loop() -> None:
    """After the end, and before the beginning: no thread is begun for that."""
    thread = LoopThread()

    async def end() -> None:
        pytest.fail("nobody is there to do it")

    thread.finish(end)

    assert thread._thread is None


def test_a_loop_that_was_stopped_begins_again(thread: LoopThread) -> None:
    """What was to be closed is closed once."""
    closed: list[str] = []

    async def close() -> None:
        closed.append("closed")

    thread.at_exit(close)
    thread.at_exit(close)
    thread.stop()
    thread.stop()

    assert closed == ["closed"]
    assert thread.run(asyncio.sleep(0, "again")) == "again"


# Clients over it.


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One engine, whoever is first."""
    client, adapter, made = scripted(monkeypatch, "unused")
    adapter._script = lambda request: f"to {request.messages[-1]['content']}"
    with client, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(partial(ask, client), [f"question {n}" for n in range(200)]))

    assert answers == [f"to question {n}" for n in range(200)]
    assert len(made) == 1


def test_the_sdk_refuses_to_wait_in_the_loops_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In openai's words, with what to do instead."""
    client, _, _ = scripted(monkeypatch, "unused")

    async def ask_within() -> None:
        ask(client)

    with client, pytest.raises(openai.OpenAIError, match="use AsyncOpenAI"):
        THREAD.run(ask_within())


def test_a_timeout_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout=0.1` raises `APITimeoutError`, and no run goes on."""
    client, _, made = scripted(monkeypatch, Reply(text="Late.", delay_s=10))
    with client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="alpha", messages=HELLO, timeout=0.1)

    assert not made[0]._running


@pytest.mark.parametrize("way", ["closed", "left", "dropped", "never read"])
def test_a_stream_that_is_left_ends_its_run(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """By `close`, by the end of a `with`, by nobody holding it any more, before any chunk."""
    client, _, made = scripted(monkeypatch, Reply(text="word " * 200, gap_s=0.05))
    with client:
        stream = client.chat.completions.create(model="alpha", messages=HELLO, stream=True)
        assert len(made[0]._running) == 1
        if way == "left":
            with stream:
                for _ in stream:
                    break
        elif way != "never read":
            next(stream)
        if way == "dropped":
            del stream
            gc.collect()
            THREAD.run(asyncio.wait_for(ended(made[0]), 2))
        else:
            stream.close()

        assert not made[0]._running


def test_a_client_that_is_dropped_closes_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that make a client a question leave no engine behind."""
    client, _, made = scripted(monkeypatch, "Scattering.")
    ask(client)
    del client
    gc.collect()
    THREAD.run(asyncio.sleep(0.05))

    assert made[0]._is_closed


# Programs that end.


@pytest.fixture(scope="module")
def programs(
    simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them at once: they are slow to begin."""
    program = Path(__file__).with_name("leaving.py")
    home = {"ORCHESTRATOR_HOME": str(tmp_path_factory.mktemp("home"))}
    root = str(program.parent.parent)
    running = {
        how: subprocess.Popen(
            [sys.executable, str(program), how, str(simulator.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, **home},
        )
        for how in ("unclosed", "streaming", "waiting", "forked", "interrupted")
    }
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("unclosed", "Scattering."),
        ("streaming", "chatcmpl-"),
        ("waiting", "Scattering."),
        ("forked", "0 True stop"),
        ("interrupted", "interrupted Scattering."),
    ],
)
def test_a_program_ends_quietly_whatever_it_leaves_open(
    programs: dict[str, subprocess.Popen[str]], how: str, said: str
) -> None:
    """Exit code 0, nothing on stderr, and soon after its last word."""
    process = programs[how]
    assert process.stdout is not None
    told = process.stdout.readline()
    began_s = time.monotonic()
    _, errors = process.communicate(timeout=60)

    assert told.startswith(said)
    assert errors == ""
    assert process.returncode == 0
    assert time.monotonic() - began_s < ENDS_S
