"""A run whose process is killed at any moment goes on where it was, and pays for nothing twice."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator import OrchestratorConfig, RequestConfig
from orchestrator.amounts import Amount
from orchestrator.errors import JournalError
from orchestrator.journal import Journal
from orchestrator.responses import OrchestratorResponse
from orchestrator.simulator import Simulator, simulated
from tests import interrupted
from tests.books import pending, read_accounts

MEMBERS = {"alpha": ("openai", "gpt"), "beta": ("anthropic", "claude"), "gamma": ("google", "gem")}
REQUEST = RequestConfig(prompt="Should a team of three run Kubernetes?", model="three", seed=5)
LATENCY = ("40ms", "gap1ms")


class Warm:
    """The process that runs are forked from."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def start(self, config: OrchestratorConfig, folder: Path) -> int:
        order = {
            "config": plain(config),
            "folder": str(folder),
            "request": REQUEST.model_dump(mode="json", exclude_defaults=True),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return int(await self.says())

    async def says(self) -> bytes:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).strip()


@pytest.fixture
async def warm() -> AsyncIterator[Warm]:
    program = Path(__file__).with_name("interrupted.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    made = Warm(process)
    assert await made.says() == b"warm"
    yield made
    await process.communicate(b"")  # which closes its input, and so ends it


def plain(config: OrchestratorConfig) -> dict[str, Any]:
    """The configuration as another process reads it, with the keys, which are nobody's here."""
    told = config.model_dump(mode="json", exclude_defaults=True)
    for model in told["models"].values():
        model["api_key"] = "simulated-key"
    return told


def configured(simulator: Simulator) -> OrchestratorConfig:
    price = {"input_usd": "0.0137", "output_usd": "0.1073"}
    config = OrchestratorConfig.model_validate(
        {
            "models": {
                name: {"provider": provider, "model": model, "price": price, "max_tokens": 300}
                for name, (provider, model) in MEMBERS.items()
            },
            "panels": {"three": {"members": list(MEMBERS), "pattern": "critique", "quorum": 3}},
            "budgets": {"windows": [{"scope": "global", "every": "month", "money_usd": 100}]},
            "timeouts": {"first_content_s": 60, "gap_s": 60, "total_s": 300},
        }
    )
    return simulated(config, simulator, directives=dict.fromkeys(MEMBERS, LATENCY))


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def killed_run(warm: Warm, config: OrchestratorConfig, folder: Path, after_s: float) -> bool:
    """Start a run in another process and kill it after so long; whether it still went on."""
    pid = await warm.start(config, folder)
    await asyncio.sleep(after_s)
    was_running = runs(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while runs(pid):  # noqa: ASYNC110 - nobody here is told when another's child is gone
        await asyncio.sleep(0.002)
    return was_running


async def resumed(config: OrchestratorConfig, folder: Path, run_id: str) -> OrchestratorResponse:
    """Go on with the run here, and look whether the books are in order afterwards."""
    async with (
        interrupted.ledger_in(folder) as ledger,
        interrupted.engine(config, folder, ledger) as engine,
    ):
        response = await interrupted.answer(engine.resume_request(run_id))
        await ledger.drain()
        assert await pending(ledger) == 0
        (account,) = await read_accounts(ledger)
        assert account.held == Amount()
        assert account.spent.money_nanousd >= response.cost_nanousd
    return response


async def test_a_killed_run_goes_on_without_paying_twice(
    simulator: Simulator, warm: Warm, tmp_path: Path, thorough: bool
) -> None:
    """Only what was under way at the moment of the kill is asked again; the answer is the same."""
    config, rng = configured(simulator), Random(11)
    whole, took_s = await unkilled_run(config, tmp_path / "whole")
    wanted, kills, begun, repeated = 50 if thorough else 10, 0, 0, 0
    while begun < wanted:
        kills += 1
        assert kills < 4 * wanted, "hardly any kill came in time"
        folder = tmp_path / str(kills)
        calls_before = simulator.requests.total
        await killed_run(warm, config, folder, rng.uniform(0, 1.2 * took_s))
        await simulator.settled()
        sent = simulator.requests.total - calls_before
        journals = list((folder / "runs").glob("*.jsonl"))
        if not journals:
            assert sent == 0, "a call was made before there was a journal"
            continue
        (journal,) = journals
        paid = len(Journal(folder / "runs").read(journal.stem).calls)

        try:
            response = await resumed(config, folder, journal.stem)
        except JournalError:  # it had ended
            assert paid == sent == whole.receipt.calls
            continue

        asked_again = simulator.requests.total - calls_before - sent
        assert 0 <= sent - paid <= len(MEMBERS), "more were under way than can be"
        assert asked_again == whole.receipt.calls - paid
        assert (response.status, response.causes) == (whole.status, whole.causes)
        assert response.content == whole.content
        assert response.cost_nanousd == whole.cost_nanousd
        begun += 1
        repeated += sent - paid
    print(f"{kills} kills, {begun} runs resumed, {repeated} calls under way asked again, 0 others")


async def unkilled_run(
    config: OrchestratorConfig, folder: Path
) -> tuple[OrchestratorResponse, float]:
    """What the run comes to, and how long it takes once everything is warm."""
    loop = asyncio.get_running_loop()
    async with (
        interrupted.ledger_in(folder) as ledger,
        interrupted.engine(config, folder, ledger) as engine,
    ):
        await interrupted.answer(engine.stream_request(REQUEST))
        began_s = loop.time()
        whole = await interrupted.answer(engine.stream_request(REQUEST))
        return whole, loop.time() - began_s
